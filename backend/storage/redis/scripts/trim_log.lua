-- Delete the entries that SQL has committed.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:log, the stream of events
--       3 instachat:{SHARD}:wake-up, exists while a requested drain has not ended
-- ARGV  1 the epoch in which they were committed · 2 id of the first entry to keep (the cursor + 1)
--
-- Returns how many entries are left; in any other epoch it deletes nothing and returns 0.

local epoch = current_epoch(KEYS[1])
if epoch ~= tonumber(ARGV[1]) then return 0 end
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[2])
local left = redis.call('XLEN', KEYS[2])
-- While any are left, the same drain goes on: other wake-ups would only find the shard locked.
if left == 0 then redis.call('DEL', KEYS[3]) end
return left
