-- Read the `issued` of verified counters of one shard, and then the log's end.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2… instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see accept.lua)
--
-- Returns {'ok', epoch, sequence, {issued or false, …}}: false for a counter that is not verified in this epoch;
-- or {'stale', reason, epoch}.

local epoch, sequence = current_epoch(KEYS[1])
if not epoch then return {'stale', sequence, 0} end
local found = {}
for i = 2, #KEYS do
  local fields = read('HMGET', KEYS[i], 'issued', 'epoch')
  local verified = fields and tonumber(fields[2]) == epoch and tonumber(fields[1])
  found[i - 1] = verified and fields[1] or false
end
return {'ok', int(epoch), int(sequence), found}
