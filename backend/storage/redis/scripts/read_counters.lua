-- What sync-counters has to know of some counters of one shard: `issued` as it stands, verified or not
-- (verifying raises it to what SQL holds, which who asks this looks at, too), and the time of the look.
--
-- KEYS  1 epoch key · 2 dirty (parents whose count changed, by since when) · 3… the counters
-- ARGV  1 epoch under which SQL was read
--
-- Answers {'ok', sequence, now, oldest or '', {issued or '', …}}, with the log's last entry as of after
-- the look, and since when the oldest count of the shard is dirty; or {'stale', reason, epoch}; or
-- {'broken', 'dirty counters'}.

local epoch, sequence = current_epoch(KEYS[1])
if not epoch then return {'stale', sequence, 0} end
if epoch ~= tonumber(ARGV[1]) then return {'stale', 'old', epoch} end
local oldest = redis.pcall('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if oldest.err then return {'broken', 'dirty counters'} end

local found = {}
for i = 3, #KEYS do
  local issued = redis.pcall('HGET', KEYS[i], 'issued')
  found[i - 2] = type(issued) ~= 'table' and tonumber(issued) and issued or ''
end
return {'ok', int(sequence), now(), oldest[2] or '', found}
