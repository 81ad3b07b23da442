-- Keep a small picture of a feed for a few seconds, if the feed is ours.
--
-- KEYS  lease, preview
-- ARGV  token, kept (ms), entries, frame's id, JPEG, width, height
-- Returns 1, or 0 where the lease is not ours.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], '*',
  'frame_id', ARGV[4], 'jpeg', ARGV[5], 'width', ARGV[6], 'height', ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
