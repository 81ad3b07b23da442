"""Spans of time as people write them."""

from __future__ import annotations

import pytest

from worker.errors import SettingsError
from worker.operate.durations import seconds


@pytest.mark.parametrize(
    ("span", "s"),
    [("0", 0), ("90", 90), ("1.5s", 1.5), ("15m", 900), ("12h", 43_200), (" 7d ", 604_800)],
)
def test_spans(span: str, s: float) -> None:
    assert seconds("--age", span) == s


def test_none_is_none() -> None:
    assert seconds("--age", None) is None


@pytest.mark.parametrize("span", ["", "-1", "1 week", "7D", "inf", "1e9", "d", "9" * 20])
def test_what_is_no_span_is_named(span: str) -> None:
    with pytest.raises(SettingsError, match=f"--age '{span}' is no span of time"):
        seconds("--age", span)
