#!lua flags=no-writes
-- Dead letters of a feed without their pixels.
--
-- KEYS  dead
-- ARGV  first id, last id, count
-- Returns {{id, bytes of the frame that is kept or -1, {field, value, ...}}, ...}
local letters = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2], 'COUNT', ARGV[3])) do
  local fields, kept = {}, -1
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'frame' then
      kept = #entry[2][i + 1]
    else
      table.insert(fields, entry[2][i])
      table.insert(fields, entry[2][i + 1])
    end
  end
  table.insert(letters, {entry[1], kept, fields})
end
return letters
