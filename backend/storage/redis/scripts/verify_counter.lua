#!lua flags=allow-oom
-- Raise a counter to SQL's highest number, so that it may issue numbers in the current epoch; and open it if the
-- deletion that closed it was refused. Runs without free memory, too, because reading a live count needs it.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:app:TOKEN or chat:TOKEN:NUMBER, a counter (see shared.lua)
--       3 instachat:{SHARD}:dirty, sorted set: parents whose count changed, by the time since when
-- ARGV  1 the epoch under which SQL was read
--       2 the rows' highest number
--       3 '1' if the counter may be created (the log was drained before SQL was read)
--       4 id of the entry that SQL had passed if the parent was alive then, else ''
--       5 the parent's name in the dirty set
--       6 of an application, how often it had moved to another shard when SQL said that it is in this one; else ''
--       7 its rate limit, chats and messages in a second; '' without one, and for a chat
--
-- Returns {'ok', issued, the mark of a move that SQL has not decided, or ''}; {'missing'} if the counter does not exist and may not be created; or
-- {'stale', reason, epoch}. Never lowers a counter.

local epoch, stale = fence(KEYS[1], ARGV[1])
if not epoch then return stale end

local counter = read_counter(KEYS[2])
if not counter then
  if ARGV[3] ~= '1' then return {'missing'} end
  counter = {issued = 0, closed = '-', synced = 'clean'}
end
counter.epoch = epoch.epoch
local highest = tonumber(ARGV[2])
if highest > counter.issued then
  counter.issued = highest
  if read('ZCARD', KEYS[3]) then -- a foreign value there must not stop this
    redis.call('ZADD', KEYS[3], 'NX', now(), ARGV[5])
    counter.synced = 'dirty'
  end
end

-- SQL has passed the deletion, and the parent is alive: the deletion was refused. The counter is closed only
-- because Redis or SQL was restored from an older copy.
local closed_epoch, closed_sequence = string.match(counter.closed, '^(%d+)-(%d+)$')
local passed_epoch, passed_sequence = string.match(ARGV[4], '^(%d+)-(%d+)$')
if closed_epoch and passed_epoch and passed(tonumber(passed_epoch), tonumber(passed_sequence),
  tonumber(closed_epoch), tonumber(closed_sequence)) then
  counter.closed = '-'
end
-- The application has come back since.
local move = string.match(counter.closed, '^moved%-(%d+)%-')
if move and ARGV[6] ~= '' and tonumber(ARGV[6]) >= tonumber(move) then
  counter.closed, move = '-', nil
end
if is_open(counter.closed) then
  local _, due = string.match(counter.closed, LIMITED)
  counter.closed = ARGV[7] == '' and '-' or '-' .. ARGV[7] .. ':' .. (due or '0')
end
write_counter(KEYS[2], counter)
return {'ok', int(counter.issued), move and counter.closed or ''}
