#!lua
-- Accept one frame, once, under the feed's policy.
-- No allow-oom flag: a full server refuses new frames and can still drain.
--
-- KEYS  frames, stats
-- ARGV  group, session, sequence, policy, depth, frame, told
--   told  the last sequence that the session was told is accepted; empty: none, or it keeps none
-- Returns {status, id, displaced}; status is
--   accepted    id is the frame's id; displaced frames, the oldest undelivered, made room
--   repeat      this session has pushed this sequence before: nothing was done
--   behind      a failover has lost what this session pushed after sequence id ('': all of it):
--               nothing was done
--   full        lossless, and depth frames wait to be read: nothing was done
--   superseded  a later session writes to this feed: nothing was done
local frames, stats = KEYS[1], KEYS[2]
local group, session, sequence = ARGV[1], ARGV[2], tonumber(ARGV[3])
local policy, depth, frame, told = ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7] or ''

local current = redis.call('HMGET', stats, 'session', 'sequence')
if current[1] and current[1] > session then return {'superseded', '', 0} end
local last = current[1] == session and tonumber(current[2]) or -1
if told ~= '' and last < tonumber(told) then
  return {'behind', last >= 0 and current[2] or '', 0}
end
if sequence <= last then
  -- A write that changes nothing: a WAIT that follows waits for what is repeated.
  redis.call('HSET', stats, 'sequence', current[2])
  return {'repeat', '', 0}
end

-- The depth bounds the frames that nobody has read. What is in hand is read and not yet settled:
-- it is in the stream and pending.
local pending, delivered = 0, '0-0'
local groups = redis.pcall('XINFO', 'GROUPS', frames)
if not groups.err then
  for _, fields in ipairs(groups) do
    local info = {}
    for i = 1, #fields, 2 do info[fields[i]] = fields[i + 1] end
    if info['name'] == group then
      pending, delivered = info['pending'], info['last-delivered-id']
    end
  end
end
local waiting = redis.call('XLEN', frames) - pending

local displaced = 0
if waiting >= depth then
  if policy == 'lossless' then return {'full', '', 0} end
  local oldest = redis.call('XRANGE', frames, '(' .. delivered, '+', 'COUNT', waiting - depth + 1)
  for _, entry in ipairs(oldest) do
    displaced = displaced + redis.call('XDEL', frames, entry[1])
  end
  redis.call('HINCRBY', stats, 'dropped', displaced)
end

local id = redis.call('XADD', frames, '*', 'frame', frame)
redis.call('HSET', stats, 'session', session, 'sequence', ARGV[3])
return {'accepted', id, displaced}
