-- Read the epoch, without a comparison with anything that the caller knows.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:log, the stream of events
--
-- Returns {state, epoch, highest, sequence, installation, stored}. The state is 'ok', 'none', 'other', 'broken' or
-- 'ahead': the log has an id above the epoch's sequence, so nothing can be appended. highest is the highest
-- epoch that Redis has any trace of: a new epoch must be above it. stored is the id of the last stored entry.

local stored = read('HMGET', KEYS[1], 'epoch', 'sequence', 'installation', 'stored_epoch', 'stored') or {}
local epoch, reason = current_epoch(KEYS[1])
local sequence = tonumber(stored[2]) or 0
local highest = tonumber(stored[1]) or 0
local stream = read('EXISTS', KEYS[2]) == 1 and read('XINFO', 'STREAM', KEYS[2]) or {}
for i = 1, #stream, 2 do
  if stream[i] == 'last-generated-id' then
    local last_epoch, last_sequence = string.match(stream[i + 1], '^(%d+)-(%d+)$')
    last_epoch, last_sequence = tonumber(last_epoch), tonumber(last_sequence)
    highest = math.max(highest, last_epoch)
    if epoch and (last_epoch > epoch or last_epoch == epoch and last_sequence > sequence) then
      epoch, reason = nil, 'ahead'
    end
  end
end
return {epoch and 'ok' or reason, int(tonumber(stored[1]) or 0), int(highest),
  int(sequence), stored[3] or '', int(tonumber(stored[4]) or 0) .. '-' .. int(tonumber(stored[5]) or 0)}
