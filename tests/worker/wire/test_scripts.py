"""The scripts against a real server: what each refuses, twice or too late, and the books."""

from __future__ import annotations

import pytest

from tests.worker.wire.conftest import TOKEN, Feed
from worker.errors import ServerError, ServerFull
from worker.wire.books import read_books
from worker.wire.keys import CONSUMER, GROUP
from worker.wire.server import text


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
