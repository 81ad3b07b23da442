"""Events drawn into the pictures they belong to, and the pictures written as a video."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np

from worker.errors import SettingsError
from worker.records import Face, FrameEvent, Image

_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v")
_TIME_BASE = Fraction(1, 90_000)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# RGB, told apart by people who do not see red and green apart (Okabe and Ito 2008).
_COLOURS = {
    "angry": (213, 94, 0),
    "disgust": (0, 158, 115),
    "fear": (204, 121, 167),
    "happy": (240, 228, 66),
    "sad": (86, 180, 233),
    "surprise": (230, 159, 0),
    "neutral": (235, 235, 235),
}
_DARK = (24, 24, 24)


def draw(image: Image, event: FrameEvent) -> Image:
    """A copy of ``image`` with each face's box, track id, expression and probability bars."""
    canvas = np.ascontiguousarray(image.copy())
    for face in event.faces:
        _draw_face(canvas, face)
    return canvas


def _draw_face(canvas: Image, face: Face) -> None:
    height, width = canvas.shape[:2]
    scale = max(0.42, min(width, height) / 900)
    thickness = max(1, round(scale * 2))
    left, top, right, bottom = (round(value) for value in face.box)
    colour = _COLOURS.get(face.label, _COLOURS["neutral"])
    cv2.rectangle(canvas, (left, top), (right, bottom), colour, thickness, cv2.LINE_AA)
    for x, y in face.landmarks:
        cv2.circle(canvas, (round(x), round(y)), thickness, colour, -1, cv2.LINE_AA)

    shown = face.smoothed or face.raw
    title = f"#{face.track_id} {face.label} {shown.get(face.label, 0):.0%}"
    title += " ?" if face.uncertain else ""
    (text_width, text_height), base = cv2.getTextSize(title, _FONT, scale, 1)
    at_x = max(0, min(left, width - text_width - 4))
    at_y = top - base - 2 if top > text_height + base + 4 else bottom + text_height + base
    cv2.rectangle(
        canvas, (at_x, at_y - text_height - 3), (at_x + text_width + 4, at_y + base), colour, -1
    )
    cv2.putText(canvas, title, (at_x + 2, at_y - 1), _FONT, scale, _DARK, 1, cv2.LINE_AA)
    _draw_bars(canvas, shown, (left, right), top, scale)


def _draw_bars(
    canvas: Image, shown: dict[str, float], box: tuple[int, int], y: int, scale: float
) -> None:
    """One bar for each label to the right of the box (left, right), or to its left, or nowhere."""
    row, length = round(30 * scale), round(180 * scale)
    x = box[1] + 3 if box[1] + 3 + length <= canvas.shape[1] else box[0] - 3 - length
    y = max(0, y)
    if x < 0 or y + row * len(shown) > canvas.shape[0]:
        return
    for i, (name, share) in enumerate(sorted(shown.items())):
        top = y + i * row
        panel = canvas[top : top + row - 1, x : x + length]
        panel //= 2
        cv2.rectangle(
            canvas,
            (x, top),
            (x + max(1, round(length * share)), top + row - 2),
            _COLOURS.get(name, _COLOURS["neutral"]),
            -1,
        )
        # Dark on a long bar; beside a short one white, outlined where the bar reaches under it.
        white = [(_DARK, 3), ((255, 255, 255), 1)]
        for colour, thickness in [(_DARK, 1)] if share > 0.5 else white:
            cv2.putText(
                canvas, name, (x + 3, top + row - round(8 * scale)), _FONT, scale * 0.75,
                colour, thickness, cv2.LINE_AA,
            )  # fmt: skip


class AnnotatedVideo:
    """Writes pictures as H.264 into a file whose format its name tells. A context manager.

    Nothing is written before the first picture.

    Raises (all methods):
        SettingsError: the file cannot be written, its name does not end as H.264 needs it, or the
            first picture is smaller than 2x2.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.suffix.lower() not in _SUFFIXES:
            raise self._refused(f"its name must end in {', '.join(_SUFFIXES)}")
        if not path.parent.is_dir():
            raise self._refused(f"there is no folder {path.parent}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise self._refused("that is not permitted")
        with self._translated():
            # The prefix keeps FFmpeg from reading a protocol into a name with a colon.
            self._container = av.open(f"file:{path}", "w")
            self._stream = self._container.add_stream("libx264", rate=30)
        self._last_pts = -1

    def add(self, image: Image, seconds: float) -> None:
        """Append one picture, shown from ``seconds`` on. The first one sets the size."""
        if self._last_pts < 0:
            self._set_up(*image.shape[:2])
        if image.shape[:2] != (self._stream.height, self._stream.width):
            size = (self._stream.width, self._stream.height)
            image = cv2.resize(image, size).astype(np.uint8, copy=False)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        # Without threads=1 PyAV starts and ends a pool of threads for every frame.
        frame = frame.reformat(format="yuv420p", threads=1)
        frame.pts = max(self._last_pts + 1, round(seconds / _TIME_BASE))
        frame.time_base = _TIME_BASE
        self._last_pts = frame.pts
        with self._translated():
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        with self._translated():
            if self._last_pts >= 0:
                self._container.mux(self._stream.encode(None))
            self._container.close()

    def _set_up(self, height: int, width: int) -> None:
        if height < 2 or width < 2:
            raise self._refused(f"a picture of {width}x{height} is too small for H.264")
        # H.264 in 4:2:0 needs even sides.
        self._stream.height, self._stream.width = height // 2 * 2, width // 2 * 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = _TIME_BASE
        self._stream.codec_context.time_base = _TIME_BASE
        self._stream.options = {"crf": "20", "preset": "veryfast"}

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._refused(getattr(error, "strerror", None) or str(error)) from None

    def _refused(self, why: str) -> SettingsError:
        return SettingsError(f"cannot write a video to {self._path}: {why}")

    def __enter__(self) -> AnnotatedVideo:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
