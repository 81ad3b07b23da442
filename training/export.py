"""A checkpoint becomes the one file that the workers run; it is checked before it gets its name."""

from __future__ import annotations

import json
import logging
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from training.data import CROP_MARGIN, LABELS, SIZE, Fer2013
from training.evaluate import Figures, measure, predict
from training.models import MODELS, Predictor
from worker.emotion.classifier import load_classifier
from worker.errors import DataError, ModelError

# The lowest that torch's exporter writes without converting: every onnxruntime we allow reads it.
OPSET = 18
TOLERANCE = 1e-4


def export(
    checkpoint: Path, data: Fer2013, out: Path, *, name: str = "mien-cnn", version: str = "1"
) -> Figures:
    """Write ``out`` (ONNX, one file) and return its figures on PublicTest.

    Input ``faces`` uint8 (batch, 48, 48, 1), output ``probabilities`` float32 (batch, 7). The
    temperature is the one with the least negative log-likelihood on PublicTest.

    Raises:
        ModelError: the checkpoint cannot be used, or the exported file's probabilities differ from
            PyTorch's by TOLERANCE or more on PublicTest; ``out`` is not written then.
        DataError: the data has no PublicTest.
    """
    predictor, facts = load_checkpoint(checkpoint)
    images, labels = data.split("PublicTest")
    if len(labels) == 0:
        raise DataError(
            "the data has no pictures of PublicTest, on which the temperature is chosen"
        )
    faces = torch.from_numpy(images)[..., None]
    logits = _in_parts(predictor.logits, faces)
    predictor.temperature.fill_(best_temperature(logits, torch.from_numpy(labels)))
    expected = _in_parts(predictor, faces).numpy()

    model = _to_onnx(predictor)
    metadata = {
        "name": name,
        "version": version,
        "labels": json.dumps(LABELS),
        "input_size": str(SIZE),
        "colour": "gray",
        "margin": str(CROP_MARGIN),
        "temperature": f"{predictor.temperature.item():.6f}",
        "metrics": json.dumps({"PublicTest": _summary(measure(expected, labels))}),
        "training": json.dumps(facts),
    }
    onnx.helper.set_model_props(model, metadata)
    draft = out.with_name(out.name + ".draft")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        onnx.save_model(model, draft)
        served = predict(load_classifier(draft, "cpu", threads=torch.get_num_threads()), images)
        difference = float(np.abs(served - expected).max())
        if not difference < TOLERANCE:
            raise ModelError(
                f"{out} was not written: the exported probabilities differ from PyTorch's "
                f"by up to {difference:.2g}"
            )
        draft.replace(out)
    except OSError as error:
        raise ModelError(f"cannot write the model {out}: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
    return measure(served, labels)


def load_checkpoint(path: Path) -> tuple[Predictor, dict[str, Any]]:
    """The network of a checkpoint of ``mien train``, at temperature 1, and how it was trained.

    Raises:
        ModelError: the file is missing, or is no such checkpoint.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        recipe = content["hyper_parameters"]["recipe"]
        labels = content["hyper_parameters"]["labels"]
        network = MODELS[recipe["model"]](len(labels))
        prefix = "network."
        network.load_state_dict(
            {
                key.removeprefix(prefix): value
                for key, value in content["state_dict"].items()
                if key.startswith(prefix)
            }
        )
        crop = int(recipe["augmentation"]["crop"])
        facts = {"recipe": recipe, "epoch": content["epoch"] + 1}
    except OSError as error:
        raise ModelError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{path} is not a checkpoint of mien train: {reason[:200]}") from None
    if tuple(labels) != LABELS:
        raise ModelError(f"the checkpoint {path} has other labels: {', '.join(labels)}")
    return Predictor(network, crop, temperature=1.0).eval(), facts


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


def _summary(figures: Figures) -> dict[str, float]:
    return {
        "n": figures.n,
        "accuracy": round(figures.accuracy, 6),
        "macro_f1": round(figures.macro_f1, 6),
        "nll": round(figures.nll, 6),
        "ece": round(figures.ece, 6),
    }
