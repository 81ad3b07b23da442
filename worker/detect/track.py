"""Which face of this frame is which face of the frames before.

Each track predicts where its face is now (its last box, moved on at its speed, which fades), and
faces go to tracks by overlap, the best pair first; a face too fast or too small to overlap with
its prediction goes by nearness instead. What is left over begins a track. A track whose face is not
seen is hidden: it waits for a while, and its id comes back with the face.

All is decided by the tracks and the faces alone, without chance or clock, and tracks are values:
what was saved after a frame goes on as the first one would have, in any worker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.records import Detections, Floats

_SURVIVE_S = 1.0
"""How long a track waits for its face to be seen again."""

_MIN_OVERLAP = 0.3
"""Intersection over union from which a face may continue a track by overlap."""

_HIDDEN_LOSS = 0.2
"""What a hidden track's overlap loses: where two tracks meet, the face is rather the one seen."""

_COVERED = 0.5
"""Part of a hidden track's box from which a face in front hides it: nothing to look for there."""

_MAX_DISTANCE = 1.0
"""Distance of centres, in mean sides, up to which a face may continue a track by nearness."""

_MAX_GROWTH = 1.6
"""Ratio of sides up to which a face may continue a track by nearness."""

_FADE_S = 0.4
"""Time in which a predicted movement loses two thirds of its speed."""

_SPEED_MEMORY_S = 0.15
"""Time over which a track's speed is averaged: boxes tremble from frame to frame."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Track:
    """One face seen lately. Lengths in pixels, times in seconds of the feed.

    Numbers are rounded where they are made, so that the saved state is short and exactly the state.
    """

    id: int
    left: float
    top: float
    right: float
    bottom: float
    speed_x: float
    speed_y: float
    born: float
    seen: float
    hidden: bool = False
    """Whether its face was not seen in the feed's last frame."""


# dataclasses.astuple copies deeply, which takes longer than all else that is done with a track.
_numbers = attrgetter(*(each.name for each in fields(Track)))


@dataclass(frozen=True, slots=True)
class Tracks:
    """The faces of one feed after one of its frames. Ids count from 1, none is used twice."""

    next_id: int = 1
    known: tuple[Track, ...] = ()

    @property
    def visible(self) -> list[Track]:
        """Those whose face was seen in the last frame."""
        return [track for track in self.known if not track.hidden]

    def expected(self, seconds: float) -> Floats:
        """(K, 4): where, at ``seconds``, it is worth looking for the known faces.

        A hidden one is looked for unless one that is seen would cover it.
        """
        known = self._alive(seconds)
        boxes = _predicted(known, seconds)
        hidden = np.array([track.hidden for track in known], bool)
        if hidden.any():
            shared = _intersections(boxes[hidden], boxes[~hidden])
            covered = shared > _COVERED * _areas(boxes[hidden])[:, None]
            hidden[hidden] = covered.any(axis=1)
            boxes = boxes[~hidden]
        return boxes.astype(np.float32)

    def after(
        self, faces: Detections, seconds: float, *, begin: bool | npt.NDArray[np.bool_] = True
    ) -> tuple[Tracks, npt.NDArray[np.int64]]:
        """The tracks after the feed's next frame, and the ids (N,) of its faces, in their order.

        Args:
            faces: those of the frame.
            seconds: the frame's time on the feed's own clock. A clock that went back is that of
                another recording: no track continues.
            begin: whether a face that continues no track begins one, for all or (N,) for each; if
                not, its id is 0.
        """
        seconds = round(seconds, 6)
        known = self._alive(seconds)
        boxes = faces.boxes.astype(np.float64)
        hidden = np.array([track.hidden for track in known], bool)
        pairs = dict(_best_pairs(_affinity(boxes, _predicted(known, seconds), hidden)))
        ids = np.zeros(len(boxes), np.int64)
        next_id = self.next_id
        for k in set(range(len(known))).difference(pairs.values()):
            known[k] = replace(known[k], hidden=True)
        begins = np.broadcast_to(begin, len(boxes))
        for i, box in enumerate(boxes.round(2).tolist()):
            if i in pairs:
                known[pairs[i]] = _moved(known[pairs[i]], box, seconds)
                ids[i] = known[pairs[i]].id
            elif begins[i]:
                left, top, right, bottom = box
                known.append(Track(next_id, left, top, right, bottom, 0.0, 0.0, seconds, seconds))
                ids[i] = next_id
                next_id += 1
        return Tracks(next_id, tuple(known)), ids

    def ended(self) -> Tracks:
        """After a scene cut: none of the faces continues."""
        return Tracks(self.next_id)

    def _alive(self, seconds: float) -> list[Track]:
        return [track for track in self.known if 0 <= seconds - track.seen <= _SURVIVE_S]

    def packed(self) -> list[Any]:
        """As plain numbers and lists, for ``unpacked``."""
        return [self.next_id, *map(_numbers, self.known)]

    @classmethod
    def unpacked(cls, content: Any) -> Tracks:
        """What ``packed`` was called on.

        Raises:
            ValueError, TypeError, LookupError: the content is not what ``packed`` gave.
        """
        next_id, *rest = content
        known = tuple(Track(*track) for track in rest)
        ids = [track.id for track in known]
        if any(type(i) is not int for i in (next_id, *ids)):
            raise ValueError("an id is not a whole number")
        if next_id < 1 or len(set(ids)) != len(ids) or not all(0 < i < next_id for i in ids):
            raise ValueError("its ids do not fit together")
        if not all(math.isfinite(number) for track in known for number in _numbers(track)):
            raise ValueError("it holds a number that is not finite")
        return cls(next_id, known)


def _predicted(tracks: list[Track], seconds: float) -> Array:
    """Where the tracks' faces should be now (K, 4): moved on at a speed that fades away."""
    rows = [
        (t.left, t.top, t.right, t.bottom, t.speed_x, t.speed_y, t.seen - seconds) for t in tracks
    ]
    numbers = np.array(rows, np.float64).reshape(-1, 7)
    reach = _FADE_S * (1 - np.exp(numbers[:, 6] / _FADE_S))
    return numbers[:, :4] + np.tile(numbers[:, 4:6] * reach[:, None], 2)


def _moved(track: Track, box: list[float], seconds: float) -> Track:
    """The track with its face seen at ``box``: left, top, right, bottom."""
    left, top, right, bottom = box
    speed_x, speed_y = track.speed_x, track.speed_y
    elapsed = seconds - track.seen
    if elapsed > 0:
        share = 1 - math.exp(-elapsed / _SPEED_MEMORY_S)
        x = (left + right - track.left - track.right) / 2 / elapsed
        y = (top + bottom - track.top - track.bottom) / 2 / elapsed
        speed_x = round(speed_x + share * (x - speed_x), 2)
        speed_y = round(speed_y + share * (y - speed_y), 2)
    return Track(track.id, left, top, right, bottom, speed_x, speed_y, track.born, seconds)


def _areas(boxes: Array) -> Array:
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1))


def _intersections(a: Array, b: Array) -> Array:
    """Shared area of each box of ``a`` (A, 4) with each of ``b`` (B, 4), as (A, B)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray((high - low).clip(0).prod(axis=-1))


def _affinity(boxes: Array, predicted: Array, hidden: npt.NDArray[np.bool_]) -> Array:
    """How well each face (N) continues each track (K), as (N, K); 0 where it cannot.

    1 to 2 by overlap, below 1 by nearness: a pair that overlaps comes before any that does not.
    """
    area_face, area_track = _areas(boxes)[:, None], _areas(predicted)[None]
    shared = _intersections(boxes, predicted)
    overlap = shared / np.maximum(area_face + area_track - shared, 1e-9)

    side_face, side_track = np.sqrt(np.maximum(area_face, 1)), np.sqrt(np.maximum(area_track, 1))
    centres = (boxes[:, None, :2] + boxes[:, None, 2:] - predicted[:, :2] - predicted[:, 2:]) / 2
    distance = np.hypot(centres[..., 0], centres[..., 1]) / ((side_face + side_track) / 2)
    growth = np.maximum(side_face / side_track, side_track / side_face)
    nearness = np.where(growth <= _MAX_GROWTH, 1 - distance / _MAX_DISTANCE, 0).clip(0)
    by_overlap = 1 + overlap - _HIDDEN_LOSS * hidden[None]
    return np.where(overlap >= _MIN_OVERLAP, by_overlap, nearness)


def _best_pairs(affinity: Array) -> list[tuple[int, int]]:
    """Pairs (face, track), the best first, each face and each track once."""
    pairs: list[tuple[int, int]] = []
    faces_left, tracks_left = (set(range(n)) for n in affinity.shape)
    for flat in np.argsort(-affinity, axis=None, kind="stable").tolist():
        face, track = divmod(flat, affinity.shape[1])
        if affinity[face, track] <= 0:
            break
        if face in faces_left and track in tracks_left:
            faces_left.remove(face)
            tracks_left.remove(track)
            pairs.append((face, track))
    return pairs
