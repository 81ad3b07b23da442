"""The expression classifier: a batch of face crops in, one probability a label out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.binding import Rows, rounded, run
from worker.emotion.align import CHANNELS, Colour
from worker.errors import ModelError
from worker.inference import Network, open_network, resolve
from worker.records import Floats, ModelInfo, Provider

SHIPPED = Path(__file__).with_name("emotion.onnx")
SHIPPED_INT8 = Path(__file__).with_name("emotion.int8.onnx")

# What Linux calls the instructions that multiply eight-bit integers and add in 32 bits. Without
# them the runtime adds pairs in 16 bits, which saturate: not the answers that were measured.
_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
_CPUINFO = Path("/proc/cpuinfo")

# Bounds the memory of one call, whatever number of faces a batch of frames shows.
FACES_A_CALL = 64


@dataclass(frozen=True, slots=True)
class Classifier:
    """An opened model and what its file says about it; made by ``load_classifier``."""

    labels: tuple[str, ...]
    """In the order of the probabilities' columns."""
    size: int
    """Side of the crops in pixels."""
    colour: Colour
    margin: float
    """What ``crop_faces`` must be given: the margin of the pictures that the model learnt from."""
    temperature: float
    """By which the logits are divided, inside the graph already; for the record."""
    uncertain_below: float
    """Below this top probability the model abstains; 0 never abstains."""
    info: ModelInfo
    network: Network

    def classify(self, crops: npt.NDArray[np.uint8] | Rows) -> Floats:
        """(N, size, size, C) uint8, C = 1 for gray, 3 for RGB -> (N, labels), rows that sum to 1.

        Any N is fine: the runtime sees at most FACES_A_CALL at once, and is not called for none.
        Crops on a device stay there.

        Raises:
            ValueError: the crops have another shape or type.
            ModelError: the runtime failed, or gave back another number of rows than it was given,
                or what are no probabilities.
        """
        wanted = (self.size, self.size, CHANNELS[self.colour])
        if crops.shape[1:] != wanted or crops.dtype != np.uint8:
            raise ValueError(f"crops must be uint8 (N, {wanted}), not {crops.dtype} {crops.shape}")
        parts = [np.zeros((0, len(self.labels)), np.float32)]
        for start in range(0, len(crops), FACES_A_CALL):
            parts.append(self._call(crops[start : start + FACES_A_CALL]))
        return np.concatenate(parts)

    def _call(self, crops: npt.NDArray[np.uint8] | Rows) -> Floats:
        session, count = self.network.session, len(crops)
        (taken,), (given,) = session.get_inputs(), session.get_outputs()
        # A GPU is to meet few shapes: faces that are none fill up to a power of two.
        rows = count if self.network.on_cpu else rounded(count)
        try:
            if isinstance(crops, Rows):
                some = crops if rows == count else crops.padded()
                answer = run(session, {taken.name: some}, "cpu")[given.name].numpy()
            else:
                full = crops
                if rows > count:
                    full = np.zeros((rows, *crops.shape[1:]), np.uint8)
                    full[:count] = crops
                (answer,) = session.run(None, {taken.name: full})
        except Exception as error:  # onnxruntime raises a dozen unrelated types here
            raise ModelError(
                f"the model {self.info.name} failed on {count} faces: {error}"
            ) from None
        probabilities = np.asarray(answer, np.float32)
        if probabilities.shape != (rows, len(self.labels)):
            raise ModelError(
                f"the model {self.info.name} answered {probabilities.shape} for {rows} faces "
                f"and {len(self.labels)} labels"
            )
        if not np.isfinite(probabilities).all() or (probabilities < 0).any():
            raise ModelError(f"the model {self.info.name} answers what are no probabilities")
        return probabilities[:count]


def load_classifier(
    path: Path | None = None,
    provider: Provider = "auto",
    threads: int = 1,
    engine_cache: Path | None = None,
) -> Classifier:
    """Open a model file; None opens the one that ships with mien and is fastest here.

    That is the eight-bit one on processors with VNNI, else the one in float32. Their answers differ
    a little, and so do version and digest, which events name.

    The file's metadata must hold labels (a JSON list of distinct names), input_size, colour (gray
    or rgb), margin, temperature, name and version, and may hold uncertain_below (0..1). The graph
    must take one uint8 (batch, size, size, C) and give one (batch, labels) float32.

    ``engine_cache``: where TensorRT keeps what it has built; None for the user's cache folder.

    Raises:
        ModelError: the file is missing or corrupt, or lacks what is named above; it says which.
        SettingsError: the provider cannot be had.
    """
    path = path or _shipped(resolve(provider))
    network = open_network(path, provider=provider, threads=threads, engine_cache=engine_cache)
    read = _Metadata(path, network.metadata)
    classifier = Classifier(
        labels=read.labels(),
        size=int(read.number("input_size", 1, 4096, whole=True)),
        colour=read.colour(),
        margin=read.number("margin", -0.9, 10),
        temperature=read.number("temperature", 1e-3, 1e3),
        uncertain_below=read.number("uncertain_below", 0, 1, default="0"),
        info=ModelInfo(read.text("name"), read.text("version"), network.digest),
        network=network,
    )
    _check_graph(path, network.session, classifier)
    return classifier


def _shipped(provider: Provider) -> Path:
    return SHIPPED_INT8 if provider == "cpu" and _has_vnni() else SHIPPED


def _has_vnni() -> bool:
    """Whether this processor says so; only Linux on x86 is asked."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _VNNI.isdisjoint(flags.split())


@dataclass(frozen=True, slots=True)
class _Metadata:
    """The file's key-value pairs, read with errors that name the key and the file."""

    path: Path
    values: Mapping[str, str]

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if not value:
            raise ModelError(f"the model {self.path} lacks the metadata key {key!r}")
        return value

    def number(
        self, key: str, low: float, high: float, *, whole: bool = False, default: str | None = None
    ) -> float:
        text = self.text(key, default)
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise self._malformed(key, text, f"{kind} from {low} to {high}")
        return value

    def labels(self) -> tuple[str, ...]:
        text = self.text("labels")
        try:
            names = json.loads(text)
        except ValueError:
            names = None
        if (
            not isinstance(names, list)
            or not names
            or not all(isinstance(name, str) and name for name in names)
            or len(set(names)) != len(names)
        ):
            raise self._malformed("labels", text, "a JSON list of distinct names")
        return tuple(names)

    def colour(self) -> Colour:
        text = self.text("colour")
        for colour in CHANNELS:
            if text == colour:
                return colour
        raise self._malformed("colour", text, "gray or rgb")

    def _malformed(self, key: str, text: str, expected: str) -> ModelError:
        return ModelError(
            f"the model {self.path} has the metadata {key} = {text[:60]!r}, "
            f"but it must be {expected}"
        )


def _check_graph(path: Path, session: ort.InferenceSession, classifier: Classifier) -> None:
    """Hold what the graph takes and gives against what the metadata promises."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    crop = [classifier.size, classifier.size, CHANNELS[classifier.colour]]
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or inputs[0].shape[1:] != crop:
        taken = ", ".join(f"{node.name} {node.type} {node.shape}" for node in inputs)
        raise ModelError(
            f"the model {path} must take one uint8 (batch, {', '.join(map(str, crop))}), "
            f"but takes {taken}"
        )
    width = len(classifier.labels)
    if len(outputs) != 1 or outputs[0].type != "tensor(float)" or outputs[0].shape[1:] != [width]:
        given = ", ".join(f"{node.name} {node.type} {node.shape}" for node in outputs)
        raise ModelError(
            f"the model {path} must give one float (batch, {width}), but gives {given}"
        )
    for node in (inputs[0], outputs[0]):
        if isinstance(node.shape[0], int):
            raise ModelError(
                f"the model {path} has a fixed batch of {node.shape[0]} in {node.name}"
            )
