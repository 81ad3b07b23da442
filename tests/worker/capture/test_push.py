"""The push loop on a real server: what a source's pictures are as frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.feeds import wait_until
from tests.worker.capture.conftest import draw
from tests.worker.capture.http import HttpCamera, endless, file, pictures, refusal
from worker.capture.push import PushReport, push
from worker.consume.images import decode_picture
from worker.demo import sample_clip
from worker.errors import SettingsError, SourceError
from worker.records import Frame
from worker.wire.books import read_books
from worker.wire.codec import decode_frame
from worker.wire.keys import FeedKeys
from worker.wire.registry import change, registered
from worker.wire.server import Server

SAMPLE = str(sample_clip())
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def frames_in(server: Server, feed: str) -> list[Frame]:
    entries = server.command("XRANGE", FeedKeys.of(feed).frames, "-", "+")
    return [decode_frame(fields[b"frame"], feed, NOW) for _, fields in entries]


def test_a_file_becomes_frames_with_its_own_times(
    server: Server, server_url: str, feed: str
) -> None:
    before = datetime.now(UTC)
    report = push(SAMPLE, feed, redis=server_url, depth=1000, fps=5, width=320)
    frames = frames_in(server, feed)
    assert (report.read, report.accepted, report.refused) == (70, 70, 0)
    assert [frame.sequence for frame in frames] == list(range(70))
    assert len({frame.session for frame in frames}) == 1
    seconds = [float(frame.pts * frame.time_base) for frame in frames]
    assert seconds == pytest.approx(np.arange(70) / 5)
    began = frames[0].captured_at
    assert before <= began <= datetime.now(UTC)
    assert frames[-1].captured_at - began == timedelta(seconds=13.8)
    assert (frames[0].width, frames[0].height) == (320, 180)
    assert decode_picture(frames[0]).shape == (180, 320, 3)
    settings = registered(server)[0][feed]
    assert (settings.policy, settings.source) == ("lossless", "faces.mp4")


def test_the_first_seconds_alone(server: Server, server_url: str, feed: str) -> None:
    report = push(SAMPLE, feed, redis=server_url, depth=1000, fps=5, first_s=2, width=64)
    assert report.accepted == read_books(server, feed).offered == 10


def after(count: int, stop: threading.Event) -> Callable[[PushReport, object], None]:
    def progress(report: PushReport, source: object) -> None:
        if report.read >= count:
            stop.set()

    return progress


def test_a_loop_goes_on_where_the_round_ended(server: Server, server_url: str, feed: str) -> None:
    stop = threading.Event()
    push(
        SAMPLE, feed, redis=server_url, depth=10_000, loop=True, width=64, stop=stop,
        progress=after(800, stop),
    )  # fmt: skip
    frames = frames_in(server, feed)
    seconds = [float(frame.pts * frame.time_base) for frame in frames]
    assert np.diff(seconds) == pytest.approx(np.full(799, 0.04)), "no jump between rounds"
    assert [frame.sequence for frame in frames] == list(range(800))


def test_real_time_is_the_sources_own(server: Server, server_url: str, feed: str) -> None:
    stop = threading.Event()
    began = time.monotonic()
    push(
        SAMPLE, feed, redis=server_url, realtime=True, stop=stop, depth=100,
        progress=after(26, stop),
    )  # fmt: skip
    assert time.monotonic() - began >= 1.0, "the 26th picture stands at one second"


def test_stopping_a_push_that_waits_for_room(server: Server, server_url: str, feed: str) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    report = push(SAMPLE, feed, redis=server_url, depth=3, stop=stop)
    assert report.accepted == 3
    assert read_books(server, feed).offered == 3


def test_a_loop_holds_one_source_at_a_time_and_none_at_its_end(
    server: Server, server_url: str, feed: str, tmp_path: Path
) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(Path(SAMPLE).read_bytes())
    stop = threading.Event()
    held: list[int] = []

    def open_files() -> int:
        return sum(clip.samefile(link) for link in Path("/proc/self/fd").iterdir() if link.exists())

    def progress(report: PushReport, source: object) -> None:
        held.append(open_files())
        after(25, stop)(report, source)

    push(
        str(clip), feed, redis=server_url, depth=1000, loop=True, fps=0.7, width=64, stop=stop,
        progress=progress,
    )  # fmt: skip
    assert set(held) == {1}
    assert open_files() == 0


def test_the_server_that_the_environment_names(
    server: Server, server_url: str, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_REDIS", server_url)
    assert push(SAMPLE, feed, fps=1, depth=100).accepted == read_books(server, feed).offered == 14


def test_each_accepted_frame_is_handed_on(server: Server, server_url: str, feed: str) -> None:
    seen: list[Frame] = []
    push(SAMPLE, feed, redis=server_url, depth=1000, fps=2, on_frame=seen.append)
    assert seen == frames_in(server, feed)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"fps": 0}, "fps"),
        ({"fps": -2}, "fps"),
        ({"fps": float("inf")}, "fps"),
        ({"width": 0}, "width"),
        ({"policy": "sometimes"}, "policy"),
        ({"depth": 200_000}, "depth"),
        ({"quality": 101}, "qual"),
    ],
)
def test_options_that_make_no_sense_are_named(
    server: Server, server_url: str, feed: str, options: dict[str, object], name: str
) -> None:
    with pytest.raises(SettingsError, match=name):
        push(SAMPLE, feed, redis=server_url, **options)  # type: ignore[arg-type]
    assert registered(server) == ({}, {})


def test_nothing_is_registered_for_a_source_that_is_not_there(
    server: Server, server_url: str, feed: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError):
        push(str(tmp_path / "nothing.mp4"), feed, redis=server_url)
    assert registered(server) == ({}, {})


def test_a_camera_through_an_outage_is_one_writer(
    server: Server, server_url: str, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of another size after it: one session, the sequence and all times rising."""
    monkeypatch.setattr("worker.capture.lasting._FIRST_WAIT_S", 0.05)
    stop, said = threading.Event(), list[str]()
    first = pictures(*[draw(i) for i in range(6)])
    second = pictures(*[draw(i, 320, 240) for i in range(6)], then_silent=True)
    with HttpCamera(first, refusal, second) as camera:
        report = push(
            camera.url, feed, redis=server_url, policy="lossless", depth=100, stop=stop,
            progress=after(12, stop), say=said.append,
        )  # fmt: skip
    frames = frames_in(server, feed)
    assert (report.read, report.accepted, report.missed) == (12, 12, 0)
    assert [frame.sequence for frame in frames] == list(range(12))
    assert len({frame.session for frame in frames}) == 1
    assert [(frame.width, frame.height) for frame in frames] == [(160, 120)] * 6 + [(320, 240)] * 6
    assert decode_picture(frames[-1]).shape == (240, 320, 3)
    seconds = [float(frame.pts * frame.time_base) for frame in frames]
    assert all(np.diff(seconds) > 0)
    times = [frame.captured_at for frame in frames]
    assert times == sorted(times)
    assert len(said) == 2
    entry = server.command("HGET", "mien:feeds", feed)
    assert b"secret" not in entry
    assert registered(server)[0][feed].source == camera.name


def test_a_camera_is_live_and_its_staleness_is_the_feeds(
    server: Server, server_url: str, feed: str
) -> None:
    stop = threading.Event()
    with HttpCamera(endless(draw(1))) as camera:
        push(
            camera.url, feed, redis=server_url, staleness_s=7.5, stop=stop,
            progress=after(20, stop),
        )  # fmt: skip
    settings = registered(server)[0][feed]
    assert (settings.policy, settings.depth, settings.staleness_s) == ("live", 8, 7.5)
    books = read_books(server, feed)
    assert (books.offered, books.in_flight, books.dropped) == (20, 8, 12)


def test_a_finished_video_of_an_http_server_ends_the_push(
    server: Server, server_url: str, feed: str
) -> None:
    with HttpCamera(file(Path(SAMPLE))) as camera:
        report = push(camera.url, feed, redis=server_url, depth=1000, fps=5, width=64)
    assert report.accepted == 70
    assert registered(server)[0][feed].policy == "lossless"


def test_a_video_of_an_http_server_in_a_loop(server: Server, server_url: str, feed: str) -> None:
    stop = threading.Event()
    with HttpCamera(file(Path(SAMPLE))) as camera:
        push(
            camera.url, feed, redis=server_url, depth=1000, loop=True, fps=5, width=64, stop=stop,
            progress=after(100, stop),
        )  # fmt: skip
        assert camera.connections >= 2
    seconds = [float(frame.pts * frame.time_base) for frame in frames_in(server, feed)]
    assert np.diff(seconds) == pytest.approx(np.full(99, 0.2), abs=0.05)


def test_what_is_live_cannot_be_looped(server: Server, server_url: str, feed: str) -> None:
    with HttpCamera(endless(draw(1))) as camera, pytest.raises(SettingsError, match="no end"):
        push(camera.url, feed, redis=server_url, loop=True)
    assert registered(server) == ({}, {})


def test_a_running_push_follows_what_is_set_for_its_feed(
    server: Server, server_url: str, feed: str
) -> None:
    stop = threading.Event()
    pushing = threading.Thread(
        target=push, args=(SAMPLE, feed), kwargs={"redis": server_url, "depth": 3, "stop": stop}
    )
    pushing.start()
    try:
        wait_until(lambda: read_books(server, feed).offered == 3)
        change(server, feed, depth=10)
        wait_until(lambda: read_books(server, feed).offered == 10)
    finally:
        stop.set()
        pushing.join(timeout=20)
    assert not pushing.is_alive()
