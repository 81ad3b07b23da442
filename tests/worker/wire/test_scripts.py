"""The scripts against a real server: what each refuses, twice or too late, and the books."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.feeds import wait_until
from worker.errors import ServerError, ServerFull
from worker.wire import frame_pb2
from worker.wire.books import read_books
from worker.wire.keys import CONSUMER, FEEDS, GROUP, FeedKeys
from worker.wire.server import Server, text

TOKEN = "token-a"


class Feed:
    """The scripts of one feed, called with their raw arguments."""

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name, self.keys = server, name, FeedKeys.of(name)

    def push(
        self, sequence: int, session: str = "s1", policy: str = "lossless", depth: int = 4
    ) -> list[Any]:
        arguments = [GROUP, session, sequence, policy, depth, b"frame %d" % sequence]
        reply = self.server.run("push", [self.keys.frames, self.keys.stats], arguments)
        return [text(reply[0]), text(reply[1]), reply[2]]

    def own(self, token: str = TOKEN, verb: str = "acquire") -> int:
        reply: int = self.server.run("lease", [self.keys.lease], [verb, token, 60_000])
        return reply

    def read(self, after: str = ">", count: int = 10, token: str = TOKEN) -> list[str] | None:
        """Ids read, or None if the lease is not ours."""
        reply = self.server.run(
            "read",
            [self.keys.lease, self.keys.frames, self.keys.stats],
            [token, GROUP, CONSUMER, after, count, "worker-1"],
        )
        return None if reply[0] == b"lost" else [text(entry[0]) for entry in reply[2]]

    def settle(
        self,
        frame_id: str,
        outcome: str = "published",
        token: str = TOKEN,
        state: bytes = b"",
        *,
        events_kept: int = 1000,
        events_age_ms: int = 0,
        dead_kept: int = 1000,
        dead_age_ms: int = 0,
        pixels: bool = False,
    ) -> str:
        keys = self.keys
        kept = [events_kept, "reason", "detail", events_age_ms, dead_kept, dead_age_ms, int(pixels)]
        reply = self.server.run(
            "settle",
            [keys.lease, keys.frames, keys.events, keys.dead, keys.stats, keys.state],
            [token, GROUP, frame_id, outcome, b"", state, *kept],
        )
        return text(reply[0])

    def done(self, count: int, outcome: str = "published", **kept: Any) -> list[str]:
        """Push, read and settle ``count`` frames; their ids."""
        for sequence in range(count):
            assert self.push(sequence, session=f"s{uuid.uuid1().time:020}")[0] == "accepted"
            ids = self.read()
            assert ids is not None
            assert [self.settle(frame_id, outcome, **kept) for frame_id in ids] == ["settled"]
        return [text(entry) for entry in self.entries("dead" if outcome == "dead" else "events")]

    def entries(self, stream: str) -> dict[bytes, dict[bytes, bytes]]:
        return dict(self.server.command("XRANGE", getattr(self.keys, stream), "-", "+"))

    def balanced(self) -> bool:
        return read_books(self.server, self.name).balanced


@pytest.fixture
def own(server: Server, feed: str) -> Feed:
    made = Feed(server, feed)
    assert made.own() == 1
    return made


def test_a_repeated_push_is_accepted_once(own: Feed) -> None:
    assert own.push(0)[0] == "accepted"
    assert own.push(0)[0] == "repeat"
    assert own.push(1)[0] == "accepted"
    assert own.push(0)[0] == "repeat"
    assert read_books(own.server, own.name).offered == 2


def test_a_later_session_takes_the_feed_over_and_the_earlier_one_is_told(own: Feed) -> None:
    own.push(7, session="s1")
    assert own.push(0, session="s2")[0] == "accepted"
    assert own.push(8, session="s1")[0] == "superseded"
    assert read_books(own.server, own.name).offered == 2


def test_lossless_depth_counts_what_nobody_has_read(own: Feed) -> None:
    for sequence in range(4):
        assert own.push(sequence)[0] == "accepted"
    assert own.push(4)[0] == "full"
    ids = own.read(count=3)  # three in hand: they do not count
    for sequence in range(4, 7):
        assert own.push(sequence)[0] == "accepted"
    assert own.push(7)[0] == "full"
    assert ids is not None
    own.settle(ids[0])  # settling what was in hand makes no room: it took none
    assert own.push(7)[0] == "full"
    assert own.balanced()


def test_live_displaces_the_oldest_unread_and_never_one_in_hand(own: Feed) -> None:
    for sequence in range(4):
        own.push(sequence, policy="live")
    in_hand = own.read(count=2)
    for sequence in range(4, 6):
        assert own.push(sequence, policy="live")[2] == 0
    status, newest, displaced = own.push(6, policy="live")
    assert (status, displaced) == ("accepted", 1)
    assert own.read(after="0") == in_hand
    rest = own.read()
    assert rest is not None
    assert rest[-1] == newest
    assert len(rest) == 4
    books = read_books(own.server, own.name)
    assert (books.offered, books.dropped, books.in_hand) == (7, 1, 6)
    assert books.balanced


def test_a_smaller_depth_displaces_as_many_as_it_takes(own: Feed) -> None:
    for sequence in range(8):
        own.push(sequence, policy="live", depth=8)
    assert own.push(8, policy="live", depth=3)[2] == 6
    assert read_books(own.server, own.name).in_flight == 3
    assert own.balanced()


def test_reads_are_fenced_and_a_new_owner_finds_what_was_in_hand(own: Feed) -> None:
    for sequence in range(3):
        own.push(sequence)
    first = own.read(count=2)
    own.server.command("DEL", own.keys.lease)
    assert own.read() is None
    assert own.own("token-b") == 1
    assert own.read() is None, "the old owner wakes up"
    assert own.read(after="0", token="token-b") == first
    assert own.read(token="token-b") is not None


def test_reading_a_feed_without_frames_leaves_no_stream(own: Feed) -> None:
    """Somebody may read who has not heard that the feed was removed."""
    assert own.read(after="0") == []
    assert own.read() == []
    assert not own.server.command("EXISTS", own.keys.frames)
    own.push(0)
    assert len(own.read() or []) == 1


def test_settling_is_fenced_ordered_and_idempotent(own: Feed) -> None:
    for sequence in range(3):
        own.push(sequence)
    ids = own.read()
    assert ids is not None
    assert own.settle(ids[1]) == "order"
    assert own.settle(ids[0], token="stranger") == "lost"
    assert own.settle(ids[0], state=b"tracks") == "settled"
    assert own.settle(ids[0], state=b"old tracks") == "already"
    assert own.settle(ids[1], "dead") == "settled"
    assert own.settle(ids[2], "skipped") == "settled"
    assert own.server.command("GET", own.keys.state) == b"tracks"
    events = own.server.command("XRANGE", own.keys.events, "-", "+")
    assert [(text(entry), fields[b"n"]) for entry, fields in events] == [(ids[0], b"1")]
    books = read_books(own.server, own.name)
    assert (books.published, books.dead, books.skipped, books.in_flight) == (1, 1, 1, 0)
    assert books.balanced


def test_an_unread_frame_cannot_be_settled(own: Feed) -> None:
    frame_id = own.push(0)[1]
    assert own.settle(frame_id) == "already"
    assert read_books(own.server, own.name).published == 0


def test_a_pending_frame_whose_body_is_gone_can_be_counted_as_dropped(own: Feed) -> None:
    own.push(0)
    ids = own.read()
    assert ids is not None
    own.server.command("XDEL", own.keys.frames, ids[0])
    assert own.settle(ids[0], "dropped") == "settled"
    assert own.balanced()


def test_an_event_that_the_stream_refuses_becomes_a_dead_letter(own: Feed) -> None:
    own.push(0)
    ids = own.read()
    assert ids is not None
    own.server.command("XADD", own.keys.events, "99999999999999-0", "event", b"", "n", 1)
    assert own.settle(ids[0]) == "settled"
    (letter,) = own.server.command("XRANGE", own.keys.dead, "-", "+")
    assert letter[1][b"reason"] == b"event-refused"
    assert own.balanced()


def test_the_lease_has_one_owner(own: Feed) -> None:
    assert own.own("token-b") == 0
    assert own.own(TOKEN, "renew") == 1
    assert own.own("token-b", "renew") == 0
    assert own.own("token-b", "release") == 0
    assert own.own(TOKEN, "release") == 1
    assert own.own("token-b") == 1


def test_scripts_come_back_after_the_server_forgot_them(own: Feed) -> None:
    own.push(0)
    own.server.command("SCRIPT", "FLUSH")
    assert own.push(1)[0] == "accepted"
    own.server.command("SCRIPT", "FLUSH")
    assert len(own.read() or []) == 2


def test_one_refused_call_does_not_hide_the_others(own: Feed) -> None:
    own.push(0)
    own.server.command("SET", "not-a-stream", "x")
    own.server.command("SET", "lease", TOKEN)
    arguments = [TOKEN, GROUP, CONSUMER, ">", 1, "worker-1"]
    bad, good = own.server.run_many(
        "read",
        [
            (["lease", "not-a-stream", "s"], arguments),
            ([own.keys.lease, own.keys.frames, own.keys.stats], arguments),
        ],
    )
    assert isinstance(bad, ServerError)
    assert good[0] == b"ok"


def test_a_full_server_refuses_frames_and_still_drains(own: Feed) -> None:
    for sequence in range(3):
        own.push(sequence)
    own.server.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(ServerFull):
            own.push(3)
        ids = own.read()
        assert ids is not None
        assert [own.settle(frame_id) for frame_id in ids] == ["settled"] * 3
    finally:
        own.server.command("CONFIG", "SET", "maxmemory", 0)
    assert own.push(3)[0] == "accepted"
    assert own.balanced()


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
