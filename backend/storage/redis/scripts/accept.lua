-- Issue numbers and append events for the requests of one or more shards, atomically.
--
-- A shard that is refused, or whose part of the script raises an error, has a reply of its own; the others are
-- accepted. A Redis Cluster permits one shard in a call.
--
-- ARGV  1 max entries of a shard's log that are not stored yet
--       2 seconds for which an idempotency key is kept
--       3 milliseconds for which a wake-up suppresses others
-- then for each shard
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:log, the stream of events
--       3 instachat:{SHARD}:dirty, sorted set: parents whose count changed, by the time since when
--       4 instachat:{SHARD}:wake-up, exists while a requested drain has not ended
--       then two per request, or three:
--         instachat:{SHARD}:app:TOKEN, the application's counter
--         instachat:{SHARD}:chat:TOKEN:NUMBER, the chat's counter; key 1 of the request again if it has no chat
--         instachat:{SHARD}:key:HASH, its idempotency key, if it has one
-- ARGV  1 its requests: a list that is packed as MessagePack, because Redis takes longer for each argument than
--         for all that the list says of a request
--       then the payloads of all entries, in order
--
-- The list of requests
--       1 epoch and 2 sequence of the highest entry that the caller knows
--       3 how many keys and 4 how many payloads the requests have
--       then four per request: kind (chats | messages | delete-chat | delete-application); the parent's name in
--       the dirty set; the hash of the body ('' without an idempotency key); how many entries it appends
--       then for each of these entries how many numbers it takes
--
-- A counter is a hash: issued (the highest number issued), epoch (the epoch in which it was verified), closed
-- (the id of the entry that requests its parent's deletion). Only counters of new chats are created here.
--
-- Lua does not roll back. Therefore a shard's part reads each key that it will write before its first write, also
-- the keys of new chats, which no KEYS declare. While a slot of a Redis Cluster moves, Redis refuses any access to
-- a key that it does not have: this ends the script while nothing is written. The first write is the only one that
-- Redis can refuse otherwise (no memory left, a replica, too few replicas).
-- Should a write in the middle fail all the same, the order of the writes keeps what was promised: the counters are
-- raised before the events are appended, so that a number is lost instead of issued twice; an answer is kept for an
-- idempotency key once its events are in the log.
--
-- Returns for each shard {'ok', epoch, sequence, notify, {answer, detail, …}} with these two per request:
--   first, sequence: the first number that it got, and the sequence of its last entry
--   'replayed', 'FIRST LAST EPOCH-SEQUENCE': what an earlier request with this idempotency key got
--   'counter', which: verify that counter, then send the request again
--   'closed', which  · 'reused', ''
--   'broken', which: a value of another program
-- or, for the whole shard, {'stale', reason, epoch} · {'full', entries} · {'broken', 'log' or 'dirty counters'}
-- · Redis's error.

local MAX_ARGUMENTS = 1000 -- Lua passes some thousands at most
local max_entries = tonumber(ARGV[1])
local created_at = now()
local created_between = ' ' .. created_at .. ' '

-- The reply of one shard, whose keys begin at KEYS[k], and its payloads at ARGV[a].
local function accept(requests, k, a)
  local epoch_key, log_key, dirty_key, wake_up_key = KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3]
  local epoch, sequence, _, issued_before, stored = current_epoch(epoch_key)
  if not epoch then return {'stale', sequence, 0} end
  local seen_epoch, seen_sequence = requests[1], requests[2]
  if epoch < seen_epoch then return {'stale', 'old', epoch} end
  if epoch == seen_epoch and sequence < seen_sequence then return {'stale', 'rewound', epoch} end

  local length = read('XLEN', log_key)
  if not length then return {'broken', 'log'} end
  -- The log also holds entries that are stored; an older release's worker deletes them without a word.
  local waiting = math.min(length, sequence - stored)
  if waiting >= max_entries then return {'full', waiting} end
  if not read('ZCARD', dirty_key) then return {'broken', 'dirty counters'} end

  local counters, keys = {}, {}

  local epoch_text = int(epoch)
  local id_prefix = epoch_text .. '-'

  -- The counter as this batch has left it so far; or nil and the answer that refuses the request.
  local function counter(key, which)
    local cached = counters[key]
    if not cached then
      local fields = read('HMGET', key, 'issued', 'epoch', 'closed')
      local issued = fields and tonumber(fields[1])
      if not fields then
        cached = {refusal = 'broken'}
      elseif not issued or fields[2] ~= epoch_text then
        cached = {refusal = 'counter'}
      else
        cached = {issued = issued, issued_before = issued, closed = fields[3]}
      end
      counters[key] = cached
    end
    if cached.refusal then return nil, cached.refusal, which end
    if cached.closed then return nil, 'closed', which end
    return cached
  end

  -- The answer to an earlier request with this idempotency key, also to one of this batch.
  local function earlier_answer(key)
    if keys[key] then return keys[key] end
    local value = read('GET', key)
    if value == nil then return 'broken' end
    return value
  end

  local answers, ids, events, fresh, touched = {}, {}, {}, {}, {}
  local next_sequence, issued_total, appended = sequence, 0, 0
  local r = 5
  k = k + 4
  while r <= #requests do
    local application_key, chat_key, idempotency_key = KEYS[k], KEYS[k + 1], nil
    local kind, parent, hash, entries = requests[r], requests[r + 1], requests[r + 2], requests[r + 3]
    k, r = k + 2, r + 4
    if hash ~= '' then
      idempotency_key, k = KEYS[k], k + 1
    end

    local replay = idempotency_key and earlier_answer(idempotency_key)
    local target, answer, detail
    if replay then
      local old_hash, old_answer = string.match(replay, '^(%x+) (%d+ %d+ %d+%-%d+)$')
      if not old_hash then answer, detail = 'broken', 'idempotency key'
      elseif old_hash ~= hash then answer, detail = 'reused', ''
      else answer, detail = 'replayed', old_answer
      end
    else
      target, answer, detail = counter(application_key, 'application')
      if target and chat_key ~= application_key then target, answer, detail = counter(chat_key, 'chat') end
    end

    if target then
      local first, issued = target.issued + 1, target.issued
      for e = 0, entries - 1 do
        next_sequence, appended = next_sequence + 1, appended + 1
        ids[appended] = id_prefix .. int(next_sequence)
        events[appended] = int(issued + 1) .. created_between .. ARGV[a + e]
        issued = issued + requests[r + e]
      end
      target.issued, issued_total = issued, issued_total + issued - first + 1
      if kind == 'chats' then
        local prefix = string.gsub(application_key, ':app:', ':chat:', 1) .. ':'
        for number = first, issued do
          local key = prefix .. int(number)
          counters[key] = {issued = 0, issued_before = 0}
          fresh[#fresh + 1] = key
        end
      elseif kind ~= 'messages' then
        target.closed = id_prefix .. int(next_sequence)
      end
      target.key = kind == 'chats' and application_key or chat_key
      touched[parent] = target
      answer, detail = first, next_sequence
      if idempotency_key then
        keys[idempotency_key] = string.format('%s %.0f %.0f %s%.0f', hash, first, issued, id_prefix, next_sequence)
      end
    end
    answers[#answers + 1] = answer
    answers[#answers + 1] = detail
    a, r = a + entries, r + entries
  end

  local notify = 0
  if appended > 0 then
    -- Numbers are never reused, so the key of a new chat can only have a value of another program, which is deleted.
    local foreign = 0
    for from = 1, #fresh, MAX_ARGUMENTS do
      foreign = foreign + redis.call('EXISTS', unpack(fresh, from, math.min(from + MAX_ARGUMENTS - 1, #fresh)))
    end

    redis.call('HSET', epoch_key, 'sequence', int(next_sequence), 'issued_total', int(issued_before + issued_total))
    local dirty = {}
    for parent in pairs(touched) do
      dirty[#dirty + 1] = created_at
      dirty[#dirty + 1] = parent
    end
    for from = 1, #dirty, MAX_ARGUMENTS do
      -- NX keeps the time of the oldest change.
      redis.call('ZADD', dirty_key, 'NX', unpack(dirty, from, math.min(from + MAX_ARGUMENTS - 1, #dirty)))
    end
    if foreign > 0 then
      for _, key in ipairs(fresh) do redis.call('DEL', key) end
    end
    for _, target in pairs(touched) do
      redis.call('HSET', target.key, 'issued', target.issued) -- Redis writes all digits of a whole number
      if target.closed then redis.call('HSET', target.key, 'closed', target.closed) end
    end
    for i = 1, appended do
      local added = redis.pcall('XADD', log_key, ids[i], 'e', events[i])
      if added.err then
        if i == 1 then -- nothing is in the log, which another program has moved ahead: no number is issued
          for _, target in pairs(touched) do
            redis.call('HSET', target.key, 'issued', target.issued_before)
            if target.closed then redis.call('HDEL', target.key, 'closed') end
          end
        end
        error(added)
      end
    end
    for _, key in ipairs(fresh) do
      redis.call('HSET', key, 'issued', counters[key].issued, 'epoch', epoch_text)
    end
    for key, value in pairs(keys) do redis.call('SET', key, value, 'EX', ARGV[2]) end
    -- Only this key may be missing once all others are read: it expires. Without it a drain is requested each time.
    if redis.pcall('SET', wake_up_key, 1, 'NX', 'PX', ARGV[3]) then notify = 1 end
  end
  return {'ok', epoch, next_sequence, notify, answers}
end

local replies = {}
local k, a = 1, 4
while ARGV[a] do
  local requests = cmsgpack.unpack(ARGV[a])
  local finished, reply = pcall(accept, requests, k, a + 1)
  if not finished and type(reply) ~= 'table' then reply = redis.error_reply(reply) end
  replies[#replies + 1] = reply
  k, a = k + 4 + requests[3], a + 1 + requests[4]
end
return replies
