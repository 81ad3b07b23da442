"""The registry of feeds, ``mien:feeds``: which feeds there are, and each one's settings."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.errors import FeedNameError, MienError, NotPermitted, SettingsError
from worker.records import Policy
from worker.wire.keys import FEEDS, check_feed_name
from worker.wire.server import Server, text

MAX_DEPTH = 100_000
REFRESH_S = 1.0
"""How often a running writer calls :func:`refresh`."""
_CENTURY_S = 3.2e9
DEFAULT_DEPTH: dict[Policy, int] = {"live": 8, "lossless": 64}


class FeedSettings(BaseModel):
    """What the registry says of one feed. Fields that a writer leaves out take their defaults."""

    # Later versions may write more than we know; what they wrote must survive an update by us.
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    policy: Policy = "live"
    depth: int = Field(default=0, ge=0, le=MAX_DEPTH)
    """How many frames may wait to be read; 0 stands for the policy's default."""
    staleness_s: float = Field(default=2.0, gt=0)
    """A live frame that has waited longer than this is skipped. Not used for lossless feeds."""
    source: str = ""
    """Label of what is pushed, without credentials."""
    first_seen: datetime = Field(default_factory=lambda: datetime.now(UTC))

    # What is kept of the outcomes. 0 stands for what the workers' own settings say.
    events_kept: int = Field(default=0, ge=0)
    """About how many events."""
    events_age_s: float = Field(default=0.0, ge=0, le=_CENTURY_S)
    """Events older than this are trimmed, counted from when the server accepted the frame."""
    dead_kept: int = Field(default=0, ge=0)
    """About how many dead letters."""
    dead_age_s: float = Field(default=0.0, ge=0, le=_CENTURY_S)
    dead_pixels: bool = False
    """Whether a dead letter keeps its frame's pixels, without which it cannot be redriven."""

    removing: bool = False
    """The feed is being removed: no worker is to take it, whoever holds it lets go."""

    @model_validator(mode="after")
    def _fill_depth(self) -> FeedSettings:
        if self.depth == 0:
            self.depth = DEFAULT_DEPTH[self.policy]
        return self


def register(server: Server, feed: str, **changes: Any) -> FeedSettings:
    """Enter ``feed`` in the registry, or change the given settings of a feed that is there.

    A user who may only read the registry goes by what it says, as long as it says what is wanted.

    Raises:
        FeedNameError: the name breaks the contract's rule.
        SettingsError: a given setting cannot be used, named.
        NotPermitted: our user may not enter the feed, or change a setting of it.
    """
    check_feed_name(feed)
    while True:
        known = server.command("HGET", FEEDS, feed) or b""
        before = _parse(known)[0] if known else None
        # A writer that comes takes back a feed whose removal was not finished.
        settings = _changed(feed, before, {"removing": False, **changes})
        try:
            if settings == before or replace_entry(server, feed, known, settings):
                return settings
        except NotPermitted:
            if before is None or before.removing:
                raise NotPermitted(
                    f"no feed {feed} is registered at {server.name}, and our user may not do that: "
                    f"the operator does, with mien feeds set {feed} --new"
                ) from None
            if other := _other(before, changes):
                raise NotPermitted(
                    f"feed {feed} has {other} at {server.name}, and our user may not change that"
                ) from None
            return before


def change(server: Server, feed: str, **changes: Any) -> FeedSettings:
    """Change the given settings of a feed that is there.

    Raises:
        FeedNameError, SettingsError: as :func:`register`.
        MienError: no such feed is registered.
    """
    while True:
        known = _entry(server, feed)
        settings = _changed(feed, _parse(known)[0], changes)
        if replace_entry(server, feed, known, settings):
            return settings


def settings_of(server: Server, feed: str) -> FeedSettings:
    """The settings of a feed that is there; defaults where a foreign client got them wrong.

    Raises:
        FeedNameError: the name breaks the contract's rule.
        MienError: no such feed is registered.
    """
    return _parse(_entry(server, feed))[0]


def refresh(server: Server, feed: str, known: FeedSettings) -> FeedSettings:
    """The settings of ``feed`` as they stand now; called by a running writer every REFRESH_S.

    A registry that has lost the feed (a flush, a failover) is given it back as it was ``known``.

    Raises:
        NotPermitted: it has lost the feed, and our user may not enter one.
    """
    while True:
        value = server.command("HGET", FEEDS, feed)
        if value:
            return _parse(value)[0]
        restored = known.model_copy(update={"removing": False})
        try:
            if replace_entry(server, feed, b"", restored):
                return restored
        except NotPermitted:
            raise NotPermitted(
                f"no feed {feed} is registered any more, and this user may not enter it: no worker "
                "takes its frames until the operator does"
            ) from None


def replace_entry(
    server: Server, feed: str, before: bytes | FeedSettings, after: FeedSettings | None
) -> bool:
    """Set the entry of ``feed`` to ``after`` (None: none) if it still is ``before`` (empty: none).

    Returns:
        Whether it was. Two who change an entry at once lose neither's change.
    """
    if isinstance(before, FeedSettings):
        before = before.model_dump_json().encode()
    new = b"" if after is None else after.model_dump_json().encode()
    return bool(server.run("register", [FEEDS], [feed, before, new]))


def registered(
    server: Server, *, removing: bool = False
) -> tuple[dict[str, FeedSettings], dict[str, str]]:
    """All feeds of the registry; with ``removing`` also those that are being removed.

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
        if not settings.removing or removing:
            feeds[feed] = settings
        if complaint:
            complaints[feed] = complaint
    return feeds, complaints


def _other(settings: FeedSettings, wanted: dict[str, Any]) -> str:
    """The first of the ``wanted`` settings that is another; a label of the source is no setting."""
    for name, value in wanted.items():
        if name != "source" and getattr(settings, name) != value:
            return f"{name} = {getattr(settings, name)}"
    return ""


def _entry(server: Server, feed: str) -> bytes:
    value: bytes | None = server.command("HGET", FEEDS, check_feed_name(feed))
    if value is None:
        raise MienError(f"no feed {feed} is registered at {server.name}")
    return value


def _changed(feed: str, before: FeedSettings | None, changes: dict[str, Any]) -> FeedSettings:
    kept = before.model_dump() if before else {}
    if before and changes.get("policy", before.policy) != before.policy:
        kept["depth"] = 0  # a depth that suited the old policy does not suit the new one
    try:
        return FeedSettings(**{**kept, **changes})
    except ValidationError as error:
        raise SettingsError(f"feed {feed}: {_first_fault(error)}") from None


def _parse(value: bytes) -> tuple[FeedSettings, str | None]:
    try:
        settings = FeedSettings.model_validate(json.loads(value))
        settings.model_dump_json()  # half a surrogate pair can be read, but not sent on
        return settings, None
    except ValidationError as error:
        why = _first_fault(error)
    except (ValueError, RecursionError) as error:
        why = f"not JSON: {error}"
    return FeedSettings(), f"its settings cannot be used, defaults serve: {why}"


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "settings"
    return f"{name} = {str(first.get('input'))[:100]!r}: {first['msg']}"
