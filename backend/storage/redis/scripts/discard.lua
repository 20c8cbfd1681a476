-- Remove the counters of parents that SQL does not know.
--
-- KEYS  1 epoch key · 2… the counters
-- ARGV  1 epoch in which that was found; then the `issued` of each as it was found
--
-- Answers {'ok'}, or {'stale', reason, epoch}. One that has given numbers since stays.

local epoch, reason = current_epoch(KEYS[1])
if not epoch then return {'stale', reason, 0} end
if epoch ~= tonumber(ARGV[1]) then return {'stale', 'old', epoch} end
for i = 2, #KEYS do
  if redis.pcall('HGET', KEYS[i], 'issued') == ARGV[i] then redis.call('DEL', KEYS[i]) end
end
return {'ok'}
