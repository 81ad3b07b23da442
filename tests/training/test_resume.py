from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the training extra")

from tests.training.recipes import recipe_with  # noqa: E402
from tests.training.runs import epochs_of, quiet, trained, weights  # noqa: E402
from training.checkpoint import BEST, LAST, load_checkpoint  # noqa: E402
from training.data import FERPLUS, Dataset  # noqa: E402
from training.recipe import Recipe  # noqa: E402
from training.train import fit  # noqa: E402
from worker.errors import ModelError, SettingsError  # noqa: E402

ROOT = Path(__file__).parents[2]
RECIPE = recipe_with()

# What another process runs until it is killed.
SCRIPT = """
import sys, torch
from pathlib import Path
from tests.training.recipes import recipe_with
from training.data import read_data
from training.train import fit
torch.set_num_threads(1)
def say(line):
    print(line, flush=True)
    if line.startswith("epoch 3/"):
        sys.stdin.read()  # hang before the third epoch is saved
fit(read_data(Path(sys.argv[1])), recipe_with(), Path(sys.argv[2]), say=say)
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_killed_and_resumed_ends_where_an_unbroken_run_ends(
    unbroken: tuple[Path, list[str]], tiny_csv: Path, tiny: Dataset, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tiny_csv), str(tmp_path)],
        cwd=ROOT,
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

    assert epochs_of(lines) == ["epoch 3/4", "epoch 4/4"]
    expected = weights(unbroken[0] / LAST)
    found = weights(tmp_path / LAST)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert load_checkpoint(tmp_path / BEST)[1] == load_checkpoint(unbroken[0] / BEST)[1]


def test_another_run_is_not_overwritten_and_not_mixed_up(
    unbroken: tuple[Path, list[str]], tiny: Dataset, tmp_path: Path
) -> None:
    out, _ = unbroken
    with pytest.raises(SettingsError, match="already holds a run"):
        fit(tiny, RECIPE, out, say=quiet)
    with pytest.raises(SettingsError, match="no run to resume"):
        fit(tiny, RECIPE, tmp_path, resume=True, say=quiet)
    with pytest.raises(SettingsError, match="has seed = 3, not 4"):
        fit(tiny, RECIPE.changed(seed=4), out, resume=True, say=quiet)
    with pytest.raises(SettingsError, match="begun with other data"):
        fit(tiny.rows(tiny.splits != 2), RECIPE, out, resume=True, say=quiet)
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"the folder .*file: File exists"):
        fit(tiny, RECIPE, tmp_path / "file", say=quiet)
    with pytest.raises(SettingsError, match=r"augmentation\.crop = 44, not 40"):
        fit(tiny, recipe_with(augmentation={"crop": 40}), out, resume=True, say=quiet)
    (tmp_path / LAST).write_bytes(b"PK damaged")
    with pytest.raises(ModelError, match=r"last\.ckpt is not a checkpoint"):
        fit(tiny, RECIPE, tmp_path, resume=True, say=quiet)


def test_a_checkpoint_of_another_architecture_is_refused(
    unbroken: tuple[Path, list[str]], tmp_path: Path
) -> None:
    content = torch.load(unbroken[0] / BEST, weights_only=True)
    content["hyper_parameters"]["recipe"]["model"] = {"network": "resnet50"}
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ModelError, match=r"other\.ckpt contradicts itself.*loading state_dict"):
        load_checkpoint(tmp_path / "other.ckpt")
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    (tmp_path / "data.csv").write_text("emotion,pixels,Usage\n")
    content["state_dict"] = {}
    torch.save(content, tmp_path / "empty.ckpt")
    with pytest.raises(ModelError, match=r"empty\.ckpt contradicts itself: it has no weights"):
        load_checkpoint(tmp_path / "empty.ckpt")
    for name in ("tensor.ckpt", "data.csv"):
        with pytest.raises(ModelError, match=f"{name} is not a checkpoint of mien train$"):
            load_checkpoint(tmp_path / name)
    with pytest.raises(ModelError, match="no head for ferplus, it was trained on fer2013"):
        load_checkpoint(unbroken[0] / BEST, FERPLUS)
    with pytest.raises(ModelError, match=r"cannot read the checkpoint .*none\.ckpt"):
        load_checkpoint(tmp_path / "none.ckpt")


def test_a_resumed_run_remembers_its_plateau(tiny: Dataset, tmp_path: Path) -> None:
    def recipe(epochs: int) -> Recipe:
        return recipe_with(
            schedule={"kind": "plateau", "factor": 0.5, "patience": 1},
            phases=[{"epochs": epochs, "learning_rate": 0.1}],
        )

    unbroken = trained(tiny, recipe(6), tmp_path / "unbroken")
    trained(tiny, recipe(3), tmp_path / "broken")
    resumed = trained(tiny, recipe(6), tmp_path / "broken", resume=True)
    assert resumed["plateau"] == unbroken["plateau"]
    assert resumed["history"] == unbroken["history"]


def test_a_run_that_stopped_early_stays_stopped(tiny: Dataset, tmp_path: Path) -> None:
    recipe = recipe_with(
        phases=[{"epochs": 30, "learning_rate": 1e-30}], choose_by="loss", patience=1, average=0.0
    )
    epochs = len(trained(tiny, recipe, tmp_path)["history"])
    assert epochs < 30
    lines: list[str] = []
    again = trained(tiny, recipe, tmp_path, resume=True, say=lines.append)
    assert len(again["history"]) == epochs
    assert "has ended: 1 epochs brought nothing better" in lines[0]


def test_dropout_is_resumed_too(tiny: Dataset, tmp_path: Path) -> None:
    def recipe(epochs: int) -> Recipe:
        return recipe_with(
            model={"network": "resnet50", "dropout": 0.5},
            phases=[{"epochs": epochs, "learning_rate": 1e-3}],
            schedule={"kind": "plateau"},
            augmentation={"crop": 32},
        )

    torch.manual_seed(1)
    unbroken = trained(tiny, recipe(2), tmp_path / "unbroken")
    torch.manual_seed(2)
    trained(tiny, recipe(1), tmp_path / "broken")
    torch.manual_seed(3)
    resumed = trained(tiny, recipe(2), tmp_path / "broken", resume=True)
    assert resumed["history"] == unbroken["history"]


def test_a_resumed_run_tells_that_its_length_was_changed(tiny: Dataset, tmp_path: Path) -> None:
    def recipe(epochs: int) -> Recipe:
        return recipe_with(phases=[{"epochs": epochs, "learning_rate": 1e-30}], average=0.0)

    trained(tiny, recipe(2), tmp_path)
    assert load_checkpoint(tmp_path / LAST)[1]["replanned"] == []
    trained(tiny, recipe(3), tmp_path, resume=True)
    trained(tiny, recipe(5), tmp_path, resume=True)
    assert load_checkpoint(tmp_path / LAST)[1]["replanned"] == [[2, 2], [3, 3]]
    with pytest.raises(SettingsError, match="has 5 epochs, more than 4"):
        fit(tiny, recipe(4), tmp_path, resume=True, say=quiet)


def test_phases_may_go_that_have_not_begun_and_no_others(tiny: Dataset, tmp_path: Path) -> None:
    def recipe(*epochs: int) -> Recipe:
        return recipe_with(phases=[{"epochs": n, "learning_rate": 1e-30} for n in epochs])

    trained(tiny, recipe(1, 2).changed(max_epochs=2), tmp_path)
    with pytest.raises(SettingsError, match="has begun phase 2, and there are only 1"):
        fit(tiny, recipe(4), tmp_path, resume=True, say=quiet)
    trained(tiny, recipe(1, 2, 5), tmp_path, resume=True)
    assert load_checkpoint(tmp_path / LAST)[1]["replanned"] == [[2, 2]]


def test_a_phase_may_be_added_where_a_run_ended(tiny: Dataset, tmp_path: Path) -> None:
    first = {"epochs": 2, "learning_rate": 1e-2}
    second = {"epochs": 2, "learning_rate": 5e-3, "augmentation": {"mixup": 0.0}}
    unbroken = trained(tiny, recipe_with(phases=[first, second]), tmp_path / "unbroken")
    trained(tiny, recipe_with(phases=[first]), tmp_path / "broken")
    resumed = trained(tiny, recipe_with(phases=[first, second]), tmp_path / "broken", resume=True)
    assert resumed["history"] == unbroken["history"]
    before = weights(tmp_path / "unbroken" / LAST)
    for key, value in weights(tmp_path / "broken" / LAST).items():
        assert torch.equal(before[key], value), key
    assert load_checkpoint(tmp_path / "broken" / LAST)[1]["replanned"] == []


def test_what_a_network_taught_itself_is_resumed_too(tiny: Dataset, tmp_path: Path) -> None:
    """Where its phase begins the network is asked; within it, the checkpoint."""

    def recipe(*epochs: int) -> Recipe:
        own = ({}, {"self_distillation": 0.5})
        phases = zip(epochs, own, strict=False)
        return recipe_with(
            phases=[{"epochs": n, "learning_rate": 1e-2, **o} for n, o in phases],
            schedule={"kind": "plateau"},  # a cosine of three epochs is not begun by one of two
        )

    unbroken = trained(tiny, recipe(2, 3), tmp_path / "unbroken")
    for part in (recipe(2), recipe(2, 3).changed(max_epochs=4), recipe(2, 3)):
        out = tmp_path / "broken"
        resumed = trained(tiny, part, out, resume=out.exists())
    (first, found), (same, expected) = resumed["own_word"], unbroken["own_word"]
    assert first == same == 2
    assert torch.equal(found, expected)
    assert resumed["history"] == unbroken["history"]


def test_a_run_that_cannot_be_resumed_keeps_its_best(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("CUDA out of memory")

    history = trained(tiny, RECIPE, tmp_path)["history"]
    with monkeypatch.context() as patch:
        patch.setattr("training.average.MovingAverage.setup", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            fit(tiny, RECIPE, tmp_path, resume=True, say=quiet)
    assert load_checkpoint(tmp_path / BEST)[1]["history"] == history
    (tmp_path / BEST).unlink()
    with pytest.raises(SettingsError, match=r"has no best\.ckpt"):
        fit(tiny, RECIPE, tmp_path, resume=True, say=quiet)


def test_a_run_that_was_moved_remembers_its_best(tiny: Dataset, tmp_path: Path) -> None:
    def recipe(epochs: int) -> Recipe:
        return recipe_with(
            phases=[{"epochs": epochs, "learning_rate": 1e-30}],
            schedule={"kind": "plateau"},
            average=0.0,
        )

    trained(tiny, recipe(1), tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    # Nothing learns, so that no epoch is better than the first; the statistics alone move.
    trained(tiny, recipe(3), tmp_path / "there", resume=True)
    _, facts = load_checkpoint(tmp_path / "there" / BEST)
    best = max(row["public_accuracy"] for row in facts["history"])
    first = next(row["epoch"] for row in facts["history"] if row["public_accuracy"] == best)
    assert facts["epoch"] == first
    assert not (tmp_path / "here").exists()
