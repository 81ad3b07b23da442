"""The push loop: a source's pictures, sampled and scaled, become frames of a feed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from worker.capture.encode import check_quality, encode_jpeg
from worker.capture.sampling import check_fps, check_width, fit, sample
from worker.capture.sources import Source, open_source
from worker.capture.writer import Writer
from worker.errors import SettingsError
from worker.records import Encoding, Frame, Picture, Policy
from worker.wire.server import Server


@dataclass(frozen=True, slots=True)
class PushReport:
    """How far a push has come."""

    read: int = 0
    """Pictures taken from the source (after sampling)."""
    accepted: int = 0
    refused: int = 0
    """Live frames that the server could not take in time; they never entered the books."""
    displaced: int = 0
    """Older live frames of the feed that made room; the books count them as dropped."""
    pts_seconds: float = 0.0
    """Where in the source the last picture stands."""


def push(
    source: str,
    feed: str,
    *,
    redis: str | None = None,
    policy: Policy | None = None,
    depth: int | None = None,
    fps: float | None = None,
    width: int | None = None,
    quality: int = 85,
    loop: bool = False,
    realtime: bool = False,
    stop: threading.Event | None = None,
    progress: Callable[[PushReport, Source], None] = lambda report, source: None,
    on_frame: Callable[[Frame], None] = lambda frame: None,
    say: Callable[[str], None] | None = None,
) -> PushReport:
    """Push a video file, a folder of images, a camera (its index) or a URL to ``feed``.

    Args:
        redis: the server's URL; None for what ``MIEN_REDIS`` says, or the default.
        policy: ``live`` or ``lossless``; None for lossless with files and live with the rest.
        depth: how many frames may wait to be read; None for the policy's default.
        fps: take at most so many pictures a second of the source's own time.
        width: scale wider pictures down to so many pixels.
        quality: of the JPEG, 1 to 100.
        loop: begin again at the source's end (files and folders).
        realtime: give a file's pictures at the pace of their pts, not as fast as they are taken.
        stop: set it from elsewhere to end the push after the frame in hand.
        progress: called after each picture.
        on_frame: called with each frame that the server has accepted.
        say: told once when the push has to wait, and why.

    Raises:
        SourceError: the source cannot be opened or broke off; what it gave before is pushed.
        FeedNameError, SettingsError, ServerUnavailable, SessionSuperseded: as their names say.
    """
    check_quality(quality)
    if fps is not None:
        check_fps(fps)
    if width is not None:
        check_width(width)
    stop = stop or threading.Event()
    server = Server(redis)
    try:
        with ExitStack() as held:
            opened = held.enter_context(open_source(source))
            if loop and opened.live:
                raise SettingsError(f"{opened.name} is live: it has no end at which to loop")
            writer = Writer(
                server,
                feed,
                stop=stop,
                policy=policy or ("live" if opened.live else "lossless"),
                depth=depth,
                source=opened.name,
                **({"say": say} if say else {}),
            )
            report = PushReport()
            began = datetime.now(UTC)
            began_clock = time.monotonic()
            pictures = _rounds(source, opened, held) if loop else opened.pictures()
            for picture in sample(pictures, fps) if fps else pictures:
                seconds = float(picture.pts * picture.time_base)
                if realtime and not opened.live:
                    stop.wait(max(0.0, began_clock + seconds - time.monotonic()))
                if stop.is_set():
                    break
                image = fit(picture.image, width) if width else picture.image
                frame = Frame(
                    feed=feed,
                    session=writer.session,
                    sequence=report.read,
                    captured_at=picture.captured_at or began + timedelta(seconds=seconds),
                    pts=picture.pts,
                    time_base=picture.time_base,
                    width=image.shape[1],
                    height=image.shape[0],
                    encoding=Encoding.JPEG,
                    data=encode_jpeg(image, quality),
                )
                pushed = writer.push(frame)
                if pushed.status == "stopped":
                    break
                if pushed.status == "accepted":
                    on_frame(frame)
                report = replace(
                    report,
                    read=report.read + 1,
                    accepted=report.accepted + (pushed.status == "accepted"),
                    refused=report.refused + (pushed.status == "refused"),
                    displaced=report.displaced + pushed.displaced,
                    pts_seconds=seconds,
                )
                progress(report, opened)
            return report
    finally:
        server.close()


def _rounds(source: str, opened: Source, held: ExitStack) -> Iterator[Picture]:
    """The source's pictures again and again, their pts running on from round to round.

    ``held`` holds the source that is open, one at a time.
    """
    shift = Fraction(0)
    while True:
        last = step = Fraction(0)
        for picture in opened.pictures():
            seconds = picture.pts * picture.time_base
            step, last = (seconds - last) or step, seconds
            yield replace(picture, pts=picture.pts + round(shift / picture.time_base))
        # The round's last picture stands as long as the one before it.
        shift += last + (step or Fraction(1))
        held.close()
        opened = held.enter_context(open_source(source))
