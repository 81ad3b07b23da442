#!lua flags=allow-oom
-- Read frames of a feed for the one who holds its lease.
--
-- KEYS  lease, frames
-- ARGV  token, group, consumer, after, count
-- `after` is '>' for frames that nobody has read, or an id: then the frames in hand after that id.
-- Returns {'lost'}, or {'ok', server time in ms, {{id, {field, value, ...} or nil if gone}, ...}}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lost'} end

local function read()
  return redis.pcall('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'COUNT', ARGV[5],
    'STREAMS', KEYS[2], ARGV[4])
end
local reply = read()
if reply and reply.err then
  -- The first read of a feed, or its keys were removed: the group starts at the first frame.
  redis.call('XGROUP', 'CREATE', KEYS[2], ARGV[2], '0', 'MKSTREAM')
  reply = read()
end

local now = redis.call('TIME')
local entries = {}
if reply then entries = reply[1][2] end
return {'ok', now[1] * 1000 + math.floor(now[2] / 1000), entries}
