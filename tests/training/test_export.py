from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the training extra")

from training import export as export_module  # noqa: E402
from training.data import CROP_MARGIN, LABELS, Fer2013  # noqa: E402
from training.evaluate import measure, predict  # noqa: E402
from training.export import best_temperature, export, load_checkpoint  # noqa: E402
from training.recipe import Recipe  # noqa: E402
from training.train import fit  # noqa: E402
from worker.emotion.classifier import load_classifier  # noqa: E402
from worker.errors import DataError, ModelError  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tiny: Fer2013, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run")
    return fit(tiny, Recipe(epochs=1, batch_size=14), out, say=lambda line: None)


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tiny: Fer2013, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model.onnx"
    export(checkpoint, tiny, out, name="tiny", version="3")
    return out


def test_the_file_says_what_it_is(exported: Path, tiny: Fer2013) -> None:
    classifier = load_classifier(exported, "cpu")
    assert (classifier.labels, classifier.size, classifier.colour) == (LABELS, 48, "gray")
    assert classifier.margin == CROP_MARGIN
    assert (classifier.info.name, classifier.info.version) == ("tiny", "3")
    metrics = json.loads(classifier.network.metadata["metrics"])
    images, labels = tiny.split("PublicTest")
    measured = measure(predict(classifier, images), labels)
    assert metrics["PublicTest"]["accuracy"] == pytest.approx(measured.accuracy)
    assert metrics["PublicTest"]["nll"] == pytest.approx(measured.nll, abs=1e-4)
    assert json.loads(classifier.network.metadata["training"])["epoch"] == 1
    assert list(exported.parent.iterdir()) == [exported]
    assert str(Path(__file__).parents[2]).encode() not in exported.read_bytes()


def test_it_answers_as_pytorch_does_for_any_number_of_faces(
    exported: Path, checkpoint: Path, tiny: Fer2013
) -> None:
    classifier = load_classifier(exported, "cpu")
    predictor, _ = load_checkpoint(checkpoint)
    predictor.temperature.fill_(classifier.temperature)
    for n in (1, 2, 65):
        faces = np.concatenate([tiny.images] * 2)[:n, :, :, None]
        with torch.inference_mode():
            expected = predictor(torch.from_numpy(faces)).numpy()
        found = classifier.classify(faces)
        assert np.abs(found - expected).max() < 1e-4
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_a_graph_that_differs_is_not_written(
    checkpoint: Path, tiny: Fer2013, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = export_module._to_onnx

    def other_temperature(predictor: export_module.Predictor) -> object:
        predictor.temperature.mul_(1.5)
        return right(predictor)

    monkeypatch.setattr(export_module, "_to_onnx", other_temperature)
    with pytest.raises(ModelError, match="was not written: the exported probabilities differ"):
        export(checkpoint, tiny, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_temperature_is_found() -> None:
    """Labels drawn from softmax(logits / 2) are likeliest at about 2."""
    random = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(20000, 7, generator=random)
    drawn = torch.multinomial(torch.softmax(logits / 2, 1), 1, generator=random)[:, 0]
    assert best_temperature(logits, drawn) == pytest.approx(2, rel=0.03)


def test_what_is_no_checkpoint_is_named(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read the checkpoint .*none\.ckpt"):
        load_checkpoint(tmp_path / "none.ckpt")

    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match=r"bad\.ckpt is not a checkpoint of mien train"):
        load_checkpoint(bad)

    content = torch.load(checkpoint, weights_only=True)
    del content["state_dict"]["network.head.weight"]
    torch.save(content, bad)
    with pytest.raises(ModelError, match=r"bad\.ckpt is not a checkpoint of mien train"):
        load_checkpoint(bad)

    content["hyper_parameters"]["recipe"]["model"] = "other"
    torch.save(content, bad)
    with pytest.raises(ModelError, match="'other'"):
        load_checkpoint(bad)


def test_without_public_test_there_is_no_temperature(
    checkpoint: Path, tiny: Fer2013, tmp_path: Path
) -> None:
    kept = tiny.splits != 1
    data = Fer2013(tiny.images[kept], tiny.labels[kept], tiny.splits[kept])
    with pytest.raises(DataError, match="no pictures of PublicTest"):
        export(checkpoint, data, tmp_path / "model.onnx")


def test_the_shipped_model_keeps_its_gate_on_public_test(fer2013: Fer2013) -> None:
    images, labels = fer2013.split("PublicTest")
    assert measure(predict(load_classifier(None, "cpu"), images), labels).accuracy >= 0.66
