"""The push loop on a real server: what a source's pictures are as frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from worker.capture.push import PushReport, push
from worker.consume.images import decode_picture
from worker.demo import sample_clip
from worker.errors import SettingsError, SourceError
from worker.records import Frame
from worker.wire.books import read_books
from worker.wire.codec import decode_frame
from worker.wire.keys import FeedKeys
from worker.wire.registry import registered
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
