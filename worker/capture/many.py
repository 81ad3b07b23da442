"""Many feeds in one process: a thread for each, none of which can stop the others."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from structlog.contextvars import bind_contextvars

from worker.capture.base import Source
from worker.capture.options import PushOptions
from worker.capture.push import PushReport, push_feed
from worker.errors import MienError
from worker.wire.server import Server

State = Literal["opening", "pushing", "waiting", "ended", "stopped", "failed"]
_LOOK_S = 0.25


class FeedPush:
    """One feed's push, in a thread of its own."""

    def __init__(
        self,
        options: PushOptions,
        *,
        redis: str | None,
        stop: threading.Event,
        say: Callable[[str], None],
    ) -> None:
        self.options = options
        self.report = PushReport()
        self.state: State = "opening"
        self.note = ""
        """What it waits for, or why it failed; empty while all is well."""
        self.unfinished = False
        """Stopped within something that has an end."""
        self._redis, self._stop, self._say = redis, stop, say
        self._recent: deque[float] = deque(maxlen=50)
        self._thread = threading.Thread(target=self._run, name=f"mien-{options.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ended(self, timeout_s: float = 0.0) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def rate(self) -> float:
        """Pictures a second of late; it falls towards 0 while none come."""
        times = list(self._recent)
        if len(times) < 2 or self.state not in ("pushing", "waiting"):
            return 0.0
        return (len(times) - 1) / max(time.monotonic() - times[0], 0.001)

    def _run(self) -> None:
        bind_contextvars(feed=self.options.name)
        try:
            push_feed(
                self.options, redis=self._redis, stop=self._stop, progress=self._progress,
                say=self._hear, patient=True,
            )  # fmt: skip
        except MienError as error:
            self._fail(str(error))
        except Exception as error:
            self._fail(f"a fault of mien's own, {type(error).__name__}: {error}")
        else:
            self.state = "stopped" if self._stop.is_set() else "ended"
            self.note = ""

    def _progress(self, report: PushReport, opened: Source) -> None:
        self.report, self.state, self.note = report, "pushing", ""
        self.unfinished = not (opened.live or self.options.loop)
        self._recent.append(time.monotonic())

    def _hear(self, message: str) -> None:
        if self.state == "pushing":
            self.state = "waiting"
        self.note = message
        self._say(f"{self.options.name}: {message}")

    def _fail(self, why: str) -> None:
        self.state, self.note = "failed", why
        self._say(f"{self.options.name}: failed: {why}")


def push_many(
    feeds: Sequence[PushOptions],
    *,
    redis: str | None,
    stop: threading.Event,
    say: Callable[[str], None],
    show: Callable[[Sequence[FeedPush]], None],
) -> list[FeedPush]:
    """Push all ``feeds`` until each has ended, or ``stop`` is set.

    Cameras and URLs may be away, also at the beginning; a feed that fails is told to ``say``, and
    the others go on. ``show`` is called about four times a second.

    Raises:
        SettingsError, ServerUnavailable: the server's URL is wrong, or nobody answers there now.
    """
    server = Server(redis)
    try:
        server.now_us()  # a wrong address is said at once; an outage later on is waited for
    finally:
        server.close()
    pushes = [FeedPush(options, redis=redis, stop=stop, say=say) for options in feeds]
    for push in pushes:
        push.start()
    while under_way := [push for push in pushes if not push.ended()]:
        show(pushes)
        under_way[0].ended(_LOOK_S)
    show(pushes)
    return pushes
