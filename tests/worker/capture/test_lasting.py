"""Cameras and URLs through outages: real connections on loopback that stall, break and return."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from tests.feeds import wait_until
from tests.worker.capture.conftest import Clips, draw
from tests.worker.capture.http import (
    Connection,
    HttpCamera,
    Script,
    endless,
    file,
    pictures,
    refusal,
)
from tests.worker.capture.rtsp import RtspServer, packetize
from worker.capture import camera as camera_module
from worker.capture import lasting
from worker.capture.lasting import LastingSource
from worker.capture.reader import Stopped
from worker.capture.sources import open_source
from worker.errors import SourceError, SourceLost
from worker.records import Picture


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "_FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(lasting, "_LONGEST_WAIT_S", 0.2)


class Opened:
    """A lasting source, what it said, and the switch that stops it."""

    def __init__(self, source: str, **options: object) -> None:
        self.said: list[str] = []
        self.stop = threading.Event()
        stall_s = float(options.pop("stall_s", 5.0))  # type: ignore[arg-type]
        options = {"keep_all": True, **options}
        self.source = LastingSource(
            lambda: open_source(source, timeout_s=stall_s),
            stop=self.stop, say=self.said.append, stall_s=stall_s,
            **options,  # type: ignore[arg-type]
        )  # fmt: skip

    def take(self, count: int) -> list[Picture]:
        with self.source:
            return list(itertools.islice(self.source.pictures(), count))


def seconds(pictures: list[Picture]) -> list[float]:
    return [float(p.pts * p.time_base) for p in pictures]


def rising(values: list[float]) -> bool:
    return all(b > a for a, b in itertools.pairwise(values))


FIRST, SECOND = [draw(i) for i in range(6)], [draw(i) for i in range(20, 26)]


def test_a_camera_that_hangs_up_is_opened_again(index_of) -> None:
    scripts = pictures(*FIRST), refusal, refusal, pictures(*SECOND, then_silent=True)
    before = datetime.now(UTC)
    with HttpCamera(*scripts) as camera:
        opened = Opened(camera.url)
        taken = opened.take(12)
    assert [index_of(p.image) for p in taken] == [*range(6), *range(20, 26)]
    assert taken[0].pts == 0
    assert rising(seconds(taken))
    times = [p.captured_at for p in taken if p.captured_at is not None]
    assert len(times) == 12
    assert before <= times[0]
    assert times == sorted(times)
    # The gap in the times is the outage's, so that they still tell when something was seen.
    gap = seconds(taken)[6] - seconds(taken)[5]
    assert gap == pytest.approx((times[6] - times[5]).total_seconds(), abs=0.5)
    assert opened.said[0].startswith(f"{camera.name} broke off at ")
    assert opened.said[0].endswith("the connection was cut, 6 pictures were read; trying again")
    assert opened.said[1].startswith(f"{camera.name} is back after ")
    assert len(opened.said) == 2
    assert camera.connections == 4


def stream_then_padding(clip: bytes) -> Script:
    """MPEG-TS that goes on for ever, but after the clip with padding only."""

    def script(to: Connection) -> None:
        to.head("video/mp2t")
        to.send(clip)
        while not to.stop.wait(0.01):
            to.send((b"\x47\x1f\xff\x10" + b"\xff" * 184) * 10)

    return script


@pytest.mark.parametrize("kind", ["silent", "padding"])
def test_a_camera_that_falls_silent_has_stalled(kind: str, clips: Clips) -> None:
    clip = clips.make("a.ts", count=30).read_bytes()
    script = pictures(*FIRST, then_silent=True) if kind == "silent" else stream_then_padding(clip)
    with HttpCamera(script) as camera:
        opened = Opened(camera.url, stall_s=1.0)
        with opened.source:
            source = opened.source.pictures()
            began = time.monotonic()
            taken: list[Picture] = []
            while len(opened.said) < 2:
                taken.append(next(source))
            assert 1.0 <= time.monotonic() - began < 15
    assert "stalled, no picture for 1 s" in opened.said[0]
    assert opened.said[0].startswith(camera.name)
    assert "is back" in opened.said[1]
    assert rising(seconds(taken))


def test_a_camera_whose_host_is_away_for_a_while(index_of) -> None:
    with HttpCamera(pictures(*FIRST)) as camera:
        opened = Opened(camera.url)
        source = opened.source.pictures()
        first = [next(source) for _ in range(6)]
    back = HttpCamera(pictures(*SECOND, then_silent=True), port=camera.port)
    timer = threading.Timer(0.5, back.__enter__)
    timer.start()
    with opened.source:
        second = [next(source) for _ in range(6)]
    timer.join()
    back.__exit__(None, None, None)
    assert [index_of(p.image) for p in second] == list(range(20, 26))
    assert rising(seconds(first + second))
    assert len(opened.said) == 2
    assert "the connection was cut" in opened.said[0]
    assert "is back after" in opened.said[1]


def test_rtsp_is_opened_again(index_of) -> None:
    packets = packetize([draw(i) for i in range(40)], rate=25)
    with RtspServer(packets, clients=2) as server:
        opened = Opened(f"rtsp://user:secret@{server.address}/live")
        taken = opened.take(80)
    assert [index_of(p.image) for p in taken] == [*range(40), *range(40)]
    assert rising(seconds(taken))
    assert opened.said[0] == f"rtsp://{server.address}/live ended the connection; trying again"
    assert len(opened.said) == 2
    assert not any("secret" in message for message in opened.said)


@pytest.mark.parametrize(
    "scripts",
    [(pictures(*FIRST, then_silent=True),), (pictures(*FIRST), refusal)],
    ids=["silent", "away"],
)
def test_a_stop_waits_for_no_camera(scripts: tuple[Script, ...]) -> None:
    with HttpCamera(*scripts) as camera:
        opened = Opened(camera.url, stall_s=60)
        threading.Timer(0.5, opened.stop.set).start()
        began = time.monotonic()
        assert len(opened.take(100)) == 6
        assert time.monotonic() - began < 10


def test_one_that_does_not_come_back_in_time() -> None:
    with HttpCamera(pictures(*FIRST), refusal) as camera:
        opened = Opened(camera.url, give_up_s=0.5)
        taken: list[Picture] = []
        with opened.source, pytest.raises(SourceError) as caught:
            taken.extend(opened.source.pictures())
    assert len(taken) == 6
    assert str(caught.value).startswith(camera.name)
    assert str(caught.value).endswith("; it was away for 0.5 s")


def test_no_second_try_where_none_is_wanted() -> None:
    with HttpCamera(pictures(*FIRST)) as camera:
        opened = Opened(camera.url, give_up_s=0)
        with pytest.raises(SourceError, match=r"the connection was cut, 6 pictures were read$"):
            opened.take(100)
        assert (camera.connections, opened.said) == (1, [])


def test_one_that_is_away_at_the_beginning() -> None:
    with HttpCamera(refusal, refusal, pictures(*FIRST, then_silent=True)) as camera:
        with pytest.raises(SourceError, match="cannot be opened"):
            Opened(camera.url)
        opened = Opened(camera.url, patient=True)
        assert len(opened.take(6)) == 6
    assert opened.said[0].endswith("; trying again")
    assert opened.said[1].startswith(f"{camera.name} is back after ")
    assert "secret" not in "".join(opened.said)


def test_waiting_for_one_that_never_comes_can_be_stopped() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"rtsp://127.0.0.1:{free.getsockname()[1]}/a"
    stop = threading.Event()
    threading.Timer(0.4, stop.set).start()
    with pytest.raises(Stopped):
        LastingSource(lambda: open_source(url), stop=stop, say=lambda message: None, patient=True)


def test_a_video_with_an_end_goes_on_where_its_connection_broke(clips: Clips, index_of) -> None:
    clip = clips.make("a.mp4", mux={"movflags": "faststart"}, noise=True)
    with HttpCamera(file(clip, share=0.6), file(clip, share=0.4), file(clip)) as camera:
        opened = Opened(camera.url)
        assert (opened.source.live, opened.source.frames) == (False, 50)
        taken = opened.take(1000)
    assert len(taken) == 50, "each picture once, and then the end"
    assert seconds(taken) == pytest.approx([i / 25 for i in range(50)], abs=0.002)
    assert index_of(taken[-1].image) == 49
    assert "broke off at 1." in opened.said[0]


def test_a_video_that_always_ends_too_early_is_an_error(clips: Clips) -> None:
    clip = clips.make("a.mp4", mux={"movflags": "faststart"}, noise=True)
    with HttpCamera(file(clip, share=0.6)) as camera:
        opened = Opened(camera.url)
        taken: list[Picture] = []
        with opened.source, pytest.raises(SourceLost, match=r"broke off at 1\."):
            taken.extend(opened.source.pictures())
        assert camera.connections == 4
    assert 20 < len(taken) < 50
    assert rising(seconds(taken))


def sizes(taken: list[Picture]) -> list[tuple[int, int]]:
    found = [(p.image.shape[1], p.image.shape[0]) for p in taken]
    return [size for size, _ in itertools.groupby(found)]


def test_a_camera_that_changes_size_and_colours(corners) -> None:
    """Also within one connection: MJPEG parts of other sizes, and grey ones."""
    large, small = draw(1, 320, 240), draw(2, 96, 72)
    grey = cv2.cvtColor(draw(3), cv2.COLOR_RGB2GRAY)
    shown = [large, large, small, small, grey, grey, large]
    with HttpCamera(pictures(*shown, then_silent=True)) as camera:
        opened = Opened(camera.url)
        taken = opened.take(7)
    assert opened.said == []
    assert sizes(taken) == [(320, 240), (96, 72), (160, 120), (320, 240)]
    assert [corners(p.image) for p in (taken[0], taken[2], taken[6])] == [[0, 1, 2, 3]] * 3
    assert all(p.image.shape[2] == 3 and p.image.flags.c_contiguous for p in taken)
    assert np.ptp(taken[4].image.astype(int), axis=2).max() == 0, "grey stays grey"


def encoded(
    clips: Clips, name: str, width: int, height: int, aspect: Fraction | None = None
) -> bytes:
    path = clips.folder / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(draw(i, width, height), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def test_h264_that_changes_size_and_proportions_in_mid_stream(clips: Clips, corners) -> None:
    squeezed = encoded(clips, "1.ts", 160, 120, Fraction(4, 3))
    wide = encoded(clips, "2.ts", 320, 180)

    def script(to: Connection) -> None:
        to.head("video/mp2t")
        to.send(squeezed + wide + squeezed)
        to.stop.wait(60)

    with HttpCamera(script) as camera:
        opened = Opened(camera.url)
        taken = opened.take(55)
    assert opened.said == []
    assert sizes(taken) == [(213, 120), (320, 180), (213, 120)]
    assert rising(seconds(taken))
    assert all(corners(p.image) == [0, 1, 2, 3] for p in taken)


def test_mjpeg_has_the_times_at_which_it_came() -> None:
    """It carries none of its own, and FFmpeg would count 25 a second whatever the camera does."""
    with HttpCamera(endless(draw(1), pause_s=0.15)) as camera:
        opened = Opened(camera.url)
        taken = opened.take(60)[-12:]
    steps = np.diff(seconds(taken))
    assert np.median(steps) == pytest.approx(0.15, abs=0.05)


def test_live_pictures_that_nobody_takes_are_passed_over_and_counted() -> None:
    with HttpCamera(endless(draw(1))) as camera:
        opened = Opened(camera.url, keep_all=False)
        with opened.source:
            source = opened.source.pictures()
            next(source)
            wait_until(lambda: opened.source.missed > 10)
            late = next(source)
            assert late.captured_at is not None
            assert (datetime.now(UTC) - late.captured_at).total_seconds() < 5


class Plugged:
    """Stands for cv2.VideoCapture: a camera that gives ``left`` pictures, is away, and returns."""

    opened = 0
    away = 0

    def __init__(self, index: int) -> None:
        type(self).opened += 1
        self.left = 4
        self.open = self.opened not in (2, 3)

    def isOpened(self) -> bool:  # noqa: N802
        return self.open

    def get(self, prop: int) -> float:
        return 30.0

    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((48, 64, 3), self.opened, np.uint8)

    def release(self) -> None:
        self.open = False


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Plugged]]:
    kind = type("Plugged", (Plugged,), {"opened": 0})
    monkeypatch.setattr(camera_module.cv2, "VideoCapture", kind)
    return kind


def test_a_camera_that_is_unplugged_and_plugged_in_again(plugged) -> None:
    opened = Opened("0")
    taken = opened.take(8)
    assert [p.image[0, 0, 0] for p in taken] == [1] * 4 + [4] * 4
    assert rising(seconds(taken))
    assert opened.said[0] == "camera 0 stopped delivering pictures; trying again"
    assert opened.said[1].startswith("camera 0 is back after ")


def test_a_driver_that_hangs_is_noticed_and_not_opened_twice(
    plugged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read cannot be called off: until it returns the camera is held, and is not asked for."""
    released = threading.Event()

    def read(self):
        self.left -= 1
        if self.opened == 1 and self.left < 2:
            released.wait(30)
            return False, None
        return self.left >= 0, np.full((48, 64, 3), self.opened, np.uint8)

    monkeypatch.setattr(lasting, "_GRACE_S", 0.2)
    monkeypatch.setattr(plugged, "read", read)
    opened = Opened("0", stall_s=0.3)
    with opened.source:
        source = opened.source.pictures()
        assert len([next(source), next(source)]) == 2
        threading.Timer(1.5, released.set).start()
        began = time.monotonic()
        next(source)
    assert time.monotonic() - began >= 0.9
    assert "has stalled" in opened.said[0]
    assert plugged.opened == 4, "once, then when it was free again: away twice, and back"
