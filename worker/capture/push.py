"""The push loop: a source's pictures, sampled and scaled, become frames of a feed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from worker.capture.encode import encode_jpeg
from worker.capture.lasting import LastingSource
from worker.capture.options import PushOptions
from worker.capture.reader import Stopped
from worker.capture.sampling import fit, sample
from worker.capture.sources import Source, may_come_back, open_source
from worker.capture.writer import Writer
from worker.errors import ServerFull, ServerUnavailable, SettingsError
from worker.records import Encoding, Frame, Picture, Policy
from worker.wire.server import Backoff, Server

log = logging.getLogger("mien")


@dataclass(frozen=True, slots=True)
class PushReport:
    """How far a push has come."""

    read: int = 0
    """Pictures taken from the source (after sampling)."""
    accepted: int = 0
    refused: int = 0
    """Live frames that the server could not take in time; they never entered the books."""
    missed: int = 0
    """Live pictures that came faster than they could be pushed, and were passed over."""
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
    staleness_s: float | None = None,
    fps: float | None = None,
    first_s: float | None = None,
    width: int | None = None,
    quality: int = 85,
    loop: bool = False,
    realtime: bool = False,
    stall_s: float = 10.0,
    give_up_s: float | None = None,
    decode_threads: int = 1,
    replicas: int = 0,
    stop: threading.Event | None = None,
    progress: Callable[[PushReport, Source], None] = lambda report, source: None,
    on_frame: Callable[[Frame], None] = lambda frame: None,
    say: Callable[[str], None] = log.warning,
) -> PushReport:
    """Push a video file, a folder of images, a camera (its index) or a URL to ``feed``.

    A camera or URL that breaks off or falls silent is opened again until it is back; the frames
    go on in the same writer session, their sequence and times rising.

    Args:
        redis: the server's URL; None for what ``MIEN_REDIS`` says, or the default.
        policy: ``live`` or ``lossless``; None for lossless with files and live with the rest.
        depth: how many frames may wait to be read; None for the policy's default.
        staleness_s: a live frame that has waited longer is skipped; None for what the feed has.
        fps: take at most so many pictures a second of the source's own time.
        first_s: push the first so many seconds of that time, and end.
        width: scale wider pictures down to so many pixels.
        quality: of the JPEG, 1 to 100.
        loop: begin again at the source's end (files, folders and URLs that have one).
        realtime: give a file's pictures at the pace of their pts, not as fast as they are taken.
        stall_s: a camera or URL that gives no picture for so long is opened again.
        give_up_s: end when a camera or URL has been away for so long; None: wait for ever.
        decode_threads: how many threads decode a video.
        replicas: keep each frame until so many replicas have it, and push it again where a failover
            has lost it; a lossless push ends when they have all of them.
        stop: set it from elsewhere to end the push after the frame in hand.
        progress: called after each picture.
        on_frame: called with each frame that the server has accepted.
        say: told once when the push has to wait, and why, and when an outage is over.

    Raises:
        SourceError: the source cannot be opened, or ended before its end; what it gave before is
            pushed.
        FeedNameError, SettingsError, ServerUnavailable, SessionSuperseded: as their names say.
    """
    options = PushOptions.checked(
        name=feed, source=source, policy=policy, depth=depth, staleness_s=staleness_s, fps=fps,
        first_s=first_s, width=width, quality=quality, loop=loop, realtime=realtime,
        stall_s=stall_s, give_up_s=give_up_s, decode_threads=decode_threads, replicas=replicas,
    )  # fmt: skip
    return push_feed(
        options, redis=redis, stop=stop or threading.Event(), progress=progress,
        on_frame=on_frame, say=say,
    )  # fmt: skip


def push_feed(
    options: PushOptions,
    *,
    redis: str | None,
    stop: threading.Event,
    progress: Callable[[PushReport, Source], None],
    say: Callable[[str], None],
    on_frame: Callable[[Frame], None] = lambda frame: None,
    patient: bool = False,
) -> PushReport:
    """:func:`push`, with its options in one; ``patient``: wait for camera and server to turn up."""
    report = PushReport()
    server = Server(redis)
    try:
        with ExitStack() as held:
            opened = held.enter_context(_open(options, stop, say, patient=patient))
            if options.loop and opened.live:
                raise SettingsError(f"{opened.name} is live: it has no end at which to loop")
            writer = _writer(server, options, opened, stop, say, patient)
            began = datetime.now(UTC)
            began_clock = time.monotonic()

            def again() -> Source:
                return held.enter_context(_open(options, stop, say, patient=True))

            pictures = _rounds(opened, held, again) if options.loop else opened.pictures()
            try:
                for picture in sample(pictures, options.fps) if options.fps else pictures:
                    seconds = float(picture.pts * picture.time_base)
                    if options.first_s is not None and seconds >= options.first_s:
                        break
                    if options.realtime and not opened.live:
                        stop.wait(max(0.0, began_clock + seconds - time.monotonic()))
                    if stop.is_set():
                        break
                    image = fit(picture.image, options.width) if options.width else picture.image
                    frame = Frame(
                        feed=options.name,
                        session=writer.session,
                        sequence=report.read,
                        captured_at=picture.captured_at or began + timedelta(seconds=seconds),
                        pts=picture.pts,
                        time_base=picture.time_base,
                        width=image.shape[1],
                        height=image.shape[0],
                        encoding=Encoding.JPEG,
                        data=encode_jpeg(image, options.quality),
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
                        missed=opened.missed,
                        displaced=report.displaced + pushed.displaced,
                        pts_seconds=seconds,
                    )
                    progress(report, opened)
            finally:
                writer.finish()
    except Stopped:
        pass
    finally:
        server.close()
    return report


def _open(
    options: PushOptions, stop: threading.Event, say: Callable[[str], None], *, patient: bool
) -> Source:
    def open_() -> Source:
        return open_source(
            options.source, timeout_s=options.stall_s, decode_threads=options.decode_threads
        )

    if not may_come_back(options.source):
        return open_()
    return LastingSource(
        open_, stop=stop, say=say, stall_s=options.stall_s, give_up_s=options.give_up_s,
        keep_all=options.policy == "lossless", patient=patient,
    )  # fmt: skip


def _writer(
    server: Server,
    options: PushOptions,
    opened: Source,
    stop: threading.Event,
    say: Callable[[str], None],
    patient: bool,
) -> Writer:
    outage = Backoff()
    told = False
    while True:
        try:
            return Writer(
                server,
                options.name,
                stop=stop,
                policy=options.policy or ("live" if opened.live else "lossless"),
                depth=options.depth,
                staleness_s=options.staleness_s,
                source=opened.name,
                replicas=options.replicas,
                say=say,
            )
        except (ServerUnavailable, ServerFull) as error:
            if not patient:
                raise
            if not told:
                say(f"{error}; trying again")
            told = True
        outage.wait(stop)
        if stop.is_set():
            raise Stopped


def _rounds(opened: Source, held: ExitStack, again: Callable[[], Source]) -> Iterator[Picture]:
    """The source's pictures again and again, their pts running on from round to round.

    ``held`` holds the source that is open, one at a time; ``again`` opens the next in it.
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
        opened = again()
