#!lua flags=allow-oom
-- Write the life that was claimed in SQL. The epoch is only ever raised. A full memory does not stop
-- it: the log could not be drained otherwise, which is what frees memory.
--
-- KEYS  1 epoch key
-- ARGV  1 epoch, committed in SQL · 2 the database's installation
--
-- Answers 1, or 0 when a life at least as high is there.

local stored = redis.pcall('HGET', KEYS[1], 'epoch')
if type(stored) == 'table' then redis.call('DEL', KEYS[1]) end
if (tonumber(stored) or 0) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'server', server_id(), 'epoch', ARGV[1], 'sequence', 0,
  'installation', ARGV[2])
return 1
