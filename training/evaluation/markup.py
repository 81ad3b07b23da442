"""Small pieces of HTML, and figures as text."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import cv2

from training.evaluation.prediction import Pictures


def percent(share: float) -> str:
    """0.6838 -> 68.38 %."""
    return f"{100 * share:.2f}\N{NO-BREAK SPACE}%"


def interval(figures: Mapping[str, Any]) -> str:
    """Of the accuracy, in per cent."""
    low, high = figures["interval"]
    return f"{100 * low:.1f}–{100 * high:.1f}\N{NO-BREAK SPACE}%"


def short(number: int) -> str:
    """893761 -> 0.89 M."""
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"


def count(number: int | None) -> str | None:
    """893761 -> 893,761."""
    return None if number is None else f"{number:,}"


def swatch(style: str, name: str) -> str:
    """A curve's entry in a legend."""
    return f'<span class="key {style}"><span>{name}</span></span>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column names its row; cells are HTML already."""
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(head[0])}, table">'
        f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A chart's figures, folded up."""
    return f"<details><summary>The same as a table</summary>{table(head, rows)}</details>"


def png(image: Pictures) -> str:
    """(H, W) as the text of a data URL."""
    _, encoded = cv2.imencode(".png", image)
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()
