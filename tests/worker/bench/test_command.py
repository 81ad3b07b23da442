"""The command through the real thing with tiny counts, and what it owes a person's mistake."""

from __future__ import annotations

import json
import signal

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.e2e.processes import mien, one_sentence
from worker.app import app
from worker.bench import capacity, compare, growth, stream
from worker.bench.report import Capacity, Comparison, Growth
from worker.bench.show import shown
from worker.errors import SettingsError

SHORT = ("--size", "160x90", "--frames", "20", "--rounds", "1", "--threads", "1", "--json")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Less of everything that takes time, and the handler of SIGTERM as it was."""
    monkeypatch.setattr(compare, "_LATENCY_S", 0.5)
    monkeypatch.setattr(compare, "_STREAM_FRAMES", 200)
    monkeypatch.setattr(stream, "_WARM_UP_S", 0.2)
    monkeypatch.setattr(compare, "_TRIED_FRAMES", 2)
    monkeypatch.setattr(capacity, "MOST_FEEDS", 1)
    monkeypatch.setattr(growth, "_PACED_S", 1.0)
    monkeypatch.setattr(growth, "MANY_FEEDS", 2)
    monkeypatch.setattr(growth, "HELD_FEEDS", 4)
    monkeypatch.setattr(growth, "PROBE_FRAMES", 200)
    monkeypatch.setattr(growth, "CROWD_FRAMES", 16)
    monkeypatch.setattr(growth, "CROWD_STREAM_FRAMES", 96)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def bench(*words: str) -> str:
    done = CliRunner().invoke(app, ["bench", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def text(report) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(shown(report))
    return capture.get()


def test_the_comparison_without_the_naive_loop():
    report = Comparison.model_validate_json(bench(*SHORT))
    (size,) = report.sizes
    assert (size.width, size.height, size.frames) == (160, 90, 20)
    assert size.stream_frames == 200
    assert size.naive is None
    assert set(size.ratios) == {"default/decode", "default/full"}
    assert [(one.of, one.reference) for one in size.agreement] == [("default", "full")]
    assert size.decode.frames_per_s.median > size.full.frames_per_s.median > 0
    assert "detect" in {one.stage for one in size.default.stages}
    assert size.default.latency.ms.p99 >= size.default.latency.ms.p50 > 0
    assert report.facts.worker_threads == 1
    assert report.facts.models["detector"].startswith("mtcnn ")
    shown_text = text(report)
    for row in ("(a) decode", "(c) full detection", "(d) default", "valkey"):
        assert row in shown_text
    assert "(b)" not in shown_text


def test_against_the_naive_loop_the_same_faces_are_found():
    pytest.importorskip("facenet_pytorch", reason="needs the training extra")
    words = ("--size", "640x360", *SHORT[2:], "--against", "facenet-pytorch")
    report = Comparison.model_validate_json(bench(*words))
    (size,) = report.sizes
    assert size.naive is not None
    assert size.naive.threads in size.naive.tried
    assert set(size.ratios) == {"full/naive", "default/naive", "default/decode", "default/full"}
    ratio = size.full.frames_per_s.median / size.naive.frames_per_s.median
    assert size.ratios["full/naive"].median == pytest.approx(ratio)
    full = size.agreement[0]
    assert (full.of, full.reference) == ("full", "naive")
    assert full.reference_faces >= 20  # the clip begins with one face
    assert full.found > 0.9
    assert full.equal_labels >= 0.9
    assert {"torch", "facenet-pytorch"} <= set(report.facts.libraries)
    assert "(b) naive loop, cpu, threads" in text(report)


def test_feeds():
    words = ("--feeds", "--target-ms", "100000", "--rate", "4", "--seconds", "1")
    report = Capacity.model_validate_json(bench(*words, *SHORT))
    (level,) = report.levels
    assert (level.feeds, report.rate, report.target_ms) == (1, 4.0, 100_000.0)
    assert level.offered_per_s > 0
    assert level.verdict != "late"  # the others go by how busy this machine is
    assert report.feeds == (level.verdict == "met")
    assert f"{report.feeds} feeds at 4 frames/s" in text(report)


def test_growth():
    words = ("--size", "640x480", *SHORT[2:])
    report = Growth.model_validate_json(bench("--growth", *words))
    assert report.many_feeds.feeds == 2
    assert [faces.of for faces in report.many_faces] == ["full", "default"]
    assert report.many_faces[0].faces_of_few == 1
    assert report.many_faces[0].faces_of_many > 10
    assert (report.held.feeds, report.held.frames) == (4, 24)
    assert "growth, 1 to 2 feeds" in text(report)


def test_the_schema_describes_each_field():
    schema = json.loads(bench("--schema"))
    assert schema["$defs"]["Level"]["properties"]["worker_cores"]["description"]
    assert {"Comparison", "Capacity", "Growth"} <= set(schema["$defs"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "big"], "--size big"),
        (["--against", "dlib"], "--against dlib"),
        (["--rate", "3"], "--rate"),
        (["--feeds", "--growth"], "--growth"),
        (["--feeds", "--against", "facenet-pytorch"], "--against"),
        (["--feeds", "--size", "640x360", "--size", "320x180"], "one --size"),
        (["--video", "nowhere.mp4"], "nowhere.mp4"),
        (["--video", "rtsp://camera/1"], "--video rtsp://camera/1"),
    ],
)
def test_a_mistake_gives_one_sentence(words, said):
    done = mien("bench", *words)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert said in done.stderr.splitlines()[-1]


def test_a_setting_of_the_environment_that_cannot_be_used_is_named():
    one_sentence(mien("bench", "--threads", "2", env={"MIEN_MIN_FACE": "x"}), "min_face")


def test_without_the_training_extra_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"training extra: pip install 'mien\[training\]'"):
        compare.check_training_extra()
