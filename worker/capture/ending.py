"""Where a video says that it ends, and whether it got there."""

from __future__ import annotations

from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

_STATED_BY_HEADER = frozenset({"mp4", "matroska", "flv"})
"""Formats whose headers state the duration. Others are estimated by FFmpeg, sometimes badly."""


def formats_of(container: InputContainer) -> frozenset[str]:
    """The names of the container's format: FFmpeg calls MP4 and its relatives by six at once."""
    return frozenset(container.format.name.split(","))


class StatedEnd:
    """Compares where packets really end with where the header says that they do.

    MP4 states it for each stream, the others for all streams together.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        formats = formats_of(container)
        self._only: int | None = None
        self._stated_s: float | None = None
        self._reached_s = 0.0
        rate = float(stream.average_rate or 25)
        self._tolerance_s = max(0.5, 3 / rate)
        if not formats & _STATED_BY_HEADER:
            return
        if "mp4" not in formats:
            self._stated_s = container.duration / av.time_base if container.duration else None
        elif stream.duration and stream.time_base:
            self._only = stream.index
            self._stated_s = float((stream.duration + (stream.start_time or 0)) * stream.time_base)

    def pass_over(self, packet: Packet[Any]) -> None:
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or packet.is_corrupt or self._only not in (None, packet.stream.index):
            return
        end_s = float((stamp + (packet.duration or 0)) * packet.time_base)
        self._reached_s = max(self._reached_s, end_s)

    def is_missing(self) -> bool:
        return self._stated_s is not None and self._stated_s - self._reached_s > self._tolerance_s
