#!lua flags=allow-oom
-- Say that a worker lives, or that it leaves; learn who else lives.
--
-- KEYS  workers
-- ARGV  worker's id (empty: only look), time to live in ms (0: it leaves), its entry
-- Returns {id, entry, id, entry, ...} of all that live. What has run out goes, by this clock.
local id, ttl, entry = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if id ~= '' then
  if ttl > 0 then
    redis.call('HSET', KEYS[1], id, string.format('%.0f', now + ttl) .. ' ' .. entry)
  else
    redis.call('HDEL', KEYS[1], id)
  end
end

local living = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local expires, known = string.match(all[i + 1], '^(%d+) (.*)$')
  if expires and tonumber(expires) > now then
    living[#living + 1] = all[i]
    living[#living + 1] = known
  elseif id ~= '' then
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return living
