"""Model files are not trusted: what is too large, or reaches outside itself, is not opened."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from worker.errors import ModelError
from worker.inference import LARGEST_MODEL, open_network

onnx = pytest.importorskip("onnx", reason="the models of these tests are made with onnx")

SECRET = np.arange(4, dtype=np.float32)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field as protobuf writes it, of less than 128 bytes."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def adding(tensor: bytes) -> bytes:
    """A model that adds a tensor named ``secret`` to its input."""
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "secret"], ["y"])], "g", ends[:1], ends[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    # Protobuf merges a field that comes twice: ModelProto.graph is 7, GraphProto.initializer 5.
    return model.SerializeToString() + field(7, field(5, tensor))


def outside(place: str, key: bytes = field(1, b"location")) -> bytes:
    """A tensor whose data is said to lie in a file of its own."""
    tensor = onnx.TensorProto(name="secret", data_type=onnx.TensorProto.FLOAT, dims=[4])
    # TensorProto.external_data is 13, data_location 14, of which 1 is EXTERNAL.
    return tensor.SerializeToString() + field(13, key + field(2, place.encode())) + b"\x70\x01"


def test_a_model_that_holds_its_data_opens(tmp_path: Path) -> None:
    inside = onnx.numpy_helper.from_array(SECRET, "secret").SerializeToString()
    (tmp_path / "whole.onnx").write_bytes(adding(inside))
    session = open_network(tmp_path / "whole.onnx", provider="cpu").session
    (answer,) = session.run(None, {"x": np.ones(4, np.float32)})
    np.testing.assert_array_equal(answer, SECRET + 1)


@pytest.mark.parametrize("key", [field(1, b"location"), b"\x0a\x88\x00location"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_model_that_reads_another_file_is_refused(
    key: bytes, absolute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the key is written: protobuf also reads a length with a needless zero byte."""
    secret = tmp_path / "s"
    SECRET.tofile(secret)
    monkeypatch.chdir(tmp_path)
    content = adding(outside("/proc/self/environ" if absolute else "s", key))
    (entry,) = onnx.ModelProto.FromString(content).graph.initializer[0].external_data
    assert entry.key == "location"
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx refers to data outside itself"):
        open_network(tmp_path / "model.onnx", provider="cpu")


def test_the_runtimes_own_format_is_not_opened(tmp_path: Path) -> None:
    """It would be told by its bytes, and is not looked through for data outside."""
    inside = onnx.numpy_helper.from_array(SECRET, "secret").SerializeToString()
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.onnx")
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 4
    ort.InferenceSession(adding(inside), options, providers=["CPUExecutionProvider"])
    assert (tmp_path / "model.onnx").read_bytes()[4:8] == b"ORTM"
    with pytest.raises(ModelError, match="is not a model that onnxruntime can open"):
        open_network(tmp_path / "model.onnx", provider="cpu")


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    path.touch()
    os.truncate(path, LARGEST_MODEL + 1)  # a hole: it takes no room
    with pytest.raises(ModelError, match=r"large\.onnx has 1073741825 bytes, more than"):
        open_network(path, provider="cpu")
