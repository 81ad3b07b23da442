"""The demo: it counts its own frames alone, and it always ends, whatever happens beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from itertools import islice
from pathlib import Path
from typing import cast

import av
import httpx
import pytest

from tests.doubles import running_worker
from tests.e2e.processes import SAMPLE, ended, mien, one_sentence, running, summary_of
from tests.feeds import frame_of, jpeg, push_frames, wait_until
from worker.demo import _wait_for_worker, _Worker
from worker.wire.books import read_books
from worker.wire.keys import FEEDS, FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first second of the sample clip."""
    path = str(tmp_path_factory.mktemp("clips") / "second.mp4")
    with av.open(SAMPLE) as source, av.open(path, "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in islice(source.demux(video=0), 25):
            packet.stream = stream
            copy.mux(packet)
    return path


def page_of(demo: subprocess.Popen[str]) -> str:
    """Where the page is, as its first line says."""
    assert demo.stdout is not None
    line = demo.stdout.readline()
    assert line.startswith("page: http://127.0.0.1:"), line
    return line.split()[1]


def test_it_ends_by_itself_with_its_summary_and_video(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    done = mien("demo", "--annotate", str(out))
    assert done.returncode == 0, done.stderr
    summary = summary_of(done.stdout)
    assert summary["frames offered"] == summary["published"] == "350"
    assert {"dropped", "faces", "frames/s", "latency p50", "latency p95"} <= set(summary)
    with av.open(str(out)) as video, av.open(SAMPLE) as sample:
        drawn = [frame.to_ndarray(format="rgb24", threads=1) for frame in video.decode(video=0)]
        plain = next(sample.decode(video=0)).to_ndarray(format="rgb24", threads=1)
    assert len(drawn) == 350
    assert (abs(drawn[0].astype(int) - plain) > 60).any(axis=2).sum() > 300, "boxes are drawn"


def test_on_a_server_with_a_past_it_counts_its_own_frames(
    server: Server, server_url: str, clip: str
) -> None:
    with running_worker(server_url):
        writer = push_frames(server, "demo", 3)
        wait_until(lambda: read_books(server, "demo").published == 3)
    for sequence in range(3, 8):  # left in flight, one of them broken
        writer.push(frame_of(writer, sequence, b"?" if sequence == 5 else jpeg(16, 16)))
    done = mien("demo", "--redis", server_url, "--video", clip)
    assert done.returncode == 0, done.stderr
    summary = summary_of(done.stdout)
    assert summary["frames offered"] == summary["published"] == "25"
    assert summary["dropped"] == "0"
    assert "dead letters" not in summary
    books = read_books(server, "demo")
    assert (books.offered, books.published, books.dead, books.in_flight) == (33, 32, 1, 0)


@pytest.mark.parametrize("known", [True, False])
def test_beside_another_worker_it_says_so(
    server: Server, server_url: str, clip: str, known: bool
) -> None:
    """Also where the other one takes the feed after the demo has registered it."""
    with running_worker(server_url):
        if known:
            register(server, "demo")
            wait_until(lambda: read_books(server, "demo").owned)
        done = mien("demo", "--redis", server_url, "--video", clip)
    one_sentence(done, "another worker", server_url)
    assert read_books(server, "demo").offered == 0


def test_ctrl_c_ends_it_in_order() -> None:
    with running("demo") as demo:
        page_of(demo)
        assert demo.stdout is not None
        assert "demo 0:00" in demo.stdout.readline()
        os.killpg(demo.pid, signal.SIGINT)
        done = ended(demo)
    assert done.returncode == 0, done.stderr
    summary = summary_of(done.stdout)
    assert 0 < int(summary["frames offered"]) < 350
    assert summary["published"] == summary["frames offered"]


def test_it_stays_with_its_page_until_it_is_told(
    server: Server, server_url: str, clip: str
) -> None:
    with running("demo", "--redis", server_url, "--video", clip, "--stay") as demo:
        page = page_of(demo)
        wait_until(lambda: read_books(server, "demo").offered > 30, timeout_s=60)
        assert "mien" in httpx.get(page).text
        feeds = httpx.get(httpx.URL(page).join("/api/feeds")).json()["feeds"]
        assert feeds["demo"]["offered"] > 30, "more than the clip has"
        os.killpg(demo.pid, signal.SIGINT)
        done = ended(demo)
    assert done.returncode == 0, done.stderr
    assert summary_of(done.stdout)["dropped"] == "0"
    with pytest.raises(httpx.ConnectError):
        httpx.get(page)


def test_ctrl_c_twice_ends_it_at_once() -> None:
    with running("demo") as demo:
        page_of(demo)
        assert demo.stdout is not None
        demo.stdout.readline()
        os.killpg(demo.pid, signal.SIGINT)
        demo.send_signal(signal.SIGTERM)  # two SIGINTs so close together may count as one
        done = ended(demo)
    assert done.returncode in (130, 143)
    assert "summary" not in done.stdout


def test_ctrl_c_before_the_worker_is_there(server: Server, server_url: str) -> None:
    with running("demo", "--redis", server_url) as demo:
        wait_until(lambda: bool(server.command("HEXISTS", FEEDS, "demo")))
        os.killpg(demo.pid, signal.SIGINT)
        done = ended(demo)
    assert done.returncode == 130
    assert "summary" not in done.stdout
    assert read_books(server, "demo").offered == 0


def test_ctrl_c_counts_where_the_worker_is_there_before_the_page(server: Server) -> None:
    register(server, "demo")
    worker = _Worker(cast("subprocess.Popen[str]", None), ["lease taken"])
    stop = threading.Event()
    assert _wait_for_worker(worker, server, stop).offered == 0
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        _wait_for_worker(worker, server, stop)


def test_an_error_of_its_subscriber_ends_it(server: Server, server_url: str) -> None:
    with running("demo", "--redis", server_url) as demo:
        page_of(demo)
        assert demo.stdout is not None
        demo.stdout.readline()
        server.command("DEL", FeedKeys.of("demo").events)
        server.command("SET", FeedKeys.of("demo").events, "no stream")
        one_sentence(ended(demo), "WRONGTYPE")


@pytest.mark.parametrize("name", ["nowhere/out.mp4", "out.gif", "out.mp3", "out.png", "out"])
def test_a_video_that_cannot_be_written_is_said_at_once(tmp_path: Path, name: str) -> None:
    one_sentence(mien("demo", "--annotate", str(tmp_path / name), timeout=30), name)
    assert list(tmp_path.iterdir()) == []
