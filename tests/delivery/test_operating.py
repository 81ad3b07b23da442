"""An operator at work while feeds run: the books balance at every look, nothing stands still."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from tests.doubles import running_worker
from tests.feeds import frame_of, jpeg, push_frames, wait_until
from worker.capture.writer import Writer
from worker.operate import dead
from worker.operate import remove as remove_module
from worker.operate.remove import remove
from worker.subscribe.events import Rewind, events
from worker.wire.books import Books, read_all_books, read_books
from worker.wire.registry import change, registered
from worker.wire.server import Server


class Pushing:
    """A writer in a thread that pushes until it is stopped; every seventh frame is corrupt."""

    def __init__(self, url: str, feed: str, **options: object) -> None:
        self.server, self.stop = Server(url), threading.Event()
        self.writer = Writer(self.server, feed, stop=self.stop, **options)  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self._push)

    def _push(self) -> None:
        for sequence in itertools.count():
            data = jpeg()[:200] if sequence % 7 == 3 else jpeg()
            if self.writer.push(frame_of(self.writer, sequence, data)).status == "stopped":
                return
            self.stop.wait(0.01)

    def __enter__(self) -> Pushing:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(timeout=20)
        self.server.close()


@pytest.fixture
def looked(server_url: str) -> Iterator[list[Books]]:
    """Every look that somebody takes at the books of feeds a and b, again and again."""
    looks: list[Books] = []
    stop, watching = threading.Event(), Server(server_url)

    def look() -> None:
        while not stop.is_set():
            for books in read_all_books(watching, ["a", "b"]).values():
                assert isinstance(books, Books)
                looks.append(books)
            stop.wait(0.002)

    thread = threading.Thread(target=look)
    thread.start()
    yield looks
    stop.set()
    thread.join(timeout=20)
    watching.close()


def test_the_books_balance_at_every_look(
    server: Server, server_url: str, looked: list[Books]
) -> None:
    with (
        Pushing(server_url, "a", policy="live", depth=4),
        Pushing(server_url, "b", policy="lossless", depth=8),
        running_worker(server_url),
    ):
        for feed in ("a", "b"):
            wait_until(lambda feed=feed: read_books(server, feed).dead > 0)  # type: ignore[misc]
            change(server, feed, dead_pixels=True, events_kept=10, dead_kept=50)
            wait_until(lambda feed=feed: any(  # type: ignore[misc]
                letter.kept > 0 for letter in dead.letters(server, feed)
            ))  # fmt: skip
            dead.purge(server, feed, [next(dead.letters(server, feed)).letter_id])
            ids = [letter.letter_id for letter in dead.letters(server, feed) if letter.kept > 0]
            again = read_books(server, feed).dead
            done = list(
                dead.redrive(server, feed, ids[:3], stop=threading.Event(), say=lambda _: None)
            )
            assert len(done) == len(ids[:3])
            wait_until(lambda feed=feed, n=again: read_books(server, feed).dead > n + 3)  # type: ignore[misc]
            dead.purge(server, feed)
    assert len(looked) > 100
    assert all(books.balanced for books in looked)
    assert any(books.in_hand for books in looked)


def test_what_is_set_is_taken_up_by_writer_and_worker(server: Server, server_url: str) -> None:
    with Pushing(server_url, "a", policy="lossless", depth=3) as pushing:
        wait_until(lambda: read_books(server, "a").in_flight == 3)
        change(server, "a", depth=6)
        wait_until(lambda: read_books(server, "a").in_flight == 6)
        change(server, "a", policy="live", depth=2, staleness_s=0.001)
        wait_until(lambda: read_books(server, "a").dropped >= 5)
        assert pushing.writer.settings.policy == "live"
        with running_worker(server_url):
            wait_until(lambda: read_books(server, "a").skipped > 0)
            change(server, "a", staleness_s=60)
            before = read_books(server, "a").published
            wait_until(lambda: read_books(server, "a").published >= before + 20)
    assert read_books(server, "a").balanced


def test_a_flushed_server_is_no_outage(server: Server, server_url: str) -> None:
    """Writer, worker and subscriber go on, and what an operator had set is still set."""
    rewinds: list[Rewind] = []
    seen: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        for event in events(
            "a", redis=server_url, since="start", stop=stop, on_rewind=rewinds.append
        ):
            seen.append(event.ordinal)

    watching = threading.Thread(target=watch)
    with Pushing(server_url, "a", policy="live", depth=4), running_worker(server_url):
        watching.start()
        try:
            change(server, "a", depth=7)
            wait_until(lambda: read_books(server, "a").published > 150)
            wait_until(lambda: len(seen) > 150)
            server.command("FLUSHALL")
            wait_until(lambda: read_books(server, "a").published > 20)
            assert registered(server)[0]["a"].depth == 7
            wait_until(lambda: len(rewinds) == 1)
            wait_until(lambda: 20 in seen[seen.index(max(seen)) + 1 :])
        finally:
            stop.set()
            watching.join(timeout=20)
    assert read_books(server, "a").balanced


def test_a_feed_removed_by_force_under_its_writer_comes_back(
    server: Server, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remove_module, "_FORCE_AFTER_S", 0.5)
    with Pushing(server_url, "a", policy="lossless", depth=50), running_worker(server_url):
        wait_until(lambda: read_books(server, "a").published > 5)
        remove(server, "a", force=True)
        wait_until(lambda: "a" in registered(server)[0])
        wait_until(lambda: read_books(server, "a").published > 5)
        assert read_books(server, "a").balanced
    push_frames(server, "b", 1)
    assert read_books(server, "b").in_flight == 1
