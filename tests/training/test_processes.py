"""Several processes train one network: what each gets, and what cannot be shared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the training extra")

from tests.training.recipes import recipe_with  # noqa: E402
from training.batches import Batches  # noqa: E402
from training.checkpoint import LAST, open_checkpoint  # noqa: E402
from training.data import Dataset  # noqa: E402
from training.experiment import Experiment  # noqa: E402
from training.targets import examples  # noqa: E402
from training.train import fit  # noqa: E402
from worker.errors import SettingsError  # noqa: E402

ROOT = Path(__file__).parents[2]
RECIPE = recipe_with()

CONFIG = """
batch_size = 14
[model]
network = "small-cnn"
[[phases]]
epochs = 1
learning_rate = 0.1
[[phases]]
epochs = 1
learning_rate = 0.1
self_distillation = 0.5
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_processes_share_each_batch() -> None:
    faces, labels = torch.arange(10), torch.arange(10) * 2

    def batches(rank: int, world: int) -> list[Any]:
        generator = lambda: torch.Generator().manual_seed(1)  # noqa: E731
        return [faces for faces, _ in Batches(faces, labels, 4, generator, rank, world)]

    alone, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    for whole, one, other in zip(alone, first, second, strict=True):
        assert len(one) == len(other) == 2
        assert set(one.tolist()) | set(other.tolist()) == set(whole.tolist())


def test_what_processes_cannot_share_is_refused(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="batch_size = 14 cannot be shared evenly by 4"):
        fit(tiny, RECIPE, tmp_path, devices=4, say=lambda line: None)
    with pytest.raises(SettingsError, match="--nodes is for runs that torchrun starts"):
        fit(tiny, RECIPE, tmp_path, nodes=2, say=lambda line: None)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=r"torchrun started 2 processes, .* makes 1"):
        fit(tiny, RECIPE, tmp_path, say=lambda line: None)


def test_a_process_may_get_nothing_of_the_last_batch(tiny: Dataset) -> None:
    provenance = {"data_digest": "", "pretrained": "none"}
    experiment = Experiment(RECIPE, examples(tiny, RECIPE), provenance)
    nothing = torch.zeros(0, 1, 48, 48, dtype=torch.uint8), torch.zeros(0, 1, dtype=torch.int64)
    experiment.validation_step(nothing, 0)
    assert experiment.public_loss.update_count == 0


@pytest.mark.parametrize("launcher", ["mien", "torchrun"])
def test_two_processes_train_one_network(launcher: str, tiny_csv: Path, tmp_path: Path) -> None:
    """As the help says it: Lightning starts the second process, or torchrun both."""
    config, out, bin_ = tmp_path / "two.toml", tmp_path / "run", Path(sys.executable).parent
    config.write_text(CONFIG)
    command = [str(bin_ / "mien"), "train", "--config", str(config), "--data", str(tiny_csv)]
    command += ["--out", str(out), "--devices", "2", "--threads", "1"]
    if launcher == "torchrun":
        torchrun = [str(bin_ / "torchrun"), "--nproc-per-node", "2", "--no-python"]
        command = [*torchrun, *command]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    told = [line for line in result.stdout.splitlines() if line.startswith("epoch ")]
    assert [line.split("  ")[0] for line in told] == ["epoch 1/2", "epoch 2/2"]
    content = open_checkpoint(out / LAST)
    # Three batches of 14 an epoch, as one process would see, each shared by two.
    assert content["global_step"] == 2 * 3
    assert len(content["history"]) == 2
