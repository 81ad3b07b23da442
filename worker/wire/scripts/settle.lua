#!lua flags=allow-oom
-- Give one frame its outcome: fenced by the lease, in the order of ids, once.
--
-- KEYS  lease, frames, events, dead, stats, state
-- ARGV  token, group, id, outcome, body, state, events kept, reason, detail, events' age,
--       dead letters kept, dead letters' age, pixels
--   outcome   published | skipped | dropped | dead
--   body      published: the serialized FrameEvent; dead: the frame's header; else empty
--   state     published: the tracker's state to keep with it; empty leaves it as it is
--   kept      about how many entries a stream keeps
--   age       after how many ms an entry of it is trimmed; 0: never
--   pixels    '1': a dead letter keeps the whole entry's field `frame`
-- Returns {status, server time in ms, outcome}; the outcome is dead instead of published where the
-- event stream does not take the event. Status is
--   settled   done now
--   already   the frame has its outcome: nothing was done
--   order     an earlier frame is still in hand: nothing was done, read again what is pending
--   lost      the lease is not ours: nothing was done
local lease, frames, events, dead, stats, state =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local token, group, id, outcome, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local events_kept, reason, detail, events_age = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local dead_kept, dead_age, pixels = ARGV[11], ARGV[12], ARGV[13]

local time = redis.call('TIME')
local seconds, micros = tonumber(time[1]), tonumber(time[2])
local now_ms = seconds * 1000 + math.floor(micros / 1000)

if redis.call('GET', lease) ~= token then return {'lost', now_ms, outcome} end

local pending = redis.pcall('XPENDING', frames, group, '-', '+', 1)
if pending.err or not pending[1] then return {'already', now_ms, outcome} end
if pending[1][1] ~= id then
  local function parts(text)
    local ms, counter = string.match(text, '^(%d+)-(%d+)$')
    return tonumber(ms), tonumber(counter)
  end
  local lowest_ms, lowest_counter = parts(pending[1][1])
  local ms, counter = parts(id)
  if lowest_ms > ms or (lowest_ms == ms and lowest_counter > counter) then
    return {'already', now_ms, outcome}
  end
  return {'order', now_ms, outcome}
end

local function trim_by_age(key, age)
  if age ~= '0' then
    redis.call('XTRIM', key, 'MINID', string.format('%.0f', math.max(0, now_ms - age)))
  end
end

if outcome == 'published' then
  -- published_at (field 7) is the server's own clock, so the server writes it: bytes appended to a
  -- protobuf message are fields merged into it.
  local function varint(n)
    local bytes = ''
    while n >= 128 do
      bytes = bytes .. string.char(n % 128 + 128)
      n = math.floor(n / 128)
    end
    return bytes .. string.char(n)
  end
  local timestamp = '\8' .. varint(seconds) .. '\16' .. varint(micros * 1000)
  local event = body .. '\58' .. varint(#timestamp) .. timestamp
  local ordinal = tonumber(redis.call('HGET', stats, 'published') or '0') + 1
  local added = redis.pcall('XADD', events, 'MAXLEN', '~', events_kept, id,
    'event', event, 'n', ordinal)
  if type(added) == 'table' and added.err then
    -- The event stream was tampered with (its last id lies beyond the frame's).
    outcome, reason, detail, body = 'dead', 'event-refused', added.err, ''
  else
    trim_by_age(events, events_age)
    if ARGV[6] ~= '' then redis.call('SET', state, ARGV[6]) end
  end
end
if outcome == 'dead' then
  local letter = {'frame_id', id, 'reason', reason, 'error', detail,
    'deliveries', pending[1][4], 'header', body}
  local entry = pixels == '1' and redis.call('XRANGE', frames, id, id)[1]
  if entry then
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'frame' then
        table.insert(letter, 'frame')
        table.insert(letter, entry[2][i + 1])
      end
    end
  end
  redis.call('XADD', dead, 'MAXLEN', '~', dead_kept, '*', unpack(letter))
  trim_by_age(dead, dead_age)
end

redis.call('XACK', frames, group, id)
redis.call('XDEL', frames, id)
redis.call('HINCRBY', stats, outcome, 1)
return {'settled', now_ms, outcome}
