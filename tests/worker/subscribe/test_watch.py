"""The terminal view: everything in it at every width, and nothing that is not."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from worker.records import Face, FrameEvent, ModelInfo
from worker.subscribe.watch import Board, clock, latency_s, line_of

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def event(feed: str = "hall", faces: int = 1, happy: float = 0.7) -> FrameEvent:
    raw = dict.fromkeys(LABELS, (1 - happy) / 6) | {"happy": happy}
    return FrameEvent(
        feed=feed, frame_id="1-0", session="s", sequence=0, captured_at=NOW, ingested_at=NOW,
        pts_seconds=75.25, width=640, height=360, detector=ModelInfo("d", "1", ""),
        classifier=ModelInfo("c", "1", ""), published_at=NOW + timedelta(milliseconds=40),
        faces=tuple(
            Face(track_id=i + 1, box=(0, 0, 50, 60), score=1, landmarks=(), raw=raw, label="happy")
            for i in range(faces)
        ),
    )  # fmt: skip


def shown(board: Board, width: int) -> str:
    out = io.StringIO()
    Console(width=width, file=out).print(board)
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 130])
def test_a_face_with_all_its_bars_fits(width: int) -> None:
    board = Board()
    board.add(event())
    text = shown(board, width)
    for part in ("hall", "1:15.2", "#1 50x60", "happy 70%", "1 events", "40 ms", "perceived"):
        assert part in text
    assert "…" not in text
    assert ("██▏" in text) == (width > 110)
    assert ("▆" in text) == (width < 110)


def test_no_event_no_face_and_too_many_faces_are_said() -> None:
    board = Board()
    assert "waiting for events" in shown(board, 80)
    board.add(event("empty", faces=0))
    assert "no face" in shown(board, 80)
    board.add(event("crowd", faces=30))
    assert "and 7 more faces" in shown(board, 80)
    board.trimmed(5)
    assert "5 events had been trimmed" in shown(board, 80)


def test_plain_lines_and_figures() -> None:
    assert line_of(event()) == "hall 1:15.2 #1 happy 70%"
    assert line_of(event(faces=0)) == "hall 1:15.2 no face"
    one = event()
    steady = replace(one.faces[0], smoothed={"happy": 0.4, "sad": 0.6}, label="sad", uncertain=True)
    one = replace(one, faces=(steady,))
    assert line_of(one) == "hall 1:15.2 #1 sad 60% ?"
    board = Board()
    board.add(one)
    assert "sad 60% ?" in shown(board, 130)
    assert latency_s(event()) == pytest.approx(0.04)
    assert clock(3600) == "60:00.0"


def test_a_server_that_went_back_is_told() -> None:
    board = Board()
    board.add(event())
    assert "went back" not in shown(board, 120)
    board.rewound()
    assert "the server went back 1x" in shown(board, 120)
