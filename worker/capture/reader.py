"""One connection to a camera or URL, read in a thread of its own."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from worker.capture.base import Source
from worker.errors import SourceError, SourceLost
from worker.records import Picture

_WAITING = 2
"""Decoded pictures are large (6 MB at 1080p), and one is in the taker's hand besides."""
_PATIENCE_S = 0.5
"""A live source that bursts (a jittery network) is held up for so long before pictures are lost."""
_LOOK_S = 0.1
"""How often a wait looks whether it is to stop."""


class Stopped(Exception):
    """Somebody told us to stop. Not an error, and never shown."""


class Reader:
    """Opens a source and reads it ahead by a few pictures.

    A read within FFmpeg or a camera's driver cannot be called off. So it happens in a daemon
    thread, and whoever waits for it can stop at any time, or find that nothing has come for too
    long. The thread ends, and closes the source, as soon as such a read returns.
    """

    def __init__(self, open_: Callable[[], Source], *, keep_all: bool) -> None:
        """``keep_all``: read no further while pictures wait; else the oldest makes room, for what
        a live source showed too long ago is not worth the delay of what it shows now."""
        self.missed = 0
        """How many pictures made room for later ones."""
        self._open = open_
        self._keep_all = keep_all
        self._held_up_s = 0.0
        self._changed = threading.Condition()
        self._source: Source | None = None
        self._pictures: deque[Picture] = deque()
        self._ended = self._closed = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, name="mien-read", daemon=True)
        self._thread.start()

    def opened(self, stop: threading.Event, timeout_s: float) -> Source:
        """The source, once it is open; only to look at, its pictures come from :meth:`take`.

        Raises:
            SourceError: it cannot be opened.
            Stopped: ``stop`` was set before.
        """
        if not self._wait(lambda: self._source is not None, stop, timeout_s):
            raise SourceError(f"the source does not open within {timeout_s:g} s")
        if self._source is None:
            raise self._error or SourceError("the source closed while it was opened")
        return self._source

    def take(self, stop: threading.Event, timeout_s: float) -> Picture | None:
        """The next picture; None at the end.

        Raises:
            SourceLost: none came within ``timeout_s``, or the source broke off.
            SourceError: the source is damaged.
            Stopped: ``stop`` was set before.
        """
        if not self._wait(lambda: bool(self._pictures), stop, timeout_s):
            name = self._source.name if self._source else "the source"
            raise SourceLost(f"{name} has stalled: no picture for {timeout_s:g} s")
        with self._changed:
            if self._pictures:
                self._changed.notify_all()
                return self._pictures.popleft()
        if self._error is not None:
            raise self._error
        return None

    def close(self, timeout_s: float = 1.0) -> bool:
        """End the thread and close the source; False if a read still keeps them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _wait(self, ready: Callable[[], bool], stop: threading.Event, timeout_s: float) -> bool:
        """Until it is ``ready`` or everything has ended; False when the time is up."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not (ready() or self._ended):
                left = deadline - time.monotonic()
                if stop.is_set():
                    raise Stopped
                if left <= 0:
                    return False
                self._changed.wait(min(left, _LOOK_S))
        return True

    def _read(self) -> None:
        try:
            with self._open() as source:
                keep_all = self._keep_all or not source.live
                with self._changed:
                    self._source = source
                    self._changed.notify_all()
                for picture in source.pictures():
                    if not self._offer(picture, keep_all):
                        return
        except Exception as error:  # whoever takes the pictures is told
            # Without its traceback, which would keep this thread's pictures in a cycle with us.
            self._error = error.with_traceback(None)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _offer(self, picture: Picture, keep_all: bool) -> bool:
        """Put a picture where it can be taken; False when no one will."""
        with self._changed:
            if not self._pictures:
                self._held_up_s = 0.0  # they are taken as fast as they come
            while len(self._pictures) >= _WAITING and not self._closed:
                left = math.inf if keep_all else _PATIENCE_S - self._held_up_s
                if left <= 0:
                    break
                began = time.monotonic()
                self._changed.wait(min(left, _LOOK_S))
                self._held_up_s += time.monotonic() - began
            if len(self._pictures) >= _WAITING:
                self._pictures.popleft()
                self.missed += 1
            self._pictures.append(picture)
            self._changed.notify_all()
            return not self._closed
