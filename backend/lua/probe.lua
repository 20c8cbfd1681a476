-- Look at the life without judging it by anything the caller knows.
--
-- KEYS  1 life · 2 log
--
-- Answers {state, epoch, highest, sequence, installation}: state 'ok', 'none', 'other' or 'broken';
-- highest is the highest epoch of which anything is found here, so that a claim can go above it.

local life = redis.pcall('HMGET', KEYS[1], 'epoch', 'sequence', 'installation')
if life.err then life = {} end
local epoch, why = present_life(KEYS[1])
local highest = tonumber(life[1]) or 0
local stream = redis.pcall('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
if not stream.err and stream[1] then
  highest = math.max(highest, tonumber(string.match(stream[1][1], '^(%d+)-')))
end
return {epoch and 'ok' or why, int(tonumber(life[1]) or 0), int(highest),
  int(tonumber(life[2]) or 0), life[3] or ''}
