"""Dead letters: what is known of them, offered again once, thrown away; the books all along."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from structlog.testing import capture_logs

from tests.doubles import OneFace, Running, running_worker
from tests.feeds import frame_of, jpeg, push_frames, wait_until
from worker.errors import MienError, SettingsError
from worker.operate import dead
from worker.records import Image
from worker.subscribe.events import events
from worker.wire import frame_pb2
from worker.wire.books import read_books
from worker.wire.keys import FeedKeys
from worker.wire.registry import change, register
from worker.wire.server import Server

BAD = jpeg(13, 13)


class Stumbling(OneFace):
    """Fails on pictures 13 pixels high, until it is mended."""

    def __init__(self) -> None:
        super().__init__(self._stumble)
        self.mended = False
        self.worker: Running

    def _stumble(self, images: Sequence[Image]) -> None:
        if not self.mended and any(image.shape[0] == 13 for image in images):
            raise RuntimeError("stumbled")


@pytest.fixture
def model(server: Server, server_url: str) -> Iterator[Stumbling]:
    detector = Stumbling()
    # A traceback in colours takes seconds to draw.
    with capture_logs(), running_worker(server_url, detector) as detector.worker:
        yield detector


def die(model: Stumbling, feed: str, count: int, *, pixels: bool = True) -> list[dead.Letter]:
    """Push as many bad frames; the feed's dead letters once they are dead."""
    server, leases = model.worker.server, model.worker.pipeline._leases
    settings = register(server, feed, dead_pixels=pixels, policy="lossless", depth=1000)
    before = read_books(server, feed).dead
    wait_until(lambda: any(lease.settings == settings for lease in leases.held()))
    writer = push_frames(server, feed, 0)
    for sequence in range(count):
        writer.push(frame_of(writer, sequence, BAD))
    wait_until(lambda: read_books(server, feed).dead == before + count)
    assert read_books(server, feed).balanced
    return list(dead.letters(server, feed))


def redrive(server: Server, feed: str, ids: list[str]) -> list[tuple[str, str]]:
    return list(dead.redrive(server, feed, ids, stop=threading.Event(), say=lambda _: None))


def test_all_that_is_known_of_one(server: Server, model: Stumbling, feed: str) -> None:
    bare, kept = die(model, feed, 1, pixels=False)[0], die(model, feed, 1)[1]
    assert dead.letter(server, feed, kept.letter_id) == kept
    assert (kept.feed, kept.reason, kept.deliveries) == (feed, "analysis-failed", 1)
    assert "stumbled" in kept.error
    assert kept.header is not None
    assert (kept.header.feed, kept.header.sequence, kept.header.data) == (feed, 0, b"")
    assert kept.kept > len(BAD)
    assert dead.pixels(server, feed, kept.letter_id) == BAD
    assert bare.kept == -1
    with pytest.raises(MienError, match=r"pixels .* were not kept .*mien feeds set"):
        dead.pixels(server, feed, bare.letter_id)
    with pytest.raises(MienError, match=f"feed {feed} has no dead letter 5-5"):
        dead.letter(server, feed, "5-5")
    with pytest.raises(SettingsError, match="'-' is no dead letter's id"):
        dead.letter(server, feed, "-")


def test_what_was_no_frame_is_kept_as_it_came(server: Server, model: Stumbling, feed: str) -> None:
    die(model, feed, 0)
    server.command("XADD", FeedKeys.of(feed).frames, "*", "frame", b"\xff\xfe junk")
    server.command("XADD", FeedKeys.of(feed).frames, "*", "picture", b"junk")
    wait_until(lambda: read_books(server, feed).dead == 2)
    junk, other = dead.letters(server, feed)
    assert (junk.header, other.header, other.kept) == (None, None, -1)
    assert dead.pixels(server, feed, junk.letter_id) == b"\xff\xfe junk"
    redrive(server, feed, [junk.letter_id])
    wait_until(lambda: read_books(server, feed).dead == 3)
    assert [letter.reason for letter in dead.letters(server, feed)] == ["not-a-frame"] * 2
    assert read_books(server, feed).balanced


def test_a_redriven_frame_is_a_new_offer_that_names_its_origin(
    server: Server, model: Stumbling, feed: str
) -> None:
    first, second = die(model, feed, 2)
    ((_, again),) = redrive(server, feed, [first.letter_id])
    wait_until(lambda: read_books(server, feed).dead == 3)
    letter = list(dead.letters(server, feed))[-1]
    assert letter.frame_id == again
    assert letter.header is not None
    assert letter.header.redriven_from == first.frame_id
    assert letter.header.session == first.header.session  # type: ignore[union-attr]

    model.mended = True
    done = redrive(server, feed, [second.letter_id, letter.letter_id])
    wait_until(lambda: read_books(server, feed).published == 2)
    found = list(events(feed, redis=server.name, since="start", follow=False))
    assert [event.frame_id for event in found] == [frame_id for _, frame_id in done]
    assert [event.sequence for event in found] == [1, 0]
    assert list(dead.letters(server, feed)) == []
    books = read_books(server, feed)
    assert (books.offered, books.dead, books.published) == (5, 3, 2)
    assert books.balanced
    with pytest.raises(MienError, match="has no dead letter"):
        redrive(server, feed, [second.letter_id])


def test_redriving_waits_for_room_and_says_so(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead, "_PATIENCE_S", 0.3)
    push_frames(server, feed, 3, depth=4)
    body = frame_pb2.Frame(feed=feed, data=BAD).SerializeToString()
    ids = [
        server.command("XADD", FeedKeys.of(feed).dead, "*", "frame_id", "1-1", "frame", body)
        for _ in range(2)
    ]
    said: list[str] = []
    done = dead.redrive(
        server, feed, [i.decode() for i in ids], stop=threading.Event(), say=said.append
    )
    assert next(done)[0] == ids[0].decode()
    with pytest.raises(MienError, match=f"feed {feed} takes no more: 4 of its frames are unread"):
        next(done)
    assert said == [f"waiting: 4 frames of {feed} are unread"]
    stop = threading.Event()
    stop.set()
    assert list(dead.redrive(server, feed, ["1-1"], stop=stop, say=said.append)) == []
    with pytest.raises(MienError, match="no feed nosuch"):
        redrive(server, "nosuch", ["1-1"])


def test_purging_by_id_by_age_and_all(server: Server, feed: str) -> None:
    now_ms = server.now_us() // 1000
    ids = [f"{now_ms - hours * 3_600_000}-0" for hours in (72, 48, 3, 2, 1)]
    for letter_id in ids:
        server.command("XADD", FeedKeys.of(feed).dead, letter_id, "reason", "poison")
    assert dead.purge(server, feed, [ids[2], ids[2]]) == 1
    assert dead.purge(server, feed, [ids[2]]) == 0
    assert dead.purge(server, feed, older_than_s=24 * 3600) == 2
    assert dead.purge(server, feed, older_than_s=1e12) == 0
    assert [letter.letter_id for letter in dead.letters(server, feed)] == ids[3:]
    assert dead.purge(server, feed) == 2
    assert dead.purge(server, feed) == 0
    with pytest.raises(SettingsError, match="no dead letter's id"):
        dead.purge(server, feed, ["1-1", "x"])


def test_long_lists_come_in_pages(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead, "_AT_ONCE", 3)
    for i in range(1, 9):
        server.command("XADD", FeedKeys.of(feed).dead, f"{i}-0", "reason", f"r{i}")
    assert [letter.reason for letter in dead.letters(server, feed)] == [
        f"r{i}" for i in range(1, 9)
    ]


def test_pixels_are_kept_from_when_the_setting_says_so(
    server: Server, model: Stumbling, feed: str
) -> None:
    assert [letter.kept >= 0 for letter in die(model, feed, 2)] == [True, True]
    change(server, feed, dead_pixels=False)
    assert [letter.kept >= 0 for letter in die(model, feed, 1, pixels=False)] == [
        True, True, False,
    ]  # fmt: skip
