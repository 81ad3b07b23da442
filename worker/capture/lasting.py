"""Sources that last: a camera or URL that breaks off or falls silent is opened again."""

from __future__ import annotations

import gc
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

from worker.capture.base import Source
from worker.capture.reader import Reader, Stopped
from worker.errors import SourceError, SourceLost
from worker.records import Picture

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_STEADY_S = 10.0
"""A connection that lasted so long was a good one: the next outage begins with a short wait."""
_GRACE_S = 1.0
"""FFmpeg notices a silence by itself and says more about it; this is for what does not."""
_FRUITLESS = 3
"""So many readings in a row of something that has an end, none of which came further."""


class LastingSource(Source):
    """The pictures of a camera or URL through all its outages.

    What is live goes on where the clock is: pts continue with the time that has passed since the
    first picture. What has an end is read again from its beginning, and goes on after the last
    picture that was delivered. ``say`` is told once for each outage what is wrong, and when it is
    over. The end of something that is live is an outage; of anything else, the end.
    """

    def __init__(
        self,
        open_: Callable[[], Source],
        *,
        stop: threading.Event,
        say: Callable[[str], None],
        stall_s: float = 10.0,
        give_up_s: float | None = None,
        keep_all: bool = False,
        patient: bool = False,
    ) -> None:
        """Open the source and decode its first picture.

        Args:
            stop: ends every wait, and the pictures.
            stall_s: no picture for so long is an outage.
            give_up_s: how long an outage may last; None for ever.
            keep_all: pass over no picture of a live source, however slowly they are taken.
            patient: wait for the source also when it is away at the beginning.

        Raises:
            SourceError: the source cannot be opened (and we are not patient, or gave up).
            Stopped: ``stop`` was set before.
        """
        self._open, self._stop, self._say = open_, stop, say
        self._stall_s, self._give_up_s, self._keep_all = stall_s, give_up_s, keep_all
        self._wait_s = _FIRST_WAIT_S
        self._missed_before = 0
        self._fruitless = 0
        self._reader: Reader | None = None
        self._first_at: float | None = None
        self._last, self._step = Fraction(0), Fraction(0)
        try:
            try:
                opened = self._connect()
            except SourceError as error:
                if not patient:
                    raise
                opened = self._await_return(str(error))
        except BaseException:
            self.close()
            raise
        self.name, self.live = opened.name, opened.live
        self.width, self.height, self.rate = opened.width, opened.height, opened.rate
        self.frames, self.duration_s = opened.frames, opened.duration_s

    @property
    def missed(self) -> int:  # type: ignore[override]
        return self._missed_before + (self._reader.missed if self._reader else 0)

    def pictures(self) -> Iterator[Picture]:
        try:
            while True:
                opened_at = time.monotonic()
                try:
                    yield from self._connection()
                    if not self.live:
                        return
                    why = f"{self.name} ended the connection"
                except SourceLost as error:
                    if not self.live and self._fruitless >= _FRUITLESS:
                        raise
                    why = str(error)
                if time.monotonic() - opened_at > _STEADY_S:
                    self._wait_s = _FIRST_WAIT_S
                self._await_return(why)
        except Stopped:
            return

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _connection(self) -> Iterator[Picture]:
        """The new pictures of the connection that is open, on the time line of them all."""
        assert self._reader is not None
        self._fruitless += 1
        shift: Fraction | None = None
        while (picture := self._reader.take(self._stop, self._stall_s + _GRACE_S)) is not None:
            if shift is None:
                shift = self._shift()
            picture = replace(picture, pts=picture.pts + math.ceil(shift / picture.time_base))
            seconds = picture.pts * picture.time_base
            if self._first_at is None:
                self._first_at = time.monotonic()
            elif seconds <= self._last:
                continue  # a video that is read again, up to where it broke off
            self._step, self._last = seconds - self._last, seconds
            self._fruitless = 0
            yield picture

    def _shift(self) -> Fraction:
        """What to add to the times of this connection, in seconds."""
        if self._first_at is None or not self.live:
            return Fraction(0)
        elapsed = Fraction(time.monotonic() - self._first_at).limit_denominator(1_000_000)
        return max(elapsed, self._last + (self._step or Fraction(1, 25)))

    def _await_return(self, why: str) -> Source:
        """Open the source again and again until it is there.

        Raises:
            SourceError: it did not come back in time.
            Stopped: as it says.
        """
        began, collected = time.monotonic(), False
        given_up = self._give_up_s if self._give_up_s is not None else math.inf
        if given_up > 0:
            self._say(f"{why}; trying again")
        while time.monotonic() - began < given_up:
            left = began + given_up - time.monotonic()
            if self._stop.wait(min(left, random.uniform(self._wait_s / 2, self._wait_s))):
                raise Stopped
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
            if self._reader is not None:
                if not self._reader.close(timeout_s=0.1):
                    continue  # a read that hangs still holds the camera
                self._missed_before += self._reader.missed
                self._reader = None
                if not collected:
                    # PyAV's objects form cycles, and a quiet process seldom looks for those: the
                    # decoders of lost connections would pile up (measured: 0.6 MB for each).
                    gc.collect()
                    collected = True
            try:
                opened = self._connect()
            except SourceError:
                continue
            away_s = time.monotonic() - began
            self._say(f"{opened.name} is back after {away_s:.0f} s")
            return opened
        raise SourceError(why if given_up == 0 else f"{why}; it was away for {given_up:g} s")

    def _connect(self) -> Source:
        self._reader = Reader(self._open, keep_all=self._keep_all)
        # Connecting, reading the headers and the first picture may each take stall_s.
        return self._reader.opened(self._stop, 3 * self._stall_s + _GRACE_S)
