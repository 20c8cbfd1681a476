#!lua flags=allow-oom
-- Write an epoch that is committed in SQL; the epoch never goes down. Runs without free memory, too: the log
-- could not be drained otherwise, and draining is what frees memory.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:marks, when the log was stored (see trim_log.lua)
-- ARGV  1 the epoch · 2 the database's installation · 3 epoch and 4 sequence of the row's cursor
--
-- If SQL has forgotten entries that were stored, the log counts as stored up to the cursor only.
--
-- Returns 1, or 0 if Redis has an epoch that is at least as high.

local found = read('HMGET', KEYS[1], 'epoch', 'sequence', 'stored_epoch', 'stored')
redis.call('EXISTS', KEYS[2])
if not found then
  redis.call('DEL', KEYS[1])
  found = {}
end
if (tonumber(found[1]) or 0) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'server', server_id(), 'epoch', ARGV[1], 'sequence', int(tonumber(found[2]) or 0),
  'installation', ARGV[2])
if found[4] and not passed(tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(found[3]) or 0, tonumber(found[4]) or 0) then
  redis.call('HSET', KEYS[1], 'stored_epoch', ARGV[3], 'stored', ARGV[4])
  redis.call('DEL', KEYS[2])
end
return 1
