"""A checkpoint becomes the one file that the workers run; it is checked before it gets its name."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from training.checkpoint import load_checkpoint
from training.data import CROP_MARGIN, FER2013, FERPLUS, SIZE, Dataset, LabelSet
from training.data.votes import majority
from training.evaluation import Coverage, Figures, cover, measure, predict, threshold
from training.models import Predictor
from training.quantize import Agreement, calibration_faces, compare, to_fp16, to_int8
from worker.emotion.classifier import load_classifier
from worker.errors import ModelError
from worker.records import Floats

# The highest whose steps all run on a GPU too: onnxruntime 1.20, the oldest that we allow, reads
# 21, but its CUDA provider hands the transposition of 21 to the processor.
OPSET = 20
TOLERANCE = 1e-4

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class Exported:
    """What was measured on PublicTest before the file got its name."""

    figures: Figures
    """Of the file itself."""
    abstaining: Coverage
    """Of the file itself, on the pictures that have a label."""
    parity: float
    """The largest difference between PyTorch's probabilities and those of the graph in fp32."""
    agreement: Agreement | None
    """Of a reduced precision with fp32; None for fp32."""


def export(
    checkpoint: Path,
    data: Dataset,
    out: Path,
    *,
    name: str,
    version: str,
    label_set: LabelSet | None = None,
    precision: Precision = "fp32",
    abstain: float = 0.1,
) -> Exported:
    """Write ``out``: ONNX, one file, that describes itself in its metadata.

    Input ``faces`` uint8 (batch, 48, 48, 1), output ``probabilities`` float32 (batch, L), of the
    checkpoint's head for ``label_set`` (None: its first). The temperature is the one with the least
    negative log-likelihood on PublicTest; for FER+ on the pictures that have a majority. On the
    share ``abstain`` (0 to 1) of the same pictures, the least certain ones, the file abstains.

    Raises:
        ModelError: the checkpoint cannot be used, or is of other data; the graph's probabilities
            differ from PyTorch's by TOLERANCE or more somewhere on PublicTest; or the reduced
            precision answers too differently (``quantize.Agreement``). ``out`` is not written then.
        DataError: FER+'s head is asked for, and the data has no votes.
    """
    predictor, facts = load_checkpoint(checkpoint, label_set)
    if facts["data_digest"] != data.digest():
        raise ModelError(
            f"{out} was not written: the network of {checkpoint} was trained on other data than "
            "this, and what is PublicTest here may have been Training there"
        )
    label_set = {one.name: one for one in (FER2013, FERPLUS)}[facts["label_set"]]
    public, known, labels = _public(data, label_set)
    training = data.split("Training").images

    faces = torch.from_numpy(public)[..., None]
    logits = _in_parts(predictor.logits, faces[torch.from_numpy(known)])
    predictor.temperature.fill_(best_temperature(logits, torch.from_numpy(labels)))
    expected = _in_parts(predictor, faces).numpy()
    metadata = {
        "name": name,
        "version": version,
        "precision": precision,
        **_description(predictor, facts, label_set, data),
    }
    draft = out.with_name(out.name + ".draft")

    def answers(model: onnx.ModelProto) -> Floats:
        """The model's on PublicTest, once it is in the draft."""
        _save(model, metadata, draft)
        classifier = load_classifier(draft, "cpu", threads=torch.get_num_threads())
        return predict(classifier, public)

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        model = _to_onnx(predictor)
        served = reference = answers(model)
        parity = float(np.abs(reference - expected).max())
        if not parity < TOLERANCE:
            raise ModelError(
                f"the exported probabilities differ from PyTorch's by up to {parity:.2g}"
            )
        agreement = None
        if precision != "fp32":
            faces_of_training = calibration_faces(training)
            model = to_fp16(model) if precision == "fp16" else to_int8(model, faces_of_training)
            served = answers(model)
            agreement = compare(reference, served, known, labels)
            agreement.check(precision)
        figures = measure(served[known], labels, label_set)
        abstaining = cover(served[known], labels, threshold(served[known], abstain))
        metadata["uncertain_below"] = f"{abstaining.below:.3f}"
        metadata["metrics"] = json.dumps(
            {"PublicTest": {**figures.summary(), "abstaining": asdict(abstaining)}}
        )
        _save(model, metadata, draft)
        draft.replace(out)
    except ModelError as error:
        raise ModelError(f"{out} was not written: {error}") from None
    except OSError as error:
        raise ModelError(f"cannot write the model {out}: {error.strerror}") from None
    finally:
        if draft.exists():
            draft.unlink()
    return Exported(figures, abstaining, parity, agreement)


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """What to divide logits (N, L) by, 0.1 to 10, so that the true labels (N,) are likeliest.

    The likelihood has one peak along the temperature, so a golden-section search finds it.
    """
    golden = (math.sqrt(5) - 1) / 2

    def loss(log_temperature: float) -> float:
        scaled = logits.double() / math.exp(log_temperature)
        return torch.nn.functional.cross_entropy(scaled, labels).item()

    low, high = math.log(0.1), math.log(10)
    while high - low > 1e-5:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def multiply_adds(predictor: Predictor) -> int:
    """Of the convolutions and linear layers, for one face; what else there is to do is not counted.

    Padding counts as if it were picture, as is usual.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        predictor(torch.zeros(1, SIZE, SIZE, 1, dtype=torch.uint8))
    return int(counter.get_total_flops()) // 2


def parameters(predictor: Predictor) -> int:
    """Of the network's body and of the one head that is exported."""
    network = predictor.network
    parts = (network.body, network.heads[predictor.label_set])
    return sum(one.numel() for part in parts for one in part.parameters())


def _public(
    data: Dataset, label_set: LabelSet
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """All N pictures of PublicTest, which of them have a label (N,), and those labels (n,)."""
    public = data.split("PublicTest")
    _, labels = public.labelled(label_set)
    known = np.ones(len(public.images), bool)
    if label_set == FERPLUS and public.votes is not None:
        known = majority(public.votes) >= 0
    return public.images, known, labels


def _description(
    predictor: Predictor, facts: dict[str, Any], label_set: LabelSet, data: Dataset
) -> dict[str, str]:
    return {
        "labels": json.dumps(label_set.labels),
        "label_set": label_set.name,
        "input_size": str(SIZE),
        "colour": "gray",
        "margin": str(CROP_MARGIN),
        "temperature": f"{predictor.temperature.item():.6f}",
        "parameters": str(parameters(predictor)),
        "multiply_adds": str(multiply_adds(predictor)),
        "data_digest": data.digest(),
        "config_digest": facts["config_digest"],
        "training": json.dumps(facts),
    }


def _in_parts(function: Callable[[Tensor], Tensor], faces: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([function(part) for part in torch.split(faces, 256)])


def _to_onnx(predictor: Predictor) -> onnx.ModelProto:
    # The exporter tells of its own inner workings, which nobody can act on.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            predictor,
            (torch.zeros(2, SIZE, SIZE, 1, dtype=torch.uint8),),
            input_names=["faces"],
            output_names=["probabilities"],
            dynamic_shapes={"faces": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise AssertionError("the exporter gave nothing back")
    model: onnx.ModelProto = program.model_proto
    # The exporter notes for each node the lines of source it came from, with this machine's paths.
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in (graph, *graph.node, *values):
        part.ClearField("metadata_props")
    return model


def _save(model: onnx.ModelProto, metadata: dict[str, str], path: Path) -> None:
    onnx.helper.set_model_props(model, metadata)
    onnx.save_model(model, path)
