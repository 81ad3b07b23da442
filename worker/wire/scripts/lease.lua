#!lua flags=allow-oom
-- Take, renew or release a feed's lease.
--
-- KEYS  lease
-- ARGV  verb, token, time to live in ms
-- Returns 1 if the lease is ours (release: was ours), else 0.
local verb, token, ttl = ARGV[1], ARGV[2], ARGV[3]
local owner = redis.call('GET', KEYS[1])
if verb == 'acquire' and not owner then
  redis.call('SET', KEYS[1], token, 'PX', ttl)
  return 1
end
if owner ~= token then return 0 end
if verb == 'release' then
  redis.call('DEL', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ttl)
end
return 1
