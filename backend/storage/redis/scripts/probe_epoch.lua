-- Read the epoch, without a comparison with anything that the caller knows.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:log, the stream of events
--
-- Returns {state, epoch, highest, sequence, installation, stored, server}. The state is 'ok', 'none', 'other', 'broken' or
-- 'ahead': the log has an id above the epoch's sequence, so nothing can be appended. highest is the highest
-- epoch that Redis has any trace of: a new epoch must be above it. stored is the id of the last stored entry; server
-- is this server's master_replid, also if the epoch is of another one.

local value = read('GET', KEYS[1])
local found = parse_epoch(value) or {epoch = 0, sequence = 0, installation = '', stored_epoch = 0, stored = 0}
local is_current, reason = current_epoch(value)
local highest = found.epoch
local stream = read('EXISTS', KEYS[2]) == 1 and read('XINFO', 'STREAM', KEYS[2]) or {}
for i = 1, #stream, 2 do
  if stream[i] == 'last-generated-id' then
    local last_epoch, last_sequence = string.match(stream[i + 1], '^(%d+)-(%d+)$')
    last_epoch, last_sequence = tonumber(last_epoch), tonumber(last_sequence)
    highest = math.max(highest, last_epoch)
    if is_current and not passed(found.epoch, found.sequence, last_epoch, last_sequence) then
      is_current, reason = false, 'ahead'
    end
  end
end
return {is_current and 'ok' or reason, int(found.epoch), int(highest), int(found.sequence), found.installation,
  id(found.stored_epoch, found.stored), server_id()}
