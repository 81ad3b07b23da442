"""All manifests together: schemas, settings, probes, and who talks to whom."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.command_line import assert_parses
from worker.config import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
GPU = ROOT / "deploy" / "kubernetes-gpu"

Manifest = dict[str, Any]


def documents() -> list[Manifest]:
    """What kustomization.yaml names, but for KEDA's, which another test knows."""
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    found = [one for name in names for one in yaml.safe_load_all((FOLDER / name).read_text())]
    return [one for one in found if one["kind"] != "ScaledObject"]


def named(kind: str, name: str) -> Manifest:
    (found,) = [
        one for one in documents() if (one["kind"], one["metadata"]["name"]) == (kind, name)
    ]
    return found


DEPLOYMENTS = ["mien-worker", "mien-web", "mien-feeds"]


def pod(name: str) -> Manifest:
    found: Manifest = named("Deployment", name)["spec"]["template"]
    return found


def container(name: str) -> Manifest:
    (only,) = pod(name)["spec"]["containers"]
    found: Manifest = only
    return found


@pytest.mark.parametrize("version", ["1.28", "1.37"])
def test_schemas(version: str) -> None:
    for one in documents():
        assert kubernetes_validate.validate(one, version, strict=True) == version


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector fits; matchLabels and In are what is used here."""
    fits = selector.get("matchLabels", {}).items() <= labels.items()
    return fits and all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", ())
    )


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_each_pod_may_do_nothing_that_it_need_not(name: str) -> None:
    spec, only = pod(name)["spec"], container(name)
    assert spec["automountServiceAccountToken"] is spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"]["readOnlyRootFilesystem"] is True
    assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert only["resources"]["limits"]["memory"]
    assert not any("://" in entry.get("value", "") for entry in only["env"])
    mounted = {mount["name"]: mount for mount in only["volumeMounts"]}
    for volume in spec["volumes"]:
        assert ("secret" in volume) == mounted[volume["name"]].get("readOnly", False)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_each_command_is_one_that_the_command_line_has(name: str) -> None:
    command, *options = container(name)["args"]
    assert_parses(command, options)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_the_environment_is_settings_that_are_read(name: str) -> None:
    source = "".join(path.read_text() for path in (ROOT / "worker").rglob("*.py"))
    known = {f"MIEN_{field.upper()}" for field in WorkerSettings.model_fields}
    known |= set(re.findall(r'"(MIEN_\w+)"', source))
    assert {entry["name"] for entry in container(name)["env"]} <= known


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_probes_and_services_name_ports_that_are_there(name: str) -> None:
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    probes = [value for key, value in container(name).items() if key.endswith("Probe")]
    assert len(probes) >= 2
    assert {probe["httpGet"]["port"] for probe in probes} <= ports.keys()
    service = named("Service", name)
    labels = pod(name)["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports.keys()
    told = service["metadata"].get("annotations", {}).get("prometheus.io/port")
    assert told is None or int(told) in ports.values()


def test_budgets_and_policies_are_about_pods_that_are_there() -> None:
    labels = {name: pod(name)["metadata"]["labels"] for name in DEPLOYMENTS}
    for one in documents():
        if one["kind"] == "PodDisruptionBudget":
            name = one["metadata"]["name"]
            fitting = [pod for pod in labels if selects(one["spec"]["selector"], labels[pod])]
            assert fitting == [name]
        if one["kind"] == "NetworkPolicy":
            fitting = [pod for pod in labels if selects(one["spec"]["podSelector"], labels[pod])]
            assert fitting


def test_who_talks_to_whom() -> None:
    """Everything is refused, then each pod's own ports are opened to one namespace each."""
    policies = [one["spec"] for one in documents() if one["kind"] == "NetworkPolicy"]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies
    opened: dict[str, set[tuple[str, str]]] = {name: set() for name in DEPLOYMENTS}
    for policy in policies:
        for rule in policy.get("ingress", ()):
            (peer,) = rule["from"]
            (namespace,) = peer["namespaceSelector"]["matchLabels"].values()
            for name in DEPLOYMENTS:
                if selects(policy["podSelector"], pod(name)["metadata"]["labels"]):
                    opened[name] |= {(namespace, port["port"]) for port in rule["ports"]}
    assert opened == {
        "mien-worker": {("monitoring", "metrics")},
        "mien-feeds": {("monitoring", "metrics")},
        "mien-web": {("ingress", "http")},
    }
    egress = {
        port["port"] for policy in policies for rule in policy.get("egress", ())
        for port in rule["ports"]
    }  # fmt: skip
    assert egress == {53, 6379}


def test_secrets_are_those_that_the_words_on_top_make() -> None:
    words = re.sub(r"^#", "", (FOLDER / "kustomization.yaml").read_text(), flags=re.MULTILINE)
    made: dict[str, set[str]] = {}
    for line in words.splitlines():
        if "create secret generic" in line:
            parts = shlex.split(line)
            files = {part.partition("=")[2] for part in parts if part.startswith("--from-file")}
            made[parts[parts.index("generic") + 1]] = files
    wanted: dict[str, set[str]] = {}
    for name in DEPLOYMENTS:
        for entry in container(name)["env"]:
            if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                wanted.setdefault(reference["name"], set()).add(reference["key"])
        mounts = {mount["name"]: mount["mountPath"] for mount in container(name)["volumeMounts"]}
        for volume in pod(name)["spec"]["volumes"]:
            if "secret" in volume:
                at = mounts[volume["name"]] + "/"
                files = {arg.removeprefix(at) for arg in container(name)["args"] if at in arg}
                wanted.setdefault(volume["secret"]["secretName"], set()).update(files)
    # The certificates are named within the URLs.
    wanted["mien-access"] |= {"ca.crt", "client.crt", "client.key"}
    assert made == wanted


needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="needs kubectl, which has kustomize in it"
)


def built(folder: Path) -> dict[tuple[str, str], Manifest]:
    text = subprocess.run(
        ["kubectl", "kustomize", folder], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text)}


@needs_kubectl
def test_workers_on_gpus_are_the_same_but_for_their_device() -> None:
    on_cpu, on_gpu = built(FOLDER), built(GPU)
    worker = ("Deployment", "mien-worker")
    assert {key for key in on_gpu if on_gpu[key] != on_cpu.get(key)} == {worker}
    assert on_gpu.keys() == on_cpu.keys()
    for one in on_gpu.values():
        if one["kind"] != "ScaledObject":
            kubernetes_validate.validate(one, "1.37", strict=True)
    (only,) = on_gpu[worker]["spec"]["template"]["spec"]["containers"]
    assert only["image"] == "mien-worker-gpu:0.1.0"
    assert only["resources"]["limits"]["nvidia.com/gpu"] == "1"
    environment = {entry["name"]: entry.get("value") for entry in only["env"]}
    assert environment["MIEN_PROVIDER"] == "cuda"
    assert "MIEN_REDIS" in environment
