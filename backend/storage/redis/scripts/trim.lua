-- Drop the part of the log that SQL has committed.
--
-- KEYS  1 epoch key · 2 log
-- ARGV  1 epoch in which it was committed · 2 the first entry id to keep (the cursor + 1)
--
-- Answers how many entries are left behind; in any other epoch drops nothing and answers 0.

local epoch = current_epoch(KEYS[1])
if epoch ~= tonumber(ARGV[1]) then return 0 end
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[2])
return redis.call('XLEN', KEYS[2])
