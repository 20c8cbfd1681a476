-- Shared by all scripts: is this the Redis that the numbers were promised by?
--
-- A shard's epoch key is a hash:
--   server        the server's master_replid; a restart, a promotion, a first replica change it
--   epoch         grows by one with each life; SQL has the authority (shard.epoch)
--   sequence      of the last entry that the log was given in this epoch; ids never go back,
--                 even when the log alone is deleted
--   installation  which database's numbers these are
--   issued_total         how many numbers were given in all, for who measures rates
-- A wiped Redis has no life; one restored, promoted or restarted has another server's.

local function server_id()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end

-- The epoch and the sequence of the current epoch, or nil and why not.
local function current_epoch(key)
  local stored = redis.pcall('HMGET', key, 'server', 'epoch', 'sequence', 'installation')
  if stored.err then return nil, 'broken' end
  if not stored[1] or not stored[2] or not stored[3] then return nil, 'none' end
  if not tonumber(stored[2]) or not tonumber(stored[3]) then return nil, 'broken' end
  if stored[1] ~= server_id() then return nil, 'other', tonumber(stored[2]) end
  return tonumber(stored[2]), tonumber(stored[3]), stored[4]
end

-- A number as Redis must read it: Lua would print 1e+15.
local function int(number)
  return string.format('%.0f', number)
end

-- Microseconds since 1970, by Redis's clock.
local function now()
  local time = redis.call('TIME')
  return time[1] .. string.format('%06d', time[2])
end
