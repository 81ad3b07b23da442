"""How much one client may ask for, and how many may look on at once."""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Hashable

_CLIENTS = 10_000


class Rate:
    """Token buckets, one for each client: so many a second, and as many at once as ``burst``."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s, self._burst = per_s, burst
        # Who has not asked for longest is forgotten first: memory is bounded.
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, client: Hashable) -> int:
        """Take one; 0, or in how many whole seconds there is one again."""
        now = time.monotonic()
        left, at = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_s)
        taken = left >= 1
        self._left[client] = (left - 1 if taken else left, now)
        if len(self._left) > _CLIENTS:
            self._left.popitem(last=False)
        return 0 if taken else math.ceil((1 - left) / self._per_s)


class Places:
    """Room for what lasts, such as live streams: so much for all, and so much for each client."""

    def __init__(self, total: int, each: int) -> None:
        self.total, self.each = total, each
        self._taken: Counter[Hashable] = Counter()

    @property
    def taken(self) -> int:
        return self._taken.total()

    def full(self) -> bool:
        return self.taken >= self.total

    def full_for(self, client: Hashable) -> bool:
        return self._taken[client] >= self.each

    def enter(self, client: Hashable) -> None:
        self._taken[client] += 1

    def leave(self, client: Hashable) -> None:
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]
