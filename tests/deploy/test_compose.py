"""deploy/compose.yaml against the specification, and against what it mounts, runs and sets."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from compose_spec import PyCompose

from tests.deploy.command_line import assert_parses
from tests.deploy.guarded import set_up
from tests.deploy.image import stages
from worker.config import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TEXT = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / "compose.yaml").read_text())
"""With the defaults of its variables."""
WHOLE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = WHOLE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("mien-")]
LONG_RUNNING = [name for name, service in SERVICES.items() if service["restart"] != "no"]


def test_the_specification() -> None:
    assert set(PyCompose.from_yaml(yaml.safe_dump(WHOLE)).service_names()) == SERVICES.keys()


@pytest.mark.parametrize(
    "wrong", [{"healthcheckk": {}}, {"read_only": "perhaps"}, {"depends_on": 3}]
)
def test_what_the_specification_does_not_know_is_refused(wrong: dict[str, Any]) -> None:
    services = {**SERVICES, "web": {**SERVICES["web"], **wrong}}
    with pytest.raises(ValueError, match=r"services\.web"):
        PyCompose.from_yaml(yaml.safe_dump({**WHOLE, "services": services}))


def test_everything_named_is_declared() -> None:
    for service in SERVICES.values():
        assert set(service["networks"]) <= WHOLE["networks"].keys()
        assert set(service.get("depends_on", {})) <= SERVICES.keys()
        for name, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert has_health_check(name)
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            there = (DEPLOY / source).exists() if source[0] == "." else source in WHOLE["volumes"]
            assert there, volume
        assert {name for name, _ in secrets_of(service)} <= WHOLE["secrets"].keys()


def secrets_of(service: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and where it is mounted."""
    found = []
    for given in service.get("secrets", ()):
        one = {"source": given} if isinstance(given, str) else given
        target = one.get("target", one["source"])
        at = target if target.startswith("/") else f"/run/secrets/{target}"
        found.append((one["source"], at))
    return found


def target_of(name: str) -> str:
    """The stage of the Dockerfile that a service's image is made by."""
    builds = {
        service["image"]: service["build"]["target"]
        for service in SERVICES.values() if "build" in service
    }  # fmt: skip
    return str(builds[SERVICES[name]["image"]])


def has_health_check(name: str) -> bool:
    if "healthcheck" in SERVICES[name]:
        return True
    steps = stages()[target_of(name)].steps
    return any(step.instruction == "HEALTHCHECK" and step.words != ("NONE",) for step in steps)


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_what_runs_is_watched(name: str) -> None:
    assert has_health_check(name)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_locked(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), "an exact version"
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")
        assert "front" in service["networks"]
    for volume in service.get("volumes", ()):
        assert volume.startswith("./") == volume.endswith(":ro")


def test_no_password_is_written_down() -> None:
    assert not re.search(r"(?i)(password|secret|token)\w*[:=] *['\"]?\w{8,}", TEXT)
    assert not re.search(r"rediss?://", TEXT)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_setup_makes_every_secret(tmp_path: Path) -> None:
    set_up(tmp_path, access="/access")
    for name, secret in WHOLE["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
        assert (tmp_path / name).stat().st_size > 0
    for service in SERVICES.values():
        mounted = {at for _, at in secrets_of(service)}
        for name, at in secrets_of(service):
            if name.endswith(".url"):
                assert service["environment"]["MIEN_REDIS_FILE"] == at
                url = urlsplit((tmp_path / name).read_text())
                assert url.username == name.removesuffix(".url")
                assert url.hostname in SERVICES
                files = {file for (file,) in parse_qs(url.query).values()}
                assert files <= mounted


def test_the_servers_files_are_where_its_configuration_looks() -> None:
    mounted = {at for _, at in secrets_of(SERVICES["server"])}
    wanted = re.findall(r"/access/\S+", (DEPLOY / "access/server.conf").read_text())
    assert set(wanted) <= mounted
    checked = re.findall(r"/access/\S+", SERVICES["server"]["healthcheck"]["test"][1])
    assert set(checked) <= mounted


@pytest.mark.parametrize("name", OURS)
def test_each_command_is_one_that_the_command_line_has(name: str) -> None:
    service = SERVICES[name]
    steps = {step.instruction: step.words for step in stages()[target_of(name)].steps}
    words = [*service.get("entrypoint", ["mien"])[1:], *service.get("command", steps["CMD"])]
    if "--help" not in words:
        assert_parses(words[0], words[1:])


@pytest.mark.parametrize("name", OURS)
def test_each_variable_is_one_that_is_read(name: str) -> None:
    source = "".join(path.read_text() for path in (ROOT / "worker").rglob("*.py"))
    known = {f"MIEN_{field.upper()}" for field in WorkerSettings.model_fields}
    known |= set(re.findall(r'"(MIEN_\w+)"', source))
    assert SERVICES[name]["environment"].keys() <= known
    WorkerSettings(
        **{
            field: SERVICES[name]["environment"][variable]
            for field in WorkerSettings.model_fields
            if (variable := f"MIEN_{field.upper()}") in SERVICES[name]["environment"]
        }
    )


def test_images_are_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in OURS:
        assert SERVICES[name]["image"].endswith(f":{version}")
    for service in SERVICES.values():
        if "build" in service:
            assert service["build"]["target"] in stages()
            assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).exists()


def test_prometheus_finds_who_is_there() -> None:
    """Each target is a service that Prometheus can reach, at a port where it serves metrics."""
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    found = set()
    for job in config["scrape_configs"]:
        for group in job.get("dns_sd_configs", ()):
            found |= {(name, str(group["port"])) for name in group["names"]}
        for group in job.get("static_configs", ()):
            found |= {tuple(target.split(":")) for target in group["targets"]}
    assert {("worker", "9100"), ("feeds", "9101")} <= found
    for name, port in found:
        assert set(SERVICES[name]["networks"]) & set(SERVICES["prometheus"]["networks"])
        told = [str(word) for word in SERVICES[name].get("command", ())]
        exposed = [
            word for step in stages()[target_of(name)].steps if step.instruction == "EXPOSE"
            for word in step.words
        ]  # fmt: skip
        assert port in told + exposed


def test_grafana_finds_its_dashboards() -> None:
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    for path in (DEPLOY / "grafana/provisioning/dashboards").iterdir():
        for provider in yaml.safe_load(path.read_text())["providers"]:
            assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    for path in (DEPLOY / "grafana/provisioning/datasources").iterdir():
        for source in yaml.safe_load(path.read_text())["datasources"]:
            assert urlsplit(source["url"]).hostname in SERVICES
