"""Labels that are steady enough to use: what the classifier said of one track, averaged over time.

The average forgets exponentially, in seconds and not in frames: an answer speaks for the time since
the one before, so that the same face gives the same average at any frame rate. An answer about a
blurred, small or averted face weighs less. The label follows the average with hysteresis: another
one must lead clearly, or for long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

_FIRST_S = 0.04
"""What a track's first answer speaks for: a frame's time, so that it does not outweigh the next."""

_LONGEST_S = 0.25
"""What any answer speaks for at the most: after an occlusion one look does not decide alone."""

_LEAD = 0.1
"""By so much another label's average must exceed the present label's to take its place at once."""

_PATIENCE = 2.0
"""Or lead by anything for so many time constants."""

_LEAST_WEIGHT = 0.05
"""Of an answer of no quality: where there are no others, they still count."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of one track's expression after one of its faces was classified.

    Numbers are rounded where they are made, so that the saved state is short and exactly the state.
    """

    at: float
    """Seconds of the feed."""
    raw: tuple[float, ...]
    """The last answer, one probability a label."""
    smoothed: tuple[float, ...] = ()
    """The average; empty when smoothing is off."""
    weight: float = 0.0
    """Of what went into the average, faded."""
    label: int = 0
    """The steady label's index."""
    led_since: float | None = None
    """Since when another label has had the higher average; None when none has."""
    skipped: int = 0
    """Frames since then on which the face was seen, but not classified."""

    def packed(self) -> list[Any]:
        """As plain numbers and lists, for ``unpacked``."""
        return list(_numbers(self))

    @classmethod
    def unpacked(cls, content: Any) -> Reading:
        """What ``packed`` was called on.

        Raises:
            ValueError, TypeError: the content is not what ``packed`` gave.
        """
        at, raw, smoothed, weight, label, led_since, skipped = content
        reading = cls(at, tuple(raw), tuple(smoothed), weight, label, led_since, skipped)
        numbers = (at, weight, *raw, *smoothed, led_since or 0.0)
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("it holds a number that is not finite")
        if type(skipped) is not int or type(label) is not int:
            raise ValueError("a count or an index is not a whole number")
        if len(reading.smoothed) not in (0, len(reading.raw)) or label not in range(len(raw)):
            raise ValueError("its probabilities do not fit together")
        return reading


_numbers = attrgetter(*(each.name for each in fields(Reading)))


def read(
    before: Reading | None,
    answer: list[float],
    seconds: float,
    *,
    quality: float,
    smooth_s: float,
) -> Reading:
    """The reading of a track after the classifier's next ``answer``, one probability a label.

    Args:
        before: the track's last reading; None for a new track.
        seconds: the frame's time on the feed's own clock.
        quality: of the face, 0 to 1.
        smooth_s: the average's time constant in seconds; 0: no average, the label is the answer's.
    """
    raw = tuple(round(share, 6) for share in answer)
    seconds = round(seconds, 6)
    if smooth_s == 0:
        return Reading(seconds, raw, label=_best(raw))
    elapsed = seconds - before.at if before else _FIRST_S
    weight = 1 - math.exp(-min(elapsed, _LONGEST_S) / smooth_s)
    weight *= max(quality, _LEAST_WEIGHT)
    if before is None or not before.smoothed:
        return Reading(seconds, raw, raw, round(weight, 6), _best(raw))
    kept = before.weight * math.exp(-elapsed / smooth_s)
    whole = kept + weight
    part = weight / whole if whole > 0 else 1.0
    smoothed = tuple(
        round(old + part * (new - old), 6) for old, new in zip(before.smoothed, raw, strict=True)
    )
    label, led_since = _steady(before, smoothed, seconds, _PATIENCE * smooth_s)
    return Reading(seconds, raw, smoothed, round(whole, 6), label, led_since)


def _steady(
    before: Reading, smoothed: tuple[float, ...], seconds: float, patience_s: float
) -> tuple[int, float | None]:
    """The label's index, and since when another one leads."""
    best, label = _best(smoothed), before.label
    if smoothed[best] <= smoothed[label]:
        return label, None
    since = seconds if before.led_since is None else before.led_since
    if smoothed[best] - smoothed[label] >= _LEAD or seconds - since >= patience_s:
        return best, None
    return label, since


def _best(shares: tuple[float, ...]) -> int:
    return max(range(len(shares)), key=shares.__getitem__)
