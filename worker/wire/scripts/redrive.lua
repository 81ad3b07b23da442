#!lua
-- Offer the frame of a dead letter again: the letter goes and the frame comes in one step.
-- No allow-oom flag: it is a new frame, which a full server refuses.
--
-- KEYS  dead, frames
-- ARGV  group, id of the letter, depth
-- Returns {status, id of the new frame or ''}; status is
--   redriven  done now
--   gone      there is no such letter (any more): nothing was done
--   no-frame  its pixels were not kept: nothing was done
--   full      depth frames wait to be read: nothing was done
local dead, frames = KEYS[1], KEYS[2]
local letter = redis.call('XRANGE', dead, ARGV[2], ARGV[2])[1]
if not letter then return {'gone', ''} end
local origin, frame = ''
for i = 1, #letter[2], 2 do
  if letter[2][i] == 'frame_id' then origin = string.sub(letter[2][i + 1], 1, 127) end
  if letter[2][i] == 'frame' then frame = letter[2][i + 1] end
end
if not frame then return {'no-frame', ''} end

-- The next push to a live feed would displace what is beyond its depth.
local pending = 0
local summary = redis.pcall('XPENDING', frames, ARGV[1])
if not summary.err then pending = summary[1] end
if redis.call('XLEN', frames) - pending >= tonumber(ARGV[3]) then return {'full', ''} end

-- redriven_from (field 11): bytes appended to a protobuf message are fields merged into it.
frame = frame .. '\90' .. string.char(#origin) .. origin
local id = redis.call('XADD', frames, '*', 'frame', frame)
redis.call('XDEL', dead, ARGV[2])
return {'redriven', id}
