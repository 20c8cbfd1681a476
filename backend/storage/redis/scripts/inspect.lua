-- Look at counters as they are, verified in the current epoch or not, and at the log's end as of after that.
--
-- KEYS  1 epoch key · 2… the counters
--
-- Answers {epoch, sequence, {issued or false, verified, open, …}}, three a counter: verified 1 if it
-- gives numbers in the current epoch, open 1 if no deletion has closed it. Without a life that is this
-- server's the epoch is 0, and nothing is verified.

local epoch, sequence = current_epoch(KEYS[1])
local found = {}
for i = 2, #KEYS do
  local fields = redis.pcall('HMGET', KEYS[i], 'issued', 'epoch', 'closed')
  local issued = not fields.err and tonumber(fields[1]) and fields[1] or false
  found[#found + 1] = issued
  found[#found + 1] = issued and epoch and tonumber(fields[2]) == epoch and 1 or 0
  found[#found + 1] = issued and not fields[3] and 1 or 0
end
return {int(epoch or 0), int(epoch and sequence or 0), found}
