"""``mien push`` as a process: one feed or a file of many, its words and its exit status."""

from __future__ import annotations

import io
import re
import signal
import threading
from pathlib import Path

import pytest
from rich.console import Console

from tests.e2e.processes import SAMPLE, ended, mien, one_sentence, running
from tests.feeds import wait_until
from tests.worker.capture.conftest import draw
from tests.worker.capture.http import HttpCamera, endless, pictures, refusal
from worker.capture.command import run_push
from worker.wire.books import read_books
from worker.wire.server import Server


def write(folder: Path, *feeds: tuple[str, str], more: str = "") -> str:
    path = folder / "feeds.toml"
    tables = [f'[[feed]]\nname = "{name}"\nsource = "{source}"\n{more}\n' for name, source in feeds]
    path.write_text("\n".join(tables))
    return str(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_many_feeds_until_a_signal(
    server: Server, server_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    with HttpCamera(endless(draw(0))) as one, HttpCamera(endless(draw(0))) as two:
        feeds = write(tmp_path, ("one", one.url), ("two", two.url), ("gone", "97"))
        with running("push", "--config", feeds, "--redis", server_url) as push:
            wait_until(lambda: read_books(server, "one").offered > 5)
            wait_until(lambda: read_books(server, "two").offered > 5)
            # The third one may be slower to fail than these to begin.
            assert push.stderr is not None
            told = next(line for line in push.stderr if "gone" in line)
            push.send_signal(number)
            done = ended(push)
    assert (done.returncode, done.stdout) == (0, "")
    for name in ("one", "two"):
        assert f"{name}: {read_books(server, name).offered} frames accepted" in done.stderr
    assert "mien: gone: camera 97 cannot be opened" in told
    assert "secret" not in done.stderr


def test_a_file_that_fails_is_told_and_the_status_says_so(
    server: Server, server_url: str, tmp_path: Path
) -> None:
    feeds = write(tmp_path, ("clip", SAMPLE), ("lost", "absent.mp4"), more="fps = 2\nwidth = 64")
    done = mien("push", "--config", feeds, "--redis", server_url)
    assert done.returncode == 1
    assert "clip: 28 frames accepted" in done.stderr
    assert f"mien: lost: failed: there is no file or folder {tmp_path / 'absent.mp4'}" in (
        done.stderr
    )
    assert done.stderr.endswith("mien: 1 of 2 feeds failed: lost\n")
    assert "Traceback" not in done.stderr


def test_files_that_are_pushed_to_their_ends(
    server: Server, server_url: str, tmp_path: Path
) -> None:
    feeds = write(tmp_path, ("a", SAMPLE), ("b", SAMPLE), more="fps = 2\nwidth = 64")
    done = mien("push", "--config", feeds, "--redis", server_url)
    assert (done.returncode, done.stderr.count("28 frames accepted")) == (0, 2), done.stderr


def test_files_that_are_interrupted(server: Server, server_url: str, tmp_path: Path) -> None:
    feeds = write(tmp_path, ("a", SAMPLE), more="depth = 3")
    with running("push", "--config", feeds, "--redis", server_url) as push:
        wait_until(lambda: read_books(server, "a").offered == 3)
        push.send_signal(signal.SIGTERM)
        assert ended(push).returncode == 130


def test_one_camera_through_an_outage(server: Server, server_url: str, feed: str) -> None:
    with (
        HttpCamera(pictures(*[draw(0)] * 5), refusal, endless(draw(1))) as camera,
        running("push", camera.url, "--feed", feed, "--redis", server_url) as push,
    ):
        wait_until(lambda: read_books(server, feed).offered > 20)
        push.send_signal(signal.SIGTERM)
        done = ended(push)
    said = [line for line in done.stderr.splitlines() if line.startswith("mien: ")]
    assert len(said) == 2
    assert re.fullmatch(rf"mien: {camera.name} broke off at .*cut.*; trying again", said[0])
    assert re.fullmatch(rf"mien: {camera.name} is back after \d+ s", said[1])
    assert done.returncode == 0


def test_one_camera_that_is_given_up(server: Server, server_url: str, feed: str) -> None:
    with HttpCamera(pictures(*[draw(0)] * 5), refusal) as camera:
        done = mien("push", camera.url, "--feed", feed, "--redis", server_url, "--give-up", "0")
    one_sentence(done, camera.name, "the connection was cut")
    assert done.returncode == 1
    assert f"{feed}: 5 frames accepted" in done.stderr


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["SOURCE", "--feed", "--config"]),
        ([SAMPLE], ["SOURCE", "--feed"]),
        (["--config", "feeds.toml", "--feed", "a"], ["--config", "feeds.toml"]),
        (["--config", "feeds.toml", "--fps", "5"], ["--config", "feeds.toml"]),
        (["--config", "nowhere.toml"], ["nowhere.toml", "cannot be read"]),
        ([SAMPLE, "--feed", "a", "--stall", "0"], ["stall_s"]),
        ([SAMPLE, "--feed", "a", "--give-up", "-1"], ["give_up_s"]),
        ([SAMPLE, "--feed", "a", "--staleness", "0"], ["staleness_s"]),
        ([SAMPLE, "--feed", "a", "--decode-threads", "0"], ["decode_threads"]),
    ],
)
def test_mistakes(words: list[str], parts: list[str]) -> None:
    done = mien("push", *words)
    one_sentence(done, *parts)
    assert done.returncode == 2


def test_a_mistake_in_the_file_starts_nothing(
    server: Server, server_url: str, tmp_path: Path
) -> None:
    feeds = write(tmp_path, ("a", SAMPLE), ("a", SAMPLE))
    done = mien("push", "--config", feeds, "--redis", server_url)
    one_sentence(done, feeds, "feed a", "two feeds of this name")
    assert done.returncode == 2
    assert server.command("EXISTS", "mien:feeds") == 0


def test_help_has_an_example_of_both() -> None:
    done = mien("push", "--help")
    assert done.returncode == 0
    assert "mien push holiday.mp4 --feed holiday" in done.stdout
    assert "mien push --config feeds.toml" in done.stdout


def test_a_signal_does_not_wait_for_a_silent_camera(
    server: Server, server_url: str, tmp_path: Path
) -> None:
    with HttpCamera(pictures(*[draw(0)] * 3, then_silent=True)) as camera:
        feeds = write(tmp_path, ("quiet", camera.url), more="stall_s = 600")
        with running("push", "--config", feeds, "--redis", server_url) as push:
            wait_until(lambda: read_books(server, "quiet").offered == 3)
            push.send_signal(signal.SIGTERM)
            assert ended(push).returncode == 0


def test_a_terminal_shows_a_table(server: Server, server_url: str, tmp_path: Path) -> None:
    shown = io.StringIO()
    screen = Console(file=shown, force_terminal=True, width=160)
    feeds = write(tmp_path, ("clip", SAMPLE), ("other", SAMPLE), more="fps = 2\nwidth = 64")
    run_push(
        None, None, Path(feeds), {}, redis=server_url, stop=threading.Event(), screen=screen,
        say=lambda message: None,
    )  # fmt: skip
    last = shown.getvalue().rpartition("pictures/s")[2]
    assert re.search(r"clip +ended +28 +0 +0 +0 +0\.0", last)
    assert re.search(r"other +ended +28", last)


def test_without_a_terminal_there_are_lines(
    server: Server, server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.capture.command._LINES_EVERY_S", 0.3)
    shown, stop = io.StringIO(), threading.Event()
    threading.Timer(3, stop.set).start()
    with HttpCamera(endless(draw(0))) as camera:
        feeds = write(tmp_path, ("cam", camera.url))
        run_push(
            None, None, Path(feeds), {}, redis=server_url, stop=stop,
            screen=Console(file=shown, width=160), say=lambda message: None,
        )  # fmt: skip
    lines = [line for line in shown.getvalue().splitlines() if "pushing" in line]
    assert re.search(r"^cam: \d+ frames accepted, to .*, pushing, [\d.]+ pictures/s$", lines[-1])
