#!lua flags=no-writes
-- What of a feed is in flight: waiting to be read, or in a worker's hands.
--
-- KEYS  frames
-- Returns {frames in flight, age of the oldest in ms}.
local length = redis.call('XLEN', KEYS[1])
if length == 0 then return {0, 0} end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)
local now = redis.call('TIME')
local age = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(string.match(oldest[1][1], '^%d+'))
return {length, math.max(0, age)}
