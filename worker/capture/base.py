"""What every source of pictures offers, whatever it reads from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from worker.records import Picture


class Source(ABC):
    """An opened source. Close it, or use it as a context manager; its pictures are read once."""

    name: str
    """Label for the registry: a file's or folder's name, ``camera 0``, or a URL without secrets."""
    live: bool
    """True when pictures arrive in real time and have no stated end."""
    width: int
    """Of the first picture as it is delivered (turned and unsqueezed), in pixels."""
    height: int
    rate: float | None
    """Pictures a second as the source states it; None when it does not."""
    frames: int | None
    """About how many pictures there are, for a progress bar; None when unknown."""
    duration_s: float | None
    missed: int = 0
    """Live pictures passed over so far, because nobody took them in time."""

    @abstractmethod
    def pictures(self) -> Iterator[Picture]:
        """The pictures in order of presentation: RGB uint8, C-contiguous, pts rising from 0.

        ``captured_at`` is the moment of delivery (UTC) for live sources and None for others.
        Sizes may change from picture to picture. May be called once; may be closed early.

        Raises:
            SourceLost: a camera or URL broke off or fell silent.
            SourceError: the source ends too early or is damaged. Before either, every picture that
                could be decoded has been delivered.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the file, connection or device. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
