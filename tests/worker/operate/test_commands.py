"""mien feeds and mien dead as a person meets them, in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.doubles import running_worker
from tests.feeds import frame_of, jpeg, push_frames, wait_until
from worker.app import app
from worker.errors import FeedNameError, MienError, SettingsError
from worker.operate import feeds_command, remove
from worker.wire.books import read_books
from worker.wire.keys import FeedKeys
from worker.wire.registry import registered, settings_of
from worker.wire.server import Server


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, server_url: str) -> None:
    monkeypatch.setenv("MIEN_REDIS", server_url)
    monkeypatch.setattr(feeds_command, "RATE_OVER_S", 0.05)
    monkeypatch.setattr(remove, "_QUIET_MS", 0)


def run(*words: str, fails: type[MienError] | None = None) -> Result:
    result = CliRunner().invoke(app, words)
    if fails:
        assert isinstance(result.exception, fails), result.output
        assert "\n" not in str(result.exception)
    else:
        assert result.exit_code == 0, result.output or result.exception
    return result


@pytest.fixture
def letters(server: Server, server_url: str, feed: str) -> Iterator[list[str]]:
    """Ids of three dead letters of a feed that keeps pixels; no worker runs any more."""
    writer = push_frames(server, feed, 2)
    run("feeds", "set", feed, "--dead-pixels", "on")
    for sequence in range(2, 5):
        writer.push(frame_of(writer, sequence, jpeg()[:200]))
    with running_worker(server_url):
        wait_until(lambda: read_books(server, feed).dead == 3)
    yield [
        letter.decode() for letter, _ in server.command("XRANGE", FeedKeys.of(feed).dead, "-", "+")
    ]
    assert read_books(server, feed).balanced


def test_the_books_of_all_feeds(server: Server, feed: str) -> None:
    assert run("feeds").output == "no feeds yet\n"
    push_frames(server, feed, 3, policy="lossless")
    heading, row = run("feeds").stdout.splitlines()
    assert heading.split()[:7] == [
        "feed",
        "policy",
        "offered",
        "published",
        "dropped",
        "skipped",
        "dead",
    ]
    assert row.split()[:8] == [feed, "lossless", "3", "0", "0", "0", "0", "3"]
    assert row.split()[-3:] == ["0.0", "0.0", "none"]
    (line,) = run("feeds", "--json").stdout.splitlines()
    assert json.loads(line)["feeds"][feed]["offered"] == 3
    server.command("XTRIM", FeedKeys.of(feed).frames, "MAXLEN", 1)
    assert "do not balance" in run("feeds").stderr


def test_watching_goes_on_until_it_is_stopped(
    server: Server, feed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_frames(server, feed, 3)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(feeds_command.time, "sleep", nap)
    looks = [json.loads(line) for line in run("feeds", "--watch", "--json").stdout.splitlines()]
    assert [look["feeds"][feed]["offered"] for look in looks] == [3, 3, 3]


def test_settings_are_changed_and_shown(server: Server, feed: str) -> None:
    push_frames(server, feed, 0)
    said = run(
        "feeds", "set", feed, "--policy", "live", "--depth", "5", "--staleness", "1m",
        "--events-kept", "50", "--events-age", "7d", "--dead-kept", "9", "--dead-age", "12h",
        "--dead-pixels", "on",
    ).stdout  # fmt: skip
    assert said == (
        f"{feed}: live, depth 5, staleness 60 s; events kept: about 50, for 604800 s; "
        "dead letters kept: about 9, for 43200 s, with pixels\n"
    )
    settings = settings_of(server, feed)
    assert (settings.policy, settings.depth, settings.staleness_s) == ("live", 5, 60)
    assert (settings.events_kept, settings.events_age_s) == (50, 604_800)
    assert (settings.dead_kept, settings.dead_age_s, settings.dead_pixels) == (9, 43_200, True)
    run("feeds", "set", feed, "--dead-pixels", "off", "--events-age", "0", "--events-kept", "0")
    settings = settings_of(server, feed)
    assert (settings.events_kept, settings.events_age_s, settings.dead_pixels) == (0, 0, False)
    assert settings.depth == 5


@pytest.mark.parametrize(
    ("words", "error", "part"),
    [
        (["feeds", "set", "nosuch", "--depth", "4"], MienError, "no feed nosuch is registered"),
        (["feeds", "set", "cam"], SettingsError, "what to change of feed cam"),
        (["feeds", "set", "a b", "--depth", "4"], FeedNameError, "'a b'"),
        (["feeds", "set", "cam", "--staleness", "soon"], SettingsError, "--staleness 'soon'"),
        (["feeds", "set", "cam", "--staleness", "0"], SettingsError, "staleness_s = '0.0'"),
        (["feeds", "--json", "set", "cam", "--depth", "4"], SettingsError, "--json"),
        (["feeds", "rm", "nosuch"], MienError, "no feed nosuch"),
        (["dead", "list", "nosuch"], MienError, "no feed nosuch"),
        (["dead", "show", "cam", "7-7"], MienError, "no dead letter 7-7"),
        (["dead", "show", "cam", "seven"], SettingsError, "'seven'"),
        (["dead", "redrive", "cam"], SettingsError, "ids or --all"),
        (["dead", "redrive", "cam", "1-1", "--all"], SettingsError, "ids or --all"),
        (["dead", "redrive", "cam", "7-7"], MienError, "no dead letter 7-7"),
        (["dead", "redrive", "nosuch", "--all"], MienError, "no feed nosuch"),
        (["dead", "purge", "cam"], SettingsError, "--older-than"),
        (["dead", "purge", "cam", "--all", "--older-than", "1d"], SettingsError, "not several"),
        (["dead", "purge", "cam", "7-7"], MienError, "0 of 1 purged"),
    ],
)
def test_mistakes(server: Server, words: list[str], error: type[MienError], part: str) -> None:
    push_frames(server, "cam", 0)
    assert part in str(run(*words, fails=error).exception)


def test_the_servers_address_may_stand_before_the_sub_command(
    server: Server, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not hidden by the one of the environment."""
    push_frames(server, "cam", 0)
    monkeypatch.setenv("MIEN_REDIS", "redis://127.0.0.1:1")
    run("feeds", "--redis", server_url, "set", "cam", "--depth", "3")
    run("feeds", "--redis", server_url, "rm", "cam")
    assert registered(server)[0] == {}
    run("dead", "list", "--redis", server_url)


def test_removing(server: Server, feed: str) -> None:
    push_frames(server, feed, 3)
    assert "3 of its frames" in str(run("feeds", "rm", feed, fails=MienError).exception)
    said = run("feeds", "rm", feed, "--force").stdout
    assert said == (
        f"{feed} removed, with 0 events and 0 dead letters; "
        "lost: 3 frames that waited and 0 in hand\n"
    )
    assert "no feeds yet" in run("feeds").stdout


def test_listing_and_showing_dead_letters(
    server: Server, feed: str, letters: list[str], tmp_path: Path
) -> None:
    rows = [line.split() for line in run("dead", "list").stdout.splitlines()]
    assert [row[:2] for row in rows[1:]] == [[feed, letter] for letter in letters]
    assert all("corrupt" in row for row in rows[1:])
    listed = [json.loads(line) for line in run("dead", "list", feed, "--json").stdout.splitlines()]
    assert [letter["id"] for letter in listed] == letters
    shown = run("dead", "show", feed, letters[0], "--save", str(tmp_path / "bad.jpg"))
    assert json.loads(shown.stdout) == listed[0]
    assert listed[0]["frame"]["sequence"] == "2"
    assert (tmp_path / "bad.jpg").read_bytes() == jpeg()[:200]
    failed = run("dead", "show", feed, letters[0], "--save", str(tmp_path), fails=SettingsError)
    assert str(tmp_path) in str(failed.exception)


def test_redriving(server: Server, feed: str, letters: list[str]) -> None:
    done = run("dead", "redrive", feed, letters[1])
    assert done.stdout.split()[0] == letters[1]
    assert "1 redriven" in done.stderr
    failed = run("dead", "redrive", feed, letters[0], letters[1], fails=MienError)
    assert f"no dead letter {letters[1]}" in str(failed.exception)
    assert "1 redriven" in failed.stderr
    server.command("XADD", FeedKeys.of(feed).dead, "*", "reason", "poison")
    assert "1 redriven, 1 without pixels" in run("dead", "redrive", feed, "--all").stderr
    assert "0 redriven, 1 without pixels" in run("dead", "redrive", feed, "--all").stderr
    assert read_books(server, feed).in_flight == 3


def test_purging(server: Server, feed: str, letters: list[str]) -> None:
    assert run("dead", "purge", feed, letters[0]).stdout == f"{feed}: 1 dead letters purged\n"
    assert "0 dead letters" in run("dead", "purge", feed, "--older-than", "1h").stdout
    assert "2 dead letters" in run("dead", "purge", feed, "--all").stdout
    assert run("dead", "list").stdout == "no dead letters\n"


@pytest.mark.parametrize(
    "words", [["feeds"], ["feeds", "set"], ["feeds", "rm"], ["dead"], ["dead", "list"],
              ["dead", "show"], ["dead", "redrive"], ["dead", "purge"]],
)  # fmt: skip
def test_help_has_an_example(words: list[str]) -> None:
    assert f"Example: mien {' '.join(words)}" in run(*words, "--help").output
