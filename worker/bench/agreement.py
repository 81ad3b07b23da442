"""Whether two loops say the same of the same frames, and how steady the labels of tracks are."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from worker.bench.report import Agreement, LabelChanges
from worker.records import FrameEvent

FOUND_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Seen:
    """A face of one frame, whoever saw it."""

    box: tuple[float, float, float, float]
    """left, top, right, bottom in pixels."""
    label: str
    """Of the greatest raw probability."""


def top(raw: Mapping[str, float]) -> str:
    return max(raw, key=raw.__getitem__)


def seen(found: Sequence[FrameEvent]) -> list[list[Seen]]:
    """The faces of each frame, in the frames' order."""
    in_order = sorted(found, key=lambda event: event.sequence)
    return [[Seen(face.box, top(face.raw)) for face in event.faces] for event in in_order]


def agreement(
    of: Literal["full", "default"],
    ours: Sequence[Sequence[Seen]],
    reference: Literal["naive", "full"],
    theirs: Sequence[Sequence[Seen]],
) -> Agreement:
    """Frame by frame; shares of nothing are 1 for what was found and equal, 0 for what is extra."""
    faces = mine = both = equal = 0
    for some, others in zip(ours, theirs, strict=True):
        pairs = partners(others, some)
        faces += len(others)
        mine += len(some)
        both += len(pairs)
        equal += sum(others[i].label == some[k].label for i, k in pairs)
    return Agreement(
        of=of,
        reference=reference,
        reference_faces=faces,
        found=both / faces if faces else 1.0,
        extra=1 - both / mine if mine else 0.0,
        equal_labels=equal / both if both else 1.0,
    )


def partners(reference: Sequence[Seen], ours: Sequence[Seen]) -> list[tuple[int, int]]:
    """Indices of faces that overlap by FOUND_IOU or more: the best pair first, each face once."""
    if not reference or not ours:
        return []
    a, b = (np.array([face.box for face in faces]) for faces in (reference, ours))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b))
    overlap = shared / (area_a[:, None] + area_b[None] - shared)
    pairs = []
    while overlap.max() >= FOUND_IOU:
        i, k = np.unravel_index(overlap.argmax(), overlap.shape)
        pairs.append((int(i), int(k)))
        overlap[i, :] = overlap[:, k] = -1
    return pairs


def label_changes(found: Sequence[FrameEvent]) -> LabelChanges:
    """Changes from one sight of a track to its next, over the time between its first and last."""
    tracks: dict[tuple[str, int], list[tuple[float, str, str]]] = {}
    for event in sorted(found, key=lambda event: event.sequence):
        for face in event.faces:
            sights = tracks.setdefault((event.feed, face.track_id), [])
            sights.append((event.pts_seconds, top(face.raw), face.label))
    minutes = sum(sights[-1][0] - sights[0][0] for sights in tracks.values()) / 60
    raw, steady = (
        sum(
            before[column] != after[column]
            for sights in tracks.values()
            for before, after in itertools.pairwise(sights)
        )
        for column in (1, 2)
    )
    return LabelChanges(
        raw_per_minute=raw / minutes if minutes else 0.0,
        steady_per_minute=steady / minutes if minutes else 0.0,
        track_minutes=minutes,
    )
