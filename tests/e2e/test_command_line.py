"""The commands as a person meets them: real processes, the shipped models, a real server."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from tests.doubles import running_worker
from tests.e2e.processes import ROOT, SAMPLE, mien, one_sentence
from tests.feeds import push_frames, wait_until
from worker.wire.books import read_books
from worker.wire.keys import FEEDS
from worker.wire.registry import registered
from worker.wire.server import Server


@pytest.fixture
def worker(server: Server, server_url: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.app", "worker", "--redis", server_url],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


def test_the_main_job(server: Server, server_url: str, worker: subprocess.Popen[str]) -> None:
    """The sample clip through push, stream, worker and watch: every frame, faces where they are."""
    pushed = mien("push", SAMPLE, "--feed", "clip", "--redis", server_url, "--fps", "5")
    assert pushed.returncode == 0, pushed.stderr
    assert "70 frames accepted" in pushed.stderr
    wait_until(lambda: read_books(server, "clip").in_flight == 0, timeout_s=60)
    books = read_books(server, "clip")
    assert (books.offered, books.published, books.dead) == (70, 70, 0)

    watched = mien(
        "watch", "clip", "--redis", server_url, "--since", "start", "--json", "--no-follow"
    )
    assert watched.returncode == 0
    events = [json.loads(line) for line in watched.stdout.splitlines()]
    assert [int(event["sequence"]) for event in events] == list(range(70))
    assert all(event["faces"] for event in events), "the clip is never without a face"
    assert events[-1]["ptsSeconds"] == pytest.approx(13.8)
    for face in (face for event in events for face in event["faces"]):
        assert sum(face["raw"].values()) == pytest.approx(1, abs=1e-4)
        assert face["label"] == max(face["raw"], key=face["raw"].get)
        assert len(face["landmarks"]) == 5
    longest = max(
        sum(any(int(f["trackId"]) == t for f in e["faces"]) for e in events) for t in range(1, 30)
    )
    assert longest >= 20, "a face keeps its track"

    listed = mien("feeds", "--redis", server_url)
    (row,) = (line.split() for line in listed.stdout.splitlines() if line.strip()[:4] == "clip")
    assert row[:5] == ["clip", "lossless", "70", "70", "0"]

    worker.send_signal(signal.SIGTERM)
    _, log = worker.communicate(timeout=20)
    assert worker.returncode == 0
    assert "worker stopped" in log


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["push", "nowhere.mp4", "--feed", "a"], ["nowhere.mp4"]),
        (["push", SAMPLE, "--feed", "a b"], ["'a b'", "feed's name"]),
        (["push", SAMPLE, "--feed", "{a}"], ["'{a}'"]),
        (["push", SAMPLE, "--feed", "a\tb"], ["'a\\tb'"]),
        (["push", SAMPLE, "--feed", "a", "--quality", "0"], ["quality"]),
        (["push", SAMPLE, "--feed", "a", "--fps", "-1"], ["fps"]),
        (["push", SAMPLE, "--feed", "[/x]"], ["'[/x]'"]),
        (["push", "[/x].mp4", "--feed", "a"], ["[/x].mp4"]),
        (["push", "77", "--feed", "a"], ["camera", "77"]),
        (["push", SAMPLE, "--feed", "a", "--redis", "redis://127.0.0.1:1"], ["127.0.0.1:1"]),
        (["worker", "--redis", "redis://127.0.0.1:1"], ["127.0.0.1:1"]),
        (["worker", "--model", "missing.onnx"], ["missing.onnx"]),
        (["worker", "--model", __file__], [Path(__file__).name]),
        (["worker", "--model", str(ROOT / "worker/detect/onet.onnx")], ["onet.onnx"]),
        (["worker", "--feed", "a b"], ["'a b'", "feed's name"]),
        (["worker", "--min-face", "3"], ["min_face", "3"]),
        (["watch", "--since", "yesterday"], ["since", "yesterday"]),
        (["watch", "--since", "0001-01-01"], ["since", "0001-01-01"]),
        (["watch", "a b"], ["'a b'"]),
        (["watch", "nosuch", "--no-follow"], ["no feed nosuch is registered"]),
        (["watch", "--redis", "redis://127.0.0.1:1"], ["127.0.0.1:1"]),
        (["feeds", "--redis", "127.0.0.1"], ["URL"]),
        (["feeds", "--redis", "redis://127.0.0.1:1?decode_responses=true"], ["ssl_ca_certs"]),
        (["demo", "--video", "nowhere.mp4"], ["nowhere.mp4"]),
        (["demo", "--model", "missing.onnx"], ["missing.onnx"]),
    ],
)
def test_mistakes_get_one_sentence(server_url: str, words: list[str], parts: list[str]) -> None:
    if words[0] in ("push", "watch") and "--redis" not in words:
        words = [*words, "--redis", server_url]
    one_sentence(mien(*words), *parts)


def test_a_depth_beyond_the_registrys_is_refused(server_url: str) -> None:
    done = mien("push", SAMPLE, "--feed", "a", "--depth", "200000", "--redis", server_url)
    assert done.returncode == 2
    assert "--depth" in done.stderr
    assert "Traceback" not in done.stderr


def test_names_are_shown_as_they_are(server: Server, server_url: str, tmp_path: Path) -> None:
    """What looks like Rich's markup or an emoji's code, and what is no text at all."""
    file = bytes(tmp_path) + b"/\xff[red] :smile:.mp4"
    shutil.copy(SAMPLE, file)
    pushed = mien("push", file, "--feed", "a", "--redis", server_url, "--depth", "1000")
    assert pushed.returncode == 0, pushed.stderr
    assert registered(server)[0]["a"].source == "\\udcff[red] :smile:.mp4"
    absent = mien("push", file + b"4", "--feed", "a", "--redis", server_url)
    one_sentence(absent, "[red] :smile:.mp44")

    server.command("HSET", FEEDS, "[/x]", "{}", "b", '{"policy": "[/y]"}')
    listed = mien("feeds", "--redis", server_url)
    assert listed.returncode == 0, listed.stderr
    assert "'[/x]'" in listed.stderr
    assert "[/y]" in listed.stderr


def test_watch_tells_that_it_waits_for_a_feed(server: Server, server_url: str, feed: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "worker.app", "watch", feed, "--json", "--redis", server_url],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as watch:  # fmt: skip
        assert watch.stdout is not None
        assert watch.stderr is not None
        assert f"no feed {feed} is registered" in watch.stderr.readline()
        push_frames(server, feed, 1)
        with running_worker(server_url):
            assert json.loads(watch.stdout.readline())["feed"] == feed
        watch.terminate()
        assert watch.stderr.read() == ""


def test_feeds_says_when_somebody_has_spoilt_the_books(
    server: Server, server_url: str, feed: str
) -> None:
    push_frames(server, feed, 3)
    assert mien("feeds", "--redis", server_url).stderr == ""
    server.command("XTRIM", f"mien:{{{feed}}}:frames", "MAXLEN", 1)
    assert "do not balance" in mien("feeds", "--redis", server_url).stderr


def test_a_truncated_file_is_pushed_as_far_as_it_goes(
    server: Server, server_url: str, tmp_path: Path
) -> None:
    whole, short = tmp_path / "whole.mkv", tmp_path / "short.mkv"
    with av.open(SAMPLE) as source, av.open(str(whole), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    content = whole.read_bytes()
    short.write_bytes(content[: len(content) * 2 // 3])
    done = mien("push", str(short), "--feed", "short", "--redis", server_url, "--depth", "1000")
    one_sentence(done, "short.mkv", "broke off at")
    offered = read_books(server, "short").offered
    assert 150 < offered < 300
    assert f"{offered} frames accepted" in done.stderr


def test_watch_ends_quietly_when_its_reader_does(
    server: Server, server_url: str, feed: str
) -> None:
    push_frames(server, feed, 50)
    with running_worker(server_url):
        wait_until(lambda: read_books(server, feed).in_flight == 0)
    with subprocess.Popen(
        [
            sys.executable, "-m", "worker.app", "watch", "--json", "--since", "start",
            "--redis", server_url,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as watch:  # fmt: skip
        assert watch.stdout is not None
        assert watch.stderr is not None
        assert json.loads(watch.stdout.readline())["feed"] == feed
        watch.stdout.close()
        push_frames(server, feed, 50)
        with running_worker(server_url):
            assert watch.wait(timeout=30) == 1, "Click's status for a closed pipe"
        assert watch.stderr.read() == ""


def test_the_online_half_runs_without_the_offline_half() -> None:
    """No import of the worker reaches torch, torchvision, facenet-pytorch or training."""
    done = subprocess.run(
        [
            sys.executable, "-c",
            "import sys\n"
            "for name in ('torch', 'torchvision', 'facenet_pytorch', 'lightning', 'onnx'):\n"
            "    sys.modules[name] = None\n"
            "import worker.app, worker.pipeline, worker.demo, mien\n"
            "from worker.detect.mtcnn import load_detector\n"
            "load_detector(min_face=40, provider='cpu')\n",
        ],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
