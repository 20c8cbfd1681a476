-- Raise many counters above numbers that are about to be stored, and mark their parents as dirty.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:dirty, sorted set: parents whose count changed, by the time since when
--       3… instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see shared.lua)
-- ARGV  1 the epoch under which SQL was read
--       2 '1' if counters may be created (the log was drained before SQL was read)
--       then two per counter: the number that it must reach (the rows' highest, or above); the parent's name in
--       the dirty set
--
-- Returns {'ok', sequence, missing}: the sequence of the log's last entry after raising, and how many counters
-- do not exist and may not be created (the others are raised all the same); or {'stale', reason, epoch}; or
-- {'broken', 'dirty counters'}. Never lowers a counter, and opens none.

local epoch, stale = fence(KEYS[1], ARGV[1])
if not epoch then return stale end
if not read('ZCARD', KEYS[2]) then return {'broken', 'dirty counters'} end

local missing, at = 0, now()
for i = 3, #KEYS do
  local number, parent = tonumber(ARGV[2 * i - 3]), ARGV[2 * i - 2]
  local counter = read_counter(KEYS[i])
  local verified = epoch.epoch
  if not counter and ARGV[2] == '1' then
    counter = {issued = 0, closed = '-'}
    if string.find(KEYS[i], ':app:', 1, true) then verified = 0 end -- SQL may have a rate limit for it
  end
  if counter then
    redis.call('ZADD', KEYS[2], 'NX', at, parent)
    counter.epoch, counter.issued, counter.synced = verified, math.max(counter.issued, number), 'dirty'
    write_counter(KEYS[i], counter)
  else
    missing = missing + 1
  end
end
return {'ok', int(epoch.sequence), missing}
