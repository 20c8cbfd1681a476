-- Open again what a refused deletion had closed, or say whether the deletion still stands.
--
-- KEYS  1 epoch key · 2 the counter
-- ARGV  1 epoch of the locked row · 2 the deletion's own entry id · 3 'reopen' | 'check'
--
-- Answers 1 if the counter was closed by that very entry, else 0.

if current_epoch(KEYS[1]) ~= tonumber(ARGV[1]) then return 0 end
if redis.pcall('HGET', KEYS[2], 'closed') ~= ARGV[2] then return 0 end
if ARGV[3] == 'reopen' then redis.call('HDEL', KEYS[2], 'closed') end
return 1
