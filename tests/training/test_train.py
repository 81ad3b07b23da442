from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the training extra")

from training.augment import Augmentation  # noqa: E402
from training.batches import Batches  # noqa: E402
from training.data import Fer2013  # noqa: E402
from training.models import SmallCnn, centre_crop  # noqa: E402
from training.recipe import Recipe  # noqa: E402
from training.train import BEST, LAST, fit, rate  # noqa: E402
from worker.errors import DataError, ModelError, SettingsError  # noqa: E402

RECIPE = Recipe(epochs=4, batch_size=14, seed=3, warm_up_epochs=1.0)

# What another process runs until it is killed.
SCRIPT = """
import sys, torch
from pathlib import Path
from training.data import read_fer2013
from training.recipe import Recipe
from training.train import fit
torch.set_num_threads(1)
recipe = Recipe(epochs=4, batch_size=14, seed=3, warm_up_epochs=1.0)
def say(line):
    print(line, flush=True)
    if line.startswith("epoch 3/"):
        sys.stdin.read()  # hang before the third epoch is saved
fit(read_fer2013(Path(sys.argv[1])), recipe, Path(sys.argv[2]), say=say)
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def quiet(_line: str) -> None:
    pass


def weights(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, weights_only=True)
    return {f"{part}.{key}": value
            for part in ("state_dict", "current_model_state")
            for key, value in content[part].items()}  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(tiny: Fer2013, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("unbroken")
    lines: list[str] = []
    fit(tiny, RECIPE, out, say=lines.append)
    return out, lines


def test_a_run_tells_its_epochs_and_leaves_its_checkpoints(
    unbroken: tuple[Path, list[str]],
) -> None:
    out, lines = unbroken
    assert [line.split("  ")[0] for line in lines] == [f"epoch {i}/4" for i in (1, 2, 3, 4)]
    assert sorted(path.name for path in out.glob("*.ckpt")) == [BEST, LAST]
    assert "public_accuracy" in (out / "logs" / "version_0" / "metrics.csv").read_text()
    recipe = torch.load(out / BEST, weights_only=True)["hyper_parameters"]["recipe"]
    assert recipe["model"] == "cnn"
    assert recipe["augmentation"]["crop"] == 44


def test_killed_and_resumed_ends_where_an_unbroken_run_ends(
    unbroken: tuple[Path, list[str]], tiny_csv: Path, tiny: Fer2013, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tiny_csv), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 3/"):
                break
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL

    lines: list[str] = []
    fit(tiny, RECIPE, tmp_path, resume=True, say=lines.append)

    assert lines[0].startswith("epoch 3/4")
    expected = weights(unbroken[0] / LAST)
    found = weights(tmp_path / LAST)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_another_run_is_not_overwritten_and_not_mixed_up(
    unbroken: tuple[Path, list[str]], tiny: Fer2013, tmp_path: Path
) -> None:
    out, _ = unbroken
    with pytest.raises(SettingsError, match="already holds a run"):
        fit(tiny, RECIPE, out, say=quiet)
    with pytest.raises(SettingsError, match="no run to resume"):
        fit(tiny, RECIPE, tmp_path, resume=True, say=quiet)
    with pytest.raises(SettingsError, match="has seed = 3, not 4"):
        fit(tiny, replace(RECIPE, seed=4), out, resume=True, say=quiet)
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"the folder .*file: File exists"):
        fit(tiny, RECIPE, tmp_path / "file", say=quiet)
    (tmp_path / LAST).write_bytes(b"PK damaged")
    with pytest.raises(ModelError, match=r"last\.ckpt is not a checkpoint"):
        fit(tiny, RECIPE, tmp_path, resume=True, say=quiet)


def test_a_label_without_pictures_is_named(tiny: Fer2013, tmp_path: Path) -> None:
    kept = ~((tiny.labels == 1) & (tiny.splits == 0))
    data = Fer2013(tiny.images[kept], tiny.labels[kept], tiny.splits[kept])
    with pytest.raises(DataError, match="no pictures of disgust in Training"):
        fit(data, RECIPE, tmp_path, say=quiet)


def test_batches_cover_an_epoch_in_an_order_of_their_own() -> None:
    faces, labels = torch.arange(10), torch.arange(10) * 2
    shuffled = Batches(faces, labels, 4, lambda: torch.Generator().manual_seed(1))
    first, second = list(shuffled), list(shuffled)
    assert [len(batch[0]) for batch in first] == [4, 4]
    assert len(shuffled) == 2
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(batch[0] * 2, batch[1]) for batch in first)
    assert len(torch.cat([batch[0] for batch in first]).unique()) == 8

    whole = Batches(faces, labels, 4)
    assert len(whole) == 3
    assert torch.equal(torch.cat([batch[0] for batch in whole]), faces)


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    rates = [rate(step, 10, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0)
    assert rates[55] == pytest.approx(0.5)


def test_the_network_learns_to_tell_seven_patterns_apart(tiny: Fer2013) -> None:
    """A whole step by hand, without Lightning: the loss falls to almost nothing."""
    torch.manual_seed(0)
    network = SmallCnn(7)
    faces, labels = (torch.from_numpy(part) for part in tiny.split("Training"))
    pictures = centre_crop(faces[:, None].float() / 255, Augmentation().crop)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(network(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_the_networks_constants_are_the_datas(fer2013: Fer2013) -> None:
    from training import models

    images = fer2013.split("Training")[0]
    assert np.mean(images) / 255 == pytest.approx(models._MEAN, abs=1e-3)
    assert np.std(images, dtype=np.float32) / 255 == pytest.approx(models._DEVIATION, abs=1e-3)
