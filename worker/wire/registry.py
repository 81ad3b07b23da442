"""The registry of feeds, ``mien:feeds``: which feeds there are, and each one's settings."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.errors import FeedNameError, SettingsError
from worker.records import Policy
from worker.wire.keys import FEEDS, check_feed_name
from worker.wire.server import Server, text

MAX_DEPTH = 100_000
DEFAULT_DEPTH: dict[Policy, int] = {"live": 8, "lossless": 64}


class FeedSettings(BaseModel):
    """What the registry says of one feed. Fields that a writer leaves out take their defaults."""

    # Later versions may write more than we know; what they wrote must survive an update by us.
    model_config = ConfigDict(extra="allow")

    policy: Policy = "live"
    depth: int = Field(default=0, ge=0, le=MAX_DEPTH)
    """How many frames may wait to be read; 0 stands for the policy's default."""
    staleness_s: float = Field(default=2.0, gt=0)
    """A live frame that has waited longer than this is skipped. Not used for lossless feeds."""
    source: str = ""
    """Label of what is pushed, without credentials."""
    first_seen: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="after")
    def _fill_depth(self) -> FeedSettings:
        if self.depth == 0:
            self.depth = DEFAULT_DEPTH[self.policy]
        return self


def register(server: Server, feed: str, **changes: Any) -> FeedSettings:
    """Enter ``feed`` in the registry, or change the given settings of a feed that is there.

    Raises:
        FeedNameError: the name breaks the contract's rule.
        SettingsError: a given setting cannot be used, named.
    """
    check_feed_name(feed)
    known = server.command("HGET", FEEDS, feed)
    before = _parse(known)[0] if known else None
    kept = before.model_dump() if before else {}
    if before and changes.get("policy", before.policy) != before.policy:
        kept["depth"] = 0  # a depth that suited the old policy does not suit the new one
    try:
        settings = FeedSettings(**{**kept, **changes})
    except ValidationError as error:
        raise SettingsError(f"feed {feed}: {_first_fault(error)}") from None
    if settings != before:
        server.command("HSET", FEEDS, feed, settings.model_dump_json())
    return settings


def registered(server: Server) -> tuple[dict[str, FeedSettings], dict[str, str]]:
    """All feeds of the registry.

    Returns:
        The usable feeds with their settings, and for each entry that a foreign client got wrong
        what is wrong with it: a bad name (the feed is left out) or bad settings (defaults serve).
    """
    feeds: dict[str, FeedSettings] = {}
    complaints: dict[str, str] = {}
    entries: dict[bytes, bytes] = server.command("HGETALL", FEEDS)
    for name, value in entries.items():
        feed = text(name)
        try:
            check_feed_name(feed)
        except FeedNameError as error:
            complaints[feed] = str(error)
            continue
        settings, complaint = _parse(value)
        feeds[feed] = settings
        if complaint:
            complaints[feed] = complaint
    return feeds, complaints


def _parse(value: bytes) -> tuple[FeedSettings, str | None]:
    try:
        return FeedSettings.model_validate(json.loads(value)), None
    except ValidationError as error:
        why = _first_fault(error)
    except (ValueError, RecursionError) as error:
        why = f"not JSON: {error}"
    return FeedSettings(), f"its settings cannot be used, defaults serve: {why}"


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "settings"
    return f"{name} = {str(first.get('input'))[:100]!r}: {first['msg']}"
