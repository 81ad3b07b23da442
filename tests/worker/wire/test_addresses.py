"""The forms of a server's URL, and what is wrong with those that have none of them."""

from __future__ import annotations

import pytest
from redis import exceptions
from redis.connection import SSLConnection

from worker.errors import NotPermitted, ServerError, ServerFull, ServerUnavailable, SettingsError
from worker.wire.addresses import parse_address
from worker.wire.refusals import in_our_words
from worker.wire.server import Server


def test_one_server() -> None:
    address = parse_address("redis://me:s3%40cret@db:6380/2")
    assert (address.kind, address.hosts, address.name) == ("one", (), "redis://db:6380/2")
    assert address.options == {
        "host": "db", "port": 6380, "db": 2, "username": "me", "password": "s3@cret",
    }  # fmt: skip


def test_a_socket_on_this_machine() -> None:
    assert parse_address("unix:///run/redis.sock").options["path"] == "/run/redis.sock"


def test_sentinels() -> None:
    address = parse_address(
        "rediss+sentinel://me:s3cret@one,two:7000,[::1]:7001/the-primary/3"
        "?sentinel_password=p%26w&ssl_cert_reqs=none"
    )
    assert address.kind == "sentinel"
    assert address.name == "rediss+sentinel://one,two:7000,[::1]:7001/the-primary/3"
    assert address.hosts == (("one", 26379), ("two", 7000), ("::1", 7001))
    assert address.service == "the-primary"
    assert address.sentinel_options == {"password": "p&w"}
    assert (address.options["username"], address.options["password"]) == ("me", "s3cret")
    assert address.options["db"] == 3
    assert address.options["ssl_cert_reqs"] == "none"
    assert address.options["connection_class"] is SSLConnection
    assert "sentinel_password" not in address.options


def test_a_cluster() -> None:
    address = parse_address("redis+cluster://:s3cret@one:7000,two")
    assert (address.kind, address.hosts) == ("cluster", (("one", 7000), ("two", 6379)))
    assert address.options["password"] == "s3cret"
    assert "connection_class" not in address.options


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://me:s3cret@one:26379", "no service"),
        ("redis+sentinel://me:s3cret@one/svc/x", "means nothing"),
        ("redis+cluster://me:s3cret@one/2", "means nothing"),
        ("redis+cluster://me:s3cret@one:70x0,two", "not valid"),
        ("redis+cluster://me:s3cret\uff1a@one,two", "not valid"),
        ("redis://me:s3cret,\uff1a@one", "not valid"),
        ("redis+cluster://", "no host"),
        ("redis://", "no host"),
        ("redis://me:s3cret@.example", "empty or too long"),
        ("redis+cluster://me:s3cret@one,a..b:6379", "empty or too long"),
        ("redis+mirror://me:s3cret@one", "begins with"),
        ("unix+cluster://me:s3cret@one", "begins with"),
        ("redis+cluster://me:s3cret@one?sentinel_password=x", "no options"),
        ("rediss://me:s3cret@one?ssl_cert_reqs=sometimes", "ssl_cert_reqs"),
    ],
)
def test_what_is_none_is_told_without_its_password(url: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why) as error:
        Server(url)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), ServerUnavailable),
        (exceptions.MasterDownError("Link with MASTER is down"), ServerUnavailable),
        (exceptions.ClusterDownError("Hash slot not served"), ServerUnavailable),
        (exceptions.TryAgainError("Multiple keys request"), ServerUnavailable),
        (exceptions.ReadOnlyError("You can't write"), ServerUnavailable),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas"), ServerUnavailable),
        (exceptions.ResponseError("MISCONF Errors writing to the AOF file"), ServerUnavailable),
        (exceptions.ResponseError("UNBLOCKED force unblock"), ServerUnavailable),
        (exceptions.SlotNotCoveredError("Slot 7 not covered"), ServerUnavailable),
        (exceptions.OutOfMemoryError("command not allowed"), ServerFull),
        (exceptions.AuthenticationError("WRONGPASS"), ServerError),
        (exceptions.NoPermissionError("no permissions"), NotPermitted),
        (exceptions.NoScriptError("No matching script"), ServerUnavailable),
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), ServerError),
        (exceptions.MovedError("7 one:7000"), ServerError),
    ],
)
def test_what_passes_by_itself_and_what_does_not(error: Exception, kind: type[Exception]) -> None:
    ours = in_our_words(error, "redis://db")
    assert type(ours) is kind
    assert "redis://db" in str(ours)


def test_what_lies_behind_an_error_counts() -> None:
    """redis-py says that no node can be reached; the reason is the password."""
    wrapped = exceptions.RedisClusterException("Redis Cluster cannot be connected")
    wrapped.__cause__ = exceptions.AuthenticationError("invalid username-password pair")
    assert "name or password" in str(in_our_words(wrapped, "redis+cluster://db"))


def test_a_cluster_that_sends_us_round_in_circles_is_waited_for() -> None:
    error = exceptions.MovedError("7 one:7000")
    assert isinstance(in_our_words(error, "redis+cluster://db"), ServerUnavailable)
