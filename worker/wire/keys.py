"""Names of everything on the server. All keys of one feed share the hash tag ``{feed}``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from worker.errors import FeedNameError

FEEDS = "mien:feeds"
"""Hash: feed name -> its settings as JSON."""

GROUP = "mien"
CONSUMER = "worker"
"""Constant, so that whoever owns a feed next reads what its last owner had in hand."""

_FEED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_feed_name(name: str) -> str:
    """``name`` itself, if it may be a feed's name; braces and blanks would break its keys.

    Raises:
        FeedNameError: it is empty, too long, or has a character outside A-Z a-z 0-9 . _ -
    """
    if _FEED_NAME.fullmatch(name):
        return name
    shown = ascii(name if len(name) <= 100 else name[:100] + "...")
    raise FeedNameError(
        f"{shown} cannot be a feed's name: use 1 to 100 of the characters A-Z a-z 0-9 . _ - "
        "and begin with a letter or digit"
    )


@dataclass(frozen=True, slots=True)
class FeedKeys:
    """The keys of one feed."""

    frames: str
    events: str
    dead: str
    lease: str
    stats: str
    state: str
    preview: str

    @classmethod
    def of(cls, feed: str) -> FeedKeys:
        """The keys of ``feed``, whose name must have passed :func:`check_feed_name`."""
        tag = f"mien:{{{feed}}}:"
        return cls(
            frames=tag + "frames",
            events=tag + "events",
            dead=tag + "dead",
            lease=tag + "lease",
            stats=tag + "stats",
            state=tag + "state",
            preview=tag + "preview",
        )
