"""How a source is pushed to a feed, typed and rejected early; and the file that names many."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, field_validator

from worker.capture.sources import may_come_back
from worker.errors import SettingsError
from worker.records import Policy
from worker.wire.addresses import without_secrets
from worker.wire.keys import check_feed_name
from worker.wire.registry import MAX_DEPTH


def _source(value: Any) -> str:
    # Pydantic's own text must be Unicode; a file's name may be any bytes.
    if not isinstance(value, str) or not value:
        raise ValueError("Input should be text, and not empty")
    return value


class PushOptions(BaseModel):
    """One source and its feed. The fields are the options of ``mien push``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    """Of the feed."""
    source: Annotated[str, PlainValidator(_source)] = Field(repr=False)
    """Video file, folder of images, a camera's index, or a URL, which may hold a password."""
    policy: Policy | None = None
    """None: lossless for what has an end, live for the rest."""
    depth: int | None = Field(default=None, ge=1, le=MAX_DEPTH)
    """How many frames may wait to be read; None for the policy's default."""
    staleness_s: float | None = Field(default=None, gt=0)
    """A live frame that has waited longer is skipped; None for what the feed has."""
    fps: float | None = Field(default=None, gt=0)
    """Take at most so many pictures a second of the source's own time."""
    first_s: float | None = Field(default=None, gt=0)
    """Push the first so many seconds of the source's own time, and end."""
    width: int | None = Field(default=None, ge=1)
    """Scale wider pictures down to so many pixels."""
    quality: int = Field(default=85, ge=1, le=100)
    """Of the JPEG."""
    loop: bool = False
    """Begin again at the source's end."""
    realtime: bool = False
    """Give a file's pictures at the pace of their pts, not as fast as they are taken."""
    stall_s: float = Field(default=10.0, ge=0.1, le=3600)
    """A camera or URL that gives no picture for so long has stalled, and is opened again."""
    give_up_s: float | None = Field(default=None, ge=0)
    """End when a camera or URL has been away for so long; None: wait for ever."""
    decode_threads: int = Field(default=1, ge=1, le=64)
    replicas: int = Field(default=0, ge=0, le=16)
    """So many replicas must have a frame before it is forgotten; a failover's losses are pushed
    again."""

    @field_validator("name")
    @classmethod
    def _may_be_a_feed(cls, name: str) -> str:
        return check_feed_name(name)

    @classmethod
    def checked(cls, **given: Any) -> PushOptions:
        """The options ``given``.

        Raises:
            FeedNameError: ``name`` breaks the contract's rule.
            SettingsError: names the option that cannot be used, and why.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            raise SettingsError(_first_fault(error)[1]) from None


def read_feeds(path: Path) -> list[PushOptions]:
    """The feeds of a configuration file::

        [defaults]                  # any option but name and source, for all feeds
        fps = 5
        width = 1280

        [[feed]]
        name = "door"
        source = "rtsp://user:password@10.0.0.5/stream1"

        [[feed]]
        name = "archive"
        source = "archive.mp4"      # beside this file
        policy = "lossless"

    Raises:
        SettingsError: names the file, the feed and the field that cannot be used, and why.
    """
    document = _parse(path)
    if unknown := document.keys() - {"defaults", "feed"}:
        raise SettingsError(
            f"{path}: there is no {min(unknown)!a} here, only [defaults] and [[feed]]"
        )
    tables, defaults = document.get("feed", []), document.get("defaults", {})
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f"{path}: a feed begins with [[feed]], in double brackets")
    if not isinstance(defaults, dict) or defaults.keys() & {"name", "source"}:
        raise SettingsError(f"{path}: [defaults] holds options, but no name and no source")
    if not tables:
        raise SettingsError(f"{path} has no feed: each begins with [[feed]]")

    feeds: list[PushOptions] = []
    for number, table in enumerate(tables, start=1):
        feed = _feed(path, number, table, defaults)
        if any(feed.name == other.name for other in feeds):
            raise SettingsError(f"{path}: feed {feed.name}: there are two feeds of this name")
        feeds.append(feed)
    return feeds


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None


def _feed(path: Path, number: int, table: dict[str, Any], defaults: dict[str, Any]) -> PushOptions:
    name = table.get("name")
    where = f"{path}: feed {name}" if isinstance(name, str) and name else f"{path}: feed {number}"
    try:
        # Strict: text is no number and 1 is not true, as TOML has types of its own.
        feed = PushOptions.model_validate({**defaults, **table}, strict=True)
        if "://" in feed.source:
            without_secrets(feed.source)
    except ValidationError as error:
        field, why = _first_fault(error)
        if field in defaults and field not in table:
            where = f"{path}: defaults"
        raise SettingsError(f"{where}: {why}") from None
    except SettingsError as error:
        raise SettingsError(f"{path}: feed {number}: name: {error}") from None
    except ValueError as error:
        raise SettingsError(f"{where}: source: the URL {error}") from None
    if may_come_back(feed.source) or "://" in feed.source:
        return feed
    return feed.model_copy(update={"source": str(path.parent.absolute() / feed.source)})


def _first_fault(error: ValidationError) -> tuple[str, str]:
    """The field at fault, and a sentence that does not repeat a source: it may hold a password."""
    first = error.errors()[0]
    field = str(first["loc"][0])
    if first["type"] == "missing":
        return field, f"{field} is missing"
    if first["type"] == "extra_forbidden":
        return field, f"there is no option {field!a}"
    value = "" if field == "source" else f" = {first.get('input')!r}"
    return field, f"{field}{value} cannot be used: {first['msg']}"
