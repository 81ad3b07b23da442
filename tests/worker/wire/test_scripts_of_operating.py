"""The scripts that keep, trim, redrive and remove, against a real server."""

from __future__ import annotations

import pytest

from tests.feeds import wait_until
from tests.worker.wire.conftest import TOKEN, Feed
from worker.errors import ServerFull
from worker.wire import frame_pb2
from worker.wire.books import read_books
from worker.wire.keys import FEEDS, GROUP
from worker.wire.server import Server, text


def test_a_dead_letter_keeps_the_frame_only_where_it_is_to(own: Feed) -> None:
    own.done(1, "dead")
    own.done(1, "dead", pixels=True)
    own.push(5, session="t")
    ids = own.read()
    assert ids is not None
    own.server.command("XDEL", own.keys.frames, ids[0])
    assert own.settle(ids[0], "dead", pixels=True) == "settled", "there is no body to keep"
    kept = [fields.get(b"frame") for fields in own.entries("dead").values()]
    assert kept == [None, b"frame 0", None]
    assert own.settle(ids[0], "dead", pixels=True) == "already"
    assert len(own.entries("dead")) == 3
    assert own.balanced()


def test_an_event_that_is_refused_is_kept_as_a_dead_letter_is(own: Feed) -> None:
    own.server.command("XADD", own.keys.events, "99999999999999-0", "event", b"", "n", 1)
    own.push(0)
    ids = own.read()
    assert ids is not None
    assert own.settle(ids[0], pixels=True) == "settled"
    (letter,) = own.entries("dead").values()
    assert (letter[b"reason"], letter[b"frame"]) == (b"event-refused", b"frame 0")


def test_streams_are_trimmed_by_length_and_by_age(own: Feed) -> None:
    first = own.done(3)
    wait_until(lambda: own.server.now_us() // 1000 > int(first[-1].partition("-")[0]) + 50)
    assert len(own.done(1, events_age_ms=50)) == 1, "the three before are older than that"
    assert len(own.done(300, events_kept=10)) < 200, "whole blocks of about a hundred go"
    letters = own.done(2, "dead")
    wait_until(lambda: own.server.now_us() // 1000 > int(letters[-1].partition("-")[0]) + 50)
    assert len(own.done(1, "dead", dead_age_ms=50)) == 1
    assert len(own.done(300, "dead", dead_kept=10)) < 200
    assert own.balanced(), "trimming is not in the books"


def test_a_quiet_feed_is_trimmed_by_age(own: Feed) -> None:
    ids = own.done(3)
    own.done(2, "dead")
    keys = [own.keys.events, own.keys.dead]
    assert own.server.run("trim", keys, [0, 0]) == 0
    assert own.server.run("trim", keys, [3_600_000, 3_600_000]) == 0
    wait_until(lambda: own.server.now_us() // 1000 > int(ids[-1].partition("-")[0]) + 50)
    assert own.server.run("trim", keys, [1, 0]) == 3
    assert own.server.run("trim", keys, [1, 0]) == 0
    assert own.server.run("tail", [own.keys.events, own.keys.stats], []) == [ids[-1].encode(), 3]
    wait_until(lambda: own.server.run("trim", keys, [1, 1]) == 2)
    assert own.balanced()


def test_redriving_is_one_step_and_happens_once(own: Feed) -> None:
    def redrive(letter: str, depth: int = 4) -> list[str]:
        keys = [own.keys.dead, own.keys.frames]
        return [text(part) for part in own.server.run("redrive", keys, [GROUP, letter, depth])]

    bare, kept = own.done(1, "dead")[0], own.done(1, "dead", pixels=True)[1]
    assert redrive("5-5") == ["gone", ""]
    assert redrive(bare) == ["no-frame", ""]
    for sequence in range(4):
        own.push(sequence, session="t")
    assert redrive(kept) == ["full", ""]
    assert len(own.entries("dead")) == 2
    assert own.read() is not None  # in hand: they do not count
    status, frame_id = redrive(kept)
    assert status == "redriven"
    assert redrive(kept) == ["gone", ""]
    assert set(own.entries("dead")) == {bare.encode()}
    (fields,) = (f for i, f in own.entries("frames").items() if text(i) == frame_id)
    note = frame_pb2.Frame.FromString(fields[b"frame"].removeprefix(b"frame 0"))
    assert int(note.redriven_from.partition("-")[0]) <= int(frame_id.partition("-")[0])
    books = read_books(own.server, own.name)
    assert (books.offered, books.dead, books.in_flight) == (7, 2, 5)
    assert books.balanced
    own.server.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(ServerFull):
            redrive(bare)
    finally:
        own.server.command("CONFIG", "SET", "maxmemory", 0)


def remove(own: Feed, mode: str = "remove", quiet_ms: int = 0) -> tuple[str, list[int], str]:
    keys = own.keys
    every = [keys.lease, keys.frames, keys.events, keys.dead, keys.stats, keys.state]
    status, *figures, owner = own.server.run("remove", every, [GROUP, mode, quiet_ms])
    return text(status), figures, text(owner)


def test_a_feed_in_use_is_not_removed(own: Feed) -> None:
    own.done(2)
    own.done(1, "dead")
    for sequence in range(3):
        own.push(sequence, session="t")
    own.read(count=1)
    there = [5, 2, 1, 2, 1]  # no state was saved
    assert remove(own) == ("in-flight", there, TOKEN)
    for frame_id in own.read(after="0") or []:
        own.settle(frame_id, "skipped")
    for frame_id in own.read() or []:
        own.settle(frame_id, "skipped")
    assert remove(own, quiet_ms=600_000)[0] == "writer"
    assert remove(own)[0] == "owned"
    assert own.balanced()
    own.own(verb="release")
    assert remove(own, "look")[0] == "free"
    assert own.balanced()
    assert remove(own) == ("removed", [4, 0, 0, 2, 1], "")
    assert remove(own) == ("removed", [0] * 5, "")
    assert not own.server.command("KEYS", "mien:*")


def test_a_feed_is_removed_by_force_whoever_works_on_it(own: Feed) -> None:
    for sequence in range(3):
        own.push(sequence)
    ids = own.read(count=1)
    assert ids is not None
    assert remove(own, "force", 600_000) == ("removed", [3, 2, 1, 0, 0], TOKEN)
    assert own.settle(ids[0]) == "lost"
    assert own.read() is None
    assert not own.server.command("KEYS", "mien:*")
    assert own.balanced()


def test_spoilt_keys_can_be_removed(own: Feed) -> None:
    for key in (own.keys.lease, own.keys.frames, own.keys.events, own.keys.dead):
        own.server.command("DEL", key)
        own.server.command("LPUSH", key, "x")
    assert remove(own) == ("removed", [4, 0, 0, 0, 0], "")


def test_a_registry_entry_is_replaced_only_as_it_was_seen(server: Server) -> None:
    def replace(before: str, after: str) -> int:
        reply: int = server.run("register", [FEEDS], ["f", before, after])
        return reply

    assert replace("", "a") == 1
    assert replace("", "b") == 0
    assert replace("a", "b") == 1
    assert replace("a", "") == 0
    assert replace("b", "") == 1
    assert not server.command("EXISTS", FEEDS)


def test_letters_come_without_their_pixels(own: Feed) -> None:
    ids = own.done(2, "dead", pixels=True)
    both = own.server.run("letters", [own.keys.dead], ["-", "+", 10])
    assert [text(entry[0]) for entry in both] == ids
    assert all(entry[1] == len(b"frame 0") and b"frame" not in entry[2] for entry in both)
    one = own.server.run("letters", [own.keys.dead], ["(" + ids[0], "+", 10])
    assert [text(entry[0]) for entry in one] == ids[1:]
    assert own.server.run("letters", [own.keys.dead], ["-", "+", 1])[0][0] == ids[0].encode()
