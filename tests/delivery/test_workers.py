"""Workers that are killed, paused, hang or stop: each frame still reaches one outcome, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack

from tests.delivery.conftest import DYING, HANGING, ROOT, StartWorker, wait_for_batch
from tests.doubles import OneFace, Running, running_worker
from tests.feeds import frame_of, jpeg, push_frames, wait_until
from tests.reading import Reading
from worker.consume.leases import Leases
from worker.errors import ModelError
from worker.records import Detections, Image
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.keys import FeedKeys
from worker.wire.server import Server
from worker.wire.workers import WORKERS


def test_workers_killed_in_the_middle_of_batches(
    server: Server, server_url: str, feed: str, start_worker: StartWorker
) -> None:
    """Each of three workers is killed with frames in hand; the fourth finishes the work."""
    push_frames(server, feed, 60)
    for _ in range(3):
        process = start_worker()
        for _ in range(3):
            wait_for_batch(process)
        process.kill()
        process.wait()
    assert read_books(server, feed).in_hand > 0, "the kill came with frames in hand"
    with running_worker(server_url):
        wait_until(lambda: read_books(server, feed).in_flight == 0, timeout_s=30)
    found = list(events(feed, redis=server_url, since="start", follow=False))
    assert [event.sequence for event in found] == list(range(60))
    assert {face.track_id for event in found for face in event.faces} == {1}, "the track goes on"
    assert read_books(server, feed).balanced


def test_a_paused_worker_wakes_up_fenced(
    server: Server, server_url: str, feed: str, start_worker: StartWorker
) -> None:
    """Stopped while it analyses, overtaken by another, it wakes and changes nothing."""
    push_frames(server, feed, 40)
    process = start_worker()
    for _ in range(3):
        wait_for_batch(process)
    os.kill(process.pid, signal.SIGSTOP)
    in_hand = read_books(server, feed).in_hand
    assert in_hand > 0
    with running_worker(server_url):
        wait_until(lambda: read_books(server, feed).in_flight == 0, timeout_s=30)
        os.kill(process.pid, signal.SIGCONT)
        writer = push_frames(server, feed, 40)
        assert writer.session
        wait_until(lambda: read_books(server, feed).in_flight == 0, timeout_s=30)
    found = list(events(feed, redis=server_url, since="start", follow=False))
    assert [event.sequence for event in found] == [*range(40), *range(40)]
    assert [event.ordinal for event in found] == list(range(1, 81))
    assert read_books(server, feed).balanced


def test_a_hanging_worker_loses_its_feeds_and_its_process(
    server: Server, server_url: str, feed: str
) -> None:
    push_frames(server, feed, 10)
    done = subprocess.run(
        [sys.executable, "-c", HANGING, server_url, str(ROOT)],
        check=False, capture_output=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 70
    assert read_books(server, feed).in_hand > 0
    with running_worker(server_url):
        wait_until(lambda: read_books(server, feed).published == 10)


def test_a_stopped_worker_settles_what_it_has_and_hands_over_at_once(
    server: Server, server_url: str, feed: str
) -> None:
    push_frames(server, feed, 30)
    with running_worker(server_url, lease_ttl_s=60):
        wait_until(lambda: read_books(server, feed).published > 5)
    books = read_books(server, feed)
    assert books.in_hand == 0
    assert not books.owned


def test_a_frame_that_ends_every_worker_becomes_a_dead_letter(
    server: Server, server_url: str, feed: str
) -> None:
    """Three workers die of it alone; the fourth buries it, and the others' frames all pass."""
    writer = push_frames(server, feed, 2)
    writer.push(frame_of(writer, 2, jpeg(13, 13)))
    writer.push(frame_of(writer, 3))
    deaths = 0
    while True:
        done = subprocess.Popen([sys.executable, "-c", DYING, server_url, str(ROOT)])
        wait_until(
            lambda done=done: (
                done.poll() is not None  # type: ignore[misc]
                or read_books(server, feed).in_flight == 0
            )
        )
        if read_books(server, feed).in_flight == 0:
            done.kill()
            done.wait()
            break
        assert done.returncode == 99
        deaths += 1
        assert deaths <= 4
    assert deaths == 4, "once in a batch, three times alone"
    (letter,) = server.command("XRANGE", FeedKeys.of(feed).dead, "-", "+")
    assert letter[1][b"reason"] == b"poison"
    found = events(feed, redis=server_url, since="start", follow=False)
    assert [event.sequence for event in found] == [0, 1, 3]
    assert read_books(server, feed).balanced


def test_changing_hands_never_counts_against_a_frame(
    server: Server, server_url: str, feed: str
) -> None:
    """Two healthy workers that take a feed from each other, again and again, with one frame."""
    push_frames(server, feed, 1)
    attempts = []
    readers = []
    with ExitStack() as stack:
        for _ in range(2):
            leases = Leases(server, ttl_s=60)
            readers.append((leases, stack.enter_context(Reading(server, leases, size=1))))
        for turn in range(8):
            leases, reading = readers[turn % 2]
            server.command("DEL", FeedKeys.of(feed).lease, WORKERS)
            leases._refresh()  # takes the feed that nobody holds
            (delivery,) = reading.batch()
            attempts.append(delivery.attempts)
            leases._drop(delivery.lease)
            reading.throw_away([delivery])
    assert max(attempts) == 2


def test_models_that_fail_on_everything_bury_nothing(
    server: Server, server_url: str, feed: str
) -> None:
    working = True

    def detect(images: Sequence[Image]) -> list[Detections]:
        if not working:
            raise RuntimeError("device lost")
        return OneFace().detect(images)

    detector = OneFace()
    detector.detect = detect  # type: ignore[method-assign]
    failed: list[BaseException] = []
    worker = Running(server_url, detector)
    worker.thread = threading.Thread(target=lambda: _catch(worker, failed), daemon=True)
    worker.thread.start()
    push_frames(server, feed, 5)
    wait_until(lambda: read_books(server, feed).published == 5)
    working = False
    push_frames(server, feed, 20)
    worker.thread.join(timeout=20)
    assert not worker.thread.is_alive()
    assert isinstance(failed[0], ModelError)
    assert "device lost" in str(failed[0])
    assert read_books(server, feed).dead == 0
    with running_worker(server_url):
        wait_until(lambda: read_books(server, feed).published == 25)


def _catch(worker: Running, failed: list[BaseException]) -> None:
    try:
        worker.pipeline.run(worker.stop)
    except ModelError as error:
        failed.append(error)


def test_the_worker_counts_what_the_books_count(server: Server, server_url: str, feed: str) -> None:
    push_frames(server, feed, 20)
    server.command("XADD", FeedKeys.of(feed).frames, "*", "frame", b"\xff")
    with running_worker(server_url, batch_size=5) as worker:
        wait_until(lambda: read_books(server, feed).in_flight == 0)
        wait_until(lambda: worker.sample("mien_frames_total", feed=feed, outcome="dead") == 1)
        assert worker.sample("mien_frames_total", feed=feed, outcome="published") == 20
        assert worker.sample("mien_faces_total", feed=feed, expression="calm") == 20
        assert worker.sample("mien_ingest_to_event_seconds_count", feed=feed) == 20
        assert worker.sample("mien_batch_frames_sum") == 21
        assert worker.sample("mien_stage_seconds_count", stage="detect") >= 4
        assert worker.sample("mien_feeds_held") == 1


def test_an_autoscaler_sees_what_waits_and_how_busy_the_worker_is(
    server: Server, server_url: str, feed: str
) -> None:
    free = threading.Event()
    with running_worker(server_url, OneFace(lambda images: _wait(free)), batch_size=4) as worker:
        assert worker.sample("mien_in_flight_frames") == 0
        push_frames(server, feed, 10)
        wait_until(lambda: worker.sample("mien_in_flight_frames") == 10)
        wait_until(lambda: worker.sample("mien_oldest_frame_age_seconds") > 0.5)
        free.set()
        wait_until(lambda: worker.sample("mien_in_flight_frames") == 0)
        assert worker.sample("mien_oldest_frame_age_seconds") == 0
        assert 0 < worker.sample("mien_worker_busy_ratio") < 1


def _wait(free: threading.Event) -> None:
    free.wait(20)
