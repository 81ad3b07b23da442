"""Video files and streams, decoded by FFmpeg through PyAV."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from worker.capture.base import Source
from worker.capture.ending import StatedEnd, formats_of
from worker.capture.timeline import Timeline
from worker.capture.upright import check_size, square_width, upright
from worker.errors import SourceError, SourceLost
from worker.records import Picture

_MOST_STREAMS = 64
_NO_ANSWER = "no answer in time"
_SIZE_SAYS_NOTHING = frozenset({"hls", "dash", "mpjpeg"})
"""Playlists, whose size is not the video's, and a camera's pictures, which some send with a size
that they never reach."""
_WITHOUT_STAMPS = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "m4v", "mpegvideo"})
"""Formats that store no times: FFmpeg counts pictures as if they came at the usual rate."""
_CLOCK = Fraction(1, 90_000)


def open_file(path: Path, *, decode_threads: int = 1) -> VideoSource:
    """Open a video file.

    Raises:
        SourceError: it is empty, not a video, or none of its pictures can be decoded.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise SourceError(f"{path.name} is empty")
    try:
        # The prefix keeps FFmpeg from reading a protocol into a name with a colon.
        container = av.open(f"file:{path}", metadata_errors="replace")
    except av.error.InvalidDataError:
        raise SourceError(
            f"{path.name} is not a video that can be read, or its beginning or index is missing"
        ) from None
    except av.error.FFmpegError as error:
        raise SourceError(f"{path.name} cannot be opened: {error.strerror}") from None
    return _start(container, path.name, live=False, threads=decode_threads)


def open_url(
    url: str, *, name: str, rtsp_transport: str, timeout_s: float, decode_threads: int = 1
) -> VideoSource:
    """Open a URL that FFmpeg reads. It is live when neither its duration nor its size is known.

    ``timeout_s`` bounds each wait for the server, and for the next picture of a live source.

    Raises:
        SourceError: it cannot be reached within ``timeout_s``, or holds no video.
    """
    began = time.monotonic()
    options = {"rtsp_transport": rtsp_transport} if url.startswith("rtsp") else {}
    try:
        container = av.open(
            url, options=options, timeout=(timeout_s, timeout_s), metadata_errors="replace"
        )
    except av.error.FFmpegError as error:
        # The error's own text is not used: it would repeat the URL with its password.
        if time.monotonic() - began >= timeout_s:
            reason = _NO_ANSWER  # whatever FFmpeg made of being interrupted
        elif isinstance(error, av.error.InvalidDataError):
            raise SourceError(f"{name} does not deliver a video that can be read") from None
        else:
            reason = _reason(error)
        raise SourceError(f"{name} cannot be opened: {reason}") from None
    ends = bool(container.duration and container.duration > 0) or (
        container.size > 0 and not _SIZE_SAYS_NOTHING & formats_of(container)
    )
    return _start(container, name, live=not ends, threads=decode_threads, timeout_s=timeout_s)


def _start(
    container: InputContainer,
    name: str,
    *,
    live: bool,
    threads: int,
    timeout_s: float | None = None,
) -> VideoSource:
    try:
        if len(container.streams) > _MOST_STREAMS:
            raise SourceError(
                f"{name} has {len(container.streams)} streams, and more than {_MOST_STREAMS} "
                "are refused"
            )
        # Cover art of music files is a video stream of one picture, and not what is meant.
        streams = [
            s for s in container.streams.video if Disposition.attached_pic not in s.disposition
        ]
        if not streams:
            raise SourceError(f"{name} has no video")
        stream = max(streams, key=lambda s: Disposition.default in s.disposition)
        if stream.codec_context is None:
            raise SourceError(f"{name} is in a video codec that this FFmpeg cannot decode")
        check_size(stream.width, stream.height, name)
        # Threads by frame are faster, but hold back as many pictures as there are threads.
        stream.thread_type, stream.thread_count = "SLICE" if live else "AUTO", threads
        return VideoSource(container, stream, name, live=live, timeout_s=timeout_s)
    except BaseException:
        container.close()
        raise


class VideoSource(Source):
    """The pictures of one video stream.

    Turning and mirroring by the display matrix is applied, and pictures with pixels that are not
    square are stretched in width, so that faces have their true proportions. Packets that the
    decoder refuses are passed over. At the end of a file they are told in a SourceError, and so is
    an end that comes more than half a second before the one its header states. Not noticed: a file
    without a stated duration (MPEG-TS, fragmented MP4) that is cut exactly between two packets.

    Size, pixel format, proportions and rotation may change from picture to picture.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        name: str,
        *,
        live: bool,
        timeout_s: float | None,
    ) -> None:
        """``timeout_s``: of a URL, which may come back when it breaks off; None for a file."""
        self.name = name
        self.live = live
        self._container = container
        self._stream = stream
        self._timeout_s = timeout_s
        self._broken = SourceError if timeout_s is None else SourceLost

        rate = stream.average_rate or stream.guessed_rate
        if rate and rate > 1000:  # the time base of a stream that states no rate
            rate = None
        self.rate = float(rate) if rate else None
        self.duration_s = None if live else _duration_s(container, stream)
        self.frames = None if live else stream.frames or None
        if self.frames is None and self.duration_s is not None and self.rate is not None:
            self.frames = round(self.duration_s * self.rate)

        self._end = StatedEnd(container, stream)
        self._cut = False
        self._refused = 0
        self._read = 0
        self._end_s = 0.0
        self._by_clock = live and bool(_WITHOUT_STAMPS & formats_of(container))
        self._began = self._heard = time.monotonic()
        time_base = None if self._by_clock else stream.time_base
        self._timeline = Timeline(time_base or _CLOCK, rate or Fraction(25))
        self._aspect = stream.sample_aspect_ratio
        self._coded_aspect: Fraction | None = None
        self._pictures = self._decoded()
        first = next(self._pictures, None)
        if first is None:
            raise SourceError(f"{name} holds no picture that can be decoded")
        self._first = first
        self.height, self.width = first.image.shape[:2]

    def pictures(self) -> Iterator[Picture]:
        yield self._first
        yield from self._pictures

    def close(self) -> None:
        self._pictures.close()
        self._container.close()

    def _decoded(self) -> Generator[Picture, None, None]:
        for packet in self._packets():
            try:
                frames = self._stream.decode(packet)
            except av.error.FFmpegError:
                # Streams joined midway begin with packets that refer to pictures never seen.
                self._refused += self._read > 0
                continue
            for frame in frames:
                yield self._picture(frame)
                self._heard = time.monotonic()  # what its taker took is not the source's silence
        if not self.live and self._read:
            self._check_end()

    def _packets(self) -> Iterator[Packet[Any] | None]:
        """The stream's packets, ending with an empty one, or None, that drains the decoder.

        A packet that FFmpeg knows to be partial is the cut when it is the last one; amid others it
        is only damaged, and the decoder makes of it what it can.

        What has an end and may be read again is not drained where it breaks off: of the pictures
        that the decoder still holds some need others that come after the cut.
        """
        partial = None
        again = not self.live and self._timeout_s is not None
        try:
            for packet in self._container.demux():
                self._end.pass_over(packet)
                if self.live and time.monotonic() - self._heard > (self._timeout_s or math.inf):
                    raise SourceLost(self._broke_off(self._stalled()))
                if packet.stream.index != self._stream.index:
                    continue
                if not packet.size and again and (partial is not None or self._end.is_missing()):
                    continue
                if partial is not None and packet.size:
                    yield partial
                    partial = None
                if packet.is_corrupt and not self.live:
                    partial = packet
                else:
                    yield packet
        except av.error.FFmpegError as error:
            if not again:
                yield None
            raise self._broken(self._broke_off(self._why(error))) from None
        except IndexError:
            # PyAV, draining a stream that turned up midway (MPEG-TS); ours has been drained before.
            pass
        self._cut = partial is not None

    def _picture(self, frame: VideoFrame) -> Picture:
        step, stamp = frame.duration or None, frame.pts
        if self._by_clock:
            step, stamp = None, round((time.monotonic() - self._began) / _CLOCK)
        pts, time_base = self._timeline.place(stamp, step), self._timeline.time_base
        self._read += 1
        self._end_s = float((pts + self._timeline.step(step)) * time_base)
        width = square_width(frame, self._aspect_now())
        check_size(width, frame.height, self.name)
        return Picture(
            image=upright(frame, width),
            pts=pts,
            time_base=time_base,
            captured_at=datetime.now(UTC) if self.live else None,
        )

    def _aspect_now(self) -> Fraction | None:
        """The container's word on the proportions counts until the decoder sees them change."""
        coded = self._stream.codec_context.sample_aspect_ratio
        if self._read == 1:
            self._coded_aspect = coded
        elif coded != self._coded_aspect:
            self._coded_aspect = self._aspect = coded
        return self._aspect

    def _check_end(self) -> None:
        if self._cut or self._end.is_missing():
            stated = f" of {self.duration_s:.1f} s" if self._end.is_missing() else ""
            raise self._broken(self._broke_off(f"the rest{stated} is missing"))
        if self._refused:
            raise SourceError(
                f"{self.name} is damaged: {self._refused} of its packets could not be decoded, "
                f"{self._read} pictures were read"
            )

    def _why(self, error: av.error.FFmpegError) -> str:
        if isinstance(error, av.error.ExitError):  # PyAV's way to end a wait that took too long
            return self._stalled()
        if error.errno == errno.EIO and self._timeout_s is not None:
            return "the connection was cut"
        return _reason(error)

    def _stalled(self) -> str:
        return f"stalled, no picture for {self._timeout_s:g} s"

    def _broke_off(self, reason: str) -> str:
        return (
            f"{self.name} broke off at {self._end_s:.1f} s: {reason}, "
            f"{self._read} pictures were read"
        )


def _duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _reason(error: av.error.FFmpegError) -> str:
    return error.strerror or "FFmpeg gives no reason"
