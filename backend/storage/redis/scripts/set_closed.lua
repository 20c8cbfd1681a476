-- Have the counters of parents that are about to be stored say what their rows will say.
--
-- KEYS  1 epoch key · 2… the counters
-- ARGV  1 epoch of the locked row; then one a counter: '1' if its parent is removed, else '0'
--
-- Answers {'ok'}, or {'stale', reason, epoch}. Creates no counter. The one that closes is no entry's id,
-- hence no drain opens it again.

local epoch, reason = current_epoch(KEYS[1])
if not epoch then return {'stale', reason, 0} end
if epoch ~= tonumber(ARGV[1]) then return {'stale', 'old', epoch} end
for i = 2, #KEYS do
  if redis.call('TYPE', KEYS[i]).ok == 'hash' then
    if ARGV[i] == '1' then
      redis.call('HSET', KEYS[i], 'closed', '0-0')
    else
      redis.call('HDEL', KEYS[i], 'closed')
    end
  end
end
return {'ok'}
