"""Spans of time as people write them."""

from __future__ import annotations

import re

from worker.errors import SettingsError

_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)([smhd]?)")


def seconds(option: str, span: str | None) -> float | None:
    """``span`` in seconds, such as 90, 90s, 15m, 12h or 7d; None for None.

    Raises:
        SettingsError: it is none; names the ``option`` that it was given for.
    """
    if span is None:
        return None
    found = _SPAN.fullmatch(span.strip())
    if not found:
        raise SettingsError(
            f"{option} {span[:100]!a} is no span of time: write seconds, or 15m, 12h, 7d"
        )
    return float(found[1]) * _UNITS_S[found[2]]
