"""A new model file: taken up when it is whole and works; refused, and said so, when it does not."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.feeds import wait_until
from worker.emotion import reload
from worker.emotion.classifier import SHIPPED, Classifier, load_classifier
from worker.emotion.reload import ModelFile, check_answers, check_digest
from worker.errors import ModelError

onnx = pytest.importorskip("onnx", reason="the models of these tests are made with onnx")


def versioned(path: Path, version: str) -> Path:
    """The shipped model as another version of itself."""
    model = onnx.load(SHIPPED)
    for entry in model.metadata_props:
        if entry.key == "version":
            entry.value = version
    onnx.save(model, path)
    return path


def answering(path: Path, body: str) -> Classifier:
    """A model of the right form whose answer ``body`` computes from ``mean`` (N, 1)."""
    graph = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17],
        metadata_props: ["name": "toy", "version": "1", "labels": "[\\"a\\", \\"b\\"]",
            "input_size": "8", "colour": "gray", "margin": "0", "temperature": "1"]>
        toy (uint8[batch, 8, 8, 1] faces) => (float[batch, 2] answer)
        <float[1, 2] ones = {{1, 1}}, float[1, 2] signs = {{1, -1}}, float scale = {{255}},
            int64[2] column = {{-1, 1}}>
        {{
            shades = Cast<to = 1>(faces)
            flat = ReduceMean<axes = [1, 2, 3]>(shades)
            scaled = Div(flat, scale)
            mean = Reshape(scaled, column)
            {body}
        }}"""
    )
    onnx.save(graph, path)
    return load_classifier(path, "cpu")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return versioned(tmp_path / "model.onnx", "1")


class Watched:
    """A model file that is watched, and what came of it."""

    def __init__(self, place: Path) -> None:
        self._taken: list[Classifier] = []
        self.file = ModelFile(
            place, load_classifier(place, "cpu"), self._taken.append, provider="cpu"
        )

    def fresh(self) -> Classifier | None:
        """The next new model."""
        return self._taken.pop(0) if self._taken else None


@pytest.fixture
def watched(place: Path) -> Iterator[Watched]:
    made = Watched(place)
    yield made
    made.file.close()


def replace(place: Path, made: Path) -> None:
    made.rename(place)


def wait_for(watched: Watched) -> Classifier:
    found: list[Classifier] = []

    def look() -> bool:
        if fresh := watched.fresh():
            found.append(fresh)
        return bool(found)

    wait_until(look)
    return found[0]


def test_a_new_file_is_taken_up_once(watched: Watched, place: Path, tmp_path: Path) -> None:
    assert watched.fresh() is None
    replace(place, versioned(tmp_path / "new", "2"))
    new = wait_for(watched)
    assert new.info.version == "2"
    assert watched.fresh() is None, "once"
    replace(place, versioned(tmp_path / "new", "3"))
    assert wait_for(watched).info.version == "3"


def test_a_bad_file_is_refused_and_the_next_good_one_taken(
    watched: Watched, place: Path, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        (tmp_path / "new").write_bytes(SHIPPED.read_bytes()[:5000])
        replace(place, tmp_path / "new")
        wait_until(lambda: any("old one stays" in line["event"] for line in logs))
    assert "model.onnx is not a model" in next(line["why"] for line in logs if "why" in line)
    assert watched.fresh() is None
    replace(place, versioned(tmp_path / "new", "2"))
    assert wait_for(watched).info.version == "2"


def test_a_file_that_is_away_for_a_while_is_waited_for(
    watched: Watched, place: Path, tmp_path: Path
) -> None:
    place.unlink()
    time.sleep(1.5)
    assert watched.fresh() is None
    replace(place, versioned(tmp_path / "new", "2"))
    assert wait_for(watched).info.version == "2"


def test_asked_for_the_one_in_use_it_says_so(watched: Watched) -> None:
    with capture_logs() as logs:
        watched.file.look()
        wait_until(lambda: any("is the one in use" in line["event"] for line in logs))
    assert watched.fresh() is None


def test_a_file_that_is_not_what_its_digest_says(
    watched: Watched, place: Path, tmp_path: Path
) -> None:
    promised = place.with_name("model.onnx.sha256")
    promised.write_text("0" * 64 + "  model.onnx\n")
    with capture_logs() as logs:
        replace(place, versioned(tmp_path / "new", "2"))
        wait_until(lambda: any("old one stays" in line["event"] for line in logs))
    assert "SHA-256" in logs[-1]["why"]
    made = versioned(tmp_path / "new", "3")
    promised.write_text(hashlib.sha256(made.read_bytes()).hexdigest().upper() + "  model.onnx\n")
    replace(place, made)
    assert wait_for(watched).info.version == "3"
    promised.write_text("")
    with pytest.raises(ModelError, match="SHA-256"):
        check_digest(place)


def test_a_digest_that_comes_after_its_model_is_held_against_it_then(
    watched: Watched, place: Path, tmp_path: Path
) -> None:
    promised = place.with_name("model.onnx.sha256")
    promised.write_text(hashlib.sha256(place.read_bytes()).hexdigest())
    with capture_logs() as logs:
        replace(place, versioned(tmp_path / "new", "2"))
        wait_until(lambda: any("old one stays" in line["event"] for line in logs))
    promised.write_text(hashlib.sha256(place.read_bytes()).hexdigest())
    assert wait_for(watched).info.version == "2"


def test_a_file_that_fails_as_nobody_foresaw_is_refused_and_the_next_one_taken(
    watched: Watched, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(model: Classifier) -> None:
        if model.info.version == "2":
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no such byte")
        check_answers(model)

    monkeypatch.setattr(reload, "check_answers", check)
    with capture_logs() as logs:
        replace(place, versioned(tmp_path / "new", "2"))
        wait_until(lambda: any("old one stays" in line["event"] for line in logs))
    replace(place, versioned(tmp_path / "new", "3"))
    assert wait_for(watched).info.version == "3"


def test_what_is_replaced_while_it_is_looked_at_is_looked_at_again(
    watched: Watched, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest that was read last does not speak for what was loaded first."""
    third = versioned(tmp_path / "third", "3")

    def check(model: Classifier) -> None:
        if third.exists():
            third.rename(place)

    monkeypatch.setattr(reload, "check_answers", check)
    replace(place, versioned(tmp_path / "new", "2"))
    assert wait_for(watched).info.version == "3", "and the second one never"


def test_the_shipped_model_answers_as_it_must() -> None:
    check_answers(load_classifier(provider="cpu"))


@pytest.mark.parametrize(
    ("body", "meant"),
    [
        ("both = MatMul(mean, ones) answer = Softmax(both)", "the same whatever"),
        ("both = MatMul(mean, signs) answer = Mul(both, both)", "do not sum to 1"),
        ("both = MatMul(mean, signs) answer = Log(both)", "no probabilities"),
        (
            "all = ReduceMean(mean) some = Sub(mean, all) both = MatMul(some, signs) "
            "answer = Softmax(both)",
            "otherwise in a batch",
        ),
    ],
)
def test_a_model_that_answers_nonsense_is_refused(tmp_path: Path, body: str, meant: str) -> None:
    model = answering(tmp_path / "toy.onnx", body)
    assert json.loads(model.network.metadata["labels"]) == ["a", "b"]
    with pytest.raises(ModelError, match=meant):
        check_answers(model)


def test_a_toy_that_looks_at_its_faces_passes(tmp_path: Path) -> None:
    body = "both = MatMul(mean, signs) answer = Softmax(both)"
    check_answers(answering(tmp_path / "toy.onnx", body))
