"""Scrape configurations, rules and runbook: checked, tested by promtool, run by Prometheus."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.deploy.monitored import FOLDER, MISSING, PROMTOOL, ROOT, prometheus
from tests.feeds import wait_until
from worker.app import app

RUNBOOK = ROOT / "deploy" / "RUNBOOK.md"
TESTS = FOLDER / "tests" / "alerts.yml"
SECTIONS = re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]

needs_prometheus = pytest.mark.skipif(PROMTOOL is None, reason=MISSING)


def groups() -> list[dict[str, Any]]:
    files = sorted((FOLDER / "rules").glob("*.yml"))
    return [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"] if "alert" in rule]


def promtool(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run(
        [PROMTOOL, *map(str, words)], check=False, capture_output=True, text=True, cwd=cwd
    )


@needs_prometheus
@pytest.mark.parametrize("name", ["prometheus", "prometheus-static"])
def test_the_configurations_are_prometheus_own(name: str) -> None:
    done = promtool("check", "config", "--lint=all", "--lint-fatal", FOLDER / f"{name}.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout


@needs_prometheus
def test_rules() -> None:
    done = promtool("test", "rules", TESTS.name, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_the_rules_tests_can_fail(tmp_path: Path) -> None:
    rules = (FOLDER / "rules" / "alerts.yml").read_text()
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "alerts.yml").write_text(TESTS.read_text())
    (tmp_path / "rules" / "recording.yml").write_text(
        (FOLDER / "rules" / "recording.yml").read_text()
    )
    spoilt = {"> 0.05": "> 0.5", "> 10\n": "> 30\n", "for: 15m": "for: 5m"}
    for before, after in spoilt.items():
        assert before in rules
        rules = rules.replace(before, after)
    (tmp_path / "rules" / "alerts.yml").write_text(rules)
    done = promtool("test", "rules", "alerts.yml", cwd=tmp_path / "tests")
    failed = set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr))
    assert failed == {"MienDropsAboveBudget", "MienWorkerHung", "MienModelsDiffer"}


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    seen = defaultdict(set)
    for case in yaml.safe_load(TESTS.read_text())["tests"]:
        for look in case["alert_rule_test"]:
            seen[look["alertname"]].add(bool(look["exp_alerts"]))
    assert dict(seen) == {alert["alert"]: {True, False} for alert in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    assert alert["labels"]["severity"] in ("warning", "critical")
    notes = alert["annotations"]
    assert notes.keys() == {"summary", "runbook"}
    assert notes["runbook"] == f"deploy/RUNBOOK.md#{name.lower()}"
    if "feed" in alert["expr"]:
        assert "$labels.feed" in notes["summary"]
        assert "$labels.server" in notes["summary"]
    (section,) = [section for section in SECTIONS if section.partition("\n")[0] == name]
    for part in ("**Means**: ", "**Look**: ", "**Do**: "):
        assert section.count(part) == 1


def test_the_runbook_has_no_alert_that_is_none() -> None:
    titles = {section.partition("\n")[0] for section in SECTIONS}
    known = {alert["alert"] for alert in alerts()}
    assert {title for title in titles if title.startswith("Mien")} == known


def test_the_runbooks_commands_are_commands() -> None:
    commands = set(re.findall(r"`(mien [^`]+)`", RUNBOOK.read_text()))
    assert len(commands) > 10
    for line in commands:
        words = shlex.split(line)[1:]
        command: Any = typer.main.get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert command.params[0].name != "install_completion", f"no such command: {line}"
        options = {name for option in command.params for name in option.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_the_jobs_are_those_that_the_rules_name() -> None:
    compose = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    static = yaml.safe_load((FOLDER / "prometheus-static.yml").read_text())
    for config in (compose, static):
        assert config["rule_files"] == ["rules/*.yml"]
        names = {each["job_name"] for each in config["scrape_configs"]}
        assert names == {"mien-worker", "mien-feeds"}


@needs_prometheus
def test_kubernetes_services_become_the_same_jobs(tmp_path: Path) -> None:
    """The relabelling, run by Prometheus on what its service discovery says of such Services."""
    config = yaml.safe_load((FOLDER / "prometheus-kubernetes.yml").read_text())
    assert config["rule_files"] == ["rules/*.yml"]
    (scrape,) = config["scrape_configs"]
    (discovery,) = scrape.pop("kubernetes_sd_configs")
    assert discovery == {"role": "endpointslice", "namespaces": {"names": ["mien"]}}

    def endpoint(address: str, pod: str, port: int, component: str, **others: str) -> Any:
        labels = {
            "service_label_app_kubernetes_io_name": "mien",
            "service_label_app_kubernetes_io_component": component,
            "service_annotation_prometheus_io_scrape": "true",
            "service_annotation_prometheus_io_port": "9100",
            "service_annotation_prometheus_io_path": "/metrics",
            "endpointslice_port": str(port),
            "pod_name": pod,
            **others,
        }
        marked = {f"__meta_kubernetes_{name}": value for name, value in labels.items()}
        return {"targets": [f"{address}:{port}"], "labels": marked}

    foreign = {"service_label_app_kubernetes_io_name": "redis"}
    silent = {"service_annotation_prometheus_io_scrape": "false"}
    scrape["static_configs"] = [
        endpoint("127.0.0.2", "mien-worker-a", 9100, "worker"),
        endpoint("127.0.0.3", "mien-worker-b", 9100, "worker"),
        endpoint("127.0.0.3", "mien-worker-b", 7000, "worker"),
        endpoint("127.0.0.4", "mien-feeds-a", 9100, "feeds"),
        endpoint("127.0.0.5", "redis-0", 9100, "server", **foreign),
        endpoint("127.0.0.6", "mien-x", 9100, "x", **silent),
    ]
    with prometheus(tmp_path, [scrape]) as running:

        def active() -> list[Any]:
            found: list[Any] = running.ask("targets", state="active")["activeTargets"]
            return found

        wait_until(lambda: bool(active()))  # all of them come at once
        targets = active()
    assert sorted((one["labels"]["job"], one["labels"]["instance"]) for one in targets) == [
        ("mien-feeds", "mien-feeds-a"),
        ("mien-worker", "mien-worker-a"),
        ("mien-worker", "mien-worker-b"),
    ]
    assert {one["scrapeUrl"] for one in targets} == {
        f"http://127.0.0.{last}:9100/metrics" for last in (2, 3, 4)
    }
