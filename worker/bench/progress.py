"""What is being measured now, on standard error: one changing line, or one line a step."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from worker.terminal import say, screen


class Progress:
    """Use it as a context manager; call it with the name of each step that begins."""

    def __init__(self) -> None:
        self._status = screen.status("")

    def __call__(self, step: str) -> None:
        if screen.is_terminal:
            self._status.update(f"{step} ...")
        else:
            say(step)

    def __enter__(self) -> Self:
        if screen.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._status.stop()
