"""Events made by hand, for what is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from worker.records import Face, FrameEvent, ModelInfo

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
_MODEL = ModelInfo("hand", "1", "0" * 16)

Box = tuple[float, float, float, float]


def face(raw: str, *, track: int = 1, box: Box = (0, 0, 10, 10), label: str | None = None) -> Face:
    """A face whose greatest raw probability is that of ``raw``, and whose label is ``label``."""
    others = dict.fromkeys(("calm", "cross", "glad"), 0.1)
    return Face(track, box, 0.9, (), {**others, raw: 0.8}, label or raw)


def event(
    sequence: int, faces: Sequence[Face] = (), *, published_ms: float = 0.0, pts_s: float = 0.0
) -> FrameEvent:
    """An event of a frame that the server accepted at START."""
    return FrameEvent(
        feed="hand",
        frame_id=f"{sequence}-0",
        session="session",
        sequence=sequence,
        captured_at=START,
        ingested_at=START,
        pts_seconds=pts_s,
        width=64,
        height=48,
        faces=tuple(faces),
        detector=_MODEL,
        classifier=_MODEL,
        published_at=START + timedelta(milliseconds=published_ms),
        ordinal=sequence + 1,
    )
