#!lua flags=allow-oom
-- Write an epoch that is committed in SQL; the epoch never goes down. Runs without free memory, too: the log
-- could not be drained otherwise, and draining is what frees memory.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
-- ARGV  1 the epoch · 2 the database's installation
--
-- Returns 1, or 0 if Redis has an epoch that is at least as high.

local stored = read('HGET', KEYS[1], 'epoch')
if stored == nil then redis.call('DEL', KEYS[1]) end
if (tonumber(stored) or 0) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'server', server_id(), 'epoch', ARGV[1], 'sequence', 0,
  'installation', ARGV[2])
return 1
