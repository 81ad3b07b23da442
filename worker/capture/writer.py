"""Frames into a feed's stream: once each, in order, under the feed's policy, through outages."""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from worker.errors import ServerFull, ServerUnavailable, SessionSuperseded
from worker.records import Frame, Policy
from worker.wire.codec import encode_frame
from worker.wire.keys import GROUP, FeedKeys, check_feed_name
from worker.wire.registry import FeedSettings, register
from worker.wire.server import Backoff, Server, text

log = logging.getLogger("mien")

_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.002, 0.05
_SAY_SO_S = 5.0


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
        source: str = "",
        say: Callable[[str], None] = log.warning,
    ) -> None:
        self.feed = check_feed_name(feed)
        self._server = server
        self._stop = stop
        self._say = say
        self._said = ""
        self._in_doubt = False
        self._keys = FeedKeys.of(feed)
        given = {"policy": policy, "depth": depth, "source": source or None}
        self._changes = {name: value for name, value in given.items() if value is not None}
        self.settings: FeedSettings = register(server, feed, **self._changes)
        self.session = self._new_session()

    def push(self, frame: Frame) -> Pushed:
        """Push one frame of this session, and wait as long as the policy asks for.

        Lossless: until the server has room and is there. Live: a frame that the server cannot take
        within the feed's staleness budget is refused, since it would be skipped later.
        """
        body = encode_frame(frame)
        began = time.monotonic()
        outage = Backoff()
        while True:
            if self._stop.is_set():
                return Pushed("stopped")
            try:
                if self._in_doubt:
                    # The server may have come back without its data.
                    self.settings = register(self._server, self.feed, **self._changes)
                    self._in_doubt = False
                reply = self._server.run(
                    "push",
                    [self._keys.frames, self._keys.stats],
                    [
                        GROUP,
                        self.session,
                        frame.sequence,
                        self.settings.policy,
                        self.settings.depth,
                        body,
                    ],
                )
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
            if status != "full":
                self._said = ""
                return Pushed("accepted", displaced=reply[2])
            if time.monotonic() - began > _SAY_SO_S:
                self._once(self._why_full())
            self._stop.wait(random.uniform(_SHORTEST_WAIT_S, _LONGEST_WAIT_S))

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
        if owned:
            return f"waiting: {self.settings.depth} frames of {self.feed} are still to be read"
        return f"waiting: no worker reads the feed {self.feed} (start one with: mien worker)"
