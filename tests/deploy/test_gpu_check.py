"""deploy/gpu_check.sh ends with one clear sentence where there is no GPU, or none that works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from worker.inference import resolve

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "gpu_check.sh"


@pytest.fixture
def check(tmp_path):
    """Runs the script where ``nvidia-smi`` is a shell script of these lines, or is missing."""
    for tool in ("sh", "dirname", "sed", "head"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))

    def run(*arguments, nvidia_smi=None):
        if nvidia_smi is not None:
            path = tmp_path / "nvidia-smi"
            path.write_text(f"#!/bin/sh\n{nvidia_smi}\n")
            path.chmod(0o755)
        here = {"PATH": str(tmp_path), "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
        command = [str(tmp_path / "sh"), str(SCRIPT), *arguments]
        return subprocess.run(
            command, env={**os.environ, **here}, capture_output=True, text=True, timeout=120
        )

    return run


def test_a_machine_without_a_driver(check):
    done = check()
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "this machine has no GPU to check" in done.stderr
    assert "nvidia-smi is missing" in done.stderr


def test_a_driver_that_finds_nothing(check):
    done = check(nvidia_smi="echo No devices were found; exit 6")
    assert done.returncode == 1
    assert done.stderr.endswith("no GPU to check: nvidia-smi says: No devices were found\n")


@pytest.mark.parametrize("arguments", [(), ("--tensorrt",)])
def test_a_gpu_that_onnxruntime_cannot_use(check, arguments):
    if resolve("auto") != "cpu":
        pytest.skip("onnxruntime can use a GPU here")
    done = check(*arguments, nvidia_smi="echo 'NVIDIA H100 80GB HBM3, 580.1, 81559 MiB'")
    assert done.returncode == 1
    assert "GPU: NVIDIA H100" in done.stdout
    assert done.stderr.startswith("gpu_check: provider cuda was asked for, but ")
    assert done.stderr.count("\n") == 1


def test_help_needs_no_gpu(check):
    done = check("--help")
    assert done.returncode == 0
    assert "deploy/gpu_check.sh [--tensorrt]" in done.stdout
    assert "set -eu" not in done.stdout
