"""The registry: what is changed by whom, and what a running writer finds after a flush."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from worker.errors import FeedNameError, MienError, SettingsError
from worker.wire import registry
from worker.wire.keys import FEEDS
from worker.wire.registry import (
    FeedSettings,
    change,
    refresh,
    register,
    registered,
    replace_entry,
    settings_of,
)
from worker.wire.server import Server


def test_only_a_feed_that_is_there_is_changed(server: Server, feed: str) -> None:
    with pytest.raises(MienError, match=f"no feed {feed} is registered"):
        change(server, feed, depth=3)
    before = register(server, feed, policy="live", staleness_s=5)
    after = change(server, feed, depth=3, dead_pixels=True, events_age_s=60)
    assert after == before.model_copy(
        update={"depth": 3, "dead_pixels": True, "events_age_s": 60.0}
    )
    assert settings_of(server, feed) == after
    assert change(server, feed, policy="lossless").depth == 64, "the other policy's default"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", -1), ("staleness_s", 0), ("staleness_s", float("inf")), ("events_age_s", -1),
        ("dead_kept", -5), ("policy", "sometimes"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_named_and_changes_nothing(
    server: Server, feed: str, name: str, value: object
) -> None:
    before = register(server, feed)
    with pytest.raises(SettingsError, match=f"feed {feed}: {name} = "):
        change(server, feed, **{name: value})
    assert settings_of(server, feed) == before
    with pytest.raises(FeedNameError):
        change(server, "a b", depth=1)


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let somebody else ``act`` between the first reading of an entry and its replacement."""
    replace = registry.replace_entry
    acted: list[bool] = []

    def later(*words: object) -> bool:
        if not acted:
            acted.append(True)
            act()
        return replace(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(registry, "replace_entry", later)


def test_two_who_change_a_feed_at_once_lose_neither_change(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(server, feed)
    meanwhile(monkeypatch, lambda: change(server, feed, staleness_s=9))
    change(server, feed, depth=5)
    assert (settings_of(server, feed).depth, settings_of(server, feed).staleness_s) == (5, 9)


def test_a_writer_follows_what_is_set_and_registers_again_after_a_flush(
    server: Server, feed: str
) -> None:
    known = register(server, feed, source="cam")
    change(server, feed, depth=5, dead_pixels=True)
    known = refresh(server, feed, known)
    assert (known.depth, known.dead_pixels, known.source) == (5, True, "cam")
    server.command("FLUSHALL")
    assert refresh(server, feed, known) == known
    assert registered(server) == ({feed: known}, {}), "with all that an operator had set"


def test_a_text_that_can_be_read_but_not_written_is_as_good_as_none(
    server: Server, feed: str
) -> None:
    server.command("HSET", "mien:feeds", feed, '{"source": "door \\ud83d"}')
    settings, complaints = registered(server)
    assert settings[feed].source == ""
    assert "its settings cannot be used" in complaints[feed]
    assert change(server, feed, depth=5).depth == 5


def test_whoever_registers_first_after_a_flush_is_followed(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = register(server, feed, depth=5)
    server.command("FLUSHALL")
    meanwhile(monkeypatch, lambda: register(server, feed, depth=7))
    assert refresh(server, feed, known).depth == 7


def test_a_feed_that_is_being_removed_is_not_served_until_a_writer_comes(
    server: Server, feed: str
) -> None:
    register(server, feed, depth=5)
    marked = change(server, feed, removing=True)
    assert registered(server) == ({}, {})
    assert registered(server, removing=True)[0] == {feed: marked}
    assert refresh(server, feed, marked).removing, "a running writer does not stop a removal"
    assert register(server, feed).depth == 5
    assert feed in registered(server)[0]
    assert not replace_entry(server, feed, marked, None), "it is not what was marked any more"
    server.command("DEL", FEEDS)
    assert not refresh(server, feed, marked).removing


def test_settings_of_earlier_versions_still_serve(server: Server, feed: str) -> None:
    server.command("HSET", FEEDS, feed, '{"policy": "lossless"}')
    assert settings_of(server, feed).model_dump(exclude={"first_seen"}) == FeedSettings(
        policy="lossless"
    ).model_dump(exclude={"first_seen"})
