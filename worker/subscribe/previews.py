"""The small pictures that workers publish when they are asked to; the server keeps them for
seconds (``mien:{feed}:preview``: ``frame_id``, ``jpeg``, ``width``, ``height``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from worker.wire.keys import FeedKeys
from worker.wire.server import Server, text

_AT_ONCE = 8
_LARGEST = 1 << 20
_JPEG = b"\xff\xd8"


@dataclass(frozen=True, slots=True)
class Preview:
    """One small picture of a feed."""

    frame_id: str
    """Of the frame that it shows, as in that frame's event."""
    width: int
    height: int
    """In pixels, both; an event's boxes are in pixels of the frame, which is larger."""
    jpeg: bytes = field(repr=False)


def latest_preview(server: Server, feed: str) -> Preview | None:
    """The newest preview that the server has; None if it has none.

    Raises:
        ServerError: the server gives no answer, or none that can be used.
    """
    found = server.command("XREVRANGE", FeedKeys.of(feed).preview, "+", "-", "COUNT", 1)
    return _preview(found[0][1]) if found else None


def newer_previews(server: Server, after: Mapping[str, str]) -> dict[str, tuple[str, Preview]]:
    """The newest preview of each feed that has one after an entry; does not wait for any.

    Args:
        after: feed -> id of the entry of its stream of previews; 0-0 for the first.

    Returns:
        Feed -> id of the entry to go on after, and the preview.

    Raises:
        ServerError: the server gives no answer, or none that can be used.
    """
    feeds = {FeedKeys.of(feed).preview: feed for feed in after}
    found: dict[str, tuple[str, Preview]] = {}
    streams = server.read_streams({key: after[feed] for key, feed in feeds.items()}, count=_AT_ONCE)
    for key, entries in streams:
        entry_id, fields = entries[-1]
        if preview := _preview(fields):
            found[feeds[key]] = (text(entry_id), preview)
    return found


def _preview(fields: Mapping[bytes, bytes]) -> Preview | None:
    """None for what a foreign hand put there: it would be handed to browsers."""
    try:
        preview = Preview(
            frame_id=fields[b"frame_id"].decode("ascii"),
            width=int(fields[b"width"]),
            height=int(fields[b"height"]),
            jpeg=fields[b"jpeg"],
        )
    except (KeyError, ValueError):
        return None
    fits = preview.frame_id.replace("-", "").isdecimal() and len(preview.jpeg) <= _LARGEST
    return preview if fits and preview.jpeg.startswith(_JPEG) else None
