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

local epoch = parse_epoch(read('GET', KEYS[1])) or {epoch = 0, sequence = 0, issued = 0, stored_epoch = 0, stored = 0, trimmed_epoch = 0, trimmed = 0, trimmed_total = '0'}
redis.call('EXISTS', KEYS[2])
if epoch.epoch >= tonumber(ARGV[1]) then return 0 end
epoch.epoch, epoch.installation, epoch.server, epoch.notified = tonumber(ARGV[1]), ARGV[2], server_id(), '0'
local cursor_epoch, cursor = tonumber(ARGV[3]), tonumber(ARGV[4])
if not passed(cursor_epoch, cursor, epoch.stored_epoch, epoch.stored) then
  epoch.stored_epoch, epoch.stored = cursor_epoch, cursor
  redis.call('DEL', KEYS[2])
end
write_epoch(KEYS[1], epoch)
return 1
