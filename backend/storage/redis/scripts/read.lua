-- Read the log after a place, for a drain that holds the lock of the shard's row in SQL.
--
-- KEYS  1 epoch key · 2 log · 3 wake-up
-- ARGV  1 epoch of the locked row · 2 the database's installation · 3 read after this entry id
--       · 4 max entries · 5 max bytes (the entry that passes it is the last)
--
-- Answers {'ok', sequence, end, {id, field, …}}, with end 1 if nothing is left behind these entries;
-- or {'stale', reason, epoch}: this is not the Redis whose log that row follows, and nothing of it may
-- be stored (a former primary, a restored copy, another installation's).

local epoch, sequence, installation = current_epoch(KEYS[1])
if not epoch then return {'stale', sequence, 0} end
if epoch ~= tonumber(ARGV[1]) then return {'stale', 'old', epoch} end
if installation ~= ARGV[2] then return {'stale', 'foreign', epoch} end

-- Whatever is appended from here on wakes the worker again.
redis.call('DEL', KEYS[3])

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
