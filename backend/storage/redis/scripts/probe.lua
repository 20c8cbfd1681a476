-- Look at the life without judging it by anything the caller knows.
--
-- KEYS  1 epoch key · 2 log
--
-- Answers {state, epoch, highest, sequence, installation}: state 'ok', 'none', 'other', 'broken' or
-- 'ahead' (the log has been given an entry that the life has not: nothing can be appended to it);
-- highest is the highest epoch of which anything is found here, so that a claim can go above it.

local stored = redis.pcall('HMGET', KEYS[1], 'epoch', 'sequence', 'installation')
if stored.err then stored = {} end
local epoch, reason = current_epoch(KEYS[1])
local sequence = tonumber(stored[2]) or 0
local highest = tonumber(stored[1]) or 0
local stream = redis.pcall('XINFO', 'STREAM', KEYS[2])
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
  int(sequence), stored[3] or ''}
