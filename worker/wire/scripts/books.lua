#!lua flags=no-writes
-- One consistent look at the books of a feed.
--
-- KEYS  frames, stats, lease
-- ARGV  group
-- Returns {offered, in stream, in hand, published, dropped, skipped, dead, server time in ms,
--          oldest id or '', owner's token or '', id accepted last or ''}
local frames, stats = KEYS[1], KEYS[2]
local offered, length, pending, oldest, last = 0, 0, 0, '', ''

local stream = redis.pcall('XINFO', 'STREAM', frames)
if not stream.err then
  local info = {}
  for i = 1, #stream, 2 do info[stream[i]] = stream[i + 1] end
  offered, length = info['entries-added'], info['length']
  if offered > 0 then last = info['last-generated-id'] end
  if info['first-entry'] then oldest = info['first-entry'][1] end
  local summary = redis.pcall('XPENDING', frames, ARGV[1])
  if not summary.err then pending = summary[1] end
end

local counts = redis.call('HMGET', stats, 'published', 'dropped', 'skipped', 'dead')
local now = redis.call('TIME')
return {offered, length, pending,
  tonumber(counts[1] or '0'), tonumber(counts[2] or '0'),
  tonumber(counts[3] or '0'), tonumber(counts[4] or '0'),
  now[1] * 1000 + math.floor(now[2] / 1000), oldest, redis.call('GET', KEYS[3]) or '', last}
