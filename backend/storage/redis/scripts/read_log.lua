-- Read the log after an entry, for a drain that holds the lock of the shard's row in SQL.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:log, the stream of events
-- ARGV  1 epoch of the locked row · 2 the database's installation · 3 id of the entry to read after
--       4 max entries · 5 max bytes (the entry that passes this is the last)
--
-- Returns {'ok', sequence, end, {id, field, …}}, with end 1 if the log has no entries after these; or
-- {'stale', reason, epoch}: this is not the log that the row follows, but that of a demoted primary, of a
-- restored copy or of another installation. Nothing of it may be stored.

local epoch, sequence, installation = fence(KEYS[1], ARGV[1])
if not epoch then return sequence end
if installation ~= ARGV[2] then return {'stale', 'foreign', epoch} end

local max_entries, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local found, bytes, after, ended = {}, 0, ARGV[3], 0
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
      return {'ok', int(sequence), ended, found}
    end
  end
until ended == 1
return {'ok', int(sequence), ended, found}
