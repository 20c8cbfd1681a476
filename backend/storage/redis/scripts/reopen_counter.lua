-- Open a counter again after its parent's deletion was refused, or check whether the deletion still stands.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see shared.lua)
-- ARGV  1 epoch of the locked row · 2 id of the deletion's entry, or the mark of a move · 3 'reopen' | 'check'
--
-- Returns 1 if that entry had closed the counter, else 0.

if not fence(KEYS[1], ARGV[1]) then return 0 end
local counter = read_counter(KEYS[2])
if not counter or counter.closed ~= ARGV[2] then return 0 end
if ARGV[3] == 'reopen' then
  counter.closed = '-'
  if string.find(KEYS[2], ':app:', 1, true) then counter.epoch = 0 end -- SQL may have a rate limit for it
  write_counter(KEYS[2], counter)
end
return 1
