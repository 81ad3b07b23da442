"""Who lives: each worker's word, for as long as the server's clock lets it stand."""

from __future__ import annotations

from tests.feeds import wait_until
from worker.wire.server import Server
from worker.wire.workers import WORKERS, WorkerEntry, beat, leave, live_workers, owner_of

A = WorkerEntry("a1", host="mill", pid=7, busy=0.5, feeds={"cam": 0.25}, only=("cam", "door"))
B = WorkerEntry("b2")


def test_each_beat_tells_who_lives(server: Server) -> None:
    assert live_workers(server) == {}
    assert beat(server, A, 60) == {"a1": A}
    assert beat(server, B, 60) == {"a1": A, "b2": B}
    assert live_workers(server) == {"a1": A, "b2": B}
    assert A.name == "mill:7"


def test_a_later_word_takes_the_place_of_an_earlier_one(server: Server) -> None:
    beat(server, A, 60)
    later = WorkerEntry("a1", feeds={})
    assert beat(server, later, 60) == {"a1": later}


def test_who_is_silent_is_gone_and_its_entry_too(server: Server) -> None:
    beat(server, A, 0.1)
    wait_until(lambda: live_workers(server) == {})
    assert server.command("HLEN", WORKERS) == 1, "looking changes nothing"
    beat(server, B, 60)
    assert server.command("HKEYS", WORKERS) == [b"b2"]


def test_who_leaves_is_gone_at_once(server: Server) -> None:
    beat(server, A, 60)
    beat(server, B, 60)
    leave(server, "a1")
    assert live_workers(server) == {"b2": B}


def test_foreign_entries_are_no_workers_and_do_no_harm(server: Server) -> None:
    later = b'{"id":"new","feeds":{},"colour":"blue"}'
    server.command("HSET", WORKERS, "x", b"junk", "y", b"99999999999999 {", "z", b"\xff \xff")
    server.command("HSET", WORKERS, "new", b"99999999999999 " + later)
    found = beat(server, A, 60)
    assert set(found) == {"a1", "new"}, "what a later version adds is passed over"


def test_a_token_names_its_worker() -> None:
    assert owner_of("a1.7f00") == "a1"
    assert owner_of("") == ""
