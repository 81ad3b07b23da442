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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from worker.records import Detections, Floats

_SURVIVE_S = 1.0
"""How long a track waits for its face to be seen again."""

_SURVIVE_FRAMES = 300
"""And for how many frames at the most: a feed's clock may stand still."""

_FRAME_GAP_S = 3.0
"""The longest time between two frames over which a face that both show keeps its track: in a feed
with a frame a second each would be new otherwise."""

_MIN_OVERLAP = 0.3
"""Intersection over union from which a face may continue a track by overlap."""

_HIDDEN_LOSS = 0.2
"""What a hidden track's overlap loses: where two tracks meet, the face is rather the one seen."""

_COVERED = 0.5
"""Part of a hidden track's box from which a face in front hides it: nothing to look for there."""

_UNCONFIRMED_LOOKS = 2
"""On so many frames a face is looked for that was seen at one time alone: most such were none."""

_MAX_DISTANCE = 1.0
"""Distance of centres, in mean sides, up to which a face may continue a track by nearness."""

_MAX_GROWTH = 1.6
"""Ratio of sides up to which a face may continue a track by nearness."""

_FADE_S = 0.4
"""Time in which a predicted movement loses two thirds of its speed."""

_SPEED_MEMORY_S = 0.15
"""Time over which a track's speed is averaged: boxes tremble from frame to frame."""


# One feed has few faces in a frame: plain numbers are several times as fast as small arrays.
class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


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
    hidden: int = 0
    """In how many of the feed's last frames its face was not seen."""


# dataclasses.astuple copies deeply, which takes longer than all else that is done with a track.
_numbers = attrgetter(*(each.name for each in fields(Track)))


@dataclass(frozen=True, slots=True)
class Tracks:
    """The faces of one feed after one of its frames. Ids count up, none is used twice."""

    next_id: int = 1
    known: tuple[Track, ...] = ()

    @property
    def smallest(self) -> float:
        """The longer side of the smallest face, of those that were seen in the last frame.

        Infinite if none was: those that are lost are no reason to look more closely.
        """
        sides = [max(t.right - t.left, t.bottom - t.top) for t in self.known if not t.hidden]
        return min(sides, default=math.inf)

    def expected(self, seconds: float) -> Floats:
        """(K, 4): where, at ``seconds``, it is worth looking for the known faces.

        A hidden one is looked for unless one that is seen would cover it, or it was seen at one
        time alone and not on the next two frames.
        """
        return _as_array([box for _, box in self._expected(seconds)])

    def missing(self, ids: npt.NDArray[np.int64], seconds: float) -> Floats:
        """(L, 4): of the expected, those that have none of ``ids`` and are worth a search now.

        They are on the frame on which they are lost, and the second, fourth, eighth ... from there:
        who stays away for longer is less and less likely to be where he was.
        """
        seen = set(ids.tolist())
        return _as_array(
            [
                box
                for track, box in self._expected(seconds)
                if track.id not in seen and (track.hidden + 1).bit_count() == 1
            ]
        )

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
        boxes = [_Box(*box) for box in faces.boxes.astype(np.float64).round(2).tolist()]
        pairs = _best_pairs(boxes, known, seconds)
        ids = np.zeros(len(boxes), np.int64)
        next_id = self.next_id
        for k in set(range(len(known))).difference(pairs.values()):
            known[k] = replace(known[k], hidden=known[k].hidden + 1)
        begins = np.broadcast_to(begin, len(boxes))
        for i, box in enumerate(boxes):
            if i in pairs:
                known[pairs[i]] = _moved(known[pairs[i]], box, seconds)
                ids[i] = known[pairs[i]].id
            elif begins[i]:
                known.append(Track(next_id, *box, 0.0, 0.0, seconds, seconds))
                ids[i] = next_id
                next_id += 1
        return Tracks(next_id, tuple(known)), ids

    def ended(self) -> Tracks:
        """After a scene cut: none of the faces continues."""
        return Tracks(self.next_id)

    def _expected(self, seconds: float) -> list[tuple[Track, _Box]]:
        known = [(track, _predicted(track, seconds)) for track in self._alive(seconds)]
        seen = [box for track, box in known if not track.hidden]
        return [
            (track, box)
            for track, box in known
            if not track.hidden
            or not (
                _given_up(track) or any(_shared(box, one) > _COVERED * _area(box) for one in seen)
            )
        ]

    def _alive(self, seconds: float) -> list[Track]:
        return [
            track
            for track in self.known
            if track.hidden < _SURVIVE_FRAMES
            and 0 <= seconds - track.seen <= (_SURVIVE_S if track.hidden else _FRAME_GAP_S)
        ]

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
        # Earlier workers saved whether it is hidden, not for how many frames.
        if not all(isinstance(track.hidden, int) for track in known):
            raise ValueError("a count is not a whole number")
        if next_id < 1 or len(set(ids)) != len(ids) or not all(0 < i < next_id for i in ids):
            raise ValueError("its ids do not fit together")
        if not all(math.isfinite(number) for track in known for number in _numbers(track)):
            raise ValueError("it holds a number that is not finite")
        return cls(next_id, known)


def _given_up(track: Track) -> bool:
    """No more looked for, until it is found otherwise."""
    return track.born == track.seen and track.hidden >= _UNCONFIRMED_LOOKS


def _predicted(track: Track, seconds: float) -> _Box:
    """Where the track's face should be now: moved on at a speed that fades away."""
    reach = _FADE_S * (1 - math.exp((track.seen - seconds) / _FADE_S))
    x, y = track.speed_x * reach, track.speed_y * reach
    return _Box(track.left + x, track.top + y, track.right + x, track.bottom + y)


def _moved(track: Track, box: _Box, seconds: float) -> Track:
    """The track with its face seen at ``box``."""
    left, top, right, bottom = box
    speed_x, speed_y = track.speed_x, track.speed_y
    elapsed = seconds - track.seen
    if elapsed > 0:
        share = 1 - math.exp(-elapsed / _SPEED_MEMORY_S)
        x = (left + right - track.left - track.right) / 2 / elapsed
        y = (top + bottom - track.top - track.bottom) / 2 / elapsed
        speed_x = round(speed_x + share * (x - speed_x), 2)
        speed_y = round(speed_y + share * (y - speed_y), 2)
    return Track(track.id, *box, speed_x, speed_y, track.born, seconds)


def _as_array(boxes: list[_Box]) -> Floats:
    return np.array(boxes, np.float32).reshape(-1, 4)


def _area(box: _Box) -> float:
    left, top, right, bottom = box
    return max(0.0, right - left) * max(0.0, bottom - top)


def _shared(a: _Box, b: _Box) -> float:
    """The area that two boxes share."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    return width * height if width > 0 and height > 0 else 0.0


def _affinity(face: _Box, place: _Box, hidden: bool) -> float:
    """How well a face continues a track that predicts it at ``place``; 0 if it cannot.

    1 to 2 by overlap, below 1 by nearness: a pair that overlaps comes before any that does not.
    """
    area_face, area_track = _area(face), _area(place)
    shared = _shared(face, place)
    overlap = shared / max(area_face + area_track - shared, 1e-9)
    if overlap >= _MIN_OVERLAP:
        return 1 + overlap - _HIDDEN_LOSS * hidden
    side_face, side_track = math.sqrt(max(area_face, 1)), math.sqrt(max(area_track, 1))
    if max(side_face, side_track) > _MAX_GROWTH * min(side_face, side_track):
        return 0.0
    x = face.left + face.right - place.left - place.right
    y = face.top + face.bottom - place.top - place.bottom
    return max(0.0, 1 - math.hypot(x, y) / (side_face + side_track) / _MAX_DISTANCE)


def _best_pairs(faces: list[_Box], tracks: list[Track], seconds: float) -> dict[int, int]:
    """The track of each face that continues one, by index: the best pair first, each once."""
    pairs = []
    spots = [_spot(face) for face in faces]
    for k, track in enumerate(tracks):
        place = _predicted(track, seconds)
        x, y, reach = _spot(place)
        for i, (face_x, face_y, face_reach) in enumerate(spots):
            near = reach + face_reach
            # Most pairs of a crowd are far apart, and need no more arithmetic than this.
            if abs(face_x - x) < near and abs(face_y - y) < near:
                affinity = _affinity(faces[i], place, track.hidden > 0)
                if affinity > 0:
                    pairs.append((-affinity, i, k))
    found: dict[int, int] = {}
    taken = set()
    for _, i, k in sorted(pairs):
        if i not in found and k not in taken:
            found[i] = k
            taken.add(k)
    return found


def _spot(box: _Box) -> tuple[float, float, float]:
    """The box's centre, x and y, and half its longer side.

    Boxes that overlap, or are near enough, are no further apart than these together, in x and in y.
    """
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top, 1.0) / 2
