"""Users and passwords: what a user needs to be allowed, and one sentence for what is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.delivery.machines import DEBIAN, EMBEDDED, Machine, Workshop
from tests.doubles import running_worker
from tests.feeds import frame_of, push_frames, wait_until
from worker.capture.writer import Writer
from worker.errors import MienError, ServerError, ServerUnavailable
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.registry import register
from worker.wire.server import Server

RULES = (
    "~mien:* +@read +@write +@scripting +@connection +time +wait -@dangerous -script +script|load"
)
"""What is enough for writers, workers and subscribers alike."""


@pytest.fixture(scope="module", params=["valkey", "redis"])
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    binary = EMBEDDED if request.param == "valkey" else DEBIAN
    if binary is None:
        pytest.skip("needs Debian's redis-server")
    with Workshop(tmp_path_factory.mktemp("acl")) as workshop:
        yield workshop.machine(
            f"user mien on >s3cret {RULES}",
            "user reader on >s3cret ~mien:* +@read +@connection +time",
            "user elsewhere on >s3cret ~other:* +@all",
            binary=binary,
            secret="of-the-operator",
        )


def url(machine: Machine, user: str) -> str:
    return machine.url.replace("redis://", f"redis://{user}@")


def test_a_user_with_no_more_than_needed_does_the_main_job(guarded: Machine, feed: str) -> None:
    ours = url(guarded, "mien:s3cret")
    server = Server(ours)
    push_frames(server, feed, 20)
    with running_worker(ours):
        wait_until(lambda: read_books(server, feed).published == 20)
    found = events(feed, redis=ours, since="start", follow=False)
    assert [event.sequence for event in found] == list(range(20))


def refusal(server: Server, *words: str) -> str:
    with pytest.raises(ServerError) as error:
        server.command(*words)
    assert not isinstance(error.value, ServerUnavailable)
    said = str(error.value)
    assert "s3cret" not in said
    assert "\n" not in said
    assert server.name in said
    return said


@pytest.mark.parametrize(
    ("user", "meant"),
    [
        ("mien:wrong", "refused our name or password"),
        (":wrong", "refused our name or password"),
        ("nobody:s3cret", "refused our name or password"),
    ],
)
def test_a_wrong_name_or_password(guarded: Machine, user: str, meant: str) -> None:
    assert meant in refusal(Server(url(guarded, user)), "TIME")


def test_no_password_where_one_is_wanted(guarded: Machine) -> None:
    assert "wants a user's name and password" in refusal(Server(guarded.url), "TIME")


def test_what_the_user_may_not_do_is_named(guarded: Machine, feed: str) -> None:
    said = refusal(Server(url(guarded, "reader:s3cret")), "HSET", "mien:feeds", feed, "{}")
    assert "does not permit this" in said
    assert "hset" in said.lower()
    with pytest.raises(MienError, match="our user may not do that"):
        push_frames(Server(url(guarded, "reader:s3cret")), feed, 1)


def test_a_writer_that_may_not_register_outlasts_a_lost_registry(
    guarded: Machine, feed: str
) -> None:
    operator = Server(url(guarded, ":of-the-operator"))
    rights = "-@all +@connection +time ~mien:{*}:* %R~mien:feeds +@read +@write +@scripting"
    operator.command("ACL", "SETUSER", "camera", "on", ">s3cret", *rights.split())
    register(operator, feed)
    said: list[str] = []
    server = Server(url(guarded, "camera:s3cret"))
    writer = Writer(server, feed, stop=threading.Event(), say=said.append)
    pushed = [writer.push(frame_of(writer, 0))]
    operator.command("HDEL", "mien:feeds", feed)
    for sequence in (1, 2):
        time.sleep(1.1)  # it looks once a second
        pushed.append(writer.push(frame_of(writer, sequence)))
    assert [one.status for one in pushed] == ["accepted"] * 3
    assert [f"no feed {feed} is registered any more" in line for line in said] == [True]


def test_keys_that_the_user_may_not_touch(guarded: Machine, feed: str) -> None:
    server = Server(url(guarded, "elsewhere:s3cret"))
    assert "does not permit this" in refusal(server, "HGETALL", "mien:feeds")
    with pytest.raises(ServerError, match="does not permit this"):
        read_books(server, feed)


def test_a_password_that_is_changed_while_we_work_is_no_outage(guarded: Machine) -> None:
    operator = Server(url(guarded, ":of-the-operator"))
    operator.command("ACL", "SETUSER", "brief", "on", ">s3cret", "~mien:*", "+@all")
    server = Server(url(guarded, "brief:s3cret"))
    assert server.now_us() > 0
    operator.command("ACL", "DELUSER", "brief")  # its connections are cut
    with pytest.raises(ServerError, match=r"refused our name or password|no answer"):
        server.now_us()
    assert "refused our name or password" in refusal(server, "TIME")
