-- Issue numbers and append events for a batch of requests of one shard, atomically.
--
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:log, the stream of events
--       3 instachat:{SHARD}:dirty, sorted set: parents whose count changed, by the time since when
--       4 instachat:{SHARD}:wake-up, exists while a requested drain has not started
--       then three per request:
--         instachat:{SHARD}:app:TOKEN, the application's counter
--         instachat:{SHARD}:chat:TOKEN:NUMBER, the chat's counter; key 1 of the request again if it has no chat
--         instachat:{SHARD}:key:HASH, its idempotency key; key 1 of the request again if it has none
-- ARGV  1 epoch and 2 sequence of the highest entry that the caller knows
--       3 max entries in the log
--       4 seconds for which an idempotency key is kept
--       5 milliseconds for which a wake-up suppresses others
--       then five per request: kind (chats | messages | delete-chat | delete-application); the parent's name in
--       the dirty set; the hash of the body ('' without an idempotency key); the prefix of the keys of its chats'
--       counters; how many entries it appends
--       then two per entry of the request: how many numbers it takes; the payload
--
-- A counter is a hash: issued (the highest number issued), epoch (the epoch in which it was verified), closed
-- (the id of the entry that requests its parent's deletion). Only counters of new chats are created here.
--
-- Lua does not roll back. Therefore everything is checked before the first write, and the first write is the
-- only one that Redis itself can refuse (no memory left, or a replica).
--
-- Returns {'ok', epoch, sequence, notify, {answer, …}} with an answer per request:
--   {'ok', first, last, entry id}  · {'counter', which}: verify that counter, then send the request again
--   {'closed', which}              · {'reused'}
--   {'broken', which}: a value of another program
-- or, for the whole batch, {'stale', reason, epoch} · {'full', entries} · {'broken', 'log' or 'dirty counters'}.

local epoch, sequence = current_epoch(KEYS[1])
if not epoch then return {'stale', sequence, 0} end
local seen_epoch, seen_sequence = tonumber(ARGV[1]), tonumber(ARGV[2])
if epoch < seen_epoch then return {'stale', 'old', epoch} end
if epoch == seen_epoch and sequence < seen_sequence then return {'stale', 'rewound', epoch} end

local length = redis.pcall('XLEN', KEYS[2])
if type(length) == 'table' then return {'broken', 'log'} end
if length >= tonumber(ARGV[3]) then return {'full', length} end
local dirty_type = redis.call('TYPE', KEYS[3]).ok
if dirty_type ~= 'none' and dirty_type ~= 'zset' then return {'broken', 'dirty counters'} end

local counters, keys = {}, {}

local function entry_id(sequence)
  return int(epoch) .. '-' .. int(sequence)
end

-- The counter as this batch has left it so far; or nil and the answer that refuses the request.
local function counter(key, which)
  local cached = counters[key]
  if not cached then
    local fields = redis.pcall('HMGET', key, 'issued', 'epoch', 'closed')
    if fields.err then
      cached = {refusal = {'broken', which}}
    elseif not tonumber(fields[1]) or tonumber(fields[2]) ~= epoch then
      cached = {refusal = {'counter', which}}
    else
      cached = {issued = tonumber(fields[1]), closed = fields[3]}
    end
    counters[key] = cached
  end
  if cached.refusal then return nil, cached.refusal end
  if cached.closed then return nil, {'closed', which} end
  return cached
end

-- The answer to an earlier request with this idempotency key, also to one of this batch.
local function earlier_answer(key)
  if keys[key] then return keys[key] end
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then return 'broken' end
  return value
end

local answers, appends, fresh, touched = {}, {}, {}, {}
local next_sequence, issued_total = sequence, 0
local k, a = 5, 6
while ARGV[a] do
  local application_key, chat_key, idempotency_key = KEYS[k], KEYS[k + 1], KEYS[k + 2]
  local kind, parent, hash, prefix = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  local entries = tonumber(ARGV[a + 4])
  k, a = k + 3, a + 5

  local replay = hash ~= '' and earlier_answer(idempotency_key)
  local answer, target, refusal
  if replay then
    local old_hash, first, last, entry = string.match(replay, '^(%x+) (%d+) (%d+) (%d+-%d+)$')
    if not old_hash then answer = {'broken', 'idempotency key'}
    elseif old_hash ~= hash then answer = {'reused'}
    else answer = {'ok', first, last, entry} end
  else
    target, refusal = counter(application_key, 'application')
    if target and chat_key ~= application_key then target, refusal = counter(chat_key, 'chat') end
    answer = refusal
  end

  if target then
    local first = target.issued + 1
    for e = a, a + 2 * entries - 2, 2 do
      next_sequence = next_sequence + 1
      appends[#appends + 1] = {next_sequence, target.issued + 1, ARGV[e + 1]}
      target.issued = target.issued + tonumber(ARGV[e])
      issued_total = issued_total + tonumber(ARGV[e])
    end
    if kind == 'chats' then
      for number = first, target.issued do
        local key = prefix .. int(number)
        -- Numbers are never reused, so this key can only have a value of another program, which is deleted.
        counters[key] = {issued = 0}
        fresh[#fresh + 1] = key
      end
    elseif kind ~= 'messages' then
      target.closed = entry_id(next_sequence)
    end
    target.key = kind == 'chats' and application_key or chat_key
    touched[parent] = target
    answer = {'ok', int(first), int(target.issued), entry_id(next_sequence)}
    if hash ~= '' then
      keys[idempotency_key] = table.concat({hash, answer[2], answer[3], answer[4]}, ' ')
    end
  end
  answers[#answers + 1] = answer
  a = a + 2 * entries
end

local notify = 0
if #appends > 0 then
  local created_at = now()
  for _, append in ipairs(appends) do
    redis.call('XADD', KEYS[2], entry_id(append[1]), 'e', int(append[2]) .. ' ' .. created_at .. ' ' .. append[3])
  end
  redis.call('HSET', KEYS[1], 'sequence', int(next_sequence))
  redis.pcall('HINCRBY', KEYS[1], 'issued_total', int(issued_total))
  for _, key in ipairs(fresh) do
    redis.call('DEL', key)
    redis.call('HSET', key, 'issued', 0, 'epoch', int(epoch))
  end
  for parent, target in pairs(touched) do
    redis.call('HSET', target.key, 'issued', int(target.issued))
    if target.closed then redis.call('HSET', target.key, 'closed', target.closed) end
    redis.call('ZADD', KEYS[3], 'NX', created_at, parent) -- NX keeps the time of the oldest change
  end
  for key, value in pairs(keys) do redis.call('SET', key, value, 'EX', ARGV[4]) end
  if redis.call('SET', KEYS[4], 1, 'NX', 'PX', ARGV[5]) then notify = 1 end
end
return {'ok', int(epoch), int(next_sequence), notify, answers}
