"""The processor cores that a worker was given: whoever computes takes one meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Cores:
    """So many threads may compute at once, whichever they are.

    ``with cores:`` waits for a core, and has it for the block.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._free = threading.Semaphore(count)
        self._helpers = ThreadPoolExecutor(count - 1, "helper") if count > 1 else None

    def __enter__(self) -> None:
        self._free.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._free.release()

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """What ``work`` makes of each item, in their order; several at once where cores are free.

        The calling thread, which should have a core, does its part: it never waits for another to
        begin. ``work`` is called from several threads, and must take no core itself.

        Raises:
            Exception: what ``work`` raised for the first item that failed; all have been tried.
        """
        todo = deque((item, Future[Result]()) for item in items)
        results = [result for _, result in todo]
        helpers = min(self.count, len(todo)) - 1 if self._helpers else 0
        helping = [self._helpers.submit(self._help, work, todo) for _ in range(helpers)]  # type: ignore[union-attr]
        while _next(work, todo):
            pass
        for each in helping:
            each.cancel()  # it would find nothing to do
        return [result.result() for result in results]

    def _help(
        self, work: Callable[[Item], Result], todo: deque[tuple[Item, Future[Result]]]
    ) -> None:
        # A core for each item: in between, whoever waits for one has a chance.
        while todo:
            with self:
                _next(work, todo)


def _next(work: Callable[[Item], Result], todo: deque[tuple[Item, Future[Result]]]) -> bool:
    """Do what is next; whether there was anything."""
    try:
        item, result = todo.popleft()
    except IndexError:
        return False
    try:
        result.set_result(work(item))
    except BaseException as error:
        result.set_exception(error)
    return True
