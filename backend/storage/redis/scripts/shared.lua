-- Shared by all scripts: is this Redis in the epoch in which the numbers were promised?
--
-- A shard's key instachat:{SHARD}:epoch is a hash:
--   server        the server's master_replid; a restart, a promotion and a first replica change it
--   epoch         grows by one with each new epoch; SQL is the authority (shard.epoch)
--   sequence      of the last entry that was appended; it goes on through all epochs, and never goes back, even
--                 if the log alone is deleted
--   stored_epoch, stored  the id of the entry up to which drains have stored this log. They stay in the log for a
--                 time (see trim_log.lua), so its length does not say how many entries wait
--   trimmed_epoch, trimmed, trimmed_total  the id of the last entry that was deleted from the log, and how many
--                 numbers drains had stored or dropped when it was stored
--   installation  the database that the numbers belong to
--   issued_total  how many numbers were issued in all, for measuring rates
-- A wiped Redis has no epoch; one that was restored, promoted or restarted has an epoch of another server.

-- The reply of a read; nil if the key's value is of another type, that of another program. Any other error is raised:
-- a key that can't be read may have a value all the same, on the node to which its slot is moving.
local function read(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply) end
end

local server

local function server_id()
  server = server or string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  return server
end

-- The epoch, its sequence, its installation, its issued_total and the sequence of the last stored entry; or nil
-- and the reason why Redis is in no epoch.
local function current_epoch(key)
  local stored = read('HMGET', key, 'server', 'epoch', 'sequence', 'installation', 'issued_total', 'stored')
  if not stored then return nil, 'broken' end
  if not stored[1] or not stored[2] or not stored[3] then return nil, 'none' end
  if not tonumber(stored[2]) or not tonumber(stored[3]) then return nil, 'broken' end
  if stored[1] ~= server_id() then return nil, 'other', tonumber(stored[2]) end
  return tonumber(stored[2]), tonumber(stored[3]), stored[4], tonumber(stored[5]) or 0,
    tonumber(stored[6]) or 0
end

-- As current_epoch, if Redis is in the expected epoch; or nil and the reply {'stale', reason, epoch}.
local function fence(key, expected)
  local epoch, sequence, installation = current_epoch(key)
  if not epoch then return nil, {'stale', sequence, 0} end
  if epoch ~= tonumber(expected) then return nil, {'stale', 'old', epoch} end
  return epoch, sequence, installation
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

-- Whether the log up to the first id includes the entry with the second.
local function passed(epoch, sequence, of_epoch, of_sequence)
  return epoch > of_epoch or epoch == of_epoch and sequence >= of_sequence
end
