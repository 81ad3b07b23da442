"""Events put where a worker's settling script puts them, without a worker: exact and quick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from worker.records import Face, FrameEvent, ModelInfo
from worker.wire.codec import encode_event
from worker.wire.keys import FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
LABELS = ("happy", "neutral", "sad")


def face(track: int, label: str = "happy", *, uncertain: bool = False) -> Face:
    others = [name for name in LABELS if name != label]
    return Face(
        track_id=track, box=(1.0, 2.0, 30.0, 40.0), score=0.9,
        landmarks=tuple((float(x), 5.0) for x in range(5)),
        raw={label: 0.8, **dict.fromkeys(others, 0.1)}, label=label, uncertain=uncertain,
    )  # fmt: skip


def frame_id(number: int, step_ms: int = 40) -> str:
    """Of the frame that the server accepted ``number`` steps after START."""
    return f"{START_MS + number * step_ms}-0"


def publish(
    server: Server,
    feed: str,
    count: int = 1,
    *,
    first: int = 1,
    faces: Sequence[Face] = (face(1),),
    ids: Sequence[str] | None = None,
    step_ms: int = 40,
) -> list[FrameEvent]:
    """``count`` events with the ordinals from ``first`` on; registers the feed."""
    register(server, feed)
    keys, made = FeedKeys.of(feed), []
    for ordinal in range(first, first + count):
        entry_id = ids[ordinal - first] if ids else frame_id(ordinal, step_ms)
        at = START + timedelta(milliseconds=ordinal * step_ms)
        event = FrameEvent(
            feed=feed, frame_id=entry_id, session="s", sequence=ordinal, captured_at=at,
            ingested_at=at, published_at=at, pts_seconds=ordinal * step_ms / 1000,
            width=64, height=48, faces=tuple(faces),
            detector=ModelInfo("d", "1", "0" * 16), classifier=ModelInfo("c", "1", "1" * 16),
        )  # fmt: skip
        server.command("XADD", keys.events, entry_id, "event", encode_event(event), "n", ordinal)
        server.command("HSET", keys.stats, "published", ordinal)
        made.append(replace(event, ordinal=ordinal))
    return made


def preview(server: Server, feed: str, frame: str, jpeg: bytes = b"\xff\xd8picture") -> None:
    """A small picture, as workers publish it."""
    server.command(
        "XADD", FeedKeys.of(feed).preview, "MAXLEN", 4, "*",
        "frame_id", frame, "jpeg", jpeg, "width", 320, "height", 240,
    )  # fmt: skip
