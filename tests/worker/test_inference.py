"""Providers: what is asked for and is not there is said in one sentence; auto takes what works."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace

import onnxruntime as ort
import pytest

import worker.inference as inference
from worker.config import WorkerSettings
from worker.errors import ModelError, SettingsError
from worker.inference import default_engine_cache, open_network, resolve

MODEL = Path(inference.__file__).parent / "detect" / "pnet.onnx"
CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))


class Driver:
    """libcuda.so.1, on a machine with so many GPUs."""

    def __init__(self, devices, error=0):
        self.devices, self.error = devices, error

    def cuInit(self, flags):  # noqa: N802
        return self.error

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = self.devices
        return 0


@pytest.fixture
def machine(monkeypatch):
    """Sets up a machine: the providers of its onnxruntime, and its driver, None for none."""

    def make(providers, driver=None):
        def load(name):
            assert name == "libcuda.so.1"
            if driver is None:
                raise OSError("no such file")
            return driver

        inference._missing.cache_clear()
        monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
        monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcufft"))
        monkeypatch.setattr(ctypes, "CDLL", load)

    yield make
    inference._missing.cache_clear()


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_onnxruntime_for_cpus_is_named_with_what_to_install(machine, provider):
    machine([CPU])
    with pytest.raises(SettingsError, match=rf"provider {provider} .* for CPUs only.*mien\[gpu\]"):
        open_network(MODEL, provider=provider)


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        (None, r"no NVIDIA driver \(libcuda\.so\.1\)"),
        (Driver(1, error=100), "driver finds no GPU"),
        (Driver(0), "no GPU is visible"),
    ],
)
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_missing_driver_or_device_is_named(machine, driver, said, provider):
    machine([TENSORRT, CUDA, CPU], driver)
    with pytest.raises(SettingsError, match=f"provider {provider} was asked for, but .*{said}"):
        open_network(MODEL, provider=provider)
    assert resolve("auto") == "cpu"
    assert open_network(MODEL).session.get_providers() == [CPU]


def test_auto_takes_cuda_where_it_can_be_had_and_never_tensorrt(machine, capsys):
    machine([TENSORRT, CUDA, CPU], Driver(1))
    assert resolve("auto") == "cuda"
    assert resolve("tensorrt") == "tensorrt"
    assert resolve("cpu") == "cpu"
    machine([CPU], Driver(1))
    assert resolve("auto") == "cpu"
    assert capsys.readouterr().out == ""


@pytest.fixture
def opened(machine, monkeypatch):
    """What sessions are opened with on a machine with a GPU; all its libraries load, or none."""
    opened = SimpleNamespace(providers=None, libraries=True)
    machine([TENSORRT, CUDA, CPU], Driver(1))

    def session(content, sess_options, providers):
        opened.providers = providers
        if not opened.libraries:
            print("EP Error")  # as onnxruntime does
        loaded = [name for name, _ in providers] if opened.libraries else [CPU]
        meta = SimpleNamespace(custom_metadata_map={})
        return SimpleNamespace(get_providers=lambda: loaded, get_modelmeta=lambda: meta)

    monkeypatch.setattr(ort, "InferenceSession", session)
    return opened


def test_tensorrt_keeps_its_engines_in_the_given_folder(opened, tmp_path):
    folder = tmp_path / "a" / "b"
    open_network(MODEL, provider="tensorrt", engine_cache=folder)
    assert [name for name, _ in opened.providers] == [TENSORRT, CUDA, CPU]
    options = opened.providers[0][1]
    assert options["trt_engine_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == str(folder)
    assert options["trt_fp16_enable"] == "0"
    assert folder.is_dir()


def test_cuda_computes_in_single_precision(opened):
    open_network(MODEL, provider="cuda")
    assert [name for name, _ in opened.providers] == [CUDA, CPU]
    assert opened.providers[0][1]["use_tf32"] == "0"


def test_a_folder_that_cannot_be_made_is_named(opened, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"engines cannot be kept in .*file/x"):
        open_network(MODEL, provider="tensorrt", engine_cache=tmp_path / "file" / "x")


def test_the_engines_usual_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_engine_cache() == tmp_path / "mien" / "tensorrt"


def test_libraries_that_do_not_load_are_named_with_what_to_install(opened, tmp_path, capsys):
    opened.libraries = False
    with pytest.raises(SettingsError, match=r"libraries could not be loaded.*mien\[gpu\]"):
        open_network(MODEL, provider="cuda")
    with pytest.raises(SettingsError, match=r"libraries could not be loaded.*pip install tensorrt"):
        open_network(MODEL, provider="tensorrt", engine_cache=tmp_path)
    assert open_network(MODEL).session.get_providers() == [CPU]  # auto goes on
    assert capsys.readouterr().out == ""


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"cannot read the model .*none\.onnx"):
        open_network(tmp_path / "none.onnx", provider="cpu")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"bad\.onnx is not a model"):
        open_network(tmp_path / "bad.onnx", provider="cpu")


def test_settings_take_the_providers_and_the_folder(monkeypatch):
    monkeypatch.setenv("MIEN_PROVIDER", "tensorrt")
    monkeypatch.setenv("MIEN_ENGINE_CACHE", "engines")
    settings = WorkerSettings.load()
    assert (settings.provider, settings.engine_cache) == ("tensorrt", Path("engines"))
