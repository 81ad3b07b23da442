"""Which face of this frame is which face of the frames before: one small tracker for each feed.

Each track predicts where its face is now (its last box, moved on at its speed, which fades), and
faces go to tracks by overlap, the best pair first; a face too fast or too small to overlap with
its prediction goes by nearness instead. What is left over begins a track. Everything is decided by
the state and the faces alone, without chance or clock, so that a batch whose settling failed can be
undone by restoring the state before it, and gives the same ids again.
"""

from __future__ import annotations

import json
import math
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from worker.records import Detections

_MIN_OVERLAP = 0.3
"""Intersection over union from which a face may continue a track by overlap."""

_MAX_DISTANCE = 1.0
"""Distance of centres, in mean sides, up to which a face may continue a track by nearness."""

_MAX_GROWTH = 1.6
"""Ratio of sides up to which a face may continue a track by nearness."""

_FADE_S = 0.4
"""Time in which a predicted movement loses two thirds of its speed."""

_SPEED_MEMORY_S = 0.15
"""Time over which a track's speed is averaged: boxes tremble from frame to frame."""

_FORMAT = 1

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Track:
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
    seen: float


class Tracker:
    """Gives the faces of one feed their track ids: from 1, and never the same one twice."""

    def __init__(self, *, survive_s: float = 1.0) -> None:
        """``survive_s``: how long a track waits for its face to be seen again."""
        self._survive_s = survive_s
        self._next_id = 1
        self._tracks: list[_Track] = []

    def update(self, detections: Detections, seconds: float) -> npt.NDArray[np.int64]:
        """Track ids (N,) of the faces of the feed's next frame, in their order.

        ``seconds``: the frame's time on the feed's own clock. A clock that went back is that of
        another recording: no track continues.
        """
        seconds = round(seconds, 6)
        self._tracks = [t for t in self._tracks if 0 <= seconds - t.seen <= self._survive_s]
        boxes = detections.boxes.astype(np.float64)
        predicted = np.array([_predict(t, seconds) for t in self._tracks]).reshape(-1, 4)
        track_of = dict(_best_pairs(_affinity(boxes, predicted)))
        ids = np.zeros(len(boxes), np.int64)
        for i, box in enumerate(boxes):
            if i in track_of:
                k = track_of[i]
                self._tracks[k] = _moved(self._tracks[k], box, seconds)
                ids[i] = self._tracks[k].id
            else:
                self._tracks.append(_Track(self._next_id, *_rounded(box), 0.0, 0.0, seconds))
                ids[i] = self._next_id
                self._next_id += 1
        return ids

    def state(self) -> bytes:
        """The next id and the live tracks, as compact JSON, for ``restore``."""
        state = {"v": _FORMAT, "next": self._next_id, "tracks": [astuple(t) for t in self._tracks]}
        return json.dumps(state, separators=(",", ":")).encode()

    @classmethod
    def restore(cls, state: bytes | None, *, survive_s: float = 1.0) -> Tracker:
        """The tracker that ``state`` was saved from; a new one for None.

        Raises:
            ValueError: the state is not one that ``state`` wrote.
        """
        tracker = cls(survive_s=survive_s)
        if state is not None:
            try:
                tracker._next_id, tracker._tracks = _parsed(state)
            except (ValueError, TypeError, LookupError) as error:
                raise ValueError(f"the tracker's saved state is corrupt: {error}") from None
        return tracker


def _predict(track: _Track, seconds: float) -> Array:
    """Where the track's face should be now (4,): moved on at a speed that fades away."""
    reach = _FADE_S * (1 - math.exp((track.seen - seconds) / _FADE_S))
    x, y = track.speed_x * reach, track.speed_y * reach
    return np.array([track.left + x, track.top + y, track.right + x, track.bottom + y])


def _moved(track: _Track, box: Array, seconds: float) -> _Track:
    """The track with its face seen at ``box`` (4,)."""
    speed_x, speed_y = track.speed_x, track.speed_y
    elapsed = seconds - track.seen
    if elapsed > 0:
        share = 1 - math.exp(-elapsed / _SPEED_MEMORY_S)
        x = (box[0] + box[2] - track.left - track.right) / 2 / elapsed
        y = (box[1] + box[3] - track.top - track.bottom) / 2 / elapsed
        speed_x += share * (x - speed_x)
        speed_y += share * (y - speed_y)
    return _Track(
        track.id, *_rounded(box), round(float(speed_x), 2), round(float(speed_y), 2), seconds
    )


def _rounded(box: Array) -> tuple[float, float, float, float]:
    left, top, right, bottom = box.tolist()
    return round(left, 2), round(top, 2), round(right, 2), round(bottom, 2)


def _affinity(boxes: Array, predicted: Array) -> Array:
    """How well each face (N) continues each track (K), as (N, K); 0 where it cannot.

    1 to 2 by overlap, below 1 by nearness: a pair that overlaps comes before any that does not.
    """
    face, track = boxes[:, None], predicted[None]
    shared = np.minimum(face[..., 2:], track[..., 2:]) - np.maximum(face[..., :2], track[..., :2])
    overlap = shared.clip(0).prod(axis=-1)
    area_face, area_track = ((b[..., 2:] - b[..., :2]).clip(0).prod(axis=-1) for b in (face, track))
    overlap /= np.maximum(area_face + area_track - overlap, 1e-9)

    side_face, side_track = np.sqrt(np.maximum(area_face, 1)), np.sqrt(np.maximum(area_track, 1))
    centres = (face[..., :2] + face[..., 2:] - track[..., :2] - track[..., 2:]) / 2
    distance = np.hypot(centres[..., 0], centres[..., 1]) / ((side_face + side_track) / 2)
    growth = np.maximum(side_face / side_track, side_track / side_face)
    nearness = np.where(growth <= _MAX_GROWTH, 1 - distance / _MAX_DISTANCE, 0).clip(0)
    return np.where(overlap >= _MIN_OVERLAP, 1 + overlap, nearness)


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


def _parsed(state: bytes) -> tuple[int, list[_Track]]:
    content = json.loads(state)
    if content["v"] != _FORMAT:
        raise ValueError(f"its format is {content['v']}, not {_FORMAT}")
    next_id = content["next"]
    tracks = [_Track(*track) for track in content["tracks"]]
    ids = [track.id for track in tracks]
    if any(type(i) is not int for i in (next_id, *ids)):
        raise ValueError("an id is not a whole number")
    if next_id < 1 or len(set(ids)) != len(ids) or not all(0 < i < next_id for i in ids):
        raise ValueError("its ids do not fit together")
    if not all(math.isfinite(number) for track in tracks for number in astuple(track)):
        raise ValueError("it holds a number that is not finite")
    return next_id, tracks
