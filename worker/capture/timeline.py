"""Presentation times that can be relied on, from stamps that cannot."""

from __future__ import annotations

from fractions import Fraction


class Timeline:
    """Places a stream's pictures on a line of pts that starts at 0 and only rises.

    Stamps that are missing follow the last picture by its duration. A stamp that is a little early
    (containers that store no order of presentation) comes right after the last one; one that lies
    more than a second back (a camera that started anew) begins a new stretch there.
    """

    def __init__(self, time_base: Fraction, rate: Fraction) -> None:
        self.time_base = time_base
        self._usual_step = max(1, round(1 / (rate * time_base)))
        self._second = round(1 / time_base)
        self._origin = 0
        self._last: int | None = None
        self._last_step = self._usual_step

    def step(self, duration: int | None) -> int:
        """How long a picture lasts, in units of the time base."""
        return duration or self._usual_step

    def place(self, stamp: int | None, duration: int | None) -> int:
        """The pts of the next picture, whose own stamp and duration are in the time base."""
        if self._last is None:
            self._origin = stamp or 0
            pts = 0
        elif stamp is None:
            pts = self._last + self._last_step
        else:
            pts = stamp - self._origin
            if pts < self._last - self._second:
                pts = self._last + self._last_step
                self._origin = stamp - pts
            pts = max(pts, self._last + 1)
        self._last, self._last_step = pts, self.step(duration)
        return pts
