"""The manifests against the published schemas, and against what the worker really is."""

from __future__ import annotations

import re
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from worker import health
from worker.config import WorkerSettings
from worker.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
BUILT_IN = ("deployment", "service")
VERSIONS = ("1.28", "1.31", "1.34", "1.37")

Manifest = dict[str, Any]


def manifest(name: str) -> Manifest:
    return cast(Manifest, yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


def check_scaled_object(document: Manifest) -> None:
    """KEDA's published schema; its models drop what they do not know, so nothing may be missing."""
    model = ScaledObject.model_validate(document)
    assert model.model_dump(by_alias=True, exclude_unset=True, mode="json") == document


def pod() -> Manifest:
    return cast(Manifest, manifest("deployment")["spec"]["template"]["spec"])


def container() -> Manifest:
    (only,) = pod()["containers"]
    return cast(Manifest, only)


def environment() -> dict[str, Any]:
    """What is set by a value; what comes from elsewhere is None."""
    return {entry["name"]: entry.get("value") for entry in container()["env"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_kubernetes_schemas(name: str, version: str) -> None:
    assert kubernetes_validate.validate(manifest(name), version, strict=True) == version


def test_a_misspelt_field_is_refused() -> None:
    deployment = manifest("deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)

    scaled = manifest("scaledobject")
    misspelt, mistyped = deepcopy(scaled), deepcopy(scaled)
    misspelt["spec"]["maxReplicas"] = 3
    with pytest.raises(AssertionError):
        check_scaled_object(misspelt)
    mistyped["spec"]["triggers"][0]["metadata"]["threshold"] = 0.7  # KEDA takes text alone
    with pytest.raises(ValidationError):
        check_scaled_object(mistyped)


def test_keda_schema() -> None:
    check_scaled_object(manifest("scaledobject"))


def test_what_is_applied_is_what_is_there() -> None:
    kustomization = manifest("kustomization")
    there = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == there
    assert container()["image"] == "mien-worker"
    assert {image["name"] for image in kustomization["images"]} == {"mien-worker", "mien-web"}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {image["newTag"] for image in kustomization["images"]} == {version}


def test_the_autoscaler_goes_by_metrics_that_workers_have() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.follow(lambda: 0.5, lambda: (3, 1.5))
    samples = {one.name for family in metrics.registry.collect() for one in family.samples}
    spec = manifest("scaledobject")["spec"]
    queries = [trigger["metadata"]["query"] for trigger in spec["triggers"]]
    named = {name for query in queries for name in re.findall(r"\bmien_\w+", query)}
    assert named == {
        "mien_worker_busy_ratio", "mien_oldest_frame_age_seconds", "mien_feeds_held",
    }  # fmt: skip
    assert named <= samples
    for trigger in spec["triggers"]:
        assert trigger["type"] == "prometheus"
        assert float(trigger["metadata"]["threshold"]) > 0


def test_the_autoscaler_scales_these_workers() -> None:
    deployment, spec = manifest("deployment"), manifest("scaledobject")["spec"]
    assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # it would be undone at each apply
    assert 1 <= spec["minReplicaCount"] <= spec["maxReplicaCount"]


def test_prometheus_finds_every_worker() -> None:
    service, deployment = manifest("service"), manifest("deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (port,), (there,) = service["spec"]["ports"], container()["ports"]
    assert port["targetPort"] == there["name"]
    told = environment()["MIEN_METRICS_PORT"]
    assert str(there["containerPort"]) == str(port["port"]) == told
    assert service["metadata"]["annotations"]["prometheus.io/port"] == told


def test_the_environment_is_settings_that_the_worker_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {f"MIEN_{name.upper()}" for name in WorkerSettings.model_fields}
    assert environment().keys() <= known
    for name, value in environment().items():
        if value is not None:
            monkeypatch.setenv(name, value)
    settings = WorkerSettings.load()
    assert settings.provider == "cpu"
    assert settings.metrics_host == "0.0.0.0"
    # SIGKILL must come after the worker's own limit, with time to release its leases.
    assert pod()["terminationGracePeriodSeconds"] >= settings.grace_s + 5


def test_the_server_comes_from_a_secret() -> None:
    (entry,) = [entry for entry in container()["env"] if entry["name"] == "MIEN_REDIS"]
    assert entry["valueFrom"].keys() == {"secretKeyRef"}
    assert not any("://" in (value or "") for value in environment().values())


@contextmanager
def served(state: health.Health) -> Iterator[str]:
    server = health.serve("127.0.0.1", 0, CollectorRegistry(), state)
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_the_probes_ask_what_the_worker_answers(probe: str) -> None:
    state = health.Health()
    state.ready()
    asked = container()[probe]["httpGet"]
    assert asked["port"] == container()["ports"][0]["name"]
    with served(state) as url, urllib.request.urlopen(url + asked["path"], timeout=10) as answer:
        assert answer.status == 200


def test_an_outage_of_the_server_restarts_no_worker() -> None:
    state = health.Health()
    state.not_ready("the server is away")
    path = container()["livenessProbe"]["httpGet"]["path"]
    with served(state) as url, urllib.request.urlopen(url + path, timeout=10) as answer:
        assert answer.status == 200


def test_a_worker_may_do_nothing_that_it_need_not() -> None:
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["runAsUser"] > 0
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod()["automountServiceAccountToken"] is False
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container()["resources"].keys() == {"requests", "limits"}
