"""When the full detector is due on a feed: every so many frames, and at once after a scene cut.

Between, known faces are followed, and now and then large new ones looked for. What decides is in
the frames: a small grey thumbnail of each one, and its time. A lossless feed keeps its interval, so
that the same frames give the same faces, however they were cut into batches. A live feed stretches
the interval while the picture is still or the worker is busy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from worker.picture import FramePicture

_ROWS, _COLUMNS = 12, 16

_CUT_LIKENESS = 0.5
"""Correlation of two thumbnails below which they are not of one scene."""

_FLAT = 4.0
"""Standard deviation of a thumbnail, in grey levels, below which there is nothing to correlate."""

_GLANCE_EVERY = 4
"""Frames from one glance at large faces to the next, counted from the frame that was due."""

_LONGEST_S = 1.45
"""Where frames are few, as many of them as fit into this are the interval; it stretches as well."""

_PART = 8
"""So many of a thumbnail's 192 levels must change to count as motion: a small face moves them."""

_STILL, _MOVING = 3.0, 8.0
"""Grey levels from frame to frame: to the one it is a camera's noise, from the other on motion."""

_MOTION_KEPT = 0.8
"""Part of a motion that still counts on the next frame: what has moved may move again."""

_STRETCH_STILL, _STRETCH_BUSY = 2.0, 2.0
"""How much longer the interval of a live feed grows where nothing moves, and in a busy worker."""

_BUSY = 0.7
"""Share of its time from which a worker that works counts as busy."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How far one feed is, after one of its frames."""

    thumbnail: bytes = b""
    """Of the last frame; none before the first."""
    count: int = 0
    """Frames since the last one that was due."""
    detected: float = 0.0
    """When that was, in seconds of the feed."""
    motion: float = 0.0
    """By how many grey levels a small part of the picture has changed, lately."""

    def packed(self) -> list[Any]:
        """As plain numbers and texts, for ``unpacked``."""
        return [self.thumbnail.hex(), self.count, self.detected, self.motion]

    @classmethod
    def unpacked(cls, content: Any) -> Schedule:
        """What ``packed`` was called on.

        Raises:
            ValueError, TypeError: the content is not what ``packed`` gave.
        """
        thumbnail, count, detected, motion = content
        schedule = cls(bytes.fromhex(thumbnail), count, float(detected), float(motion))
        if (
            len(schedule.thumbnail) not in (0, _ROWS * _COLUMNS)
            or type(count) is not int
            or count < 0
            or not math.isfinite(schedule.detected)
            or not 0 <= schedule.motion <= 255
        ):
            raise ValueError("its schedule is none")
        return schedule


@dataclass(frozen=True, slots=True)
class Due:
    """What one frame is due for."""

    detection: bool
    cut: bool
    """A scene begins here: no face of before is in it."""
    glance: bool
    """Due for a look at large faces only, between two full detections."""
    patient: bool = False
    """A face that is lost sight of can wait: the worker is busy, and the feed live."""


def thumbnail(picture: FramePicture) -> bytes:
    """What the schedule sees of a picture: 12 rows of 16 grey levels, whatever its shape."""
    # Sixteen samples of green, which is most of grey, for each level or more: all would take time.
    samples = picture.samples(4 * _ROWS, 4 * _COLUMNS)
    small = cv2.resize(samples, (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA)
    return small.tobytes()


def advance(
    schedule: Schedule,
    seen: bytes,
    seconds: float,
    *,
    every: int,
    live: bool = False,
    phase: int = 0,
    busy: float = 0.0,
) -> tuple[Schedule, Due]:
    """The schedule after the feed's next frame, and what that frame is due for.

    Args:
        seen: the frame's ``thumbnail``.
        seconds: its time on the feed's own clock.
        every: full detection on every so many frames; 1: on each.
        live: whether the interval may stretch.
        phase: where in its interval a live feed begins, so that feeds that begin together are not
            due together for ever; any number that differs between feeds.
        busy: the share of its time that the worker works, 0 to 1; only for live feeds.
    """
    if not schedule.thumbnail:
        count = phase % every if live else 0
        return Schedule(seen, count, seconds), Due(detection=True, cut=False, glance=False)
    before, now = (
        np.frombuffer(t, np.uint8).astype(np.float64) for t in (schedule.thumbnail, seen)
    )
    cut = _likeness(before, now) < _CUT_LIKENESS
    change = float(np.partition(np.abs(now - before), -_PART)[-_PART])
    motion = round(max(change, _MOTION_KEPT * schedule.motion), 3)
    stretch = _stretch(motion, busy) if live and every > 1 else 1.0
    interval = round(every * stretch)
    count = schedule.count + 1
    # Late is a frame after which the next one would be too late. A clock that went back is that of
    # another recording.
    passed = seconds - schedule.detected
    late = not 0 <= passed * (count + 1) / count <= _LONGEST_S * stretch
    if cut or late or count >= interval:
        return Schedule(seen, 0, seconds, motion), Due(detection=True, cut=cut, glance=False)
    glance = count % round(_GLANCE_EVERY * stretch) == 0
    after = Schedule(seen, count, schedule.detected, motion)
    return after, Due(detection=False, cut=False, glance=glance, patient=live and busy > _BUSY)


def _likeness(before: np.ndarray, now: np.ndarray) -> float:
    """Correlation of two thumbnails, -1 to 1: light that changes for the whole scene is no cut."""
    before, now = before - before.mean(), now - now.mean()
    spread_before, spread_now = before.std(), now.std()
    if min(spread_before, spread_now) < _FLAT:
        return float(max(spread_before, spread_now) < 2 * _FLAT)
    return float((before * now).mean() / (spread_before * spread_now))


def _stretch(motion: float, busy: float) -> float:
    stillness = (_MOVING - motion) / (_MOVING - _STILL)
    load = (busy - _BUSY) / (1 - _BUSY)
    stretch = 1.0
    for part, most in ((stillness, _STRETCH_STILL), (load, _STRETCH_BUSY)):
        stretch *= 1 + (most - 1) * min(1.0, max(0.0, part))
    return stretch
