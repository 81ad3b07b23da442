"""What a writer keeps: frames that the primary has accepted and the replicas perhaps do not have.

A failover makes a replica the primary, and what that one had not got is gone. The push script says
so, and the writer pushes the frames again that it has kept. The script takes each sequence of a
session once, so nothing comes in twice.
"""

from __future__ import annotations

from collections import deque

_MOST_BYTES = 64 << 20


class Unreplicated:
    """The frames of one session that are not known to be replicated, oldest first."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._frames: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self.last: int | None = None
        """The last sequence that was accepted; None before the first, and after a loss."""

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def full(self) -> bool:
        """Whether as many bytes are kept as may be."""
        return self._bytes >= self._most_bytes

    def accepted(self, sequence: int, body: bytes, *, replicated: bool) -> None:
        """A frame is in the stream; if replicas have it, they have all that came before it."""
        self.last = sequence
        if replicated:
            self._frames.clear()
            self._bytes = 0
        elif not self._frames or self._frames[-1][0] < sequence:
            self._frames.append((sequence, body))
            self._bytes += len(body)

    def forget_oldest(self) -> None:
        """Give up one frame, for which there is no room: a failover may lose it from now on."""
        if self._frames:
            self._bytes -= len(self._frames.popleft()[1])

    def newest(self) -> tuple[int, bytes]:
        """The sequence and body of the frame that came last."""
        return self._frames[-1]

    def take_lost(self, there: int | None) -> tuple[list[tuple[int, bytes]], int]:
        """After a failover, where ``there`` is the last sequence that the server has (None: none).

        Returns:
            The frames to push again, in their order, and how many are lost: accepted, not there,
            and not kept. Until they are accepted again they are no longer kept here.
        """
        last = -1 if there is None else there
        again = [(sequence, body) for sequence, body in self._frames if sequence > last]
        missing = 0 if self.last is None else max(0, self.last - last)
        self._frames.clear()
        self._bytes = 0
        self.last = there
        return again, missing - len(again)
