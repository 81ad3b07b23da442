"""Draws deploy/pictures/dashboard.png: the dashboard's queries, asked of a real Prometheus.

python -m tests.deploy.dashboard_picture

Two workers and three feeds, two minutes in three acts: all is well; a fourth feed floods them, and
two frames come that are none; a worker is killed. It is no screenshot of Grafana.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tests.deploy.monitored import ROOT, Prometheus, Stage, filled, monitored, pushed
from worker.wire.keys import FeedKeys
from worker.wire.server import Server

PICTURE = ROOT / "deploy" / "pictures" / "dashboard.png"
_ACT_S = 45.0
_STEP_S = 2
_OVER = "15s"
_UNITS = {"s": "s", "cps": "/s", "percentunit": "share", "bytes": "MB"}
_PER = {"bytes": 1e-6}

Panel = dict[str, Any]


def main() -> None:
    board = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "mien.json").read_text())
    with (
        tempfile.TemporaryDirectory() as folder,
        monitored(Path(folder), feeds=3, workers=2, fps=5) as stage,
    ):
        wait_for_events(stage)
        began = time.time()
        time.sleep(_ACT_S)
        spoil(stage.redis)
        with pushed(stage.redis, "flood", fps=60, width=960):
            time.sleep(_ACT_S)
            stage.workers[0].kill()
            time.sleep(_ACT_S)
            draw(board["panels"], stage.prometheus, began, time.time())


def wait_for_events(stage: Stage) -> None:
    while not stage.prometheus.query("sum(rate(mien_faces_total[15s])) > 0"):
        time.sleep(1)


def spoil(redis: str) -> None:
    """Two frames that cannot be decoded."""
    server = Server(redis)
    for _ in range(2):
        server.command("XADD", FeedKeys.of("cam-1").frames, "*", "frame", b"no frame")
    server.close()


def draw(panels: list[Panel], prometheus: Prometheus, began: float, ended: float) -> None:
    lines = [panel for panel in panels if panel["type"] == "timeseries"]
    stats = [panel for panel in panels if panel["type"] == "stat"]
    columns = 3
    rows = math.ceil(len(lines) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(17, 2.5 * rows + 1.2))
    figure.text(
        0.02, 0.985,
        "The queries of deploy/grafana/dashboards/mien.json, answered by Prometheus and drawn with "
        "matplotlib: no screenshot of Grafana. At 45 s a fourth feed floods the workers, at 90 s "
        "one of them is killed.",
    )  # fmt: skip
    figure.text(0.02, 0.972, now(stats, prometheus), fontsize=9)
    shown = axes.flatten()
    for axis, panel in zip(shown, lines, strict=False):
        draw_panel(axis, panel, prometheus, began, ended)
    for axis in shown[len(lines) :]:
        axis.axis("off")
    figure.tight_layout(rect=(0, 0, 1, 0.967))
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=62)


def now(stats: list[Panel], prometheus: Prometheus) -> str:
    """The single figures, at the end."""
    words = []
    for panel in stats:
        (target,) = panel["targets"]
        found = prometheus.query(filled(target["expr"], _OVER))
        unit = _UNITS.get(panel["fieldConfig"]["defaults"]["unit"], "")
        value = f"{float(found[0]['value'][1]):.3g} {unit}" if found else "-"
        words.append(f"{panel['title']}: {value}".strip())
    return "At the end:   " + "     ".join(words)


def draw_panel(axis: Any, panel: Panel, prometheus: Prometheus, began: float, ended: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    mode, unit = defaults["custom"]["stacking"]["mode"], defaults["unit"]
    named: list[tuple[str, list[float], list[float]]] = []
    for target in panel["targets"]:
        found = prometheus.ask(
            "query_range", query=filled(target["expr"], _OVER), start=began, end=ended,
            step=_STEP_S,
        )["result"]  # fmt: skip
        for series in found:
            times = [float(at) - began for at, _ in series["values"]]
            values = [float(value) * _PER.get(unit, 1) for _, value in series["values"]]
            named.append((legend(target["legendFormat"], series["metric"]), times, values))
    named.sort(key=lambda one: one[0])
    if mode == "none":
        for name, times, values in named:
            axis.plot(times, values, label=name, linewidth=1)
    else:
        stack(axis, named, share=mode == "percent")
    axis.set_title(panel["title"], fontsize=10)
    axis.set_ylabel(_UNITS.get(unit, ""), fontsize=8)
    axis.margins(y=0.35)
    axis.set_ylim(bottom=0)
    axis.set_xlim(0, ended - began)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=6, loc="upper left", ncols=2)


def stack(axis: Any, named: list[tuple[str, list[float], list[float]]], *, share: bool) -> None:
    """Areas upon each other; a series that is not there at a moment counts as 0."""
    named = [one for one in named if any(value > 0 for value in one[2])]
    moments = sorted({at for _, times, _ in named for at in times})
    heights = [
        [dict(zip(times, values, strict=True)).get(at, 0.0) for at in moments]
        for _, times, values in named
    ]
    heights = [[0.0 if math.isnan(one) else one for one in row] for row in heights]
    if share:
        sums = [sum(column) or 1.0 for column in zip(*heights, strict=True)]
        heights = [[one / whole for one, whole in zip(row, sums, strict=True)] for row in heights]
    axis.stackplot(moments, heights, labels=[name for name, _, _ in named], alpha=0.7)


def legend(format: str, metric: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: metric.get(found[1], ""), format)


if __name__ == "__main__":
    main()
