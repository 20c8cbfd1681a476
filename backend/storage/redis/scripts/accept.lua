-- Issue numbers and append events for the requests of one or more shards, atomically.
--
-- A shard that is refused, or whose part of the script raises an error, has a reply of its own; the others are
-- accepted. A Redis Cluster permits one shard in a call.
--
-- ARGV  1 max entries in a shard's log
--       2 seconds for which an idempotency key is kept
--       3 milliseconds for which a wake-up suppresses others
-- then for each shard
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:log, the stream of events
--       3 instachat:{SHARD}:dirty, sorted set: parents whose count changed, by the time since when
--       4 instachat:{SHARD}:wake-up, exists while a requested drain has not ended
--       then three per request:
--         instachat:{SHARD}:app:TOKEN, the application's counter
--         instachat:{SHARD}:chat:TOKEN:NUMBER, the chat's counter; key 1 of the request again if it has no chat
--         instachat:{SHARD}:key:HASH, its idempotency key; key 1 of the request again if it has none
-- ARGV  1 epoch and 2 sequence of the highest entry that the caller knows
--       3 how many requests
--       4 how many arguments these requests have
--       then four per request: kind (chats | messages | delete-chat | delete-application); the parent's name in
--       the dirty set; the hash of the body ('' without an idempotency key); how many entries it appends
--       then two per entry of the request: how many numbers it takes; the payload
--
-- A counter is a hash: issued (the highest number issued), epoch (the epoch in which it was verified), closed
-- (the id of the entry that requests its parent's deletion). Only counters of new chats are created here.
--
-- Lua does not roll back. Therefore a shard's part checks everything before its first write, and that write is
-- the only one that Redis itself can refuse (no memory left, or a replica).
--
-- Returns for each shard {'ok', epoch, sequence, notify, {answer, …}} with an answer per request:
--   {'ok', first, last, epoch, sequence}, the last two of its last entry
--   {'counter', which}: verify that counter, then send the request again
--   {'closed', which}  · {'reused'}
--   {'broken', which}: a value of another program
-- or, for the whole shard, {'stale', reason, epoch} · {'full', entries} · {'broken', 'log' or 'dirty counters'}
-- · Redis's error.

local max_entries = tonumber(ARGV[1])

-- The reply of one shard, whose keys begin at KEYS[k], and its arguments at ARGV[a].
local function accept(k, a)
  local epoch_key, log_key, dirty_key, wake_up_key = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3]
  local epoch, sequence, _, issued_before = current_epoch(epoch_key)
  if not epoch then return {'stale', sequence, 0} end
  local seen_epoch, seen_sequence = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
  if epoch < seen_epoch then return {'stale', 'old', epoch} end
  if epoch == seen_epoch and sequence < seen_sequence then return {'stale', 'rewound', epoch} end

  local length = redis.pcall('XLEN', log_key)
  if type(length) == 'table' then return {'broken', 'log'} end
  if length >= max_entries then return {'full', length} end
  local dirty_type = redis.call('TYPE', dirty_key).ok
  if dirty_type ~= 'none' and dirty_type ~= 'zset' then return {'broken', 'dirty counters'} end

  local counters, keys = {}, {}

  local id_prefix = int(epoch) .. '-'

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
  local requests = tonumber(ARGV[a + 2])
  k, a = k + 4, a + 4
  for _ = 1, requests do
    local application_key, chat_key, idempotency_key = KEYS[k], KEYS[k + 1], KEYS[k + 2]
    local kind, parent, hash, entries = ARGV[a], ARGV[a + 1], ARGV[a + 2], tonumber(ARGV[a + 3])
    k, a = k + 3, a + 4

    local replay = hash ~= '' and earlier_answer(idempotency_key)
    local answer, target, refusal
    if replay then
      local old_hash, first, last, entry_epoch, entry_sequence =
        string.match(replay, '^(%x+) (%d+) (%d+) (%d+)-(%d+)$')
      if not old_hash then answer = {'broken', 'idempotency key'}
      elseif old_hash ~= hash then answer = {'reused'}
      else
        answer = {'ok', tonumber(first), tonumber(last), tonumber(entry_epoch), tonumber(entry_sequence)}
      end
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
        local prefix = string.gsub(application_key, ':app:', ':chat:', 1) .. ':'
        for number = first, target.issued do
          local key = prefix .. int(number)
          -- Numbers are never reused, so this key can only have a value of another program, which is deleted.
          counters[key] = {issued = 0}
          fresh[#fresh + 1] = key
        end
      elseif kind ~= 'messages' then
        target.closed = id_prefix .. int(next_sequence)
      end
      target.key = kind == 'chats' and application_key or chat_key
      touched[parent] = target
      answer = {'ok', first, target.issued, epoch, next_sequence}
      if hash ~= '' then
        keys[idempotency_key] = string.format('%s %.0f %.0f %s%.0f', hash, first, target.issued, id_prefix, next_sequence)
      end
    end
    answers[#answers + 1] = answer
    a = a + 2 * entries
  end

  local notify = 0
  if #appends > 0 then
    local created_at = now()
    local created_between = ' ' .. created_at .. ' '
    for _, append in ipairs(appends) do
      redis.call('XADD', log_key, id_prefix .. int(append[1]), 'e', int(append[2]) .. created_between .. append[3])
    end
    redis.call('HSET', epoch_key, 'sequence', int(next_sequence), 'issued_total', int(issued_before + issued_total))
    for _, key in ipairs(fresh) do
      redis.call('DEL', key)
      redis.call('HSET', key, 'issued', 0, 'epoch', int(epoch))
    end
    local dirty = {}
    for parent, target in pairs(touched) do
      redis.call('HSET', target.key, 'issued', target.issued) -- Redis writes all digits of a whole number
      if target.closed then redis.call('HSET', target.key, 'closed', target.closed) end
      dirty[#dirty + 1] = created_at
      dirty[#dirty + 1] = parent
    end
    for from = 1, #dirty, 1000 do -- Lua passes some thousands of arguments at most
      -- NX keeps the time of the oldest change.
      redis.call('ZADD', dirty_key, 'NX', unpack(dirty, from, math.min(from + 999, #dirty)))
    end
    for key, value in pairs(keys) do redis.call('SET', key, value, 'EX', ARGV[2]) end
    if redis.call('SET', wake_up_key, 1, 'NX', 'PX', ARGV[3]) then notify = 1 end
  end
  return {'ok', epoch, next_sequence, notify, answers}
end

local replies = {}
local k, a = 1, 4
while ARGV[a] do
  local requests, arguments = tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local finished, reply = pcall(accept, k, a)
  if not finished and type(reply) ~= 'table' then reply = redis.error_reply(reply) end
  replies[#replies + 1] = reply
  k, a = k + 4 + 3 * requests, a + 4 + arguments
end
return replies
