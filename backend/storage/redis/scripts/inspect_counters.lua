-- Read counters as they are, verified in the current epoch or not, and then the log's end.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2… instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see accept.lua)
--
-- Returns {epoch, sequence, {issued or false, verified, open, …}}, three values per counter: verified is 1 if it
-- issues numbers in the current epoch, open is 1 if no deletion has closed it. If this server is in no epoch,
-- the epoch is 0, and nothing is verified.

local epoch, sequence = current_epoch(KEYS[1])
local found = {}
for i = 2, #KEYS do
  local fields = read('HMGET', KEYS[i], 'issued', 'epoch', 'closed')
  local issued = fields and tonumber(fields[1]) and fields[1] or false
  found[#found + 1] = issued
  found[#found + 1] = issued and epoch and tonumber(fields[2]) == epoch and 1 or 0
  found[#found + 1] = issued and not fields[3] and 1 or 0
end
return {int(epoch or 0), int(epoch and sequence or 0), found}
