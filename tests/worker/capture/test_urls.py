"""URLs on loopback, cameras that are not there, and names without secrets."""

from __future__ import annotations

import functools
import http.server
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.worker.capture.conftest import Clips, draw, read
from tests.worker.capture.http import HttpCamera, file
from tests.worker.capture.rtsp import RtspServer, packetize
from worker.capture import camera
from worker.capture.sources import open_source
from worker.errors import SourceError, SourceLost
from worker.records import Picture
from worker.wire.addresses import without_secrets


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {"": "application/octet-stream"}

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """host:port of an HTTP server for the test's folder."""
    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_http_serves_a_file(site: str, clips: Clips, index_of) -> None:
    clips.make("a.mp4", mux={"movflags": "faststart"})
    with open_source(f"http://user:secret@{site}/a.mp4?token=secret") as source:
        assert source.name == f"http://{site}/a.mp4"
        assert (source.live, source.frames) == (False, 50)
        assert [index_of(p.image) for p in source.pictures()] == list(range(50))


def test_http_of_a_file_that_states_no_duration_still_ends(site: str, clips: Clips) -> None:
    clips.make("a.h264")
    with open_source(f"http://{site}/a.h264") as source:
        assert (source.live, source.frames, source.duration_s) == (False, None, None)
        assert len(list(source.pictures())) == 50


def test_http_without_duration_and_size_is_live(clips: Clips) -> None:
    clip = clips.make("a.ts")
    before = datetime.now(UTC)
    with HttpCamera(file(clip, stated=False)) as camera, open_source(camera.url) as source:
        assert (source.live, source.frames, source.duration_s) == (True, None, None)
        pictures: list[Picture] = []
        # Only a stated size tells the end of what is sent from a cut.
        with pytest.raises(SourceLost, match="the connection was cut, 50 pictures were read"):
            pictures.extend(source.pictures())
    assert len(pictures) == 50
    times = [p.captured_at for p in pictures]
    assert all(t is not None and before <= t <= before + timedelta(minutes=1) for t in times)
    assert times == sorted(times)


def test_http_of_a_file_that_is_cut_off(site: str, clips: Clips) -> None:
    clips.cut(clips.make("a.mp4", mux={"movflags": "faststart"}, noise=True), 0.6)
    pictures, end = read(f"http://{site}/cut-a.mp4")
    assert len(pictures) > 20
    assert end.startswith(f"http://{site}/cut-a.mp4 broke off at 1.")


def test_http_errors_never_tell_the_password(site: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>not a video</p>")
    with pytest.raises(SourceError) as missing:
        open_source(f"http://user:secret@{site}/absent.mp4?key=secret")
    assert str(missing.value) == (
        f"http://{site}/absent.mp4 cannot be opened: Server returned 404 Not Found"
    )
    with pytest.raises(SourceError) as other:
        open_source(f"http://user:secret@{site}/page.html")
    assert str(other.value) == f"http://{site}/page.html does not deliver a video that can be read"


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_nobody_listens(scheme: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(SourceError) as caught:
        open_source(f"{scheme}://user:secret@{address}/a", timeout_s=5)
    assert str(caught.value) == f"{scheme}://{address}/a cannot be opened: Connection refused"


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_a_server_that_never_answers(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SourceError, match="cannot be opened: no answer in time"):
            open_source(f"{scheme}://{address}/a", timeout_s=0.5)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rtsp://admin:p%40ss@10.0.0.5:554/stream1", "rtsp://10.0.0.5:554/stream1"),
        ("rtsp://admin:p@ss@cam/stream", "rtsp://cam/stream"),
        ("rtsp://cam/live?user=admin&password=x#y", "rtsp://cam/live"),
        ("https://[::1]:8443/a.mp4", "https://[::1]:8443/a.mp4"),
        ("udp://@239.0.0.1:1234", "udp://239.0.0.1:1234"),
    ],
)
def test_names_keep_no_secrets(url: str, name: str) -> None:
    assert without_secrets(url) == name


@pytest.mark.parametrize("url", ["rtsp://admin:a/secret@cam/live", "rtsp://admin:a#secret@cam/x"])
def test_a_password_that_breaks_the_url_is_not_repeated(url: str) -> None:
    with pytest.raises(SourceError, match="URL is not valid") as caught:
        open_source(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("source", ["97", "/dev/video97"])
def test_missing_camera(source: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SourceError) as caught:
        open_source(source)
    assert str(caught.value) == "camera 97 cannot be opened: it is missing or in use"
    assert capfd.readouterr() == ("", "")


class FakeCamera:
    """Stands for cv2.VideoCapture: three pictures, then the plug is pulled."""

    def __init__(self, index: int) -> None:
        self.left = 3
        self.open = True

    def isOpened(self) -> bool:  # noqa: N802
        return self.open

    def get(self, prop: int) -> float:
        return 30.0

    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((48, 64, 3), (255, 0, 10), np.uint8)

    def release(self) -> None:
        self.open = False


def test_a_camera_is_live_until_it_is_unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera.cv2, "VideoCapture", FakeCamera)
    with open_source("0") as source:
        assert (source.name, source.live, source.rate) == ("camera 0", True, 30.0)
        assert (source.width, source.height, source.frames) == (64, 48, None)
    pictures, end = read("0")
    assert end == "camera 0 stopped delivering pictures"
    assert [p.image[0, 0].tolist() for p in pictures] == [[10, 0, 255]] * 3
    assert pictures[0].pts == 0
    assert [p.pts for p in pictures] == sorted(p.pts for p in pictures)
    assert all(p.captured_at is not None for p in pictures)


def test_rtsp_over_tcp(index_of) -> None:
    packets = packetize([draw(i) for i in range(40)], rate=25)
    before = datetime.now(UTC)
    with (
        RtspServer(packets) as server,
        open_source(f"rtsp://user:secret@{server.address}/live") as source,
    ):
        assert source.name == f"rtsp://{server.address}/live"
        assert (source.live, source.width, source.height) == (True, 160, 120)
        pictures = list(source.pictures())
    assert [index_of(p.image) for p in pictures] == list(range(40))
    assert [float(p.pts * p.time_base) for p in pictures] == pytest.approx(
        [i / 25 for i in range(40)], abs=0.002
    )
    assert all(p.captured_at is not None and p.captured_at >= before for p in pictures)
    setup = next(request for request in server.requests if request.startswith("SETUP"))
    assert "RTP/AVP/TCP" in setup


def test_rtsp_that_falls_silent() -> None:
    packets = packetize([draw(i) for i in range(40)], rate=25)
    with RtspServer(packets, hang_up=False) as server:
        source = open_source(f"rtsp://{server.address}/live", timeout_s=1.5)
        with source, pytest.raises(SourceError) as caught:
            list(source.pictures())
    assert "broke off at 1." in str(caught.value)
    assert "stalled, no picture for 1.5 s" in str(caught.value)
