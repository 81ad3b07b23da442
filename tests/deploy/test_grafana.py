"""The dashboards: as built, by Grafana's schema, and each query answered from a real scrape."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.build import as_json, build
from tests.deploy.monitored import (
    FOLDER,
    MISSING,
    PROMETHEUS,
    ROOT,
    Stage,
    filled,
    metrics_named,
    monitored,
)
from tests.feeds import wait_until

GRAFANA = ROOT / "deploy" / "grafana"
NAMES = ("mien", "runbook")
MAY_BE_EMPTY = {"Alerts firing": "where all is well nothing fires"}

needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason=MISSING)


def dashboard(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text())
    return found


def queries() -> list[tuple[str, str]]:
    """Title of a panel and PromQL of each query, for all feeds and workers, rates over 10 s."""
    return [
        (panel["title"], filled(target["expr"]))
        for panel in dashboard("mien")["panels"]
        for target in panel.get("targets", ())
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_json_is_what_the_builder_makes(name: str) -> None:
    assert (GRAFANA / "dashboards" / f"{name}.json").read_text() == as_json(build()[name])


@pytest.mark.parametrize("name", NAMES)
def test_grafanas_types_take_the_json_and_lose_nothing(name: str) -> None:
    register_default_plugins()
    document = dashboard(name)
    model = Dashboard.from_json(document)
    assert json.loads(JSONEncoder().encode(model)) == document


@pytest.mark.parametrize("name", NAMES)
def test_the_layout(name: str) -> None:
    """Ids are unique, and no panel lies upon another or beyond the edge."""
    document = dashboard(name)
    panels = [panel for panel in document["panels"] if panel["type"] != "row"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids) > 10
    taken: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        at = {"x": 0, "y": 0, **panel["gridPos"]}
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells


def test_what_must_be_shown_is_shown() -> None:
    metrics = {name for _, expression in queries() for name in metrics_named(expression)}
    assert metrics >= {
        "mien_feed_offered_total",
        "mien_feed_frames_total",
        "mien_ingest_to_event_seconds_bucket",
        "mien_faces_total",
        "mien_stage_seconds_sum",
        "mien_batch_frames_sum",
        "mien_batch_faces_sum",
        "mien_worker_cpu_seconds_total",
    }
    variables = {one["name"] for one in dashboard("mien")["templating"]["list"]}
    assert variables == {"datasource", "server", "feed", "worker"}


def test_every_link_leads_to_a_dashboard_of_ours() -> None:
    uids = {dashboard(name)["uid"] for name in NAMES}
    links = [link["url"] for name in NAMES for link in dashboard(name)["links"]]
    assert {link.removeprefix("/d/") for link in links} == uids


def test_the_provisioning_finds_them() -> None:
    (source,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    )["datasources"]
    scrape = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == scrape
    (provider,) = yaml.safe_load(
        (GRAFANA / "provisioning" / "dashboards" / "mien.yml").read_text()
    )["providers"]
    assert provider["type"] == "file"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A worker that has published events with faces, and a Prometheus that knows it."""
    with monitored(tmp_path_factory.mktemp("prometheus")) as running:
        wait_until(
            lambda: bool(running.prometheus.query("sum(rate(mien_faces_total[10s])) > 0")), 90
        )
        yield running


def finite(stage: Stage, expression: str) -> bool:
    """Whether the query gives at least one figure."""
    found = stage.prometheus.query(expression)
    return any(math.isfinite(float(one["value"][1])) for one in found)


@needs_prometheus
def test_each_panels_queries_return_data(stage: Stage) -> None:
    assert len(queries()) > 35
    for title, expression in queries():
        if title in MAY_BE_EMPTY:
            continue
        try:
            wait_until(partial(finite, stage, expression), 30)
        except AssertionError:
            pytest.fail(f"{title}: no data from {expression}")


@needs_prometheus
def test_what_may_be_empty_is_a_query_all_the_same(stage: Stage) -> None:
    asked = [(title, expression) for title, expression in queries() if title in MAY_BE_EMPTY]
    assert {title for title, _ in asked} == MAY_BE_EMPTY.keys()
    for _, expression in asked:
        stage.prometheus.query(expression)


@needs_prometheus
def test_the_template_variables_have_values(stage: Stage) -> None:
    for variable in dashboard("mien")["templating"]["list"]:
        if variable["type"] != "query":
            continue
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert found is not None
        series, label = filled(found[1]), found[2]
        assert stage.prometheus.ask(f"label/{label}/values", **{"match[]": series})


def rules() -> list[dict[str, Any]]:
    files = sorted((FOLDER / "rules").glob("*.yml"))
    return [
        rule
        for path in files
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


@needs_prometheus
def test_every_metric_named_is_one_that_is_scraped(stage: Stage) -> None:
    expressions = [rule["expr"] for rule in rules()] + [one for _, one in queries()]
    named = {name for one in expressions for name in metrics_named(one)}
    assert len(named) > 30
    wait_until(lambda: named <= stage.prometheus.metrics())


@needs_prometheus
def test_prometheus_evaluates_every_rule(stage: Stage) -> None:
    """Two series where one may be is an error that only real data shows."""

    def evaluated() -> list[dict[str, Any]]:
        groups = stage.prometheus.ask("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    assert len(evaluated()) == len(rules())
    wait_until(lambda: all(rule["health"] != "unknown" for rule in evaluated()))
    assert [
        (rule["name"], rule.get("lastError")) for rule in evaluated() if rule["health"] != "ok"
    ] == []


@needs_prometheus
def test_a_worker_that_is_killed_is_heard_of(stage: Stage) -> None:
    """The last of these: it ends the worker."""
    assert not stage.prometheus.query('ALERTS{alertname=~"MienNoWorker|MienFeedWithoutWorker"}')
    stage.workers[0].kill()
    for alert, labels in {
        "MienNoWorker": {"server"},
        "MienFeedWithoutWorker": {"server", "feed"},
        "MienTargetDown": {"job", "instance"},
    }.items():
        pending = f'ALERTS{{alertname="{alert}",alertstate="pending"}}'
        wait_until(partial(finite, stage, pending), 60)
        (series,) = stage.prometheus.query(pending)
        assert labels <= series["metric"].keys()
