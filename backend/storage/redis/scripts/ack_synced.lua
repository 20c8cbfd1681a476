#!lua flags=allow-oom
-- Have parents leave the dirty whose count SQL knows now. A full memory does not stop it: it frees some.
--
-- KEYS  1 epoch key · 2 dirty (parents whose count changed, by since when) · 3… the counters
-- ARGV  1 epoch · 2 the time when these counters were read; then two a counter: the parent's name, and
--       `issued` as it was read ('' where there was none)
--
-- One whose counter went on meanwhile stays, and is dirty since that time only: what changed before is
-- in SQL. Answers how many left; in any other epoch 0, changing nothing.

if current_epoch(KEYS[1]) ~= tonumber(ARGV[1]) then return 0 end
local left = 0
for i = 3, #KEYS do
  local name, read = ARGV[2 * i - 3], ARGV[2 * i - 2]
  local issued = redis.pcall('HGET', KEYS[i], 'issued')
  if type(issued) == 'table' then issued = false end
  if (issued or '') == read then
    left = left + redis.call('ZREM', KEYS[2], name)
  else
    redis.call('ZADD', KEYS[2], 'XX', 'GT', ARGV[2], name)
  end
end
return left
