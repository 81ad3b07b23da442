#!lua flags=no-writes
-- How many frames of a feed nobody has read.
--
-- KEYS  frames
-- ARGV  group
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then
  -- Not even a stream: the caller hears of it. No stream yet: nothing waits.
  if string.find(groups.err, 'WRONGTYPE', 1, true) then return groups end
  return 0
end
local pending = 0
for _, fields in ipairs(groups) do
  local info = {}
  for i = 1, #fields, 2 do info[fields[i]] = fields[i + 1] end
  if info['name'] == ARGV[1] then pending = info['pending'] end
end
return redis.call('XLEN', KEYS[1]) - pending
