"""Dead letters: look at them, offer their frames again, throw them away."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from google.protobuf.message import DecodeError

from worker.errors import MienError, SettingsError
from worker.wire import frame_pb2
from worker.wire.codec import time_of_id
from worker.wire.keys import GROUP, FeedKeys, check_feed_name
from worker.wire.registry import settings_of
from worker.wire.server import Server, fields_of, text

_ID = re.compile(r"\d{1,19}-\d{1,19}")
_AT_ONCE = 100
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.01, 0.1
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter."""

    feed: str
    letter_id: str
    """Its id among the feed's dead letters."""
    died_at: datetime
    """The server's clock (UTC)."""
    frame_id: str
    """The id that its frame had."""
    reason: str
    error: str
    deliveries: int
    """How often the frame had been given to a worker."""
    header: frame_pb2.Frame | None
    """The frame without its pixels; None if the entry was no mien.v1.Frame."""
    kept: int
    """Bytes of the frame that were kept with it; -1 if the pixels were not kept."""


def letters(server: Server, feed: str) -> Iterator[Letter]:
    """The dead letters of ``feed``, the oldest first, without their pixels.

    Raises:
        FeedNameError: the name breaks the contract's rule.
    """
    key, after = _dead(feed), "-"
    while page := server.run("letters", [key], [after, "+", _AT_ONCE]):
        for letter_id, kept, flat in page:
            yield _letter(feed, text(letter_id), kept, flat)
        after = "(" + text(page[-1][0])


def letter(server: Server, feed: str, letter_id: str) -> Letter:
    """One dead letter.

    Raises:
        FeedNameError, SettingsError: the name or the id cannot be one.
        MienError: there is none of that id.
    """
    _check_id(letter_id)
    page = server.run("letters", [_dead(feed)], [letter_id, letter_id, 1])
    if not page:
        raise MienError(_none_there(feed, letter_id))
    return _letter(feed, letter_id, page[0][1], page[0][2])


def pixels(server: Server, feed: str, letter_id: str) -> bytes:
    """What the frame of a dead letter had for data; its whole entry where that is no Frame.

    Raises:
        MienError: there is no such letter, or its pixels were not kept.
    """
    _check_id(letter_id)
    entries = server.command("XRANGE", _dead(feed), letter_id, letter_id)
    if not entries:
        raise MienError(_none_there(feed, letter_id))
    body = entries[0][1].get(b"frame")
    if body is None:
        raise MienError(_no_pixels(feed, letter_id))
    try:
        return frame_pb2.Frame.FromString(body).data or body
    except DecodeError:
        return bytes(body)


def redrive(
    server: Server,
    feed: str,
    ids: Iterable[str],
    *,
    stop: threading.Event,
    say: Callable[[str], None],
) -> Iterator[tuple[str, str]]:
    """Offer the frames of dead letters again; wait while as many wait as the feed's depth allows.

    Each letter goes and its frame comes in one step, so that neither is ever there twice. The new
    frame's ``redriven_from`` is the id that it had; its times are those it had, so the feed's
    tracks begin anew with it.

    Yields:
        The letter's id and the new frame's, as each is done, until ``stop`` is set.

    Raises:
        FeedNameError, SettingsError: the name or an id cannot be one.
        MienError: there is no such feed or letter, its pixels were not kept, or the feed has taken
            no frame for ten seconds.
        ServerFull, ServerUnavailable: as their names say; what was yielded is done.
    """
    keys = FeedKeys.of(check_feed_name(feed))
    said = False
    for letter_id in ids:
        _check_id(letter_id)
        began = time.monotonic()
        while not stop.is_set():
            depth = settings_of(server, feed).depth
            reply = server.run("redrive", [keys.dead, keys.frames], [GROUP, letter_id, depth])
            status, frame_id = map(text, reply)
            if status == "redriven":
                yield letter_id, frame_id
                break
            if status == "gone":
                raise MienError(_none_there(feed, letter_id))
            if status == "no-frame":
                raise MienError(_no_pixels(feed, letter_id))
            if time.monotonic() - began > _PATIENCE_S:
                raise MienError(f"feed {feed} takes no more: {depth} of its frames are unread")
            if not said:
                say(f"waiting: {depth} frames of {feed} are unread")
                said = True
            stop.wait(random.uniform(_SHORTEST_WAIT_S, _LONGEST_WAIT_S))


def purge(
    server: Server,
    feed: str,
    ids: Sequence[str] | None = None,
    *,
    older_than_s: float | None = None,
) -> int:
    """Throw dead letters away: those of ``ids``, those that died so long ago, or else all.

    The books keep what they counted.

    Returns:
        How many went.

    Raises:
        FeedNameError, SettingsError: the name or an id cannot be one.
    """
    key = _dead(feed)
    if ids is not None:
        for letter_id in ids:
            _check_id(letter_id)
        return int(server.command("XDEL", key, *ids))
    if older_than_s is None:
        return int(server.command("XTRIM", key, "MAXLEN", 0))
    oldest_ms = server.now_us() // 1000 - int(1000 * older_than_s)
    return int(server.command("XTRIM", key, "MINID", max(0, oldest_ms)))


def _dead(feed: str) -> str:
    return FeedKeys.of(check_feed_name(feed)).dead


def _check_id(letter_id: str) -> None:
    if not _ID.fullmatch(letter_id):
        raise SettingsError(
            f"{letter_id[:100]!a} is no dead letter's id, such as 1760000000000-0 (mien dead list)"
        )


def _letter(feed: str, letter_id: str, kept: int, flat: Sequence[bytes]) -> Letter:
    fields = fields_of(flat)

    def field(name: bytes) -> str:
        return text(fields.get(name, b""))

    header = None
    if fields.get(b"header"):  # empty where the entry was no Frame
        with suppress(DecodeError):
            header = frame_pb2.Frame.FromString(fields[b"header"])
    deliveries = field(b"deliveries")
    return Letter(
        feed=feed,
        letter_id=letter_id,
        died_at=time_of_id(letter_id),
        frame_id=field(b"frame_id"),
        reason=field(b"reason"),
        error=field(b"error"),
        deliveries=int(deliveries) if deliveries.isdecimal() else 0,
        header=header,
        kept=kept,
    )


def _none_there(feed: str, letter_id: str) -> str:
    return f"feed {feed} has no dead letter {letter_id}"


def _no_pixels(feed: str, letter_id: str) -> str:
    return (
        f"the pixels of dead letter {letter_id} were not kept "
        f"(mien feeds set {feed} --dead-pixels on keeps those of later ones)"
    )
