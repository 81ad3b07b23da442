"""The four threads of a worker: each goes on while another is busy, and none can hang unseen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.doubles import OneFace, Running, running_worker
from tests.feeds import frame_of, jpeg, push_frames, wait_until
from worker import outcomes, pipeline
from worker.capture.encode import encode_jpeg
from worker.capture.writer import Writer
from worker.consume import images, opening
from worker.detect.mtcnn import load_detector
from worker.picture import FramePicture, Scale
from worker.publish import settle as settling
from worker.publish.settle import Outcome, Settled
from worker.records import Frame, Image
from worker.sample.portrait import portrait_with_face
from worker.subscribe.events import events
from worker.wire import frame_pb2
from worker.wire.books import read_books
from worker.wire.keys import FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server

Settle = Callable[..., list[Settled]]


class Gate:
    """Lets calls pass, and holds them up while it is shut."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.calls: list[int] = []
        """How many items each call had."""

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self, items: Sequence[object]) -> None:
        self.calls.append(len(items))
        assert self._open.wait(30)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """In front of every settling."""
    made = Gate()

    def settle(server: Server, outcomes: Sequence[Outcome], **kept: float) -> list[Settled]:
        made.pass_through(outcomes)
        return settling.settle(server, outcomes, **kept)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "settle", settle)
    return made


def sequences(url: str, feed: str) -> list[int]:
    return [e.sequence for e in events(feed, redis=url, since="start", follow=False)]


def test_the_analysis_goes_on_while_the_server_is_slow(
    server: Server, server_url: str, feed: str, gate: Gate
) -> None:
    """What piles up meanwhile is settled in one round trip, and it is no more than five batches."""
    seen = Gate()
    push_frames(server, feed, 40)
    gate.shut()
    with running_worker(server_url, OneFace(seen.pass_through), batch_size=4, detect_every=1):
        wait_until(lambda: sum(seen.calls) == 20)
        assert read_books(server, feed).published == 0
        assert len(gate.calls) == 1
        gate.open()
        wait_until(lambda: read_books(server, feed).published == 40)
    assert sum(seen.calls) == 40, "no frame was looked at twice"
    # The fifth is seen: the fourth is being analysed, if no more, and the others' outcomes wait.
    assert gate.calls[1] >= 8
    assert sequences(server_url, feed) == list(range(40))


def test_the_next_batch_is_read_and_decoded_while_one_is_analysed(
    server: Server, server_url: str, feed: str
) -> None:
    seen = Gate()
    push_frames(server, feed, 40)
    seen.shut()
    with running_worker(
        server_url, OneFace(seen.pass_through), batch_size=4, batch_wait_ms=1000, detect_every=1
    ) as worker:
        wait_until(lambda: read_books(server, feed).in_hand == 8 and bool(seen.calls))
        assert seen.calls == [4]
        assert worker.thread.is_alive()
        seen.open()
        wait_until(lambda: read_books(server, feed).published == 40)
    assert max(seen.calls) == 4


def test_the_next_batch_is_detected_in_while_one_is_analysed(
    server: Server, server_url: str, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But no more than the next one."""
    seen, later = Gate(), Gate()
    of = outcomes.Outcomes.of

    def analyse(self: outcomes.Outcomes, batch: list[Any]) -> list[Outcome]:
        later.pass_through(batch)
        return of(self, batch)

    monkeypatch.setattr(outcomes.Outcomes, "of", analyse)
    push_frames(server, feed, 40)
    later.shut()
    with running_worker(
        server_url, OneFace(seen.pass_through), batch_size=4, batch_wait_ms=1000, detect_every=1
    ):
        wait_until(lambda: read_books(server, feed).in_hand == 12)
        wait_until(lambda: sum(seen.calls) == 8)
        assert later.calls == [4]
        later.open()
        wait_until(lambda: read_books(server, feed).published == 40)
    assert sequences(server_url, feed) == list(range(40))


def test_a_live_frame_that_grows_stale_behind_a_batch_is_skipped(
    server: Server, server_url: str, feed: str
) -> None:
    """It was fresh when it was read: what counts is when its analysis begins."""
    seen = Gate()
    writer = push_frames(server, feed, 0, policy="live", staleness_s=1.5)
    seen.shut()
    with running_worker(server_url, OneFace(seen.pass_through), batch_size=1, detect_every=1):
        wait_until(lambda: read_books(server, feed).owned)
        for sequence in range(2):
            writer.push(frame_of(writer, sequence))
            wait_until(lambda sequence=sequence: read_books(server, feed).in_hand == sequence + 1)  # type: ignore[misc]
            wait_until(lambda: bool(seen.calls))
        time.sleep(1.6)
        seen.open()
        wait_until(lambda: read_books(server, feed).in_flight == 0)
    books = read_books(server, feed)
    assert (books.published, books.skipped) == (1, 1)
    assert seen.calls == [1]


def test_after_a_refusal_all_that_was_in_hand_of_the_feed_is_read_again(
    server: Server, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other feed does not notice; and of the refused one nothing is settled out of order."""
    settled: list[str] = []
    refused: list[str] = []

    def settle(server: Server, outcomes: Sequence[Outcome], **kept: float) -> list[Settled]:
        given = [outcome for outcome in outcomes if outcome.delivery.feed == "a"]
        if len(settled) >= 8 and not refused and given:
            refused.extend(outcome.delivery.frame_id for outcome in given)
            others = [outcome for outcome in outcomes if outcome.delivery.feed != "a"]
            return [
                *(Settled(outcome, "refused", 0, outcome.kind, "not now") for outcome in given),
                *settling.settle(server, others, **kept),  # type: ignore[arg-type]
            ]
        settled.extend(outcome.delivery.frame_id for outcome in given)
        return settling.settle(server, outcomes, **kept)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "settle", settle)
    for name in ("a", "b"):
        push_frames(server, name, 40)
    with running_worker(
        server_url, OneFace(lambda pictures: time.sleep(0.002)), batch_size=4, detect_every=1
    ):
        for name in ("a", "b"):
            wait_until(lambda name=name: read_books(server, name).in_flight == 0)  # type: ignore[misc]
    assert refused
    again = settled.index(refused[0])
    assert settled[again : again + len(refused)] == refused, "the next ones settled are these"
    assert len(settled) == len(set(settled)) == 40
    for name in ("a", "b"):
        assert sequences(server_url, name) == list(range(40))
        assert read_books(server, name).balanced


def test_a_redelivered_frame_is_alone_in_hand(server: Server, server_url: str) -> None:
    """While it is looked at no frame of another feed has been read and not settled."""
    push_frames(server, "crashed", 0)
    writer = push_frames(server, "camera", 0)
    for _ in range(3):
        body = frame_pb_of("crashed", 96)
        server.command("XADD", FeedKeys.of("crashed").frames, "*", "frame", body)
    frames = FeedKeys.of("crashed").frames
    server.command("XGROUP", "CREATE", frames, "mien", "0")
    server.command("XREADGROUP", "GROUP", "mien", "worker", "COUNT", 3, "STREAMS", frames, ">")
    in_hand: list[int] = []

    def look(pictures: Sequence[Image]) -> None:
        if any(picture.shape[0] == 96 for picture in pictures):
            assert len(pictures) == 1
            for _ in range(5):
                in_hand.append(read_books(server, "camera").in_hand)
                time.sleep(0.01)
        else:
            time.sleep(0.005)

    with running_worker(server_url, OneFace(look), batch_size=4, detect_every=1):
        for sequence in range(60):
            writer.push(frame_of(writer, sequence))
            time.sleep(0.002)
        for name in ("crashed", "camera"):
            wait_until(lambda name=name: read_books(server, name).in_flight == 0)  # type: ignore[misc]
    assert len(in_hand) >= 15
    assert set(in_hand) == {0}
    assert read_books(server, "crashed").published == 3


def frame_pb_of(feed: str, height: int) -> bytes:
    return frame_pb2.Frame(
        feed=feed, encoding=frame_pb2.ENCODING_JPEG, data=jpeg(64, height)
    ).SerializeToString()


@pytest.mark.parametrize("stage", ["reading", "detection", "analysis", "settling"])
def test_a_stage_that_hangs_is_noticed(
    server: Server, server_url: str, feed: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the others come round."""
    hangs = Gate()

    def look(pictures: Sequence[Image]) -> None:
        if stage == "detection":
            hangs.pass_through(pictures)

    of = outcomes.Outcomes.of

    def analyse(self: outcomes.Outcomes, batch: list[Any]) -> list[Outcome]:
        if stage == "analysis":
            hangs.pass_through(batch)
        return of(self, batch)

    def settle(server: Server, outcomes: Sequence[Outcome], **kept: float) -> list[Settled]:
        if stage == "settling":
            hangs.pass_through(outcomes)
        return settling.settle(server, outcomes, **kept)  # type: ignore[arg-type]

    decode = images.open_picture

    def open_picture(frame: Frame, max_pixels: int, **how: Any) -> FramePicture:
        if stage == "reading":
            hangs.pass_through([frame])
        return decode(frame, max_pixels, **how)

    monkeypatch.setattr(pipeline, "settle", settle)
    monkeypatch.setattr(outcomes.Outcomes, "of", analyse)
    monkeypatch.setattr(opening, "open_picture", open_picture)
    monkeypatch.setattr("worker.health.ALIVE_S", 2.5)
    register(server, feed, policy="lossless")
    with running_worker(server_url, OneFace(look), detect_every=1) as worker:
        wait_until(lambda: read_books(server, feed).owned)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert worker.health.alive()[0], "a worker without frames comes round"
            time.sleep(0.05)
        hangs.shut()
        push_frames(server, feed, 3)
        wait_until(lambda: not worker.health.alive()[0])
        assert stage in worker.health.alive()[1]
        hangs.open()
        wait_until(lambda: worker.health.alive()[0])
        wait_until(lambda: read_books(server, feed).published == 3)


def test_one_thread_decodes_or_analyses(
    server: Server, server_url: str, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never both at once: a worker that was given one core computes on one."""
    computing = threading.Lock()
    met: list[str] = []

    @contextmanager
    def alone(what: str) -> Iterator[None]:
        if not computing.acquire(blocking=False):
            met.append(what)
            yield
            return
        time.sleep(0.002)
        yield
        computing.release()

    decode = images.open_picture

    def open_picture(frame: Frame, max_pixels: int, **how: Any) -> FramePicture:
        with alone("decode"):
            return decode(frame, max_pixels, **how)

    def look(pictures: Sequence[Image]) -> None:
        with alone("analysis"):
            pass

    monkeypatch.setattr(opening, "open_picture", open_picture)
    push_frames(server, feed, 40)
    with running_worker(server_url, OneFace(look), batch_size=4, threads=1):
        wait_until(lambda: read_books(server, feed).published == 40)
    assert not met
    assert sequences(server_url, feed) == list(range(40))


@pytest.mark.parametrize("stage", ["reading", "detection", "analysis", "settling"])
def test_a_stage_that_dies_ends_the_worker_and_loses_nothing(
    server: Server, server_url: str, feed: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it; and what was in hand is there for the next worker."""

    def die(*_: object, **__: object) -> None:
        raise MemoryError(stage)

    push_frames(server, feed, 20)
    with monkeypatch.context() as patched:
        if stage == "settling":
            patched.setattr(pipeline, "settle", die)
        elif stage == "reading":
            patched.setattr(opening, "open_picture", die)
        else:
            patched.setattr(outcomes.Outcomes, "of" if stage == "analysis" else "detect", die)
        worker = Running(server_url, OneFace(), batch_size=4)
        with pytest.raises(MemoryError, match=stage):
            worker.pipeline.run(worker.stop)
        worker.server.close()
    assert not {"reading", "detection", "settling"} & {
        thread.name for thread in threading.enumerate()
    }
    books = read_books(server, feed)
    assert (books.in_flight, books.published, books.owned) == (20, 0, False)
    with running_worker(server_url, OneFace(), batch_size=4):
        wait_until(lambda: read_books(server, feed).published == 20)
    assert sequences(server_url, feed) == list(range(20))


def test_large_pictures_are_mostly_analysed_at_half_their_size(
    server: Server, server_url: str, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, scales = images._decode_jpeg, list[Scale]()

    def counted(data: bytes, scale: Scale) -> Image:
        scales.append(scale)
        return decode(data, scale)

    monkeypatch.setattr(images, "_decode_jpeg", counted)
    picture = np.full((720, 1280, 3), 110, np.uint8)
    portrait = portrait_with_face(200)[:720]
    picture[: portrait.shape[0], 300 : 300 + portrait.shape[1]] = portrait
    content = encode_jpeg(picture)
    writer = Writer(server, feed, stop=threading.Event(), policy="lossless", depth=20)
    with running_worker(server_url, load_detector(), detect_every=8):
        for number in range(16):
            assert writer.push(frame_of(writer, number, content)).status == "accepted"
        wait_until(lambda: read_books(server, feed).published == 16)
    found = list(events(feed, redis=server_url, since="start", follow=False))
    assert [(event.width, event.height) for event in found] == [(1280, 720)] * 16
    boxes = np.array([[face.box for face in event.faces] for event in found])
    assert boxes.shape == (16, 1, 4)
    assert np.abs(boxes - boxes[0]).max() < 12
    assert [face.source for event in found for face in event.faces].count("tracked") == 14
    assert (scales.count(1), scales.count(2)) == (2, 16)
