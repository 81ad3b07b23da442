"""Builds dashboards/mien.json and dashboards/runbook.json with Grafana's own library.

    python -m deploy.grafana.build

Change this file, not the JSON: a test compares them. The library's types are those of Grafana's
schema (10.1; later Grafanas take it as well).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    Row,
)
from grafana_foundation_sdk.builders.text import Panel as Text
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import StackingMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DashboardLinkType
from grafana_foundation_sdk.models.text import TextMode

from deploy.grafana.panels import choice, lines, stat, table

HERE = Path(__file__).parent
RUNBOOK = HERE.parent / "RUNBOOK.md"

FEEDS = 'server=~"$server",feed=~"$feed"'
HELD = 'feed=~"$feed",instance=~"$worker"'
WORKERS = 'job="mien-worker",instance=~"$worker"'
RATE = "[$__rate_interval]"


def build() -> dict[str, Dashboard]:
    """File name without its ending -> dashboard."""
    return {"mien": _mien(), "runbook": _runbook()}


def _mien() -> Dashboard:
    board = (
        Dashboard("mien")
        .uid("mien")
        .description("Feeds, workers and their server.")
        .tags(["mien"])
        .refresh("15s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            DashboardLink("Runbook")
            .type(DashboardLinkType.LINK)
            .icon("doc")
            .tooltip("What each alert means, and what to do")
            .url("/d/mien-runbook")
            .keep_time(True)
        )
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(choice("server", "label_values(mien_server_up, server)"))
        .with_variable(choice("feed", 'label_values(mien_feed_info{server=~"$server"}, feed)'))
        .with_variable(
            choice("worker", 'label_values(mien_worker_info{server=~"$server"}, instance)')
        )
    )
    number = 0
    for title, panels in _rows().items():
        board.with_row(Row(title))
        for panel in panels:
            number += 1
            board.with_panel(panel.id(number))
    return board


def _rows() -> dict[str, list[Any]]:
    published, others = 'outcome="published"', 'outcome!="published"'
    return {
        "Now": [
            stat("Feeds", 'count(count by (server, feed) (mien_feed_info{server=~"$server"}))'),
            stat("Workers", 'sum(max by (server) (mien_workers{server=~"$server"}))', red_below=1),
            stat("Frames in", f"sum({_books('offered', '')})", unit="cps"),
            stat("Events out", f"sum({_books('frames', published)})", unit="cps"),
            stat("Faces", f"sum(rate(mien_faces_total{{{HELD}}}{RATE}))", unit="cps"),
            stat(
                "Longest wait",
                f"max(mien_feed_oldest_frame_age_seconds{{{FEEDS}}})",
                unit="s",
            ),
            stat(
                "Server memory",
                'max(node:mien_server_memory:ratio{server=~"$server"})',
                unit="percentunit",
                red_above=0.8,
            ),
            stat(
                "Alerts",
                'count(ALERTS{alertname=~"Mien.+", alertstate="firing"}) or vector(0)',
                red_above=1,
            ),
            table(
                "Alerts firing",
                'ALERTS{alertname=~"Mien.+", alertstate="firing"}',
                "What each means, and what to do: the runbook (link above).",
                ["severity", "alertname", "feed", "worker", "instance", "server"],
            ),
        ],
        "Feeds": [
            lines(
                "Frames in",
                "Frames that the server accepted.",
                [(f"sum by (feed) ({_books('offered', '')})", "{{feed}}")],
                unit="cps",
            ),
            lines(
                "Events out",
                "Frames analysed, their events published.",
                [(f"sum by (feed) ({_books('frames', published)})", "{{feed}}")],
                unit="cps",
            ),
            lines(
                "Not analysed, by reason",
                "dropped: displaced by newer ones before anybody read them. skipped: too old when "
                "read. dead: a dead letter.",
                [
                    (
                        f"sum by (feed, outcome) ({_books('frames', others)})",
                        "{{feed}} {{outcome}}",
                    )
                ],
                unit="cps",
                stacked=StackingMode.NORMAL,
            ),
            lines(
                "Frame age at its event",
                "From the server's acceptance of a frame to that of its event, by its clock.",
                [
                    (f"{_quantile(0.5, 'mien_ingest_to_event_seconds', 'feed')}", "{{feed}} p50"),
                    (f"{_quantile(0.95, 'mien_ingest_to_event_seconds', 'feed')}", "{{feed}} p95"),
                ],
                unit="s",
            ),
            lines(
                "Faces",
                "Faces in the events published.",
                [(f"sum by (feed) (rate(mien_faces_total{{{HELD}}}{RATE}))", "{{feed}}")],
                unit="cps",
            ),
            lines(
                "Expression mix",
                "Share of each perceived expression in the faces of the feeds chosen; uncertain: "
                "the model abstains. What is perceived is not what is felt.",
                [
                    (
                        f"sum by (expression) (rate(mien_faces_total{{{HELD}}}{RATE}))",
                        "{{expression}}",
                    )
                ],
                unit="percentunit",
                stacked=StackingMode.PERCENT,
            ),
            lines(
                "Waiting and in hand",
                "Frames in flight of each feed.",
                [
                    (
                        f"max by (server, feed) (mien_feed_in_flight_frames{{{FEEDS}}})",
                        "{{feed}}",
                    )
                ],
            ),
            lines(
                "Oldest frame waits",
                "Of a live feed it should stay below the feed's staleness.",
                [
                    (
                        f"max by (server, feed) (mien_feed_oldest_frame_age_seconds{{{FEEDS}}})",
                        "{{feed}}",
                    )
                ],
                unit="s",
            ),
            lines(
                "Since the last frame in",
                "It grows while no writer pushes.",
                [(f"min by (server, feed) (mien_feed_idle_seconds{{{FEEDS}}})", "{{feed}}")],
                unit="s",
            ),
        ],
        "Workers": [
            lines(
                "Busy",
                "Share of its time that a worker works.",
                [(f"mien_worker_busy_ratio{{{WORKERS}}}", "{{instance}}")],
                unit="percentunit",
            ),
            lines(
                "Cores busy",
                "Processor time a second, of all processes of a worker.",
                [(f"rate(mien_worker_cpu_seconds_total{{{WORKERS}}}{RATE})", "{{instance}}")],
            ),
            lines(
                "Seconds a batch spends in each step",
                "The mean.",
                [
                    (
                        f"sum by (stage) (rate(mien_stage_seconds_sum{{{WORKERS}}}{RATE}))"
                        f" / sum by (stage) (rate(mien_stage_seconds_count{{{WORKERS}}}{RATE}))",
                        "{{stage}}",
                    )
                ],
                unit="s",
                stacked=StackingMode.NORMAL,
            ),
            lines(
                "Slow batches",
                "p95 of the seconds in each step.",
                [(_quantile(0.95, "mien_stage_seconds", "stage", WORKERS), "{{stage}}")],
                unit="s",
            ),
            lines(
                "Batch sizes",
                "Frames analysed, and faces classified together: the mean.",
                [
                    (_mean("mien_batch_frames"), "{{instance}} frames"),
                    (_mean("mien_batch_faces"), "{{instance}} faces"),
                ],
            ),
            lines(
                "Feeds held",
                "Leases.",
                [(f"mien_feeds_held{{{WORKERS}}}", "{{instance}}")],
            ),
            lines(
                "Memory",
                "Resident; what the processes of a worker share counts in each.",
                [(f"mien_worker_memory_bytes{{{WORKERS}}}", "{{instance}}")],
                unit="bytes",
            ),
            lines(
                "Warnings and errors",
                "Lines logged a minute.",
                [
                    (
                        "60 * sum by (instance, level) (rate(mien_log_messages_total"
                        f'{{{WORKERS},level!~"debug|info"}}{RATE}))',
                        "{{instance}} {{level}}",
                    )
                ],
            ),
            lines(
                "Since the loop came round",
                "At 30 s the worker ends itself.",
                [(f"mien_loop_age_seconds{{{WORKERS}}}", "{{instance}}")],
                unit="s",
            ),
            table(
                "Workers",
                f'mien_worker_info{{{WORKERS},server=~"$server"}}',
                "worker: the name in mien feeds and in the logs.",
                ["instance", "worker", "server"],
            ),
            table(
                "Models",
                f"count by (role, name, version, digest) (mien_model_info{{{WORKERS}}})",
                "One line for each role, unless workers differ.",
                ["role", "name", "version", "digest", "Value"],
            ),
        ],
        "Server": [
            lines(
                "Memory of the server",
                "Used, and the most it may use.",
                [
                    (_of_node("max", "memory_used_bytes"), "{{node}} used"),
                    (_of_node("max", "memory_max_bytes"), "{{node}} at most"),
                ],
                unit="bytes",
            ),
            lines(
                "Answers, persists",
                "1: it does.",
                [
                    (_of_node("max", "up"), "{{node}} answers"),
                    (_of_node("min", "persistence_ok"), "{{node}} persists"),
                ],
            ),
            lines(
                "Worker does not reach it",
                "Times a minute.",
                [
                    (
                        f"60 * rate(mien_server_unavailable_total{{{WORKERS}}}{RATE})",
                        "{{instance}}",
                    )
                ],
            ),
        ],
    }


def _books(what: str, more: str) -> str:
    """A rate of the books; of several who serve them the largest counts."""
    labels = f"{FEEDS},{more}" if more else FEEDS
    by = "server, feed, outcome" if what == "frames" else "server, feed"
    return f"max by ({by}) (rate(mien_feed_{what}_total{{{labels}}}{RATE}))"


def _quantile(q: float, histogram: str, by: str, labels: str = HELD) -> str:
    rates = f"rate({histogram}_bucket{{{labels}}}{RATE})"
    return f"histogram_quantile({q}, sum by ({by}, le) ({rates}))"


def _mean(histogram: str) -> str:
    parts = (f"rate({histogram}_{part}{{{WORKERS}}}{RATE})" for part in ("sum", "count"))
    return " / ".join(parts)


def _of_node(largest: str, what: str) -> str:
    return f'{largest} by (server, node) (mien_server_{what}{{server=~"$server"}})'


def _runbook() -> Dashboard:
    """RUNBOOK.md where the alerts are looked at: a panel for each of its sections."""
    board = (
        Dashboard("mien: runbook")
        .uid("mien-runbook")
        .tags(["mien"])
        .timezone("browser")
        .readonly()
        .link(DashboardLink("mien").type(DashboardLinkType.LINK).url("/d/mien").keep_time(True))
    )
    _, *sections = re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)
    for number, section in enumerate(sections, start=1):
        title, _, words = section.partition("\n")
        board.with_panel(
            Text()
            .id(number)
            .title(title)
            .span(12)
            .height(8)
            .mode(TextMode.MARKDOWN)
            .content(words.strip())
        )
    return board


def as_json(board: Dashboard) -> str:
    return JSONEncoder(indent=2, sort_keys=True).encode(board.build()) + "\n"


if __name__ == "__main__":
    for name, board in build().items():
        (HERE / "dashboards" / f"{name}.json").write_text(as_json(board))
