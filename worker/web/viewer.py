"""One who looks on: the messages of some feeds, each at the pace at which this viewer takes them.

What a viewer costs is bounded: it holds a place in the rings of its feeds, at the most one chunk on
its way, and what its connection buffers. One that has fallen out of a ring is fed from the server's
history until it is back, a page at a time, each after it has taken the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from worker.errors import ServerError
from worker.subscribe.cursors import Position, Subscription
from worker.subscribe.previews import Preview
from worker.web import messages
from worker.web.hub import Channel, Hub
from worker.web.messages import Message, message
from worker.web.threads import Busy, Threads
from worker.wire.server import Server

_CHUNK_BYTES = 1 << 16
BEAT_S = 5.0
_RETRY_S = 1.0


@dataclass(slots=True)
class _Lane:
    """Where the viewer stands in one feed."""

    channel: Channel
    position: Position | None
    """None: wherever the feed stands when it is first seen."""
    at: int | None = None
    """Number of the next message in the channel's ring; None while history is read."""
    history: Subscription | None = None
    dry_at: int = -1
    """The channel's end when history had no more: before it moves there is no use in asking."""
    shown: Preview | None = None


class Viewer:
    """A live stream of one client."""

    def __init__(
        self,
        server: Server,
        hub: Hub,
        threads: Threads,
        feeds: Sequence[str],
        since: Mapping[str, Position],
        allowed: Callable[[], bool],
        *,
        named: bool,
    ) -> None:
        """
        Args:
            since: where to begin; feeds that it does not name begin now.
            named: whether the cursors name their feeds, as they must where others may be added.
            allowed: asked every few seconds; the stream ends when it says no.
        """
        self._server, self._hub, self._threads = server, hub, threads
        self._allowed, self._named = allowed, named
        self._woken = asyncio.Event()
        self._lanes = {feed: _Lane(hub.join(feed, self._woken), since.get(feed)) for feed in feeds}

    def leave(self) -> None:
        for feed in self._lanes:
            self._hub.leave(feed, self._woken)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The stream, in chunks of whole messages; it ends with the hub or when not ``allowed``."""
        loop = asyncio.get_running_loop()
        told_away = False
        sent_at = checked_at = loop.time()
        yield messages.OPENING
        while not self._hub.stopping:
            self._woken.clear()
            if loop.time() - checked_at >= BEAT_S:
                checked_at = loop.time()
                if not self._allowed():
                    return
            chunk = self._from_rings()
            if (self._hub.away is not None) != told_away:
                told_away = not told_away
                why = self._hub.away
                chunk += messages.BACK if why is None else messages.named("away", {"error": why})
            if not chunk and self._hub.away is None:
                chunk = await self._from_history()
            if chunk:
                yield chunk
                sent_at = loop.time()
                continue
            if loop.time() - sent_at >= BEAT_S:
                yield messages.BEAT
                sent_at = loop.time()
            try:
                async with asyncio.timeout_at(sent_at + BEAT_S):
                    await self._woken.wait()
            except TimeoutError:
                pass

    def _from_rings(self) -> bytes:
        """What the rings hold for us, up to about a chunk."""
        chunk = bytearray()
        for feed, lane in self._lanes.items():
            channel = lane.channel
            if channel.start is None:
                continue
            if lane.position is None:
                lane.position, lane.at = channel.position, channel.end
                chunk += self._cursor() + b"\n"
            elif lane.at is None:
                lane.at = channel.find(lane.position)
                lane.history = None if lane.at is not None else lane.history
            elif lane.at < channel.first:
                lane.at = None
            while lane.at is not None and lane.at < channel.end and len(chunk) < _CHUNK_BYTES:
                chunk += self._bytes(lane, channel.get(lane.at))
                lane.at += 1
            if channel.preview is not lane.shown:
                lane.shown = channel.preview
                chunk += _preview(feed, channel.preview)
        return bytes(chunk)

    async def _from_history(self) -> bytes:
        """The next page for the first feed whose ring does not reach back to where we stand."""
        for feed, lane in self._lanes.items():
            if lane.at is not None or lane.position is None or lane.channel.start is None:
                continue
            if lane.dry_at == lane.channel.end:
                continue
            if lane.history is None:
                lane.history = Subscription(self._server, [feed], {feed: lane.position})
            end = lane.channel.end
            try:
                page = await self._threads.run(partial(_page, lane.history))
            except (ServerError, Busy):
                # The hub will tell; it may also be only we who were refused.
                lane.history = None
                await asyncio.sleep(_RETRY_S)
                return b""
            if page is None:
                # We have all that the server has: the hub is about to come to where we are.
                lane.history, lane.dry_at = None, end
                continue
            return b"".join(self._bytes(lane, one) for one in page)
        return b""

    def _bytes(self, lane: _Lane, one: Message) -> bytes:
        if one.position is None:
            return one.body
        lane.position = one.position
        return self._cursor() + one.body

    def _cursor(self) -> bytes:
        positions = {feed: lane.position for feed, lane in self._lanes.items()}
        return messages.cursor_line(positions, named=self._named)


def _page(history: Subscription) -> list[Message] | None:
    """The next messages; None if there are none now."""
    found = history.read(None)
    while found == []:  # only what is no event
        found = history.read(None)
    return None if found is None else [message(one) for one in found]


def _preview(feed: str, preview: Preview | None) -> bytes:
    if preview is None:
        return b""
    shown = {"feed": feed, "frameId": preview.frame_id}
    return messages.named("preview", {**shown, "width": preview.width, "height": preview.height})
