-- Raise a counter to what SQL knows, so that it may give numbers in the present life.
--
-- KEYS  1 life · 2 the counter
-- ARGV  1 epoch under which SQL was read · 2 the rows' highest number
--       · 3 '1' if the counter may be created (its log was drained before SQL was read)
--
-- Answers {'ok', issued}; {'missing'} when it is not there and may not be created; or
-- {'life', why, epoch} when the life is another than SQL was read under. Never lowers a counter.

local epoch, why = present_life(KEYS[1])
if not epoch then return {'life', why, 0} end
if epoch ~= tonumber(ARGV[1]) then return {'life', 'old', epoch} end

local issued = redis.pcall('HGET', KEYS[2], 'issued')
if type(issued) == 'table' then
  redis.call('DEL', KEYS[2])
  issued = false
end
if not tonumber(issued) then
  if ARGV[3] ~= '1' then return {'missing'} end
  issued = 0
end
issued = math.max(tonumber(issued), tonumber(ARGV[2]))
redis.call('HSET', KEYS[2], 'issued', int(issued), 'epoch', int(epoch))
return {'ok', int(issued)}
