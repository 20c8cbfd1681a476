-- Read counters for sync-counters: `issued`, whether the counter is verified or not, and the time of reading.
-- (An unverified counter may be below SQL's numbers; the caller compares.)
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:dirty, sorted set: parents whose count changed, by the time since when
--       3… instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see shared.lua)
-- ARGV  1 the epoch under which SQL was read
--
-- Returns {'ok', sequence, now, oldest or '', {issued or '', …}}: sequence is that of the log's last entry after
-- reading, oldest is the time since which the shard has had a dirty count; or {'stale', reason, epoch}; or
-- {'broken', 'dirty counters'}.

local epoch, stale = fence(KEYS[1], ARGV[1])
if not epoch then return stale end
local oldest = read('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if not oldest then return {'broken', 'dirty counters'} end

local found = {}
for i = 3, #KEYS do
  local counter = read_counter(KEYS[i])
  found[i - 2] = counter and int(counter.issued) or ''
end
return {'ok', int(epoch.sequence), now(), oldest[2] or '', found}
