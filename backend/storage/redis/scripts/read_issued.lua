-- Read the `issued` of verified counters of one shard, and then the log's end.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2… instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see shared.lua)
--       then the applications' counters of all these, once each
-- ARGV  1 how many counters are read
--
-- Returns {'ok', epoch, sequence, {issued or false, …}}: false for a counter that is not verified in this epoch, and for
-- one whose application has moved to another shard, or is about to; or {'stale', reason, epoch}.

local values = read_all(KEYS)
local epoch, reason = current_epoch(values[1])
if not epoch then return {'stale', reason, 0} end
local epoch_text, found, count = int(epoch.epoch), {}, tonumber(ARGV[1])
local moved = moved_parents(KEYS, values, count + 2)
for i = 2, count + 1 do
  local verified, issued = parse_counter(values[i])
  found[i - 1] = verified == epoch_text and not (moved and moved[KEYS[i]]) and issued
end
return {'ok', epoch_text, int(epoch.sequence), found}
