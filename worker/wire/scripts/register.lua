#!lua flags=allow-oom
-- Replace a feed's entry in the registry, if nobody else has replaced it meanwhile.
-- An operator changes and removes feeds on a full server too: that is how it gets room again.
--
-- KEYS  feeds
-- ARGV  feed, before, after    (an empty text: no entry)
-- Returns 1 if it was replaced, else 0.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return 1
