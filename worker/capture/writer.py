"""Frames into a feed's stream: once each, in order, under the feed's policy, through outages."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from worker.capture.unreplicated import Unreplicated
from worker.errors import NotPermitted, ServerFull, ServerUnavailable, SessionSuperseded
from worker.records import Frame, Policy
from worker.wire.codec import encode_frame
from worker.wire.commands import Argument
from worker.wire.keys import GROUP, FeedKeys, check_feed_name
from worker.wire.registry import REFRESH_S, FeedSettings, refresh, register
from worker.wire.server import Backoff, Server, text

log = logging.getLogger("mien")

_FIRST_POLL_S, _SLOWEST_POLL_S = 0.004, 0.25
"""A full stream is tried again at a pace that slows down: each attempt carries the whole frame."""
_SAY_SO_S = 5.0
_REPLICAS_MS = 200
"""How long one push waits for the replicas. The frame is kept if they are slower."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of one frame at the server's door."""

    status: Literal["accepted", "refused", "stopped"]
    """refused: a live frame given up because the server did not take it in time (if only its answer
    was lost, the books have it all the same); stopped: we were told to."""
    displaced: int = 0
    """Older live frames that nobody had read and that made room for this one."""


class Writer:
    """The one writer session of a feed.

    A session is the server's time at its start and a random part, so that a writer which starts
    later takes the feed over, and the earlier one is told so.

    Raises (constructor and :meth:`push`):
        FeedNameError: the feed's name breaks the contract's rule.
        SessionSuperseded: a later session writes to the feed now.
        ServerUnavailable: (constructor) nobody answers at the server's address.
    """

    def __init__(
        self,
        server: Server,
        feed: str,
        *,
        stop: threading.Event,
        policy: Policy | None = None,
        depth: int | None = None,
        staleness_s: float | None = None,
        source: str = "",
        replicas: int = 0,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        """``replicas``: so many must have a frame before it is forgotten here. What a failover
        loses of the others is pushed again."""
        self.feed = check_feed_name(feed)
        self._server = server
        self._stop = stop
        self._say = say
        self._said = ""
        self._unregistered = False
        self._in_doubt = False
        self._replicas = replicas
        self._kept = Unreplicated()
        self._keys = FeedKeys.of(feed)
        given = {
            "policy": policy, "depth": depth, "staleness_s": staleness_s, "source": source or None,
        }  # fmt: skip
        changes = {name: value for name, value in given.items() if value is not None}
        self.settings: FeedSettings = register(server, feed, **changes)
        self._settings_read = time.monotonic()
        self.session = self._new_session()

    def push(self, frame: Frame) -> Pushed:
        """Push one frame of this session, and wait as long as the policy asks for.

        Lossless: until the server has room and is there. Live: a frame that the server cannot take
        within the feed's staleness budget is refused, since it would be skipped later.
        """
        while self._kept.full:
            if self.settings.policy == "live":
                self._kept.forget_oldest()
            elif not self._replicated():
                return Pushed("stopped")
        return self._deliver(frame.sequence, encode_frame(frame))

    def finish(self) -> None:
        """After the last frame: wait until the replicas have all of them, or we are to stop."""
        while self._kept and self.settings.policy == "lossless" and self._replicated():
            pass

    def _deliver(self, sequence: int, body: bytes) -> Pushed:
        began = time.monotonic()
        next_look = began + _SAY_SO_S
        outage, full = Backoff(), Backoff(_FIRST_POLL_S, _SLOWEST_POLL_S)
        while True:
            if self._stop.is_set():
                return Pushed("stopped")
            try:
                self._keep_settings()
                reply = self._offer(sequence, body)
            except (ServerUnavailable, ServerFull) as error:
                self._in_doubt = True
                if self._too_late(began):
                    return Pushed("refused")
                self._once(f"{error}; trying again")
                outage.wait(self._stop)
                continue
            status = text(reply[0])
            if status == "superseded":
                raise SessionSuperseded(f"another writer has taken over the feed {self.feed}")
            if status == "behind":
                self._push_again(int(reply[1]) if reply[1] else None)
                continue
            if status != "full":
                self._said = ""
                return Pushed("accepted", displaced=reply[2])
            if time.monotonic() > next_look:
                next_look = time.monotonic() + _SAY_SO_S
                self._once(self._why_full())
            full.wait(self._stop)

    def _offer(self, sequence: int, body: bytes) -> list[Any]:
        """One attempt; the script's reply."""
        keys = [self._keys.frames, self._keys.stats]
        policy, depth = self.settings.policy, self.settings.depth
        arguments: list[Argument] = [GROUP, self.session, sequence, policy, depth, body]
        if not self._replicas:
            return self._server.run("push", keys, [*arguments, ""])  # type: ignore[no-any-return]
        told = "" if self._kept.last is None else self._kept.last
        reply, acknowledged = self._server.run_replicated(
            "push",
            keys,
            [*arguments, told],
            replicas=self._replicas,
            timeout_ms=_REPLICAS_MS,
        )
        if text(reply[0]) in ("accepted", "repeat"):
            last = max(sequence, self._kept.last or 0)
            self._kept.accepted(last, body, replicated=acknowledged >= self._replicas)
        return reply  # type: ignore[no-any-return]

    def _push_again(self, there: int | None) -> None:
        again, lost = self._kept.take_lost(there)
        self._say(
            f"a failover has lost frames of {self.feed}: {len(again)} are pushed again"
            + (f", up to {lost} are gone" if lost else "")
        )
        for sequence, body in again:
            self._deliver(sequence, body)

    def _replicated(self) -> bool:
        """Wait until the replicas have all that is kept; False if we are to stop."""
        say_at = time.monotonic() + _SAY_SO_S
        while self._kept and not self._stop.is_set():
            if time.monotonic() > say_at:
                say_at = float("inf")
                self._say(f"waiting for {self._replicas} replicas to have all of {self.feed}")
            if self._deliver(*self._kept.newest()).status == "stopped":
                break
        return not self._kept

    def _keep_settings(self) -> None:
        """Follow what an operator sets, and enter the feed anew where the registry lost it: the
        server may have come back without its data."""
        if not self._in_doubt and time.monotonic() - self._settings_read <= REFRESH_S:
            return
        try:
            self.settings = refresh(self._server, self.feed, self.settings)
            self._unregistered = False
        except ServerUnavailable:
            # In a Cluster the registry's shard may be gone while the feed's is well.
            if self._in_doubt:
                raise
        except NotPermitted as error:
            if not self._unregistered:
                self._say(str(error))  # and what can be pushed still is
            self._unregistered = True
        self._in_doubt = False
        self._settings_read = time.monotonic()

    def _new_session(self) -> str:
        """Later than the feed's session so far, even where the server's clock has gone back."""
        began_us = self._server.now_us()
        before = self._server.command("HGET", self._keys.stats, "session")
        if before:
            with contextlib.suppress(ValueError):  # a foreign writer's session
                began_us = max(began_us, int(text(before).partition("-")[0], 16) + 1)
        return f"{began_us:015x}-{secrets.token_hex(4)}"

    def _too_late(self, began: float) -> bool:
        waited_s = time.monotonic() - began
        return self.settings.policy == "live" and waited_s > self.settings.staleness_s

    def _once(self, message: str) -> None:
        """Say it once, not on every attempt."""
        if message != self._said:
            self._said = message
            self._say(message)

    def _why_full(self) -> str:
        try:
            owned = self._server.command("EXISTS", self._keys.lease)
        except ServerUnavailable:
            return f"waiting for room in the feed {self.feed}"
        if owned:  # no news to who has just been told to start a worker
            return self._said or f"waiting: {self.settings.depth} frames of {self.feed} are unread"
        return f"waiting: no worker reads the feed {self.feed} (start one with: mien worker)"
