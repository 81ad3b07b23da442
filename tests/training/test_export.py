from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the training extra")

import onnx  # noqa: E402

from tests.training.recipes import recipe_with  # noqa: E402
from training import export as export_module  # noqa: E402
from training.checkpoint import load_checkpoint  # noqa: E402
from training.data import (  # noqa: E402
    CROP_MARGIN,
    FER2013,
    FERPLUS,
    Dataset,
    read_data,
)
from training.evaluation import cover, measure, predict  # noqa: E402
from training.export import (  # noqa: E402
    Exported,
    best_temperature,
    export,
    multiply_adds,
    parameters,
)
from training.train import fit  # noqa: E402
from worker.emotion.classifier import SHIPPED, load_classifier  # noqa: E402
from worker.errors import DataError, ModelError  # noqa: E402

PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def voted(tiny_csv: Path, tiny_votes: Path) -> Dataset:
    """With one wrong label in PublicTest, or the best temperature would leave only 0 and 1."""
    data = read_data(tiny_csv, tiny_votes)
    labels = data.labels.copy()
    first = int(np.flatnonzero(data.splits == 1)[0])
    labels[first] = (labels[first] + 1) % len(FER2013.labels)
    return replace(data, labels=labels)


@pytest.fixture(scope="module")
def checkpoint(voted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network with two heads, which tells the seven patterns apart."""
    torch.set_num_threads(1)
    recipe = recipe_with(
        auxiliary_weight=1.0,
        average=0.5,
        augmentation={"mixup": 0.0, "erasing": 0.0, "translation": 0.0, "rotation": 0.0},
        phases=[{"epochs": 16, "learning_rate": 0.1}],
    )
    best = fit(voted, recipe, tmp_path_factory.mktemp("run"), say=lambda line: None)
    assert best is not None
    return best


@pytest.fixture(scope="module")
def exported(
    checkpoint: Path, voted: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Exported]]:
    """A file of each precision, and what was measured of it."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for precision in PRECISIONS:
        out = folder / f"{precision}.onnx"
        options = {"name": "tiny", "version": "3", "precision": precision}
        found[precision] = (out, export(checkpoint, voted, out, **options))
    assert len(list(folder.iterdir())) == len(PRECISIONS)
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_file_says_what_it_is(
    precision: str, exported: dict[str, tuple[Path, Exported]], voted: Dataset
) -> None:
    path, _ = exported[precision]
    classifier = load_classifier(path, "cpu")
    assert (classifier.labels, classifier.size, classifier.colour) == (FER2013.labels, 48, "gray")
    assert classifier.margin == CROP_MARGIN
    assert (classifier.info.name, classifier.info.version) == ("tiny", "3")

    said = classifier.network.metadata
    assert said["precision"] == precision
    assert said["label_set"] == "fer2013"
    assert said["data_digest"] == voted.digest()
    assert said["parameters"] == "894567"
    assert said["multiply_adds"] == "59450528"
    training = json.loads(said["training"])
    assert said["config_digest"] == training["config_digest"]
    assert training["recipe"]["auxiliary_weight"] == 1.0
    assert len(training["history"]) == 16

    images, labels = voted.split("PublicTest").labelled(FER2013)
    measured = measure(predict(classifier, images), labels, FER2013)
    metrics = json.loads(said["metrics"])["PublicTest"]
    assert metrics["n"] == 14
    assert classifier.temperature > 0.11
    assert metrics["accuracy"] == pytest.approx(measured.accuracy)
    assert metrics["nll"] == pytest.approx(measured.nll, abs=1e-6)
    assert metrics["abstaining"]["below"] == classifier.uncertain_below


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_file_is_one_that_every_allowed_runtime_reads(
    precision: str, exported: dict[str, tuple[Path, Exported]]
) -> None:
    content = exported[precision][0].read_bytes()
    model = onnx.ModelProto.FromString(content)
    onnx.checker.check_model(model, full_check=True)
    # onnxruntime 1.20 knows this much and no more.
    assert model.ir_version <= 10
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    for folder in (Path(__file__).parents[2], Path(torch.__file__).parents[1], Path("/tmp")):
        assert str(folder).encode() not in content


@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_number_of_faces_is_answered(
    precision: str, exported: dict[str, tuple[Path, Exported]], voted: Dataset
) -> None:
    classifier = load_classifier(exported[precision][0], "cpu")
    faces = np.concatenate([voted.images] * 2)[:, :, :, None]
    together = classifier.classify(faces[:65])
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-5)
    for n in (0, 1, 7):
        np.testing.assert_allclose(classifier.classify(faces[:n]), together[:n], atol=2e-3)


def test_it_answers_as_pytorch_does(
    exported: dict[str, tuple[Path, Exported]], checkpoint: Path, voted: Dataset
) -> None:
    path, measured = exported["fp32"]
    classifier = load_classifier(path, "cpu")
    predictor, _ = load_checkpoint(checkpoint)
    predictor.temperature.fill_(classifier.temperature)
    faces = voted.split("PublicTest").images[..., None]
    with torch.inference_mode():
        expected = predictor(torch.from_numpy(faces)).numpy()
    assert np.abs(classifier.classify(faces) - expected).max() < 1e-4
    assert measured.parity < 1e-4
    assert measured.agreement is None


@pytest.mark.parametrize(("precision", "part"), [("fp16", 0.55), ("int8", 0.35)])
def test_less_precision_is_less_to_store_and_hardly_other_answers(
    precision: str, part: float, exported: dict[str, tuple[Path, Exported]], voted: Dataset
) -> None:
    full, reduced = exported["fp32"][0], exported[precision][0]
    assert reduced.stat().st_size < part * full.stat().st_size
    faces = voted.split("PublicTest").images[..., None]
    answers = [load_classifier(path, "cpu").classify(faces) for path in (full, reduced)]
    assert 0 < np.abs(answers[0] - answers[1]).max() < 0.1
    agreement = exported[precision][1].agreement
    assert agreement is not None
    assert agreement.top1 == 1.0


def test_the_other_head_is_measured_on_pictures_with_a_majority(
    checkpoint: Path, voted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    options = {"name": "voted", "version": "1", "label_set": FERPLUS}
    found = export(checkpoint, voted, out, **options)
    assert found.figures.n == 12
    classifier = load_classifier(out, "cpu")
    assert classifier.labels == FERPLUS.labels
    assert classifier.network.metadata["label_set"] == "ferplus"
    # One output more, with a weight for each of 224 features and a bias.
    assert classifier.network.metadata["parameters"] == str(894567 + 225)

    with pytest.raises(DataError, match="need its votes file"):
        export(checkpoint, replace(voted, votes=None), out, **options)


@pytest.mark.parametrize(("share", "declined"), [(0.0, 0), (0.1, 1), (0.5, 6)])
def test_the_file_abstains_on_the_least_certain_share(
    share: float, declined: int, checkpoint: Path, voted: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    found = export(checkpoint, voted, out, name="tiny", version="1", abstain=share)
    classifier = load_classifier(out, "cpu")
    images, labels = voted.split("PublicTest").labelled(FER2013)
    answers = predict(classifier, images)
    tops = answers.max(axis=1)
    assert (tops < classifier.uncertain_below).sum() <= declined
    assert found.abstaining == cover(answers, labels, classifier.uncertain_below)
    if share == 0:
        assert classifier.uncertain_below == 0
    else:  # a little more would be too much
        assert (tops < classifier.uncertain_below + 0.001).sum() > declined


def test_a_graph_that_differs_is_not_written(
    checkpoint: Path, voted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = export_module._to_onnx

    def other_temperature(predictor: export_module.Predictor) -> object:
        predictor.temperature.mul_(1.5)
        return right(predictor)

    monkeypatch.setattr(export_module, "_to_onnx", other_temperature)
    with pytest.raises(ModelError, match="was not written: the exported probabilities differ"):
        export(checkpoint, voted, tmp_path / "model.onnx", name="tiny", version="1")
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_on_the_wrong_pictures_is_refused(
    checkpoint: Path, voted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges learnt from the middle grey alone hold no contrast; the old file stays."""
    out = tmp_path / "model.onnx"
    out.write_bytes(b"the file before")
    grey = np.full((42, 48, 48, 1), 128, np.uint8)
    monkeypatch.setattr(export_module, "calibration_faces", lambda images: grey)
    with pytest.raises(ModelError, match="was not written: the int8 model agrees with fp32 on"):
        export(checkpoint, voted, out, name="tiny", version="1", precision="int8")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the file before"]


def test_other_data_than_it_was_trained_on_is_refused(
    checkpoint: Path, voted: Dataset, tmp_path: Path
) -> None:
    """What is PublicTest there may have been Training."""
    swapped = replace(voted, splits=voted.splits[::-1].copy())
    with pytest.raises(ModelError, match="was trained on other data than this"):
        export(checkpoint, swapped, tmp_path / "model.onnx", name="tiny", version="1")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(
    checkpoint: Path, voted: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"cannot write the model .*model\.onnx"):
        export(checkpoint, voted, tmp_path / "file" / "model.onnx", name="tiny", version="1")


def test_multiply_adds_and_parameters_by_hand(checkpoint: Path) -> None:
    """Of each convolution: side, channels in and out; all are 3 x 3 and followed by two more
    values a channel."""
    predictor, _ = load_checkpoint(checkpoint)
    layers = [
        *((44, 1, 32), (22, 32, 56), (22, 56, 56)),
        *((11, 56, 112), (11, 112, 112), (5, 112, 224), (5, 224, 224)),
    ]
    work = sum(side * side * 9 * before * after for side, before, after in layers)
    assert multiply_adds(predictor) == work + 224 * 7
    weights = sum(9 * before * after + 2 * after for _, before, after in layers)
    assert parameters(predictor) == weights + 225 * 7


def test_the_temperature_is_found() -> None:
    """Labels drawn from softmax(logits / 2) are likeliest at about 2."""
    random = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(20000, 7, generator=random)
    drawn = torch.multinomial(torch.softmax(logits / 2, 1), 1, generator=random)[:, 0]
    assert best_temperature(logits, drawn) == pytest.approx(2, rel=0.03)


def test_the_shipped_model_keeps_its_gate_on_public_test(fer2013: Dataset) -> None:
    images, labels = fer2013.split("PublicTest").labelled(FER2013)
    probabilities = predict(load_classifier(SHIPPED, "cpu"), images)
    assert measure(probabilities, labels, FER2013).accuracy >= 0.66
