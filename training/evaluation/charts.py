"""Charts as inline SVG: no script, no font file; colours and dark mode come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from training.evaluation.figures import Bin

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 14, 26, 42


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. ``style`` is the CSS class that colours it: s0 or s1."""

    points: Points
    style: str
    band: Sequence[tuple[float, float]] = ()
    """Lower and upper bound at each point, shaded."""
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """From ``start`` (left, bottom) to ``end`` (right, top); they may be in falling order."""

    label: str
    start: float
    end: float
    ticks: Sequence[float]
    text: Callable[[float], str]

    def place(self, value: float) -> float:
        """0..1 along the axis."""
        return (value - self.start) / (self.end - self.start)


def axis_over(
    label: str, values: Sequence[float], text: Callable[[float], str], *, steps: int = 5
) -> Axis:
    """An axis that reaches over all values, with ticks at 1, 2 or 5 times a power of ten."""
    low, high = min(values), max(values)
    rough = max(high - low, 1e-9) / steps
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return Axis(label, first * step, last * step, [step * n for n in range(first, last + 1)], text)


def line_chart(
    summary: str, x: Axis, y: Axis, lines: Sequence[Line], mark: float | None = None
) -> str:
    """Curves over common axes; ``summary`` is read out in the picture's stead.

    ``mark`` draws a vertical line at that x.
    """
    parts = _frame(x, y)
    if mark is not None:
        place = _x(x, mark)
        parts.append(f'<path class="mark" d="M{place:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
    for line in lines:
        places = [(_x(x, a), _y(y, b)) for a, b in line.points]
        if line.band:
            edges = [(_x(x, a), low, high) for (a, _), (low, high) in zip(
                line.points, line.band, strict=True
            )]  # fmt: skip
            outline = [(a, _y(y, high)) for a, _, high in edges]
            outline += [(a, _y(y, low)) for a, low, _ in reversed(edges)]
            parts.append(f'<path class="band {line.style}" d="M{_path(outline)}Z"/>')
        parts.append(f'<path class="line {line.style}" d="M{_path(places)}"/>')
        if line.dots:
            parts += [
                f'<circle class="dot {line.style}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>'
                for a, b in places
            ]
    return _svg(summary, parts)


def reliability_chart(summary: str, bins: Sequence[Bin]) -> str:
    """Accuracy over confidence, a dot a bin, larger for more pictures; bars show how many."""
    x = Axis("confidence", 0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1], percent_tick)
    y = Axis("accuracy", 0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1], percent_tick)
    parts = _frame(x, y)
    total, most = sum(one.n for one in bins), max(one.n for one in bins)
    for one in bins:
        left, right, top = _x(x, one.low), _x(x, one.high), _y(y, 0.22 * one.n / most)
        parts.append(
            f'<rect class="bar" x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" '
            f'height="{_y(y, 0) - top:.1f}"/>'
        )
    parts.append(
        f'<path class="diagonal" d="M{_path([(_x(x, 0), _y(y, 0)), (_x(x, 1), _y(y, 1))])}"/>'
    )
    known = [
        (_x(x, one.confidence), _y(y, one.accuracy), 2.5 + 14 * math.sqrt(one.n / total))
        for one in bins
        if one.confidence is not None and one.accuracy is not None
    ]
    parts.append(f'<path class="line s0 thin" d="M{_path([(a, b) for a, b, _ in known])}"/>')
    parts += [
        f'<circle class="dot s0" cx="{a:.1f}" cy="{b:.1f}" r="{radius:.1f}"/>'
        for a, b, radius in known
    ]
    return _svg(summary, parts)


def _svg(summary: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(summary)}">'
        f"{''.join(parts)}</svg>"
    )


def _frame(x: Axis, y: Axis) -> list[str]:
    """Grid, tick labels and names of both axes."""
    parts = []
    for tick in y.ticks:
        place = _y(y, tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {place:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text x="{_LEFT - 7}" y="{place + 4:.1f}" text-anchor="end">'
            f"{escape(y.text(tick))}</text>"
        )
    for tick in x.ticks:
        parts.append(
            f'<text x="{_x(x, tick):.1f}" y="{HEIGHT - _BOTTOM + 17}" text-anchor="middle">'
            f"{escape(x.text(tick))}</text>"
        )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="name" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(x.label)}</text>"
    )
    parts.append(f'<text class="name" x="0" y="11">{escape(y.label)}</text>')
    return parts


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.place(value) * (WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - _BOTTOM - axis.place(value) * (HEIGHT - _TOP - _BOTTOM)


def _path(places: Points) -> str:
    return "L".join(f"{a:.1f} {b:.1f}" for a, b in places)


def percent_tick(share: float) -> str:
    """0.685 -> 68.5 %, 0.7 -> 70 %."""
    return f"{100 * share:.3g}\N{NO-BREAK SPACE}%"
