-- Delete the counters of parents that SQL does not know.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2… instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see shared.lua)
-- ARGV  1 the epoch in which SQL was read · 2… the `issued` that was read from each counter
--
-- Returns {'ok'}, or {'stale', reason, epoch}. A counter that has issued numbers since stays.

local epoch, stale = fence(KEYS[1], ARGV[1])
if not epoch then return stale end
for i = 2, #KEYS do
  local counter = read_counter(KEYS[i])
  if counter and counter.issued == tonumber(ARGV[i]) then redis.call('DEL', KEYS[i]) end
end
return {'ok'}
