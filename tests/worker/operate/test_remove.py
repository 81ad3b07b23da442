"""Removing a feed: beside workers that run, in use, by force, and after it was cut short."""

from __future__ import annotations

import pytest

from tests.doubles import running_worker
from tests.feeds import frame_of, push_frames, wait_until
from worker.errors import FeedNameError, MienError, ServerUnavailable
from worker.operate import remove as module
from worker.operate.remove import remove
from worker.wire.books import read_books
from worker.wire.keys import CONSUMER, FEEDS, GROUP, FeedKeys
from worker.wire.registry import change, register, registered, settings_of
from worker.wire.server import Server


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that pushed just now is at work no more."""
    monkeypatch.setattr(module, "_QUIET_MS", 0)


def keys_of(server: Server, feed: str) -> list[bytes]:
    found: list[bytes] = server.command("KEYS", f"mien:{{{feed}}}:*")
    return found


def test_a_running_worker_lets_go_and_nothing_is_left(server: Server, server_url: str) -> None:
    push_frames(server, "gone", 5)
    push_frames(server, "kept", 5)
    with running_worker(server_url, lease_ttl_s=30) as worker:
        wait_until(lambda: read_books(server, "gone").published == 5)
        wait_until(lambda: read_books(server, "kept").published == 5)
        gone = remove(server, "gone")
        assert (gone.events, gone.waiting, gone.in_hand, gone.letters) == (5, 0, 0, 0)
        assert set(registered(server, removing=True)[0]) == {"kept"}
        assert keys_of(server, "gone") == []
        assert {lease.feed for lease in worker.pipeline._leases.held()} == {"kept"}
        push_frames(server, "gone", 3)
        wait_until(lambda: read_books(server, "gone").published == 3)
        assert read_books(server, "gone").balanced
    assert read_books(server, "kept").published == 5


def test_a_feed_in_use_stays_as_it_was(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_frames(server, feed, 2)
    settings = settings_of(server, feed)
    with pytest.raises(MienError, match=f"feed {feed} is in use: 2 of its frames are in flight"):
        remove(server, feed)
    server.command("XTRIM", FeedKeys.of(feed).frames, "MAXLEN", 0)
    monkeypatch.setattr(module, "_QUIET_MS", 3_600_000)
    with pytest.raises(MienError, match="a frame has come within the last"):
        remove(server, feed)
    monkeypatch.setattr(module, "_QUIET_MS", 0)
    monkeypatch.setattr(module, "_LET_GO_S", 0.2)
    server.command("SET", FeedKeys.of(feed).lease, "a stubborn worker")
    with pytest.raises(MienError, match="worker a stubborn worke does not let go"):
        remove(server, feed)
    assert settings_of(server, feed) == settings, "and the workers serve it again"
    assert len(keys_of(server, feed)) == 3


def test_a_frame_that_comes_during_the_removal_is_not_lost(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = push_frames(server, feed, 0)

    def mark(*words: object, **changes: object) -> object:
        done = change(*words, **changes)  # type: ignore[arg-type]
        writer.push(frame_of(writer, 0))
        return done

    monkeypatch.setattr(module, "change", mark)
    with pytest.raises(MienError, match="1 of its frames are in flight"):
        remove(server, feed)
    assert not settings_of(server, feed).removing
    assert read_books(server, feed).in_flight == 1


def test_force_says_what_is_lost(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FORCE_AFTER_S", 0.2)
    monkeypatch.setattr(module, "_QUIET_MS", 3_600_000)
    push_frames(server, feed, 4)
    frames = FeedKeys.of(feed).frames
    server.command("XGROUP", "CREATE", frames, GROUP, "0")
    server.command("XREADGROUP", "GROUP", GROUP, CONSUMER, "COUNT", 1, "STREAMS", frames, ">")
    server.command("SET", FeedKeys.of(feed).lease, "a stubborn worker")
    gone = remove(server, feed, force=True)
    assert (gone.waiting, gone.in_hand, gone.owner) == (3, 1, "a stubborn worker")
    assert keys_of(server, feed) == []
    assert registered(server, removing=True)[0] == {}
    with pytest.raises(MienError, match=f"no feed {feed}"):
        remove(server, feed, force=True)


def test_force_beside_a_worker_that_works(server: Server, server_url: str, feed: str) -> None:
    """Frames vanish from under it: it goes on, and the feed's next life is in order."""
    with running_worker(server_url, lease_ttl_s=30):
        writer = push_frames(server, feed, 30)
        remove(server, feed, force=True)
        assert feed not in registered(server)[0]
        register(server, feed, policy="lossless", depth=1000)
        for sequence in range(30, 40):
            assert writer.push(frame_of(writer, sequence)).status == "accepted"
        wait_until(lambda: read_books(server, feed).published >= 10)
        wait_until(lambda: read_books(server, feed).in_flight == 0)
        assert read_books(server, feed).balanced


@pytest.mark.parametrize("script", ["remove", "register"])
def test_what_was_cut_short_is_finished_by_the_same_command(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """The connection breaks as the keys are to go, or as the entry is."""
    push_frames(server, feed, 0)
    server.command("SET", FeedKeys.of(feed).state, "tracks")
    run = Server.run

    def broken(self: Server, name: str, keys: list[str], arguments: list[object]) -> object:
        last = arguments[-1] == b"" or (name == "remove" and "remove" in arguments)
        if name == script and last:
            raise ServerUnavailable("cut")
        if name == "register" and '"removing":false' in str(arguments[-1]):
            raise ServerUnavailable("still cut")
        return run(self, name, keys, arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Server, "run", broken)
    with pytest.raises(ServerUnavailable):
        remove(server, feed)
    assert registered(server)[0] == {}
    assert registered(server, removing=True)[0][feed].removing
    monkeypatch.setattr(Server, "run", run)
    remove(server, feed)
    assert registered(server, removing=True)[0] == {}
    assert keys_of(server, feed) == []


def test_keys_without_an_entry_can_be_removed(server: Server, feed: str) -> None:
    push_frames(server, feed, 0)
    server.command("SET", FeedKeys.of(feed).state, "tracks")
    server.command("HDEL", FEEDS, feed)
    assert remove(server, feed).keys == 1
    with pytest.raises(MienError, match=f"no feed {feed} is registered"):
        remove(server, feed)
    with pytest.raises(FeedNameError):
        remove(server, "a b")
