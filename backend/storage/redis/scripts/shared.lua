-- Shared by all scripts: the forms of an epoch and of a counter, and whether this Redis is in the epoch in which the
-- numbers were promised.
--
-- A shard's key instachat:{SHARD}:epoch is a string,
--   'EPOCH SEQUENCE STORED ISSUED NOTIFIED SERVER INSTALLATION STORED_EPOCH TRIMMED_EPOCH TRIMMED TRIMMED_TOTAL':
--   epoch         grows by one with each new epoch; SQL is the authority (shard.epoch)
--   sequence      of the last entry that was appended; it goes on through all epochs, and never goes back, even
--                 if the log alone is deleted
--   stored_epoch, stored  the id of the entry up to which drains have stored this log. They stay in the log for a
--                 time (see trim_log.lua), so its length does not say how many entries wait
--   issued        how many numbers were issued in all, for measuring rates
--   notified      when the drain was requested that has not ended, in microseconds since 1970; 0 without one
--   server        the server's master_replid; a restart, a promotion and a first replica change it
--   installation  the database that the numbers belong to
--   trimmed_epoch, trimmed, trimmed_total  the id of the last entry that was deleted from the log, and how many
--                 numbers drains had stored or dropped when it was stored
-- A wiped Redis has no epoch; one that was restored, promoted or restarted has an epoch of another server.
--
-- A counter, instachat:{SHARD}:app:TOKEN of an application or instachat:{SHARD}:chat:TOKEN:NUMBER of a chat, is a
-- string, 'EPOCH ISSUED CLOSED SYNCED':
--   epoch         in which it was verified; it issues numbers in no other
--   issued        the highest number issued
--   closed        the id of the entry that requests its parent's deletion; '-' while it is open. An application that
--                 has moved to another shard, or is about to, is closed here by moved-MOVE-NONCE: MOVE counts its
--                 moves, this one included. Then the counters of its chats in this shard mean nothing any more. That
--                 of an application with a rate limit has -RATE:DUE while it is open: RATE is how many chats and
--                 messages it may create in a second, and by DUE, in microseconds since 1970, what it has created
--                 so far would have come at that rate
--   synced        'dirty' if its parent is in the dirty set, so that accepting need not add it again; else 'clean'
--
-- Both are strings because one MGET reads, and one MSET writes, all those of a call.

local function is_wrong_type(reply)
  return string.find(reply.err, 'WRONGTYPE', 1, true) ~= nil
end

-- The reply of a read; nil if the key's value is of another type, that of another program. Any other error is raised:
-- a key that can't be read may have a value all the same, on the node to which its slot is moving.
local function read(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if not is_wrong_type(reply) then error(reply) end
end

local MAX_ARGUMENTS = 4000 -- Lua passes at most twice as many

-- Call a command with these arguments and those of a list, some thousands of the list at once. Returns Redis's first
-- error, nil if there is none.
local function in_chunks(list, list_end, command, ...)
  for from = 1, list_end, MAX_ARGUMENTS do
    local arguments = {command, ...}
    for i = from, math.min(from + MAX_ARGUMENTS - 1, list_end) do arguments[#arguments + 1] = list[i] end
    local reply = redis.pcall(unpack(arguments))
    if type(reply) == 'table' and reply.err then return reply end
  end
end

-- The values of keys in order, or of those at the places from `first` to `last`; false for a key without a string.
local function read_all(keys, first, last)
  first, last = first or 1, last or #keys
  if last - first < MAX_ARGUMENTS then return redis.call('MGET', unpack(keys, first, last)) end
  local values = {}
  for from = first, last, MAX_ARGUMENTS do
    local some = redis.call('MGET', unpack(keys, from, math.min(from + MAX_ARGUMENTS - 1, last)))
    for i = 1, #some do values[from - first + i] = some[i] end
  end
  return values
end

-- A number in the form that Redis reads: Lua would print 1e+15. '%d' takes two thirds of the time, but a 32-bit Redis
-- has no greater numbers in that format.
local function int(number)
  return string.format(number < 2147483648 and '%d' or '%.0f', number)
end

-- Microseconds since 1970, by Redis's clock.
local function now()
  local time = redis.call('TIME')
  return time[1] .. string.format('%06d', time[2])
end

local function id(epoch, sequence)
  return int(epoch) .. '-' .. int(sequence)
end

-- Whether the log up to the first id includes the entry with the second.
local function passed(epoch, sequence, of_epoch, of_sequence)
  return epoch > of_epoch or epoch == of_epoch and sequence >= of_sequence
end

local server

local function server_id()
  server = server or string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  return server
end

-- The texts of an epoch's parts up to notified, and where the rest of its value begins, which has the server first; nil
-- for a value of another form.
local function split_epoch(value)
  return string.match(value or '', '^(%d+) (%d+) (%d+) (%d+) (%d+) ()%x')
end

local function join_epoch(epoch, sequence, stored, issued, notified, rest)
  return epoch .. ' ' .. int(sequence) .. ' ' .. stored .. ' ' .. int(issued) .. ' ' .. notified .. ' ' .. rest
end

-- An epoch's value as a table; nil for a value of another form, and if there is none.
local function parse_epoch(value)
  local epoch, sequence, stored, issued, notified, rest = split_epoch(value)
  if not epoch then return nil end
  local of_server, installation, stored_epoch, trimmed_epoch, trimmed, trimmed_total =
    string.match(value, '^(%x+) (%S+) (%d+) (%d+) (%d+) (%d+)$', rest)
  if of_server then
    return {epoch = tonumber(epoch), sequence = tonumber(sequence), stored = tonumber(stored),
      issued = tonumber(issued), notified = notified, server = of_server, installation = installation,
      stored_epoch = tonumber(stored_epoch), trimmed_epoch = tonumber(trimmed_epoch), trimmed = tonumber(trimmed),
      trimmed_total = trimmed_total}
  end
end

local function write_epoch(key, epoch)
  redis.call('SET', key, join_epoch(int(epoch.epoch), epoch.sequence, int(epoch.stored), epoch.issued,
    epoch.notified, table.concat({epoch.server, epoch.installation, int(epoch.stored_epoch),
    int(epoch.trimmed_epoch), int(epoch.trimmed), epoch.trimmed_total}, ' ')))
end

-- The epoch that an epoch's value describes, if this Redis is in it; or nil, the reason why not, and the epoch that
-- another server was in.
local function current_epoch(value)
  if not value then return nil, value == nil and 'broken' or 'none' end
  local epoch = parse_epoch(value)
  if not epoch then return nil, 'broken' end
  if epoch.server ~= server_id() then return nil, 'other', epoch.epoch end
  return epoch
end

-- As current_epoch, of the epoch's key, if Redis is in the expected epoch; or nil and {'stale', reason, epoch}.
local function fence(key, expected)
  local epoch, reason = current_epoch(read('GET', key))
  if not epoch then return nil, {'stale', reason, 0} end
  if epoch.epoch ~= tonumber(expected) then return nil, {'stale', 'old', epoch.epoch} end
  return epoch
end

local COUNTER = '^(%d+) (%d+) (%S+) (%l+)$'

-- The texts of a counter's parts; nil for a value of another form, and if there is none.
local function parse_counter(value)
  return string.match(value or '', COUNTER)
end

local LIMITED = '^%-(%d+):(%d+)$'

local function is_open(closed)
  return string.sub(closed, 1, 1) == '-'
end

local function format_counter(epoch, issued, closed, synced)
  return epoch .. ' ' .. issued .. ' ' .. closed .. ' ' .. synced
end

-- The counter at a key as a table; nil if there is none, also if another program has written the value.
local function read_counter(key)
  local value = read('GET', key)
  local epoch, issued, closed, synced = parse_counter(value)
  if value == nil then -- of another type; counters were hashes once
    local fields = read('HMGET', key, 'epoch', 'issued', 'closed') or {}
    epoch, issued, closed, synced = tonumber(fields[1]), tonumber(fields[2]), fields[3] or '-', 'clean'
  end
  if epoch and issued then
    return {epoch = tonumber(epoch), issued = tonumber(issued), closed = closed, synced = synced}
  end
end

local function write_counter(key, counter)
  redis.call('SET', key, format_counter(int(counter.epoch), int(counter.issued), counter.closed, counter.synced))
end

-- Which parents have moved to another shard, or are about to, by the key of their counter; nil if none has. The keys
-- from `first` on are the counters of their applications, which say so, with their values.
local function moved_parents(keys, values, first)
  local moved
  for i = first, #keys do
    local _, _, closed = parse_counter(values[i])
    if closed and string.find(closed, 'moved-', 1, true) == 1 then
      local prefix = string.gsub(keys[i], ':app:', ':chat:', 1) .. ':'
      moved = moved or {}
      for j = 2, #keys do
        if keys[j] == keys[i] or string.sub(keys[j], 1, #prefix) == prefix then moved[keys[j]] = true end
      end
    end
  end
  return moved
end
