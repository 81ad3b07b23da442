#!lua flags=allow-oom
-- Remove all keys of a feed, unless somebody works on it.
--
-- KEYS  lease, frames, events, dead, then all others of the feed
-- ARGV  group, mode, quiet
--   mode   look: do nothing; remove: unless the feed is in use; force: in any case
--   quiet  after so many ms without a frame no writer is at work
-- Returns {status, keys there were, waiting, in hand, events, dead letters, owner's token or ''}.
-- Status is
--   free       (look) nobody works on the feed
--   removed    done now
--   in-flight  frames have no outcome yet: nothing was done
--   writer     a frame has come just now: nothing was done
--   owned      a worker holds the lease: nothing was done
local group, mode, quiet = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- Foreign hands may have put something else there, which can be removed all the same.
local function length(key)
  local n = redis.pcall('XLEN', key)
  return type(n) == 'number' and n or 0
end
local owner = redis.pcall('GET', KEYS[1]) or ''
if type(owner) == 'table' then owner = '' end

local in_flight, in_hand, status = length(KEYS[2]), 0, 'free'
if owner ~= '' then status = 'owned' end
local stream = redis.pcall('XINFO', 'STREAM', KEYS[2])
if not stream.err then
  local info = {}
  for i = 1, #stream, 2 do info[stream[i]] = stream[i + 1] end
  local now = redis.call('TIME')
  local last_ms = tonumber(string.match(info['last-generated-id'], '^%d+'))
  local idle = now[1] * 1000 + math.floor(now[2] / 1000) - last_ms
  if idle >= 0 and idle < quiet then status = 'writer' end
  local summary = redis.pcall('XPENDING', KEYS[2], group)
  if not summary.err then in_hand = summary[1] end
end
if in_flight > 0 or in_hand > 0 then status = 'in-flight' end

local found = {redis.call('EXISTS', unpack(KEYS)), math.max(0, in_flight - in_hand), in_hand,
  length(KEYS[3]), length(KEYS[4]), owner}
if mode == 'force' or (mode == 'remove' and status == 'free') then
  redis.call('UNLINK', unpack(KEYS))
  status = 'removed'
end
return {status, unpack(found)}
