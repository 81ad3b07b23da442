"""Entries and keys that foreign hands have spoilt: told, counted, and no harm to the rest."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image as Pillow

from tests.doubles import OneFace, running_worker
from tests.feeds import frame_of, jpeg, push_frames, wait_until
from worker.records import Detections, Image
from worker.subscribe.events import events
from worker.wire import frame_pb2
from worker.wire.books import read_books
from worker.wire.keys import FEEDS, FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server


def entry(feed: str, data: bytes, **fields: object) -> bytes:
    frame = frame_pb2.Frame(feed=feed, encoding=frame_pb2.ENCODING_JPEG, data=data)
    for name, value in fields.items():
        setattr(frame, name, value)
    return frame.SerializeToString()


def picture(mode: str, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Pillow.new(mode, (64, 48)).save(out, kind)
    return out.getvalue()


def huge() -> bytes:
    data = bytearray(jpeg())
    at = data.find(b"\xff\xc0") + 5
    data[at : at + 4] = (20_000).to_bytes(2) * 2
    return bytes(data)


def test_the_worker_never_dies_of_an_entry(server: Server, server_url: str, feed: str) -> None:
    """Each bad entry is one dead letter with its reason; the good ones between pass in order."""
    register(server, feed)
    keys = FeedKeys.of(feed)
    good = entry(feed, jpeg())
    bad = {
        "not-a-frame": [b"\xff\xfe not a frame"],
        "wrong-feed": [entry("other", jpeg()), b""],
        "empty": [entry(feed, b"")],
        "corrupt": [entry(feed, jpeg()[:200]), entry(feed, picture("RGBA", "PNG"))],
        "too-large": [entry(feed, huge())],
        "size-mismatch": [entry(feed, jpeg(), width=1, height=2)],
        "unsupported": [entry(feed, jpeg(), encoding=0)],
    }
    fine = [entry(feed, jpeg(1, 1)), entry(feed, picture("L")), entry(feed, picture("CMYK"))]
    for body in [body for bodies in bad.values() for body in bodies] + fine:
        server.command("XADD", keys.frames, "*", "frame", body)
        server.command("XADD", keys.frames, "*", "frame", good)
    server.command("XADD", keys.frames, "*", "picture", good)  # no field of that name is known
    with running_worker(server_url):
        wait_until(lambda: read_books(server, feed).in_flight == 0)
    letters = server.command("XRANGE", keys.dead, "-", "+")
    reasons = [fields[b"reason"].decode() for _, fields in letters]
    assert reasons == [reason for reason, bodies in bad.items() for _ in bodies] + ["not-a-frame"]
    assert all(b"\n" not in fields[b"error"] and fields[b"error"] for _, fields in letters)
    books = read_books(server, feed)
    assert (books.dead, books.published) == (len(reasons), 2 * len(fine) + len(reasons) - 1)
    assert books.balanced


def test_a_frame_that_breaks_the_analysis_is_the_only_one_to_die(
    server: Server, server_url: str, feed: str
) -> None:
    def look(images: Sequence[Image]) -> None:
        if any(image.shape[0] == 13 for image in images):
            raise RuntimeError("a native library stumbled")

    writer = push_frames(server, feed, 5)
    writer.push(frame_of(writer, 5, jpeg(13, 13)))
    for sequence in range(6, 10):
        writer.push(frame_of(writer, sequence))
    with running_worker(server_url, OneFace(look)):
        wait_until(lambda: read_books(server, feed).in_flight == 0)
    found = list(events(feed, redis=server_url, since="start", follow=False))
    assert [event.sequence for event in found] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert read_books(server, feed).dead == 1
    assert read_books(server, feed).balanced


def test_tracks_are_unique_across_a_failed_frame(
    server: Server, server_url: str, feed: str
) -> None:
    """What the frames before the bad one said of tracks holds for those after it."""

    class Edges(OneFace):
        def detect(self, images: Sequence[Image]) -> list[Detections]:
            if any(image.shape[0] == 13 for image in images):
                raise RuntimeError("stumbled")
            return [at_edge(image) for image in images]

    def at_edge(image: Image) -> Detections:
        left = 0 if image[0, 0, 0] < 128 else 600
        box = np.array([[left, 0, left + 20, 20]], np.float32)
        return Detections(box, np.ones(1, np.float32), np.zeros((1, 5, 2), np.float32))

    writer = push_frames(server, feed, 0)
    for i, data in enumerate([jpeg(640, 40, 60), jpeg(13, 13), jpeg(640, 40, 200)]):
        writer.push(frame_of(writer, i, data))
    with running_worker(server_url, Edges(), detect_every=1):
        wait_until(lambda: read_books(server, feed).in_flight == 0)
    found = list(events(feed, redis=server_url, since="start", follow=False))
    assert [event.faces[0].track_id for event in found] == [1, 2]


def test_a_feed_with_spoilt_keys_takes_nothing_from_the_others(
    server: Server, server_url: str
) -> None:
    push_frames(server, "spoilt", 5)
    server.command("SET", FeedKeys.of("spoilt").dead, "not a stream")
    server.command("XADD", FeedKeys.of("spoilt").frames, "*", "frame", b"junk")
    server.command("SET", FeedKeys.of("strange").state, "not tracks")
    server.command("LPUSH", FeedKeys.of("stranger").state, "not even text")
    for name in ("good", "strange", "stranger"):
        push_frames(server, name, 10)
    server.command("HSET", FEEDS, "deep", "[" * 100_000)
    with running_worker(server_url):
        for name in ("good", "strange", "stranger"):
            wait_until(lambda name=name: read_books(server, name).published == 10)  # type: ignore[misc]
        assert read_books(server, "spoilt").published == 5
        assert read_books(server, "spoilt").in_flight == 1
        server.command("DEL", FeedKeys.of("spoilt").dead)
        wait_until(lambda: read_books(server, "spoilt").dead == 1)


def test_an_event_that_the_server_refuses_is_counted_as_what_it_became(
    server: Server, server_url: str, feed: str
) -> None:
    push_frames(server, feed, 3)
    server.command("SET", FeedKeys.of(feed).events, "not a stream")
    with running_worker(server_url) as worker:
        wait_until(lambda: worker.sample("mien_frames_total", feed=feed, outcome="dead") == 3)
        assert not worker.sample("mien_frames_total", feed=feed, outcome="published")
    assert read_books(server, feed).dead == 3


def test_an_id_that_is_no_time_is_a_dead_letter(server: Server, server_url: str, feed: str) -> None:
    register(server, feed)
    frames = FeedKeys.of(feed).frames
    server.command("XADD", frames, "1795358992147000999-0", "frame", entry(feed, jpeg()))
    with running_worker(server_url):
        wait_until(lambda: read_books(server, feed).dead == 1)
    (letter,) = server.command("XRANGE", FeedKeys.of(feed).dead, "-", "+")
    assert letter[1][b"reason"] == b"bad-id"
