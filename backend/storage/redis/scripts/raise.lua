-- Raise many counters above numbers that are about to be stored, and mark their parents as dirty.
--
-- KEYS  1 epoch key · 2 dirty (parents whose count changed, by since when) · 3… the counters
-- ARGV  1 epoch under which SQL was read
--       · 2 '1' if counters may be created (their log was drained before SQL was read);
--       then two a counter: the number that it has to reach, the rows' highest or above;
--       the parent's name among the dirty
--
-- Answers {'ok', sequence, missing}, with the last entry's sequence as of after raising, and how many
-- counters are not there and may not be created (the others are raised all the same); or
-- {'stale', reason, epoch} when the life is another than SQL was read under; or {'broken', 'dirty counters'}.
-- Never lowers a counter, and opens none.

local epoch, sequence = current_epoch(KEYS[1])
if not epoch then return {'stale', sequence, 0} end
if epoch ~= tonumber(ARGV[1]) then return {'stale', 'old', epoch} end
local dirty_type = redis.call('TYPE', KEYS[2]).ok
if dirty_type ~= 'none' and dirty_type ~= 'zset' then return {'broken', 'dirty counters'} end

local missing, at = 0, now()
for i = 3, #KEYS do
  local number, parent = tonumber(ARGV[2 * i - 3]), ARGV[2 * i - 2]
  local issued = redis.pcall('HGET', KEYS[i], 'issued')
  if type(issued) == 'table' then
    redis.call('DEL', KEYS[i])
    issued = false
  end
  if tonumber(issued) or ARGV[2] == '1' then
    issued = math.max(tonumber(issued) or 0, number)
    redis.call('HSET', KEYS[i], 'issued', int(issued), 'epoch', int(epoch))
    redis.call('ZADD', KEYS[2], 'NX', at, parent)
  else
    missing = missing + 1
  end
end
return {'ok', int(sequence), missing}
