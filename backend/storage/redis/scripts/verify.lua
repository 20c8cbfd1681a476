#!lua flags=allow-oom
-- Raise a counter to what SQL knows, so that it may give numbers in the current epoch; and open it if
-- what closed it was decided. A full memory does not stop it: reading a live count needs it.
--
-- KEYS  1 epoch key · 2 the counter · 3 dirty (parents whose count changed, by since when)
-- ARGV  1 epoch under which SQL was read · 2 the rows' highest number
--       · 3 '1' if the counter may be created (its log was drained before SQL was read)
--       · 4 the entry that SQL had passed, if the parent was alive then; else ''
--       · 5 the parent's name among the dirty
--
-- Answers {'ok', issued}; {'missing'} when it is not there and may not be created; or
-- {'stale', reason, epoch} when the life is another than SQL was read under. Never lowers a counter.

local epoch, reason = current_epoch(KEYS[1])
if not epoch then return {'stale', reason, 0} end
if epoch ~= tonumber(ARGV[1]) then return {'stale', 'old', epoch} end

local issued = redis.pcall('HGET', KEYS[2], 'issued')
if type(issued) == 'table' then
  redis.call('DEL', KEYS[2])
  issued = false
end
if not tonumber(issued) then
  if ARGV[3] ~= '1' then return {'missing'} end
  issued = 0
end
local found = tonumber(issued)
issued = math.max(found, tonumber(ARGV[2]))
redis.call('HSET', KEYS[2], 'issued', int(issued), 'epoch', int(epoch))
if issued > found then
  redis.pcall('ZADD', KEYS[3], 'NX', now(), ARGV[5]) -- something foreign there stops nobody
end

-- A deletion that SQL has passed without burying the parent was refused; that it closes still is what
-- an old copy of Redis or of SQL says.
local closed = redis.call('HGET', KEYS[2], 'closed')
local closed_epoch, closed_sequence = string.match(closed or '', '^(%d+)-(%d+)$')
local passed_epoch, passed_sequence = string.match(ARGV[4], '^(%d+)-(%d+)$')
if closed_epoch and passed_epoch then
  local epochs = tonumber(closed_epoch) - tonumber(passed_epoch)
  if epochs < 0 or epochs == 0 and tonumber(closed_sequence) <= tonumber(passed_sequence) then
    redis.call('HDEL', KEYS[2], 'closed')
  end
end
return {'ok', int(issued)}
