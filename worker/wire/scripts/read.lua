#!lua flags=allow-oom
-- Read frames of a feed for the one who holds its lease.
--
-- KEYS  lease, frames, stats
-- ARGV  token, group, consumer, after, count, worker
--   after   '>' for frames that nobody has read, or an id: then the frames in hand after that id
--   worker  names the process that asks
-- Returns {'lost'}, or {'ok', server time in ms, {{id, {field, value, ...} or nil if gone}, ...},
-- attempts}. What is in hand is read one by one; attempts is then how many different processes,
-- this one included, have had that frame in hand alone.
local token, group, consumer, after, count, worker = unpack(ARGV)
local frames, stats = KEYS[2], KEYS[3]
if redis.call('GET', KEYS[1]) ~= token then return {'lost'} end

local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)

local function read()
  return redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count,
    'STREAMS', frames, after)
end
local reply = read()
if reply and reply.err then
  if string.find(reply.err, 'NOGROUP', 1, true) ~= 1 then return reply end
  -- A feed that has just been removed is not to leave an empty stream.
  if redis.call('EXISTS', frames) == 0 then return {'ok', now_ms, {}, 0} end
  -- The first read of a feed: the group starts at the first frame.
  redis.call('XGROUP', 'CREATE', frames, group, '0')
  reply = read()
end

if after == '0' then
  -- Somebody may have read with a consumer's name of their own: what they hold is ours to settle.
  for _, entry in ipairs(redis.call('XPENDING', frames, group, '-', '+', 1000)) do
    if entry[2] ~= consumer then
      redis.call('XCLAIM', frames, group, consumer, 0, entry[1], 'JUSTID')
      reply = nil
    end
  end
  if not reply then reply = read() end
end
local entries = {}
if reply then entries = reply[1][2] end

local attempts = 0
if after ~= '>' and entries[1] then
  local id = entries[1][1]
  local alone = redis.call('HMGET', stats, 'alone', 'alone_with')
  local workers = worker
  if alone[1] == id then
    workers = alone[2]
    -- One that reads it again has not ended: it counts once.
    if not string.find(workers, worker, 1, true) then workers = workers .. ' ' .. worker end
  end
  redis.call('HSET', stats, 'alone', id, 'alone_with', workers)
  for _ in string.gmatch(workers, '%S+') do attempts = attempts + 1 end
end
return {'ok', now_ms, entries, attempts}
