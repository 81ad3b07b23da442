"""A client that knows redis-py, protobuf and the .proto files, and nothing else of mien.

Run in a folder that holds modules generated from proto/. Pushes one frame, prints its event.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

import event_pb2  # the generated modules in this folder
import frame_pb2
import redis

url, feed = sys.argv[1:]
client = redis.Redis.from_url(url)
client.hsetnx("mien:feeds", feed, '{"policy": "live"}')
frame = frame_pb2.Frame(
    feed=feed,
    width=64,
    height=48,
    encoding=frame_pb2.ENCODING_RGB24,
    data=bytes(64 * 48 * 3),
)
frame_id = client.xadd(f"mien:{{{feed}}}:frames", {"frame": frame.SerializeToString()})
reply = client.xread({f"mien:{{{feed}}}:events": "0"}, block=20_000, count=1)
assert reply, "no event came"
((_, ((event_id, fields),)),) = reply
assert event_id == frame_id
event = event_pb2.FrameEvent.FromString(fields[b"event"])
assert event.published_at.ToNanoseconds() >= event.ingested_at.ToNanoseconds() > 0
assert "worker" not in sys.modules
print(event.feed, f"{event.width}x{event.height}", int(fields[b"n"]))
