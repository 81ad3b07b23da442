"""Names, the registry, and what an unreachable or hostile server is called."""

from __future__ import annotations

import pytest

from worker.errors import FeedNameError, ServerError, ServerUnavailable, SettingsError
from worker.wire.keys import FEEDS, FeedKeys, check_feed_name
from worker.wire.registry import register, registered
from worker.wire.server import Server


@pytest.mark.parametrize("name", ["cam-1", "a", "Hall.2_north", "x" * 100])
def test_feed_names_that_may_be(name: str) -> None:
    assert check_feed_name(name) == name
    assert f"{{{name}}}" in FeedKeys.of(name).frames


@pytest.mark.parametrize(
    "name", ["", "a b", "{a}", "a}", "line\nbreak", "a\x00", "-a", "ä", "a/b", "a:b", "x" * 101]
)
def test_feed_names_that_may_not_be(name: str) -> None:
    with pytest.raises(FeedNameError, match="cannot be a feed's name") as error:
        check_feed_name(name)
    assert "\n" not in str(error.value)


def test_registering_again_changes_only_what_is_given(server: Server, feed: str) -> None:
    first = register(server, feed, policy="lossless", source="clip.mp4")
    assert first.depth == 64
    again = register(server, feed, depth=10)
    assert (again.policy, again.depth, again.source) == ("lossless", 10, "clip.mp4")
    assert again.first_seen == first.first_seen
    assert register(server, feed, policy="live").depth == 8, "the other policy's default"
    assert registered(server) == ({feed: register(server, feed)}, {})


def test_a_foreign_clients_registry_entries_are_named_and_do_no_harm(server: Server) -> None:
    for name, value in {
        "good": '{"policy": "lossless", "colour_of_the_box": "red"}',
        "not-json": "{",
        "odd": '{"policy": "sometimes"}',
        "bad{name}": "{}",
        b"\xff\x00": "{}",
    }.items():
        server.command("HSET", FEEDS, name, value)
    feeds, complaints = registered(server)
    assert set(feeds) == {"good", "not-json", "odd"}
    assert feeds["good"].policy == "lossless"
    assert feeds["odd"].policy == "live"
    assert len(complaints) == 4
    # What a later version wrote is kept.
    register(server, "good", depth=3)
    assert b"colour_of_the_box" in server.command("HGET", FEEDS, "good")


def test_no_server_there_is_one_sentence_without_the_password() -> None:
    server = Server("redis://operator:secret@127.0.0.1:1/0")
    with pytest.raises(ServerUnavailable, match=r"redis://127\.0\.0\.1:1/0") as error:
        server.now_us()
    assert "secret" not in str(error.value)


def test_what_is_not_a_url_is_named() -> None:
    with pytest.raises(SettingsError, match="127"):
        Server("127.0.0.1:6379")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://:s3cret@db:6379/2", "redis://db:6379/2"),
        ("redis://me:s3@cret@db", "redis://db"),
        ("rediss://me:s3cret@db?ssl_cert_reqs=none", "rediss://db"),
        ("unix://me:s3cret@/run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_a_servers_name_keeps_no_secrets(url: str, name: str) -> None:
    assert Server(url).name == name


@pytest.mark.parametrize(
    "url",
    [
        "default:s3cret@db:6379",
        "redis://:s3#cret@db",
        "redis://me:s3/cret@db",
        "redis://me:12/s3cret@db",
        "redis://:12#s3cret@db",
        "redis://me:12?s3cret@db",
        "redis://me:s3cret@db?foo=1",
        "redis://me:s3cret@db?protocol=3",
        "redis://me:s3cret@db?ssl_cert_reqs=none",
        "rediss://me:s3cret@db?decode_responses=true",
        "http://me:s3cret@db",
        "redis://me:s3cret@[db",
    ],
)
def test_a_url_that_will_not_do_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="URL") as error:
        Server(url)
    for part in ("s3", "cret", "me:", "12"):
        assert part not in str(error.value)


def test_a_wrong_password_is_not_an_outage(server_url: str) -> None:
    server = Server(server_url.replace("://", "://nobody:wrong@"))
    with pytest.raises(ServerError, match="name or password") as error:
        server.now_us()
    assert not isinstance(error.value, ServerUnavailable)
