-- Read counters as they are, verified in the current epoch or not, and then the log's end.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2… instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see shared.lua)
--
-- Returns {epoch, sequence, {issued or false, verified, open, …}}, three values per counter: verified is 1 if it
-- issues numbers in the current epoch, open is 1 if no deletion has closed it. If this server is in no epoch,
-- the epoch is 0, and nothing is verified.

local epoch = current_epoch(read('GET', KEYS[1])) or {epoch = 0, sequence = 0}
local found = {}
for i = 2, #KEYS do
  local counter = read_counter(KEYS[i])
  found[#found + 1] = counter and int(counter.issued) or false
  found[#found + 1] = counter and counter.epoch == epoch.epoch and 1 or 0
  found[#found + 1] = counter and counter.closed == '-' and 1 or 0
end
return {int(epoch.epoch), int(epoch.sequence), found}
