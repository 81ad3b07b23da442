"""Blocking questions to the server, asked from the event loop: in a few threads, with a deadline,
and once for all who ask the same at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from worker.errors import ServerUnavailable

_MOST_WAITING = 64
_KEPT_S = 6.0
"""An answer that nobody asks for again is forgotten after so long."""

T = TypeVar("T")


class Busy(Exception):
    """More questions wait than will be answered soon."""


class Threads:
    """A few threads, and what they were asked lately. Used in the event loop only."""

    def __init__(self, threads: int, deadline_s: float = 3.0) -> None:
        self._deadline_s = deadline_s
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ask")
        self._open = 0
        self._shared: dict[Hashable, tuple[float, asyncio.Future[Any]]] = {}

    async def run(self, ask: Callable[[], T]) -> T:
        """What ``ask`` returns, called in a thread.

        Raises:
            Busy: too many wait already.
            whatever ``ask`` raises.
        """
        return await self._submit(ask)

    async def shared(self, key: Hashable, fresh_s: float, ask: Callable[[], T]) -> T:
        """What ``ask`` returned to whoever asked for ``key`` within the last ``fresh_s`` seconds,
        or is about to return; errors are shared as well.

        Raises:
            ServerUnavailable: no answer in time; who comes next waits for the same.
            Busy: too many wait already.
            whatever ``ask`` raises.
        """
        now = asyncio.get_running_loop().time()
        asked_at, future = self._shared.get(key, (now, None))
        if future is None or (future.done() and now - asked_at >= fresh_s):
            future = self._submit(ask)
            self._shared[key] = (now, future)
            future.add_done_callback(lambda done: self._forget_later(key, done))
        try:
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.shield(future)
        except TimeoutError:
            why = f"the server gave no answer within {self._deadline_s:g} s"
            raise ServerUnavailable(why) from None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, ask: Callable[[], T]) -> asyncio.Future[T]:
        if self._open >= _MOST_WAITING:
            raise Busy
        self._open += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, ask)
        future.add_done_callback(self._closed)
        return future

    def _closed(self, future: asyncio.Future[Any]) -> None:
        self._open -= 1
        if not future.cancelled():
            future.exception()  # perhaps nobody waits for it any more: then it is nobody's

    def _forget_later(self, key: Hashable, future: asyncio.Future[Any]) -> None:
        future.get_loop().call_later(_KEPT_S, self._forget, key, future)

    def _forget(self, key: Hashable, future: asyncio.Future[Any]) -> None:
        if self._shared.get(key, (0.0, None))[1] is future:
            del self._shared[key]
