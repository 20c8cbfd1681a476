-- Issue numbers and append events for the requests of one or more shards, atomically.
--
-- A shard that is refused, or whose part of the script raises an error, has a reply of its own; the others are
-- accepted. A Redis Cluster permits one shard in a call.
--
-- ARGV  1 max entries of a shard's log that are not stored yet
--       2 seconds for which an idempotency key is kept
--       3 microseconds for which a requested drain suppresses another request
--       4 the shards: a list that is packed as MessagePack, because Redis takes longer for each argument than for all
--         that the list says of a request
--       then the payloads of all entries, in order
-- for each shard
-- KEYS  1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       2 instachat:{SHARD}:log, the stream of events
--       3 instachat:{SHARD}:dirty, sorted set: parents whose count changed, by the time since when
--       then two per request, or three:
--         instachat:{SHARD}:app:TOKEN, the application's counter (see shared.lua)
--         instachat:{SHARD}:chat:TOKEN:NUMBER, the chat's counter; key 1 of the request again if it has no chat
--         instachat:{SHARD}:key:HASH, its idempotency key, if it has one
-- and in the list of shards a list:
--       1 epoch and 2 sequence of the highest entry that the caller knows
--       3 how many keys and 4 how many payloads the requests have
--       then each request. One for messages that are one entry is their number, if it has no idempotency key. Any other
--       is a list: its kind (chats | messages | delete-chat | delete-application); the hash of the body ('' without an
--       idempotency key); for each entry how many numbers it takes
--
-- Only counters of new chats are created here.
--
-- Each call of a command takes Redis about a microsecond, so those of many requests are one: MGET reads what all KEYS
-- hold, and MSET writes all epochs and counters. A value of another type is missing for MGET, so a counter of another
-- program is refused like one that is missing, and verifying replaces it.
--
-- Lua does not roll back. Therefore a shard's part reads each key that it will write before its first write, also
-- the keys of new chats, which no KEYS declare. While a slot of a Redis Cluster moves, Redis refuses any access to
-- a key that it does not have: this ends the script while nothing is written. The first write is the only one that
-- Redis can refuse otherwise (no memory left, a replica, too few replicas).
-- Should a write in the middle fail all the same, the order of the writes keeps what was promised: a parent is marked
-- as dirty before its counter changes; the counters are raised before the events are appended, so that a number is lost
-- instead of issued twice; an answer is kept for an idempotency key once its events are in the log.
--
-- Returns for each shard {'ok', epoch, sequence, notify, answer, …}: sequence is that of the log's last entry before the
-- call; notify is 1 if the caller must request a drain. Each request's answer is the first number that it got, or
--   'replayed FIRST LAST EPOCH-SEQUENCE': what an earlier request with this idempotency key got
--   'counter WHICH': verify that counter (application | chat), then send the request again
--   'closed WHICH' · 'reused' · 'broken idempotency key': a value of another program
-- or, for the whole shard, {'stale', reason, epoch} · {'full', entries} · {'broken', 'log' or 'dirty counters'}
-- · Redis's error.

local KEYS, ARGV, match, type = KEYS, ARGV, string.match, type
local max_entries, notify_again_after = tonumber(ARGV[1]), tonumber(ARGV[3])
local created_at = now()
local created_between = ' ' .. created_at .. ' '
local this_server = server_id()

local values = read_all(KEYS)
local writes, writes_end = {}, 0 -- of all shards, the key and the value of an epoch or a counter by turns
local place_of = {} -- by key of a counter, the place of its value in `writes`
local entries, entries_end = {}, 0 -- of all shards, an id and an event by turns
local new_chats = {} -- by key of a new chat's counter, its value
local answer_of = {} -- by idempotency key, of the requests of this call

-- The answer to an earlier request, by the value of its idempotency key; nil if there was none.
local function earlier_answer(value, hash)
  if not value then return nil end
  local earlier_hash, answer = match(value, '^(%x+) (%d+ %d+ %d+%-%d+)$')
  if not earlier_hash then return 'broken idempotency key' end
  return earlier_hash == hash and 'replayed ' .. answer or 'reused'
end

-- Issue the numbers of a shard's requests, and mark their parents as dirty. The keys of the shard begin at KEYS[k], its
-- payloads at ARGV[a]. Returns the shard's reply; the keys of the new chats' counters; the idempotency keys.
-- This has no functions of its own: Redis defines them anew in each call, which takes longer than a message.
local function issue(batch, k, a)
  local epoch_key, log_key, dirty_key = KEYS[k], KEYS[k + 1], KEYS[k + 2]
  local epoch, sequence, stored, issued_in_all, notified, rest = split_epoch(values[k])
  if not epoch then return {'stale', values[k] and 'broken' or 'none', 0} end
  if string.find(rest, this_server, 1, true) ~= 1 then return {'stale', 'other', 0} end
  local epoch_number, seen_epoch, seen_sequence = tonumber(epoch), batch[1], batch[2]
  sequence = tonumber(sequence)
  if epoch_number < seen_epoch then return {'stale', 'old', epoch_number} end
  if epoch_number == seen_epoch and sequence < seen_sequence then return {'stale', 'rewound', epoch_number} end
  local waiting = sequence - stored
  if waiting >= max_entries then
    -- Entries that were deleted by hand do not wait to be stored.
    local length = read('XLEN', log_key)
    if not length then return {'broken', 'log'} end
    if length >= max_entries then return {'full', math.min(length, waiting)} end
  end

  local reply, reply_end, entries_before = {'ok', epoch_number, sequence, 0}, 4, entries_end
  local dirty, dirty_end, new_chat_keys, idempotency_keys = nil, 0, nil, nil
  k = k + 3
  for r = 5, #batch do
    local request = batch[r]
    local kind, hash, count, numbers = 'messages', '', 1, request
    local application_key, key = KEYS[k], KEYS[k + 1]
    local answer
    if type(request) == 'table' then
      kind, hash, count, numbers = request[1], request[2], #request - 2, request[3]
      if hash ~= '' then
        answer = earlier_answer(answer_of[KEYS[k + 2]] or values[k + 2], hash)
      end
    end

    local verified, issued, closed, synced, place
    if not answer then
      place = place_of[application_key]
      verified, issued, closed, synced = match(place and writes[place] or values[k] or '', COUNTER)
      if verified ~= epoch then
        answer = 'counter application'
      elseif closed ~= '-' then
        answer = 'closed application'
      elseif key ~= application_key then
        place = place_of[key]
        verified, issued, closed, synced =
          match(new_chat_keys and new_chats[key] or place and writes[place] or values[k + 1] or '', COUNTER)
        if verified ~= epoch then
          answer = 'counter chat'
        elseif closed ~= '-' then
          answer = 'closed chat'
        end
      end
    end

    if not answer then
      local first = issued + 1
      answer = first
      local first_text = int(first)
      sequence, entries_end = sequence + 1, entries_end + 2
      entries[entries_end - 1] = epoch .. '-' .. int(sequence)
      entries[entries_end] = first_text .. created_between .. ARGV[a]
      local next_number = first + numbers
      for i = 2, count do
        sequence, entries_end = sequence + 1, entries_end + 2
        entries[entries_end - 1] = epoch .. '-' .. int(sequence)
        entries[entries_end] = int(next_number) .. created_between .. ARGV[a + i - 1]
        next_number = next_number + request[i + 2]
      end
      issued_in_all = issued_in_all + next_number - first

      local last_text = next_number == first + 1 and first_text or int(next_number - 1)
      if kind == 'chats' then
        new_chat_keys = new_chat_keys or {}
        local prefix = string.gsub(key, ':app:', ':chat:', 1) .. ':'
        for number = first, next_number - 1 do
          local chat_key = prefix .. int(number)
          new_chat_keys[#new_chat_keys + 1] = chat_key
          new_chats[chat_key] = format_counter(epoch, '0', '-', 'clean')
        end
      elseif kind ~= 'messages' then
        closed = epoch .. '-' .. int(sequence)
      end
      if synced == 'clean' then
        dirty = dirty or {}
        dirty[dirty_end + 1] = created_at
        dirty[dirty_end + 2] = string.sub(key, #epoch_key + (key == application_key and 0 or 1)) -- without its prefix
        dirty_end = dirty_end + 2
      end
      local value = format_counter(epoch, last_text, closed, 'dirty')
      if new_chat_keys and new_chats[key] then
        new_chats[key] = value
      else
        if not place then
          writes_end = writes_end + 2
          place = writes_end
          writes[place - 1], place_of[key] = key, place
        end
        writes[place] = value
      end
      if hash ~= '' then
        idempotency_keys = idempotency_keys or {}
        idempotency_keys[#idempotency_keys + 1] = KEYS[k + 2]
        answer_of[KEYS[k + 2]] = table.concat({hash, first_text, last_text, epoch .. '-' .. int(sequence)}, ' ')
      end
    end
    reply_end = reply_end + 1
    reply[reply_end] = answer
    k, a = k + (hash == '' and 2 or 3), a + count
  end
  if entries_end == entries_before then return reply end

  local failed = new_chat_keys and in_chunks(new_chat_keys, #new_chat_keys, 'EXISTS')
  -- NX keeps the time of the oldest change.
  if not failed and dirty then failed = in_chunks(dirty, dirty_end, 'ZADD', dirty_key, 'NX') end
  if failed then return is_wrong_type(failed) and {'broken', 'dirty counters'} or failed end

  if created_at - notified >= notify_again_after then
    notified, reply[4] = created_at, 1
  end
  writes[writes_end + 1] = epoch_key
  writes[writes_end + 2] = join_epoch(epoch, sequence, stored, issued_in_all, notified, rest)
  writes_end = writes_end + 2
  return reply, new_chat_keys, idempotency_keys
end

local batches = cmsgpack.unpack(ARGV[4])
local replies, entries_ends, new_chats_of, idempotency_keys_of = {}, {}, {}, {}
local k, a = 1, 5
for shard, batch in ipairs(batches) do
  local entries_before, writes_before = entries_end, writes_end
  local finished, reply, new_chat_keys, idempotency_keys = pcall(issue, batch, k, a)
  if not finished and type(reply) ~= 'table' then reply = redis.error_reply(reply) end
  if reply[1] ~= 'ok' then entries_end, writes_end = entries_before, writes_before end
  replies[shard], entries_ends[shard] = reply, entries_end
  new_chats_of[shard], idempotency_keys_of[shard] = new_chat_keys, idempotency_keys
  k, a = k + 3 + batch[3], a + batch[4]
end

local failed
for first = 1, writes_end, MAX_ARGUMENTS do
  local written = redis.pcall('MSET', unpack(writes, first, math.min(first + MAX_ARGUMENTS - 1, writes_end)))
  failed = failed or written.err and written
end

k = 1
local entry = 1
for shard, batch in ipairs(batches) do
  local first, last, log_key = entry, entries_ends[shard], KEYS[k + 1]
  local refused = first < last and failed
  while entry < last and not refused do
    local added = redis.pcall('XADD', log_key, entries[entry], 'e', entries[entry + 1])
    if not added.err then
      entry = entry + 2
    else
      refused = is_wrong_type(added) and {'broken', 'log'} or added
      -- If nothing is in the log, which another program has replaced or moved ahead, no number is issued.
      place_of[KEYS[k]] = true
      for c = k, entry == first and k + 2 + batch[3] or 0 do
        if place_of[KEYS[c]] then redis.pcall('SET', KEYS[c], values[c]) end
      end
    end
  end
  entry = last + 1
  if new_chats_of[shard] and not refused then
    local counters = {}
    for _, key in ipairs(new_chats_of[shard]) do
      counters[#counters + 1] = key
      counters[#counters + 1] = new_chats[key]
    end
    refused = in_chunks(counters, #counters, 'MSET')
  end
  for _, key in ipairs(not refused and idempotency_keys_of[shard] or {}) do
    local kept = redis.pcall('SET', key, answer_of[key], 'EX', ARGV[2])
    refused = refused or kept.err and kept
  end
  if refused then replies[shard] = refused end
  k = k + 3 + batch[3]
end
return replies
