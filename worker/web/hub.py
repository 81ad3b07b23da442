"""One reader of the server for all who look on, however many they are.

A thread reads what is new in the feeds that are watched, and makes each message once. In the event
loop each feed has a channel: a bounded ring of its last messages, in which every viewer goes on at
its own pace. Who falls out of the ring is served from the server's history (see viewer.py). So the
server's load, and the memory, do not depend on how slow the slowest is.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

import structlog

from worker.errors import ServerError
from worker.subscribe.cursors import Position, Subscription
from worker.subscribe.previews import Preview, newer_previews
from worker.web.messages import Message, message
from worker.wire.server import Backoff, Server

log = structlog.get_logger()

_RING_MESSAGES = 512
_RING_BYTES = 1 << 20
_BLOCK_MS = 250
_GATHER_S = 0.01
"""After something came: what many feeds have meanwhile is read in one turn."""
_PREVIEWS_EVERY_S = 0.2


class Channel:
    """The last messages of one feed. Only the event loop touches it."""

    def __init__(self, feed: str) -> None:
        self.feed = feed
        self.start: Position | None = None
        """Where the feed stood before the oldest message; None until the reader has seen it."""
        self.first = 0
        """Number of the oldest message."""
        self.preview: Preview | None = None
        self.viewers: set[asyncio.Event] = set()
        self._messages: deque[Message] = deque()
        self._bytes = 0

    @property
    def end(self) -> int:
        """Number of the message that comes next."""
        return self.first + len(self._messages)

    @property
    def position(self) -> Position | None:
        """Where the feed stands after the newest message."""
        newest = (one.position for one in reversed(self._messages) if one.position)
        return next(newest, self.start)

    def put(self, messages: Sequence[Message]) -> None:
        for one in messages:
            self._messages.append(one)
            self._bytes += len(one.body)
        while len(self._messages) > _RING_MESSAGES or self._bytes > _RING_BYTES:
            oldest = self._messages.popleft()
            self._bytes -= len(oldest.body)
            self.first += 1
            self.start = oldest.position or self.start
        self.wake()

    def get(self, number: int) -> Message:
        return self._messages[number - self.first]

    def find(self, position: Position) -> int | None:
        """Number of the message that follows ``position``; None if the ring does not reach it."""
        for back, one in enumerate(reversed(self._messages)):
            if one.position and _same(one.position, position):
                return self.end - back
        return self.first if self.start and _same(self.start, position) else None

    def wake(self) -> None:
        for woken in self.viewers:
            woken.set()


class Hub:
    """The channels of all feeds that are watched, and the thread that fills them.

    Started, used and closed in the event loop.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._channels: dict[str, Channel] = {}
        self._watched: Mapping[str, Channel] = {}
        """A copy for the thread, replaced and never changed."""
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="live", daemon=True)
        self.away: str | None = None
        """Why the server gives nothing now, in one sentence."""

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def watched(self) -> int:
        """How many feeds somebody watches."""
        return len(self._channels)

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def join(self, feed: str, woken: asyncio.Event) -> Channel:
        """Watch ``feed``: ``woken`` is set whenever its channel changes."""
        if feed not in self._channels:
            self._channels[feed] = Channel(feed)
            self._tell_thread()
        self._channels[feed].viewers.add(woken)
        return self._channels[feed]

    def leave(self, feed: str, woken: asyncio.Event) -> None:
        """Watch it no more. What nobody watches is not read."""
        channel = self._channels[feed]
        channel.viewers.discard(woken)
        if not channel.viewers:
            del self._channels[feed]
            self._tell_thread()

    def preview(self, feed: str) -> Preview | None:
        """The newest preview of a feed that is watched."""
        channel = self._channels.get(feed)
        return channel.preview if channel else None

    def stop(self) -> None:
        """Let the viewers go, and the thread end within a quarter of a second."""
        self._stop.set()
        self._changed.set()
        self._wake_all()

    async def close(self) -> None:
        self.stop()
        await asyncio.to_thread(self._thread.join)

    def _tell_thread(self) -> None:
        self._watched = dict(self._channels)
        self._changed.set()

    def _wake_all(self) -> None:
        for channel in self._channels.values():
            channel.wake()

    # From here on: what the thread does.

    def _read(self) -> None:
        subscription = Subscription(self._server, [], "now")
        backoff = Backoff()
        begun: dict[str, Channel] = {}
        previews = _Previews(self._server)
        while not self._stop.is_set():
            watched = self._watched
            if not watched:
                self._changed.wait()
                self._changed.clear()
                continue
            subscription.follow(watched.keys())
            try:
                pictures = previews.newer(watched)
                found = subscription.read(_BLOCK_MS)
            except ServerError as error:
                self._post(self._fail, str(error))
                backoff.wait(self._stop)
                continue
            backoff.reset()
            news: dict[str, list[Message]] = {}
            for one in found or ():
                news.setdefault(one.feed, []).append(message(one))
            # A channel that is new to us begins where we stand now.
            fresh = {
                channel: position
                for feed, channel in watched.items()
                if begun.get(feed) is not channel and (position := subscription.position(feed))
            }
            begun = {feed: one for feed, one in watched.items() if subscription.position(feed)}
            old = {watched[feed]: some for feed, some in news.items() if watched[feed] not in fresh}
            if old or fresh or pictures or self.away:
                self._post(self._deliver, fresh, old, pictures)
            if found:
                self._stop.wait(_GATHER_S)

    def _post(self, call: object, *arguments: object) -> None:
        self._loop.call_soon_threadsafe(call, *arguments)  # type: ignore[arg-type]

    # What the thread has the event loop do.

    def _fail(self, why: str) -> None:
        if self.away is None:
            log.warning("live streams wait for the server", why=why)
        self.away = why
        self._wake_all()

    def _deliver(
        self,
        fresh: Mapping[Channel, Position],
        news: Mapping[Channel, Sequence[Message]],
        pictures: Mapping[Channel, Preview],
    ) -> None:
        if self.away is not None:
            log.info("live streams go on")
            self.away = None
            self._wake_all()
        for channel, position in fresh.items():
            channel.start = position
            channel.wake()
        for channel, preview in pictures.items():
            channel.preview = preview
            channel.wake()
        for channel, messages in news.items():
            channel.put(messages)


class _Previews:
    """What is new among the previews of the feeds that are watched, now and then."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._after: dict[Channel, str] = {}
        self._looked_at = float("-inf")

    def newer(self, watched: Mapping[str, Channel]) -> dict[Channel, Preview]:
        if time.monotonic() - self._looked_at < _PREVIEWS_EVERY_S:
            return {}
        self._looked_at = time.monotonic()
        self._after = {one: self._after.get(one, "0-0") for one in watched.values()}
        found = newer_previews(self._server, {one.feed: at for one, at in self._after.items()})
        for feed, (entry_id, _) in found.items():
            self._after[watched[feed]] = entry_id
        return {watched[feed]: preview for feed, (_, preview) in found.items()}


def _same(one: Position, other: Position) -> bool:
    known = one.ordinal is not None and other.ordinal is not None
    return one.frame_id == other.frame_id and (not known or one.ordinal == other.ordinal)
