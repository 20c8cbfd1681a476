-- Read the log, for a drain that holds the lock of the shard's row in SQL.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:log, the stream of events
-- ARGV  1 epoch of the locked row · 2 the database's installation · 3 epoch and 4 sequence of the row's cursor
--       5 max entries · 6 max bytes (the entry that passes this is the last)
--
-- Reads the entries after the cursor. If the cursor is of an earlier epoch, it may have passed another Redis's
-- entries; then this reads after the last entry of this log that was stored, if that is less, or from the
-- beginning if none was.
--
-- Returns {'ok', sequence, end, {id, field, …}, after, stored, trimmed, total}: end is 1 if the log has no entries
-- after these; after is the id of the entry that this read after; stored that of the last stored entry, trimmed
-- that of the last deleted one, '0-0' if there is none; total is how many numbers SQL had taken when that was stored.
-- Or {'stale', reason, epoch}: this is not the log that the row follows, but that of a demoted primary, of a
-- restored copy or of another installation. Nothing of it may be stored.

local epoch, stale = fence(KEYS[1], ARGV[1])
if not epoch then return stale end
if epoch.installation ~= ARGV[2] then return {'stale', 'foreign', epoch.epoch} end

local after_epoch, after_sequence = tonumber(ARGV[3]), tonumber(ARGV[4])
if after_epoch ~= epoch.epoch and not passed(epoch.stored_epoch, epoch.stored, after_epoch, after_sequence) then
  after_epoch, after_sequence = epoch.stored_epoch, epoch.stored
end
local read_after = id(after_epoch, after_sequence)

local max_entries, max_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local found, bytes, after, ended = {}, 0, read_after, 0
local function reply()
  return {'ok', int(epoch.sequence), ended, found, read_after, id(epoch.stored_epoch, epoch.stored),
    id(epoch.trimmed_epoch, epoch.trimmed), epoch.trimmed_total}
end
repeat
  local page = redis.call('XRANGE', KEYS[2], '(' .. after, '+', 'COUNT', 64)
  if #page < 64 then ended = 1 end
  for i, entry in ipairs(page) do
    after = entry[1]
    found[#found + 1] = after
    found[#found + 1] = entry[2][2]
    bytes = bytes + #entry[2][2]
    if #found / 2 >= max_entries or bytes >= max_bytes then
      if i < #page then ended = 0 end
      return reply()
    end
  end
until ended == 1
return reply()
