"""ONNX Runtime sessions, opened in one place so that every network gets the same thread rules."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from worker.errors import ModelError, SettingsError
from worker.records import Provider

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True, slots=True)
class Network:
    """One opened ONNX file: its session, its metadata, and its digest."""

    session: ort.InferenceSession
    metadata: dict[str, str]
    digest: str
    """First 16 hexadecimal digits of the file's SHA-256."""


def open_network(path: Path, *, provider: Provider = "auto", threads: int = 1) -> Network:
    """Open an ONNX file on ``provider`` with ``threads`` intra-op threads.

    ``auto`` takes CUDA when this onnxruntime offers it, else the CPU.

    Raises:
        ModelError: the file is missing or is not an ONNX model.
        SettingsError: CUDA was asked for by name and cannot be had.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}") from None

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from every other process of the machine:
    # on two cores that has cost a factor of ten.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4

    available = ort.get_available_providers()
    if provider == "cuda" and _PROVIDERS["cuda"] not in available:
        raise SettingsError(
            "provider cuda was asked for, but this onnxruntime has no CUDA support "
            "(install the extra: mien[gpu])"
        )
    wanted = [_PROVIDERS["cpu"]]
    if provider != "cpu" and _PROVIDERS["cuda"] in available:
        wanted.insert(0, _PROVIDERS["cuda"])
    try:
        session = ort.InferenceSession(content, sess_options=options, providers=wanted)
    except Exception as error:  # onnxruntime raises a dozen unrelated types here
        first_line = (
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        )
        raise ModelError(f"{path} is not a model that onnxruntime can open: {first_line}") from None
    if provider == "cuda" and _PROVIDERS["cuda"] not in session.get_providers():
        raise SettingsError(
            "provider cuda was asked for, but no CUDA device or library could be used here"
        )
    return Network(
        session=session,
        metadata=dict(session.get_modelmeta().custom_metadata_map),
        digest=hashlib.sha256(content).hexdigest()[:16],
    )
