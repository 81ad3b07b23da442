"""The plain data that the steps hand to each other. No behaviour beyond checks of shape."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""A picture, (height, width, 3), RGB, rows from the top, C-contiguous."""

Floats = npt.NDArray[np.float32]


class Encoding(StrEnum):
    JPEG = "jpeg"
    RGB24 = "rgb24"
    BGR24 = "bgr24"


Policy = Literal["live", "lossless"]

PreviewMode = Literal["off", "blurred", "clear"]

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
"""Where the networks run."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture of a source, before it becomes a frame of a feed."""

    image: Image
    pts: int
    """Presentation time in units of time_base, 0 at the source's first picture."""
    time_base: Fraction
    captured_at: datetime | None = None
    """When a live source delivered it (UTC); None for files, whose time is start + pts."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it travels on the wire; see proto/mien/v1/frame.proto."""

    feed: str
    session: str
    sequence: int
    captured_at: datetime
    pts: int
    time_base: Fraction
    width: int
    height: int
    encoding: Encoding
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Detections:
    """The faces of one picture, as parallel arrays of one length N, best score first."""

    boxes: Floats
    """(N, 4): left, top, right, bottom, in pixels of the picture; may reach beyond it."""
    scores: Floats
    """(N,): probability that this is a face."""
    landmarks: Floats
    """(N, 5, 2): left eye, right eye, nose, left and right mouth corner; x, y in pixels."""

    def __post_init__(self) -> None:
        n = len(self.scores)
        if (
            self.scores.shape != (n,)
            or self.boxes.shape != (n, 4)
            or self.landmarks.shape != (n, 5, 2)
        ):
            raise ValueError(
                "boxes, scores and landmarks disagree: "
                f"{self.boxes.shape}, {self.scores.shape}, {self.landmarks.shape}"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def pick(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Detections:
        """Those that ``chosen`` says: (N,) whether each, in their order; or (K,) which ones."""
        return Detections(self.boxes[chosen], self.scores[chosen], self.landmarks[chosen])

    @classmethod
    def joined(cls, some: Iterable[Detections]) -> Detections:
        """All of them, one after the other."""
        some = [cls.none(), *some]
        return cls(
            np.concatenate([each.boxes for each in some]),
            np.concatenate([each.scores for each in some]),
            np.concatenate([each.landmarks for each in some]),
        )

    @classmethod
    def none(cls) -> Detections:
        return cls(
            np.zeros((0, 4), np.float32),
            np.zeros((0,), np.float32),
            np.zeros((0, 5, 2), np.float32),
        )


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model said something."""

    name: str
    version: str
    digest: str
    """First 16 hexadecimal digits of the SHA-256 of the model's bytes."""


@dataclass(frozen=True, slots=True)
class Face:
    """One face of one frame as published; see proto/mien/v1/event.proto."""

    track_id: int
    box: tuple[float, float, float, float]
    """left, top, right, bottom in pixels of the frame."""
    score: float
    landmarks: tuple[tuple[float, float], ...]
    raw: dict[str, float]
    """Label -> probability, in the model's order of labels."""
    label: str
    uncertain: bool = False
    source: Literal["detected", "tracked"] = "detected"
    classified: bool = True
    smoothed: dict[str, float] = field(default_factory=dict)
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class FrameEvent:
    """What one frame showed; see proto/mien/v1/event.proto. Times are UTC."""

    feed: str
    frame_id: str
    session: str
    sequence: int
    captured_at: datetime
    ingested_at: datetime
    pts_seconds: float
    width: int
    height: int
    faces: tuple[Face, ...]
    detector: ModelInfo
    classifier: ModelInfo
    published_at: datetime | None = None
    """Set by the server when it takes the event; None before."""
    ordinal: int = 0
    """The event's place in its feed, from 1; 0 before it is published."""
