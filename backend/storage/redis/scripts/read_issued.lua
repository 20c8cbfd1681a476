-- Read the `issued` of verified counters of one shard, and then the log's end.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2… instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see shared.lua)
--
-- Returns {'ok', epoch, sequence, {issued or false, …}}: false for a counter that is not verified in this epoch;
-- or {'stale', reason, epoch}.

local values = read_all(KEYS)
local epoch, reason = current_epoch(values[1])
if not epoch then return {'stale', reason, 0} end
local epoch_text, found = int(epoch.epoch), {}
for i = 2, #KEYS do
  local verified, issued = parse_counter(values[i])
  found[i - 1] = verified == epoch_text and issued
end
return {'ok', epoch_text, int(epoch.sequence), found}
