"""Opens whatever a user names as a source: a file, a folder, a camera or a URL."""

from __future__ import annotations

import re
from pathlib import Path

from worker.capture.base import Source
from worker.capture.camera import open_camera
from worker.capture.stills import SUFFIXES, open_stills
from worker.capture.video import open_file, open_url
from worker.errors import SourceError
from worker.wire.addresses import without_secrets

__all__ = ["Source", "may_come_back", "open_source"]

_CAMERA = re.compile(r"(?:/dev/video)?(\d{1,3})", re.ASCII)


def may_come_back(source: str) -> bool:
    """True for cameras and URLs: what is away now may be there later. A file's fault stays."""
    return bool(_CAMERA.fullmatch(source)) or ("://" in source and not source.startswith("file://"))


def open_source(
    source: str,
    *,
    rtsp_transport: str = "tcp",
    timeout_s: float = 10.0,
    image_rate: float = 1.0,
    decode_threads: int = 1,
) -> Source:
    """Open a source and decode its first picture, so that its size is known.

    ``source`` is a camera's index (``0``; ``./0`` is a file of that name), a URL that FFmpeg
    reads, a folder of images, one image, or a video file. ``timeout_s`` bounds each wait for
    a URL's server, and for the next picture of a live one; ``image_rate`` is the pictures a second
    that a folder of images is given; ``decode_threads`` how many threads decode a video.

    Raises:
        SourceError: there is no such source, or it cannot be read as pictures.
        SettingsError: ``image_rate`` is not above 0.
    """
    opened = _open(source, rtsp_transport, timeout_s, image_rate, decode_threads)
    # A file's name may be any bytes; the label that the registry keeps is text.
    opened.name = opened.name.encode("utf-8", "backslashreplace").decode()
    return opened


def _open(
    source: str, rtsp_transport: str, timeout_s: float, image_rate: float, decode_threads: int
) -> Source:
    if camera := _CAMERA.fullmatch(source):
        return open_camera(int(camera[1]))
    if "://" in source:
        try:
            name = without_secrets(source)
        except ValueError as error:
            raise SourceError(f"the source's URL {error}") from None
        return open_url(
            source, name=name, rtsp_transport=rtsp_transport, timeout_s=timeout_s,
            decode_threads=decode_threads,
        )  # fmt: skip

    path = Path(source)
    if path.is_dir():
        return open_stills(path, rate=image_rate)
    if not path.exists():
        raise SourceError(f"there is no file or folder {source}")
    if path.suffix.lower() in SUFFIXES:
        return open_stills(path, rate=image_rate)
    return open_file(path, decode_threads=decode_threads)
