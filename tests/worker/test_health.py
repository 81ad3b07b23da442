"""What an orchestrator and Prometheus see of a worker."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.children import child
from worker import health as health_module
from worker import usage
from worker.errors import ServerUnavailable, SettingsError
from worker.health import Health, serve
from worker.metrics import Metrics
from worker.records import ModelInfo

AUTOSCALING = ("mien_worker_busy_ratio", "mien_in_flight_frames", "mien_oldest_frame_age_seconds")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def state() -> Health:
    return Health()


@pytest.fixture
def url(metrics: Metrics, state: Health) -> Iterator[str]:
    server = serve("127.0.0.1", 0, metrics.registry, state)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_ready_only_when_it_is(url: str, state: Health) -> None:
    assert get(url + "/readyz") == (503, "starting\n")
    state.ready()
    assert get(url + "/readyz") == (200, "ready\n")
    state.not_ready("no answer from a server at redis://there")
    assert get(url + "/readyz") == (503, "no answer from a server at redis://there\n")


def test_alive_only_while_the_loop_turns(
    url: str, state: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert get(url + "/healthz")[0] == 200
    monkeypatch.setattr(health_module, "ALIVE_S", -1.0)
    assert get(url + "/healthz")[0] == 503
    assert get(url + "/elsewhere")[0] == 404


def test_metrics_keep_the_rules(url: str, metrics: Metrics) -> None:
    metrics.model("classifier", ModelInfo("m", "1", "aa"))
    metrics.settled("cam", "published", expressions=("calm", "calm"), age_s=0.1)
    with metrics.timed("detect"):
        pass
    families = list(text_string_to_metric_families(get(url + "/metrics")[1]))
    assert families
    for family in families:
        assert family.name.startswith("mien_")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter") or (
                sample.name.endswith("_created")
            )
            if family.type == "histogram":
                assert family.name.rpartition("_")[2] in ("seconds", "frames", "faces")
    assert metrics.registry.get_sample_value(
        "mien_model_info", {"role": "classifier", "name": "m", "version": "1", "digest": "aa"}
    )


def test_what_an_autoscaler_goes_by_is_looked_up_when_asked_for(url: str, metrics: Metrics) -> None:
    busy, flight = 0.0, (0, 0.0)
    metrics.follow(lambda: busy, lambda: flight)

    def now() -> list[float | None]:
        found = dict(
            line.split() for line in get(url + "/metrics")[1].splitlines() if line[0] != "#"
        )
        return [float(found[name]) for name in AUTOSCALING]

    assert now() == [0.0, 0.0, 0.0]
    busy, flight = 0.5, (12, 3.25)
    assert now() == [0.5, 12.0, 3.25]


@pytest.mark.skipif(not usage.TOLD, reason="only Linux tells it")
def test_what_the_worker_takes_is_told_with_its_processes(url: str) -> None:
    with child("x = b'x' * 50_000_000"):
        taken = time.process_time()
        _, body = get(url + "/metrics")
        samples = dict(line.rsplit(" ", 1) for line in body.splitlines() if line[0] != "#")
        assert float(samples["mien_worker_cpu_seconds_total"]) >= taken - 0.02
        ours = usage.resident_bytes([os.getpid()])
        assert float(samples["mien_worker_memory_bytes"]) >= ours + 40_000_000


def test_where_the_server_does_not_tell_nothing_is_made_up(url: str, metrics: Metrics) -> None:
    def look() -> tuple[int, float]:
        raise ServerUnavailable("no answer")

    metrics.follow(lambda: 0.5, look)
    status, body = get(url + "/metrics")
    assert status == 200
    assert "mien_worker_busy_ratio 0.5" in body
    assert "mien_oldest_frame_age_seconds" not in body


def test_a_port_in_use_is_named(url: str, metrics: Metrics, state: Health) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(SettingsError, match=str(port)):
        serve("127.0.0.1", port, metrics.registry, state)
