#!lua flags=allow-oom
-- Note how far the log is stored, and delete the entries that were stored long enough ago. Runs without free
-- memory, too: it frees some.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:log, the stream of events
--       3 instachat:{SHARD}:marks, list of 'TIME EPOCH SEQUENCE TOTAL', the oldest first: up to which entry the log
--         was stored at that time, and ARGV 4 then
-- ARGV  1 the epoch in which a drain has committed · 2 epoch and 3 sequence of the entry up to which it has
--       4 how many numbers drains have stored or dropped up to there
--       5 microseconds for which entries are kept · 6 microseconds between two marks, '' to leave none
--       7 how many entries may stay in the log ('' if any number may); those that are not stored always stay.
--         This call then leaves a mark in any case
--
-- Entries are deleted up to a mark, so that it is known how many numbers went with them.
--
-- Returns how many entries are not stored yet, at least 1 if any are; in any other epoch it changes nothing and
-- returns 0.

local epoch = fence(KEYS[1], ARGV[1])
if not epoch then return 0 end
local at = tonumber(now())
local through_epoch, through = tonumber(ARGV[2]), tonumber(ARGV[3])
local kept_for, interval, max_entries = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

-- All keys are read before one is written, because any may be on another node while its slot moves.
local length = redis.call('XLEN', KEYS[2])
if not read('LLEN', KEYS[3]) then redis.call('DEL', KEYS[3]) end
local function mark(index)
  local found = redis.call('LINDEX', KEYS[3], index)
  if not found then return nil end
  local time, of_epoch, of_sequence, total = string.match(found, '^(%d+) (%d+) (%d+) (%d+)$')
  return {tonumber(time), tonumber(of_epoch), tonumber(of_sequence), total}
end
local last = mark(-1)

if not passed(epoch.stored_epoch, epoch.stored, through_epoch, through) then
  epoch.stored_epoch, epoch.stored = through_epoch, through
end
local waiting = epoch.sequence - through
if through_epoch ~= epoch.epoch then waiting = math.max(waiting, 1) end
-- While any wait, the same drain goes on: other wake-ups would only find the shard locked.
if waiting <= 0 then epoch.notified = '0' end
write_epoch(KEYS[1], epoch)

if interval and (not last
  or (max_entries or at - last[1] >= interval) and not passed(last[2], last[3], through_epoch, through)) then
  redis.call('RPUSH', KEYS[3], string.format('%.0f %s %s %s', at, int(through_epoch), int(through), ARGV[4]))
end
local first = mark(0)
while first and passed(through_epoch, through, first[2], first[3])
  and (at - first[1] >= kept_for or max_entries and length > max_entries) do
  epoch.trimmed_epoch, epoch.trimmed, epoch.trimmed_total = first[2], first[3], first[4]
  write_epoch(KEYS[1], epoch)
  length = length - redis.call('XTRIM', KEYS[2], 'MINID', int(first[2]) .. '-' .. int(first[3] + 1))
  redis.call('LPOP', KEYS[3])
  first = mark(0)
end
return math.max(waiting, 0)
