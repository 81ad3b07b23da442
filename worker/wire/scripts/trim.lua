#!lua flags=allow-oom
-- Trim what a feed keeps of its outcomes by age, where nothing is settled that would do it.
--
-- KEYS  events, dead
-- ARGV  age of events in ms, age of dead letters in ms (0: they may grow old)
-- Returns how many entries went.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local trimmed = 0
for i, key in ipairs(KEYS) do
  local age = tonumber(ARGV[i])
  if age > 0 then
    local oldest = string.format('%.0f', math.max(0, now_ms - age))
    trimmed = trimmed + redis.call('XTRIM', key, 'MINID', oldest)
  end
end
return trimmed
