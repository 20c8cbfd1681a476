-- Close or open the counters of parents that are about to be stored, as their rows will be.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2… instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see shared.lua)
-- ARGV  1 epoch of the locked row · 2… '1' if the counter's parent is removed, else '0'
--
-- Returns {'ok'}, or {'stale', reason, epoch}. Creates no counter. The id 0-0 is that of no entry, so no drain
-- opens a counter that was closed here.

local epoch, stale = fence(KEYS[1], ARGV[1])
if not epoch then return stale end
for i = 2, #KEYS do
  local counter = read_counter(KEYS[i])
  if counter then
    if ARGV[i] == '1' then
      counter.closed = '0-0'
    elseif not is_open(counter.closed) then
      counter.closed = '-'
      if string.find(KEYS[i], ':app:', 1, true) then counter.epoch = 0 end -- SQL may have a rate limit for it
    end
    write_counter(KEYS[i], counter)
  end
end
return {'ok'}
