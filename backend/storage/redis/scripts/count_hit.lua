-- Count one hit of a name, unless its rate allows no more within a moving window.
--
-- KEYS  1 instachat:rate:NAME, the times of the newest hits, the newest first
-- ARGV  1 the hits that the rate allows within the window
--       2 the window, in microseconds
--
-- Returns 0 if the hit is counted, otherwise after how many microseconds a hit would be. One that is refused is not
-- counted.

local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = now()
local oldest = tonumber(redis.call('LINDEX', KEYS[1], limit - 1) or nil)
if oldest and oldest + window > tonumber(time) then return oldest + window - tonumber(time) end
redis.call('LPUSH', KEYS[1], time)
redis.call('LTRIM', KEYS[1], 0, limit - 1)
redis.call('PEXPIRE', KEYS[1], int(math.ceil(window / 1000)))
return 0
