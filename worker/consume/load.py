"""How much work each feed makes: what the sharing of feeds between workers goes by."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping

_OVER_S = 10.0
"""What lies longer back than this counts for less than a third."""


class LoadMeter:
    """Seconds of work a second, for each feed: an average that forgets exponentially."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds, of any origin."""
        self._clock = clock
        self._lock = threading.Lock()
        self._at = clock()
        self._loads: dict[str, float] = {}
        self._busy = 0.0

    def worked(self, seconds: float, shares: Mapping[str, float]) -> None:
        """A batch took ``seconds`` until now; each feed's part is that of its share in all."""
        whole = sum(shares.values())
        work = 1 - math.exp(-seconds / _OVER_S)  # one who always works is busy 1.0, not more
        with self._lock:
            self._fade()
            self._busy += work
            for feed, share in shares.items():
                self._loads[feed] = self._loads.get(feed, 0.0) + work * share / whole

    def expect(self, feed: str, load: float) -> None:
        """A feed has come to us with the load it made elsewhere: so it is believed at first."""
        with self._lock:
            self._fade()
            self._loads[feed] = load

    def loads(self, feeds: Collection[str]) -> dict[str, float]:
        """The load of each of ``feeds``."""
        with self._lock:
            self._fade()
            return {feed: self._loads.get(feed, 0.0) for feed in feeds}

    def busy(self) -> float:
        """The share of our time that we work, 0 to 1."""
        with self._lock:
            self._fade()
            return min(1.0, self._busy)

    def _fade(self) -> None:
        now = self._clock()
        factor = math.exp((self._at - now) / _OVER_S)
        self._at = now
        self._busy *= factor
        # What has faded away is forgotten, so that feeds that came and went leave nothing behind.
        self._loads = {
            feed: load * factor for feed, load in self._loads.items() if load * factor > 1e-6
        }
