-- Read counters as they are, verified in the current epoch or not, and then the log's end.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2… instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see shared.lua)
--       then the applications' counters of all these, once each
-- ARGV  1 how many counters are read
--
-- Returns {epoch, sequence, {issued or false, verified, open, …}}, three values per counter: verified is 1 if it
-- issues numbers in the current epoch, open is 1 if no deletion has closed it. If this server is in no epoch,
-- the epoch is 0, and nothing is verified. A counter whose application has moved to another shard, or is about to,
-- is as if it did not exist.

local epoch = current_epoch(read('GET', KEYS[1])) or {epoch = 0, sequence = 0}
local found, count = {}, tonumber(ARGV[1])
local moved = moved_parents(KEYS, read_all(KEYS), count + 2)
for i = 2, count + 1 do
  local counter = not (moved and moved[KEYS[i]]) and read_counter(KEYS[i])
  found[#found + 1] = counter and int(counter.issued) or false
  found[#found + 1] = counter and counter.epoch == epoch.epoch and 1 or 0
  found[#found + 1] = counter and is_open(counter.closed) and 1 or 0
end
return {int(epoch.epoch), int(epoch.sequence), found}
