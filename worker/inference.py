"""ONNX Runtime sessions, opened in one place so that every network gets the same thread rules."""

from __future__ import annotations

import ctypes
import hashlib
import os
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import onnxruntime as ort

from worker.errors import ModelError, SettingsError
from worker.records import Provider

_CPU, _CUDA, _TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))

LARGEST_MODEL = 1 << 30
"""Bytes of a model file; a larger one is not read."""

_ON_CUDA = {
    # Not rounded to ten bits for the tensor cores: with networks in half precision, which has as
    # many, the same faces are found, but their boxes move (mean overlap with the others' 0.97).
    "use_tf32": "0",
    # By default the fastest algorithm is searched for each new shape, which takes seconds.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Workers share the GPU: none takes twice of what it needs.
    "arena_extend_strategy": "kSameAsRequested",
}


@dataclass(frozen=True, slots=True)
class Network:
    """One opened ONNX file: its session, its metadata, and its digest."""

    session: ort.InferenceSession
    metadata: dict[str, str]
    digest: str
    """First 16 hexadecimal digits of the file's SHA-256."""

    @property
    def on_cpu(self) -> bool:
        providers: list[str] = self.session.get_providers()
        return providers[0] == _CPU


def resolve(provider: Provider) -> Provider:
    """What ``provider`` stands for on this machine: ``auto`` is cuda where it can be had, else cpu.

    TensorRT builds its engines for minutes: nobody gets that unasked.

    Raises:
        SettingsError: what was asked for by name cannot be had; it says what is missing.
    """
    missing = (
        None if provider == "cpu" else _missing(_TENSORRT if provider == "tensorrt" else _CUDA)
    )
    if provider == "auto":
        return "cpu" if missing else "cuda"
    if missing:
        raise SettingsError(f"provider {provider} was asked for, but {missing}")
    return provider


def default_engine_cache() -> Path:
    """The user's cache folder for what TensorRT has built."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mien" / "tensorrt"


def open_network(
    path: Path,
    *,
    provider: Provider = "auto",
    threads: int = 1,
    engine_cache: Path | None = None,
) -> Network:
    """Open an ONNX file.

    Args:
        path: the file.
        provider: where it runs; see ``resolve``.
        threads: intra-op threads on the CPU.
        engine_cache: where TensorRT keeps what it has built; None for the user's cache folder.

    Raises:
        ModelError: the file is missing, too large, or no ONNX model that is whole in itself.
        SettingsError: the provider was asked for by name and cannot be had.
    """
    chosen = resolve(provider)
    content = _content(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from every other process of the machine:
    # on two cores that has cost a factor of ten.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    # Not by what the bytes look like: its own format is not checked for what _content refuses.
    options.add_session_config_entry("session.load_model_format", "ONNX")

    wanted: list[tuple[str, dict[str, Any]]] = [(_CPU, {})]
    if chosen != "cpu":
        wanted.insert(0, (_CUDA, _ON_CUDA))
    if chosen == "tensorrt":
        wanted.insert(0, (_TENSORRT, _on_tensorrt(engine_cache or default_engine_cache())))
    try:
        # A provider that does not load is printed and left out; below it is said what that means.
        with redirect_stdout(StringIO()):
            session = ort.InferenceSession(content, sess_options=options, providers=wanted)
    except Exception as error:  # onnxruntime raises a dozen unrelated types here
        first_line = (
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        )
        raise ModelError(f"{path} is not a model that onnxruntime can open: {first_line}") from None
    if provider != "auto" and session.get_providers()[0] != wanted[0][0]:
        raise SettingsError(
            f"provider {provider} was asked for, but its libraries could not be loaded: "
            + ("pip install tensorrt" if provider == "tensorrt" else "pip install 'mien[gpu]'")
        )
    return Network(
        session=session,
        metadata=dict(session.get_modelmeta().custom_metadata_map),
        digest=hashlib.sha256(content).hexdigest()[:16],
    )


def _content(path: Path) -> bytes:
    """All of a model file, once it is known to be of a sane size and whole in itself.

    The runtime reads tensors whose data lies outside the model: from the working directory where
    the model is given as bytes, older ones from any path. Each names its place under the key
    ``location`` (8 characters; a length may also be written to end with a zero byte).
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_MODEL:
                raise ModelError(
                    f"the model {path} has {size} bytes, more than the {LARGEST_MODEL} that a "
                    "model may have"
                )
            content = file.read()
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}") from None
    if b"\x08location" in content or b"\x00location" in content:
        raise ModelError(f"the model {path} refers to data outside itself: save it as one file")
    return content


def _on_tensorrt(cache_folder: Path) -> dict[str, Any]:
    """In single precision, for the reason given at ``_ON_CUDA``.

    Raises:
        SettingsError: the folder cannot be made.
    """
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"TensorRT's engines cannot be kept in {cache_folder}: {error.strerror}"
        ) from None
    return {
        "trt_fp16_enable": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache_folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache_folder),
    }


@cache
def _missing(execution_provider: str) -> str | None:
    """What keeps an execution provider from working here; None if nothing is known to."""
    if execution_provider not in ort.get_available_providers():
        return (
            "the installed onnxruntime is for CPUs only: pip uninstall onnxruntime, "
            "then pip install 'mien[gpu]'"
        )
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "this machine has no NVIDIA driver (libcuda.so.1)"
    devices = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(devices)) != 0:
        return "NVIDIA's driver finds no GPU that it can use here"
    if devices.value == 0:
        return "no GPU is visible here (CUDA_VISIBLE_DEVICES)"
    # CUDA and cuDNN come as Python packages, which the system's loader does not look into.
    with redirect_stdout(StringIO()):
        ort.preload_dlls()
    return None
