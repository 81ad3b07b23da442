"""The doctor: what is well is called good, and each fault is found and named with its cure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from tests.delivery.machines import EMBEDDED, Machine, Workshop, replicate
from tests.doubles import running_worker
from tests.feeds import push_frames, wait_until
from worker.app import app
from worker.config import WorkerSettings
from worker.operate.doctor import Finding, Status, examine_server
from worker.operate.doctor_here import examine_here
from worker.wire.keys import FEEDS
from worker.wire.registry import register
from worker.wire.server import Server
from worker.wire.workers import live_workers


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    with Workshop(tmp_path) as made:
        yield made


def found(server: Server) -> dict[str, Finding]:
    return {finding.about: finding for finding in examine_server(server)}


def statuses(server: Server) -> dict[str, Status]:
    return {about: finding.status for about, finding in found(server).items()}


def well_kept(workshop: Workshop, *lines: str) -> Machine:
    return workshop.machine(
        "appendonly yes", "appendfsync always", "maxmemory 100mb", *lines,
        binary=EMBEDDED, secret="of-the-operator",
    )  # fmt: skip


def as_user(machine: Machine, user: str) -> Server:
    return Server(machine.url.replace("redis://", f"redis://{user}@"))


def test_a_well_kept_server_with_a_worker_is_good(workshop: Workshop, feed: str) -> None:
    machine = well_kept(workshop)
    server = as_user(machine, ":of-the-operator")
    push_frames(server, feed, 1)
    url = machine.url.replace("redis://", "redis://:of-the-operator@")
    with running_worker(url):
        wait_until(lambda: any(feed in one.feeds for one in live_workers(server).values()))
        looked = found(server)
    assert {one.status for one in looked.values()} == {"good"}, looked
    assert not any(one.advice for one in looked.values())
    assert looked["workers"].said == "1 workers hold 1 of 1 feeds"
    assert looked["access"].said == "the user default may push, work, watch, operate"


@pytest.mark.parametrize(
    ("setting", "value", "about", "status", "cure"),
    [
        ("maxmemory-policy", "allkeys-lru", "eviction", "bad", "noeviction"),
        ("maxmemory", "0", "memory", "change", "maxmemory"),
        ("maxmemory", "1mb", "memory", "bad", "workers"),
        ("appendfsync", "everysec", "durability", "change", "appendfsync always"),
        ("appendonly", "no", "durability", "change", "appendonly yes"),
        ("maxclients", "1", "connections", "change", "maxclients"),
    ],
)
def test_each_bad_setting_is_named_with_its_cure(
    workshop: Workshop, setting: str, value: str, about: str, status: Status, cure: str
) -> None:
    machine = well_kept(workshop)
    server = as_user(machine, ":of-the-operator")
    assert statuses(server)[about] == "good"
    server.command("CONFIG", "SET", setting, value)
    finding = found(server)[about]
    assert (finding.status, cure in finding.advice) == (status, True), finding


def test_a_replica_is_no_place_to_work(workshop: Workshop) -> None:
    primary, replica = workshop.machine(), workshop.machine()
    replicate(replica, primary)
    finding = found(Server(replica.url))["role"]
    assert finding.status == "bad"
    assert f"127.0.0.1:{primary.port}" in finding.advice
    assert found(Server(primary.url))["role"].said == "primary with 1 replica(s)"


def test_what_a_user_may_not_ask_is_unknown_and_hides_nothing_else(workshop: Workshop) -> None:
    machine = well_kept(
        workshop, "user viewer on >s3cret ~mien:* +@read +@connection +time +@scripting"
    )
    looked = statuses(as_user(machine, "viewer:s3cret"))
    assert looked["server"] == "unknown", "INFO is not permitted"
    assert looked["access"] == "unknown"
    assert looked["workers"] == "good"


def test_what_a_user_may_do_is_told(workshop: Workshop) -> None:
    machine = well_kept(
        workshop, "user mien on >s3cret ~mien:* +@read +@connection +info +time +acl +@scripting"
    )
    finding = found(as_user(machine, "mien:s3cret"))["access"]
    assert finding.said == "the user mien may watch"


def test_a_server_that_wants_no_password_is_told(server: Server) -> None:
    finding = found(server)["access"]
    assert finding.status == "change"
    assert "no password" in finding.said


def test_bad_entries_and_feeds_without_workers(server: Server, feed: str) -> None:
    register(server, feed)
    server.command("HSET", FEEDS, "a{b", "{}")
    looked = found(server)
    assert looked["registry"].status == "bad"
    assert "a{b" in looked["registry"].advice
    assert looked["workers"].said == "1 feeds and no worker"


class Told:
    """A server that says of itself what it is told to."""

    def __init__(self, server: Server, ahead_us: int = 0, **info: Any) -> None:
        self._server, self._ahead_us, self._info = server, ahead_us, info

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def now_us(self) -> int:
        return self._server.now_us() + self._ahead_us

    def each_node(self, *words: str) -> dict[str, Any]:
        return {
            name: {key: value for key, value in {**info, **self._info}.items() if value is not None}
            for name, info in self._server.each_node(*words).items()
        }


@pytest.mark.parametrize(
    ("info", "status"),
    [
        ({"valkey_version": None, "redis_version": "6.2.14"}, "bad"),
        ({"valkey_version": None, "redis_version": "7.0.15"}, "good"),
        ({"valkey_version": "7.2.5"}, "bad"),
        ({"valkey_version": "10.0.0"}, "good"),
    ],
)
def test_versions(server: Server, info: dict[str, Any], status: Status) -> None:
    assert statuses(cast(Server, Told(server, **info)))["version"] == status


def test_a_clock_that_is_off_is_told(server: Server) -> None:
    assert statuses(server)["clock"] == "good"
    finding = found(cast(Server, Told(server, ahead_us=3_000_000)))["clock"]
    assert finding.status == "change"
    assert re.search(r"(29[5-9]\d|300\d|301\d) ms ahead", finding.said)


def test_this_machine_and_the_models() -> None:
    looked = {one.about: one for one in examine_here(WorkerSettings(provider="cpu", threads=1))}
    assert {one.status for one in looked.values()} == {"good"}
    assert looked["provider"].said.startswith("the models run on CPU")


def test_too_many_threads_and_a_file_that_is_no_model(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"no model")
    looked = {one.about: one for one in examine_here(WorkerSettings(model=broken, threads=256))}
    assert looked["threads"].status == "change"
    assert looked["models"].status == "bad"
    assert "model.onnx" in looked["models"].said


def test_the_command_says_it_in_lines_or_json(server_url: str, server: Server) -> None:
    plain = CliRunner().invoke(app, ["doctor", "--redis", server_url, "--provider", "cpu"])
    assert plain.exit_code == 0, plain.output
    assert "change  access" in plain.output
    assert plain.output.rstrip().endswith("to look at")
    asked = CliRunner().invoke(app, ["doctor", "--redis", server_url, "--json"])
    lines = [json.loads(line) for line in asked.output.splitlines()]
    assert {"about", "status", "said", "advice"} == set(lines[0])
    assert [line["about"] for line in lines].count("classifier") == 1


def test_an_absent_server_is_bad_and_the_rest_is_looked_at() -> None:
    asked = CliRunner().invoke(app, ["doctor", "--redis", "redis://127.0.0.1:1", "--json"])
    assert asked.exit_code == 1
    first, *rest = [json.loads(line) for line in asked.output.splitlines()]
    assert (first["about"], first["status"]) == ("server", "bad")
    assert "classifier" in {line["about"] for line in rest}
