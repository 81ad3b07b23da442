"""The terminal view of events: who is there, what the model reads in each face, and how late."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from worker.records import Face, FrameEvent

# By name, so that they follow the terminal's own theme; those of annotate are drawn into pictures.
_COLOURS = {
    "happy": "yellow",
    "surprise": "magenta",
    "neutral": "white",
    "sad": "blue",
    "angry": "red",
    "fear": "cyan",
    "disgust": "green",
}
_LYING = "▏▎▍▌▋▊▉█"
_STANDING = "▁▂▃▄▅▆▇█"
_WIDE = 110
"""Columns of a terminal from which each probability gets a bar of three cells, not of one."""
_WINDOW_S = 5.0
_ROWS = 24


class Board:
    """The latest event of each feed, as a table, with the rate and latency of the last seconds."""

    def __init__(self) -> None:
        self._latest: dict[str, FrameEvent] = {}
        self._recent: deque[tuple[float, float | None]] = deque()
        self._trimmed = 0
        self._rewound = 0
        self.events = 0
        # It is drawn from another thread than the one that adds to it.
        self._lock = threading.Lock()

    def add(self, event: FrameEvent) -> None:
        with self._lock:
            self._latest[event.feed] = event
            self._recent.append((time.monotonic(), latency_s(event)))
            self.events += 1

    def trimmed(self, missing: int | None) -> None:
        """Retention has trimmed events before they could be shown."""
        with self._lock:
            self._trimmed += missing or 1

    def rewound(self) -> None:
        """The server has gone back behind what was shown of a feed."""
        with self._lock:
            self._rewound += 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            yield self._draw(wide=options.max_width >= _WIDE)

    def _draw(self, *, wide: bool) -> RenderableType:
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("feed", no_wrap=True, max_width=20)
        for heading, width in (("time", 7), ("face", 12), ("expression", 14)):
            table.add_column(heading, no_wrap=True, min_width=width)
        table.add_column("probabilities", no_wrap=True)
        rows = 0
        for feed in sorted(self._latest):
            event = self._latest[feed]
            for face in event.faces or (None,):
                if rows < _ROWS:
                    table.add_row(feed, clock(event.pts_seconds), *_face_cells(face, wide))
                rows += 1
        if not rows:
            return Text("waiting for events ...", style="dim")
        hidden = [Text(f"... and {rows - _ROWS} more faces", style="dim")] if rows > _ROWS else []
        return Group(table, *hidden, self._footer())

    def _footer(self) -> Text:
        now = time.monotonic()
        while self._recent and now - self._recent[0][0] > _WINDOW_S:
            self._recent.popleft()
        line = f"{self.events} events"
        if len(self._recent) > 1:
            span = self._recent[-1][0] - self._recent[0][0]
            line += f" · {(len(self._recent) - 1) / span:.1f}/s" if span > 0 else ""
        latencies = [value for _, value in self._recent if value is not None]
        if latencies:
            line += f" · ingest to event {statistics.median(latencies) * 1000:.0f} ms"
        if self._trimmed:
            line += f" · {self._trimmed} events had been trimmed"
        if self._rewound:
            line += f" · the server went back {self._rewound}x"
        return Text(line + " · labels are perceived expressions", style="dim")


def clock(seconds: float) -> str:
    """Seconds since the source's first frame, as m:ss.s."""
    minutes, rest = divmod(max(0.0, seconds), 60)
    return f"{int(minutes)}:{rest:04.1f}"


def latency_s(event: FrameEvent) -> float | None:
    """From the server's acceptance of the frame to that of its event, by the server's clock."""
    if event.published_at is None:
        return None
    return (event.published_at - event.ingested_at).total_seconds()


def line_of(event: FrameEvent) -> str:
    """The event on one line, for output that is not a terminal."""
    faces = ", ".join(f"#{face.track_id} {_label(face)}" for face in event.faces)
    return f"{event.feed} {clock(event.pts_seconds)} {faces or 'no face'}"


def _face_cells(face: Face | None, wide: bool) -> tuple[str | Text, ...]:
    if face is None:
        return Text("no face", style="dim"), "", ""
    left, top, right, bottom = face.box
    shown = face.smoothed or face.raw
    colour = _COLOURS.get(face.label, "white")
    bars = Text()
    for name in sorted(shown):
        share = min(1.0, max(0.0, shown[name]))
        bars.append(name[:3] if wide else name[:2], style="dim")
        bars.append(_bar(share, wide) + " ", style=_COLOURS.get(name, "white"))
    return (
        f"#{face.track_id} {right - left:.0f}x{bottom - top:.0f}",
        Text(_label(face), colour),
        bars,
    )


def _label(face: Face) -> str:
    """The label and how probable it is, with a question mark where the model abstains."""
    share = (face.smoothed or face.raw).get(face.label, 0.0)
    return f"{face.label} {share:.0%}" + (" ?" if face.uncertain else "")


def _bar(share: float, wide: bool) -> str:
    """``share`` (0 to 1) as a lying bar of three cells, or a standing one of a single cell."""
    if not wide:
        return _STANDING[min(7, int(share * 8))]
    eighths = round(share * 24)
    bar = "█" * (eighths // 8) + (_LYING[eighths % 8 - 1] if eighths % 8 else "")
    return bar.ljust(3, "·")
