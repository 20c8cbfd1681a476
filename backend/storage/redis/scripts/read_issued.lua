-- The live `issued` of some counters of one shard, and the log's end as of after reading them.
--
-- KEYS  1 epoch key · 2… the counters
--
-- Answers {'ok', epoch, sequence, {issued or false, …}}: false for a counter not verified in this
-- life; or {'stale', reason, epoch}.

local epoch, sequence = current_epoch(KEYS[1])
if not epoch then return {'stale', sequence, 0} end
local found = {}
for i = 2, #KEYS do
  local fields = redis.pcall('HMGET', KEYS[i], 'issued', 'epoch')
  local verified = not fields.err and tonumber(fields[2]) == epoch and tonumber(fields[1])
  found[i - 1] = verified and fields[1] or false
end
return {'ok', int(epoch), int(sequence), found}
