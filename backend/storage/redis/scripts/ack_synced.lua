#!lua flags=allow-oom
-- Remove parents from the dirty set whose counts are in SQL now. Runs without free memory, too: it frees some.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:dirty, sorted set: parents whose count changed, by the time since when
--       3… instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see shared.lua)
-- ARGV  1 epoch · 2 the time when the counters were read
--       then two per counter: the parent's name in the dirty set; `issued` as it was read ('' if there was none)
--
-- A parent whose counter has changed since stays, dirty since the time of reading: earlier changes are in SQL.
-- Returns how many parents were removed; in any other epoch 0, with nothing changed.

if not fence(KEYS[1], ARGV[1]) then return 0 end
local removed = 0
for i = 3, #KEYS do
  local name, counter = ARGV[2 * i - 3], read_counter(KEYS[i])
  if (counter and counter.issued) == tonumber(ARGV[2 * i - 2]) then
    if counter then
      counter.synced = 'clean'
      write_counter(KEYS[i], counter)
    end
    removed = removed + redis.call('ZREM', KEYS[2], name)
  else
    redis.call('ZADD', KEYS[2], 'XX', 'GT', ARGV[2], name)
  end
end
return removed
