"""The exported networks compute what facenet-pytorch's compute; the committed files are they."""

import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch", reason="the training extra is not installed")
original = pytest.importorskip(
    "facenet_pytorch.models.mtcnn", reason="the training extra is not installed"
)

COMMITTED = Path(__file__).parents[2] / "worker" / "detect"
NETWORKS = {"pnet": original.PNet, "rnet": original.RNet, "onet": original.ONet}
SHAPES = {
    "pnet": [(1, 3, 13, 13), (2, 3, 37, 90), (3, 3, 12, 200)],
    "rnet": [(1, 3, 24, 24), (70, 3, 24, 24)],
    "onet": [(1, 3, 48, 48), (19, 3, 48, 48)],
}


def run(path, images):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})


def inputs(name):
    rng = np.random.default_rng(1)
    for shape in SHAPES[name]:
        yield rng.uniform(0, 255, shape).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_committed_networks_are_the_originals(name):
    network = NETWORKS[name]().eval()
    for images in inputs(name):
        with torch.no_grad():
            regression, *landmarks, faces = network((torch.tensor(images) - 127.5) * 0.0078125)
        ours = run(COMMITTED / f"{name}.onnx", images)
        np.testing.assert_allclose(ours[0], faces[:, 1].numpy(), atol=1e-5)
        np.testing.assert_allclose(ours[1], regression.numpy(), atol=1e-5)
        if name == "onet":
            points = landmarks[0].numpy()
            np.testing.assert_allclose(ours[2][..., 0], points[:, :5], atol=1e-5)
            np.testing.assert_allclose(ours[2][..., 1], points[:, 5:], atol=1e-5)


def test_exporter_makes_the_committed_networks(tmp_path):
    from training.export_mtcnn import export

    with warnings.catch_warnings():
        # Other versions of the exporter than the pinned one deprecate parts of themselves.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        paths = export(tmp_path)
    *networks, suppression = paths
    assert suppression.read_bytes() == (COMMITTED / "nms.onnx").read_bytes()
    assert [path.name for path in networks] == ["pnet.onnx", "rnet.onnx", "onet.onnx"]
    for path in networks:
        committed = COMMITTED / path.name
        for images in inputs(path.stem):
            for mine, theirs in zip(run(path, images), run(committed, images), strict=True):
                np.testing.assert_allclose(mine, theirs, atol=1e-6)
        session = ort.InferenceSession(str(committed), providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        assert metadata == {
            "name": f"mtcnn-{path.stem}",
            "version": "1.0.0",
            "source": "facenet-pytorch 2.5.3",
            "licence": "MIT",
        }
