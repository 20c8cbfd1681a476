-- Issue numbers and append events for the requests of one or more shards, atomically.
--
-- A shard that is refused, or whose part of the script raises an error, has a reply of its own; the others are
-- accepted. See docs/adr/0016-one-call-a-node.md for the calls of a Redis Cluster.
--
-- ARGV  1 max entries of a shard's log that are not stored yet
--       2 seconds for which an idempotency key is kept
--       3 microseconds for which a requested drain suppresses another request
--       4 the names of keys, the shards, and whether a command must not have keys of two shards, as on a Redis Cluster:
--         two lists and a boolean, packed together as MessagePack, because Redis and its client take longer for each
--         argument than for all that the lists say of a request
--       then the payloads of all entries, in order
-- for each shard in the list of keys
--       1 instachat:{SHARD}:epoch, the shard's epoch (see shared.lua)
--       then two per request, or three:
--         instachat:{SHARD}:app:TOKEN, the application's counter (see shared.lua)
--         instachat:{SHARD}:chat:TOKEN:NUMBER, the chat's counter; key 1 of the request again if it has no chat
--         instachat:{SHARD}:key:HASH, its idempotency key, if it has one
--       then, on a Redis Cluster, instachat:{SHARD}:log and instachat:{SHARD}:dirty
-- and in the list of shards a list:
--       1 epoch and 2 sequence of the highest entry that the caller knows
--       3 how many keys follow the epoch's, and 4 how many payloads the requests have
--       5 instachat:{SHARD}:log, the key of the stream of events
--       then each request. One for messages that are one entry is their number, if it has no idempotency key. Any other
--       is a list: its kind (chats | messages | delete-chat | delete-application | moved-…); the hash of the body ('' without an
--       idempotency key); for each entry how many numbers it takes
--
-- The parents whose count changes are added to instachat:{SHARD}:dirty, a sorted set, by the time since when.
--
-- A call for one shard of a Redis Cluster can have the list of keys as KEYS instead, so that the node which is asked names
-- the one that has them.
--
-- Only counters of new chats are created here.
--
-- Each call of a command takes Redis about a microsecond, so those of many requests are one: MGET reads what all keys
-- hold, and MSET writes all epochs and counters; on a Redis Cluster those of a shard. A value of another type is missing
-- for MGET, so a counter of another program is refused like one that is missing, and verifying replaces it.
--
-- Lua does not roll back. Therefore on a cluster each key that will be written is read before the first write, also
-- the keys of new chats. While a slot of a Redis Cluster moves, Redis refuses any access to a key that it does not
-- have: this ends the shard's part of the script while nothing of it is written. The first write is the only one that
-- Redis can refuse otherwise (no memory left, a replica, too few replicas).
-- Should a write in the middle fail all the same, the order of the writes keeps what was promised: a parent is marked
-- as dirty before its counter changes; the counters are raised before the events are appended, so that a number is lost
-- instead of issued twice; an answer is kept for an idempotency key once its events are in the log.
--
-- Returns one list, because Redis takes longer for a list than for all that a shard's reply has. It has for each shard
--   count, epoch, sequence, notify, answer, …: count is how many answers follow; sequence is that of the log's last entry
-- before the call; notify is 1 if the caller must request a drain. Each request's answer is the first number that it got, or
--   'replayed FIRST LAST EPOCH-SEQUENCE': what an earlier request with this idempotency key got
--   'counter WHICH': verify that counter (application | chat), then send the request again
--   'closed WHICH' · 'reused' · 'broken idempotency key': a value of another program
--   'limited RATE WAIT': the application creates more than RATE chats and messages in a second; microseconds to wait
--   'exhausted': the counter is so high that no number is issued any more
-- or, for the whole shard, one list {'stale', reason, epoch} · {'full', entries} · {'broken', 'log' or 'dirty counters'}
-- · or Redis's error.

local ARGV, match, find, format, sub, type = ARGV, string.match, string.find, string.format, string.sub, type
local keys, batches, is_split = unpack(cmsgpack.unpack(ARGV[4]))
if #KEYS > 0 then keys = KEYS end
-- Of a counter that issues further numbers. Whatever one call adds to such a counter, each number has at most 15 digits,
-- as the HTTP API reads them, and is far from 2^53, from which on Lua does not tell a number from the next one. To count
-- the digits takes less time than to compare numbers, because the counter is a text.
local MAX_ISSUED_DIGITS = 14
local SECOND = 1000000 -- in microseconds
local max_entries, notify_again_after = tonumber(ARGV[1]), tonumber(ARGV[3])
local created_at = now()
local created_at_number = created_at + 0 -- Lua would convert it for each shard
local created_between = ' ' .. created_at .. ' '
local this_server = server_id()

local values = is_split and {} or read_all(keys)
local writes, writes_end = {}, 0 -- of all shards, the key and the value of an epoch or a counter by turns
local place_of = {} -- by key of a counter, the place of its value in `writes`
local entries, entries_end = {}, 0 -- of all shards, an id and an event by turns
local new_chats = {} -- by key of a new chat's counter, its value
local answer_of = {} -- by idempotency key, of the requests of this call
local replies, replies_end = {}, 0 -- of all shards

-- The answer to an earlier request, by the value of its idempotency key; nil if there was none.
local function earlier_answer(value, hash)
  if not value then return nil end
  local earlier_hash, answer = match(value, '^(%x+) (%d+ %d+ %d+%-%d+)$')
  if not earlier_hash then return 'broken idempotency key' end
  return earlier_hash == hash and 'replayed ' .. answer or 'reused'
end

-- Issue the numbers of a shard's requests, mark their parents as dirty, and add the shard's reply. The keys of the shard
-- begin at keys[k], its payloads at ARGV[a]. Returns the refusal of the whole shard, or nil; the keys of the new chats'
-- counters; the idempotency keys.
-- This has no functions of its own: Redis defines them anew in each call, which takes longer than a message.
local function issue(batch, k, a)
  local epoch_key, epoch_value = keys[k], values[k]
  local epoch, sequence, stored, issued_in_all, notified, rest = split_epoch(epoch_value)
  if not epoch then return {'stale', epoch_value and 'broken' or 'none', 0} end
  if find(epoch_value, this_server, rest, true) ~= rest then return {'stale', 'other', 0} end
  local epoch_number, seen_epoch, seen_sequence = tonumber(epoch), batch[1], batch[2]
  sequence = tonumber(sequence)
  if epoch_number < seen_epoch then return {'stale', 'old', epoch_number} end
  if epoch_number == seen_epoch and sequence < seen_sequence then return {'stale', 'rewound', epoch_number} end
  local waiting = sequence - stored
  if waiting >= max_entries then
    -- Entries that were deleted by hand do not wait to be stored.
    local length = read('XLEN', batch[5])
    if not length then return {'broken', 'log'} end
    if length >= max_entries then return {'full', math.min(length, waiting)} end
  end

  local entries_before, notify_place = entries_end, replies_end + 4
  replies[replies_end + 1], replies[replies_end + 2] = #batch - 5, epoch_number
  replies[replies_end + 3], replies[notify_place] = sequence, 0
  replies_end = notify_place
  local dirty, dirty_end, new_chat_keys, idempotency_keys = nil, 0, nil, nil
  k = k + 1
  for r = 6, #batch do
    local request = batch[r]
    local kind, hash, count, numbers = 'messages', '', 1, request
    local application_key, key = keys[k], keys[k + 1]
    local answer
    if type(request) == 'table' then
      kind, hash, count, numbers = request[1], request[2], #request - 2, request[3]
      if hash ~= '' then
        answer = earlier_answer(answer_of[keys[k + 2]] or values[k + 2], hash)
      end
    end

    local verified, issued, closed, synced, place, rate, due
    if not answer then
      place = place_of[application_key]
      verified, issued, closed, synced = match(place and writes[place] or values[k] or '', COUNTER)
      if verified ~= epoch then
        answer = 'counter application'
      elseif closed ~= '-' then
        rate, due = match(closed, LIMITED)
        if not rate then
          answer = 'closed application'
        elseif numbers > 0 then
          -- As much as comes in a second may come at once, and a request that is larger waits for no more.
          local wait = due - created_at - SECOND + SECOND / rate
          if wait > 0 then answer = 'limited ' .. rate .. ' ' .. int(math.ceil(wait)) end
        end
      end
      if not answer and key ~= application_key then
        place = place_of[key]
        verified, issued, closed, synced =
          match(new_chat_keys and new_chats[key] or place and writes[place] or values[k + 1] or '', COUNTER)
        if verified ~= epoch then
          answer = 'counter chat'
        elseif closed ~= '-' then
          answer = 'closed chat'
        end
      end
      if not answer and #issued > MAX_ISSUED_DIGITS and numbers > 0 then answer = 'exhausted' end
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
      if rate and numbers > 0 then
        due = math.max(due, created_at) + (next_number - first) * SECOND / rate
        local limited = '-' .. rate .. ':' .. int(math.floor(due))
        if key == application_key then
          closed = limited
        else
          local at = place_of[application_key]
          local of_epoch, of_issued, _, of_synced = match(at and writes[at] or values[k], COUNTER)
          if not at then
            writes_end = writes_end + 2
            at = writes_end
            writes[at - 1], place_of[application_key] = application_key, at
          end
          writes[at] = format_counter(of_epoch, of_issued, limited, of_synced)
        end
      end

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
        if string.find(kind, 'moved-', 1, true) then closed = kind end
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
        idempotency_keys[#idempotency_keys + 1] = keys[k + 2]
        answer_of[keys[k + 2]] = table.concat({hash, first_text, last_text, epoch .. '-' .. int(sequence)}, ' ')
      end
    end
    replies_end = replies_end + 1
    replies[replies_end] = answer
    k, a = k + (hash == '' and 2 or 3), a + count
  end
  if entries_end == entries_before then return nil end

  local failed = new_chat_keys and in_chunks(new_chat_keys, #new_chat_keys, 'EXISTS')
  -- NX keeps the time of the oldest change.
  if not failed and dirty then
    local dirty_key = string.sub(epoch_key, 1, -6) .. 'dirty'
    failed = in_chunks(dirty, dirty_end, 'ZADD', dirty_key, 'NX')
  end
  if failed then return is_wrong_type(failed) and {'broken', 'dirty counters'} or failed end

  if created_at - notified >= notify_again_after then
    notified, replies[notify_place] = created_at, 1
  end
  writes[writes_end + 1] = epoch_key
  writes[writes_end + 2] = join_epoch(epoch, sequence, stored, issued_in_all, notified, string.sub(epoch_value, rest))
  writes_end = writes_end + 2
  return nil, new_chat_keys, idempotency_keys
end

-- Read the values of a shard's keys, which are at these places.
local function read_shard(first, last)
  local found = read_all(keys, first, last)
  for i = 1, #found do values[first + i - 1] = found[i] end
end

-- Write the epochs and counters at these places of `writes`; returns Redis's first error, nil if there is none.
local function write(first, last)
  local failed
  for from = first, last, MAX_ARGUMENTS do
    local written = redis.pcall('MSET', unpack(writes, from, math.min(from + MAX_ARGUMENTS - 1, last)))
    failed = failed or written.err and written or nil
  end
  return failed
end

local entries_ends, writes_ends, replies_ends, new_chats_of, idempotency_keys_of = {}, {}, {}, {}, {}
-- The last shard's epoch, and texts and patterns that it is in.
local last_epoch, epoch_number, counter_start, entry_id, open_counter, dirty_counter
local MAX_SHORT_DIGITS = 9 -- a 32-bit Redis has these numbers in the format '%d', too, whatever one call adds to them
local k, a = 1, 5
for shard, batch in ipairs(batches) do
  local entries_before, writes_before, replies_before = entries_end, writes_end, replies_end
  local finished, refusal, new_chat_keys, idempotency_keys = true, nil, nil, nil
  if is_split then finished, refusal = pcall(read_shard, k, k + batch[3]) end

  -- The usual case: a drain is requested, and all requests are for messages of open chats that are dirty already, in
  -- applications without a rate limit. Only numbers change, in half of the time that `issue` takes; whatever is not as
  -- usual is left to it.
  local epoch_value, requests, done = values[k], #batch - 5, 0
  local epoch, sequence, stored, issued_in_all, notified, rest = split_epoch(epoch_value)
  local is_usual = rest and #sequence <= MAX_SHORT_DIGITS
    and find(epoch_value, this_server, rest, true) == rest
  if is_usual and epoch ~= last_epoch then
    last_epoch, epoch_number, counter_start, entry_id = epoch, epoch + 0, epoch .. ' ', epoch .. '-%d'
    open_counter, dirty_counter = '^' .. epoch .. ' %d+ %- ', '^' .. epoch .. ' (%d+) %- dirty$'
  end
  if is_usual then
    sequence = sequence + 0
    is_usual = epoch_number == batch[1]
      and sequence >= batch[2]
      and sequence - stored < max_entries
      and created_at_number - notified < notify_again_after
  end
  if is_usual then
    replies[replies_end + 1], replies[replies_end + 2] = requests, epoch_number
    replies[replies_end + 3], replies[replies_end + 4] = sequence, 0
    replies_end = replies_end + 4
    local c = k
    for r = 6, #batch do
      local numbers, application = batch[r], values[c + 1]
      c = c + 2
      local key = keys[c]
      if numbers ~= 1 and type(numbers) ~= 'number' then break end -- each call of a function costs
      if not application or not find(application, open_counter) then break end
      local place = place_of[key]
      local issued = match(place and writes[place] or values[c] or '', dirty_counter)
      if not issued or #issued > MAX_SHORT_DIGITS then break end
      local first = issued + 1
      local first_text = format('%d', first)
      sequence, entries_end, replies_end = sequence + 1, entries_end + 2, replies_end + 1
      entries[entries_end - 1] = format(entry_id, sequence)
      entries[entries_end] = first_text .. created_between .. ARGV[a + done]
      replies[replies_end] = first
      issued_in_all = issued_in_all + numbers
      if not place then
        place = writes_end + 2
        writes[place - 1], place_of[key], writes_end = key, place, place
      end
      local last_text = numbers == 1 and first_text or format('%d', first + numbers - 1)
      writes[place] = counter_start .. last_text .. ' - dirty'
      done = done + 1
    end
  end
  if is_usual and done == requests then
    writes[writes_end + 1] = keys[k]
    -- As join_epoch makes it, whose calls of functions cost.
    writes[writes_end + 2] = epoch .. ' ' .. format('%d', sequence) .. ' ' .. stored .. ' ' .. int(issued_in_all) .. ' '
      .. notified .. ' ' .. sub(epoch_value, rest)
    writes_end = writes_end + 2
  elseif finished then
    for i = 1, done do place_of[keys[k + 2 * i]] = nil end
    entries_end, writes_end, replies_end = entries_before, writes_before, replies_before
    finished, refusal, new_chat_keys, idempotency_keys = pcall(issue, batch, k, a)
  end
  if not finished and type(refusal) ~= 'table' then refusal = redis.error_reply(refusal) end
  if refusal then
    entries_end, writes_end, replies_end = entries_before, writes_before, replies_before + 1
    replies[replies_end] = refusal
  end
  entries_ends[shard], writes_ends[shard], replies_ends[shard] = entries_end, writes_end, replies_end
  new_chats_of[shard], idempotency_keys_of[shard] = new_chat_keys, idempotency_keys
  k, a = k + 1 + batch[3], a + batch[4]
end
for i = replies_end + 1, #replies do replies[i] = nil end -- the answers of a shard that was refused at last

local failed
if not is_split then failed = write(1, writes_end) end

k = 1
local entry, call = 1, redis.pcall
local refusals -- by shard, of those whose writes have failed
for shard, batch in ipairs(batches) do
  local first, last, log_key = entry, entries_ends[shard], batch[5]
  if is_split then failed = write((writes_ends[shard - 1] or 0) + 1, writes_ends[shard]) end
  local refused = first < last and failed
  while entry < last and not refused do
    local added = call('XADD', log_key, entries[entry], 'e', entries[entry + 1])
    if not added.err then
      entry = entry + 2
    else
      refused = is_wrong_type(added) and {'broken', 'log'} or added
      -- If nothing is in the log, which another program has replaced or moved ahead, no number is issued.
      place_of[keys[k]] = true
      for c = k, entry == first and k + batch[3] or 0 do
        if place_of[keys[c]] then redis.pcall('SET', keys[c], values[c]) end
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
  if idempotency_keys_of[shard] and not refused then
    for _, key in ipairs(idempotency_keys_of[shard]) do
      local kept = redis.pcall('SET', key, answer_of[key], 'EX', ARGV[2])
      refused = refused or kept.err and kept
    end
  end
  if refused then
    refusals = refusals or {}
    refusals[shard] = refused
  end
  k = k + 1 + batch[3]
end
if not refusals then return replies end

local whole = {}
for shard = 1, #batches do
  local first, last = (replies_ends[shard - 1] or 0) + 1, replies_ends[shard]
  if refusals[shard] then
    whole[#whole + 1] = refusals[shard]
  else
    for i = first, last do whole[#whole + 1] = replies[i] end
  end
end
return whole
