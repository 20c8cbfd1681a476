#!lua flags=allow-oom
-- Append an event that takes no number and is in SQL already. Runs without free memory, too: the change that it
-- records is done.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:log, the stream of events
--       3 instachat:{SHARD}:wake-up, exists while a requested drain has not ended
-- ARGV  1 the epoch in SQL · 2 the payload · 3 milliseconds for which a wake-up suppresses others
--
-- Returns, as the only shard's reply, {'ok', sequence, notify} or {'stale', reason, epoch} or {'broken', 'log'}.

local epoch, sequence = fence(KEYS[1], ARGV[1])
if not epoch then return {sequence} end
if not read('XLEN', KEYS[2]) then return {{'broken', 'log'}} end
redis.call('EXISTS', KEYS[3])
sequence = sequence + 1
redis.call('XADD', KEYS[2], int(epoch) .. '-' .. int(sequence), 'e', '0 ' .. now() .. ' ' .. ARGV[2])
redis.call('HSET', KEYS[1], 'sequence', int(sequence))
return {{'ok', int(sequence), redis.call('SET', KEYS[3], 1, 'NX', 'PX', ARGV[3]) and 1 or 0}}
