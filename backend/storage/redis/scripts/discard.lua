-- Remove the counters of parents that SQL does not know.
--
-- KEYS  1 life · 2… the counters
-- ARGV  1 epoch in which that was found; then the `issued` of each as it was found
--
-- Answers {'ok'}, or {'life', why, epoch}. One that has given numbers since stays.

local epoch, why = present_life(KEYS[1])
if not epoch then return {'life', why, 0} end
if epoch ~= tonumber(ARGV[1]) then return {'life', 'old', epoch} end
for i = 2, #KEYS do
  if redis.pcall('HGET', KEYS[i], 'issued') == ARGV[i] then redis.call('DEL', KEYS[i]) end
end
return {'ok'}
