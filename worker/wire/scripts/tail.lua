#!lua flags=no-writes
-- Where a feed's events end, also if all of them have been trimmed.
--
-- KEYS  events, stats
-- Returns {id of the last event, its ordinal}; {'0-0', 0} for a feed without any.
local last = '0-0'
local stream = redis.pcall('XINFO', 'STREAM', KEYS[1])
if stream.err then
  -- Not even a stream: the caller hears of it.
  if string.find(stream.err, 'WRONGTYPE', 1, true) then return stream end
else
  for i = 1, #stream, 2 do
    if stream[i] == 'last-generated-id' then last = stream[i + 1] end
  end
end
return {last, tonumber(redis.call('HGET', KEYS[2], 'published') or '0')}
