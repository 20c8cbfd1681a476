#!lua flags=allow-oom
-- Append an event that takes no number and is in SQL already. Runs without free memory, too: the change that it
-- records is done.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:log, the stream of events
-- ARGV  1 the epoch in SQL · 2 the payload · 3 microseconds for which a requested drain suppresses another request
--
-- Returns the reply of one shard, as accept.lua does: {0, epoch, sequence, notify}, where sequence is that of this event's
-- entry; or {{'stale', reason, epoch}} or {{'broken', 'log'}}.

local epoch, stale = fence(KEYS[1], ARGV[1])
if not epoch then return {stale} end
if not read('XLEN', KEYS[2]) then return {{'broken', 'log'}} end
local at, notify = now(), 0
if at - epoch.notified >= tonumber(ARGV[3]) then
  epoch.notified, notify = at, 1
end
epoch.sequence = epoch.sequence + 1
write_epoch(KEYS[1], epoch)
redis.call('XADD', KEYS[2], id(epoch.epoch, epoch.sequence), 'e', '0 ' .. at .. ' ' .. ARGV[2])
return {0, epoch.epoch, epoch.sequence, notify}
