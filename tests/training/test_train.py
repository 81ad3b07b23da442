from __future__ import annotations

import csv
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the training extra")

from tests.training.recipes import recipe_with  # noqa: E402
from training.average import _move  # noqa: E402
from training.batches import Batches  # noqa: E402
from training.checkpoint import BEST, LAST, load_checkpoint, open_checkpoint  # noqa: E402
from training.data import FERPLUS, Dataset, read_data  # noqa: E402
from training.experiment import rate_at  # noqa: E402
from training.recipe import Recipe  # noqa: E402
from training.train import fit  # noqa: E402
from worker.errors import DataError, ModelError, SettingsError  # noqa: E402

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


def quiet(_line: str) -> None:
    pass


def epochs_of(lines: list[str]) -> list[str]:
    return [line.split("  ")[0] for line in lines if line.startswith("epoch ")]


def trained(data: Dataset, recipe: Recipe, out: Path, **options: Any) -> dict[str, Any]:
    fit(data, recipe, out, say=options.pop("say", quiet), **options)
    return open_checkpoint(out / LAST)


def weights(path: Path) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    return {f"{part}.{key}": value
            for part in ("state_dict", "current_model_state")
            for key, value in content[part].items()}  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("unbroken")
    lines: list[str] = []
    fit(tiny, RECIPE, out, say=lines.append)
    return out, lines


def test_a_run_tells_its_epochs_and_leaves_its_checkpoints(
    unbroken: tuple[Path, list[str]], tiny: Dataset
) -> None:
    out, lines = unbroken
    assert lines[0].startswith("small-cnn, first weights: none; 42 pictures of Training, 14 of ")
    assert epochs_of(lines) == [f"epoch {i}/4" for i in (1, 2, 3, 4)]
    assert sorted(path.name for path in out.glob("*.ckpt")) == [BEST, LAST]
    with (out / "logs" / "version_0" / "metrics.csv").open() as file:
        assert "public_accuracy" in next(csv.reader(file))

    predictor, facts = load_checkpoint(out / BEST)
    assert predictor.crop == 44
    assert facts["recipe"]["model"]["network"] == "small-cnn"
    assert facts["config_digest"] == RECIPE.digest()
    assert facts["data_digest"] == tiny.digest()
    assert facts["pretrained"] == "none"
    assert facts["teachers"] == []
    assert facts["seed"] == 3
    # The best epoch's file has the figures of all epochs, and is the best of them.
    assert [row["epoch"] for row in facts["history"]] == [1, 2, 3, 4]
    best = max(facts["history"], key=lambda row: row["public_accuracy"])
    assert facts["history"][facts["epoch"] - 1]["public_accuracy"] == best["public_accuracy"]
    assert f"accuracy {100 * facts['history'][-1]['public_accuracy']:.2f} %" in lines[-1]


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


def test_weights_that_decay_has_driven_to_nothing_are_nothing(
    unbroken: tuple[Path, list[str]], tmp_path: Path
) -> None:
    content = torch.load(unbroken[0] / BEST, weights_only=True)
    key = next(k for k, v in content["state_dict"].items() if v.ndim == 4)
    content["state_dict"][key].view(-1)[:3] = torch.tensor([1e-41, -1e-39, 1e-20])
    torch.save(content, tmp_path / "decayed.ckpt")
    network = load_checkpoint(tmp_path / "decayed.ckpt")[0].network
    first = network.get_parameter(key.removeprefix("network.")).flatten()[:3]
    assert first.tolist() == [0, 0, pytest.approx(1e-20, rel=1e-6)]


def test_a_label_without_pictures_is_named(tiny: Dataset, tmp_path: Path) -> None:
    rows = ~((tiny.labels == 1) & (tiny.splits == 0))
    with pytest.raises(DataError, match="no pictures of disgust in Training"):
        fit(tiny.rows(rows), RECIPE, tmp_path, say=quiet)


def test_one_body_learns_two_label_sets(tiny_csv: Path, tiny_votes: Path, tmp_path: Path) -> None:
    data = read_data(tiny_csv, tiny_votes)
    lines: list[str] = []
    recipe = recipe_with(auxiliary_weight=1.0, phases=[{"epochs": 1, "learning_rate": 0.1}])
    fit(data, recipe, tmp_path, say=lines.append)
    assert "  ferplus " in lines[1]
    seven, _ = load_checkpoint(tmp_path / BEST)
    eight, facts = load_checkpoint(tmp_path / BEST, FERPLUS)
    face = torch.zeros(1, 48, 48, 1, dtype=torch.uint8)
    assert seven(face).shape == (1, 7)
    assert eight(face).shape == (1, 8)
    assert facts["label_set"] == "ferplus"


def test_frozen_blocks_stay_as_they_were_until_their_phase(tiny: Dataset, tmp_path: Path) -> None:
    phases = [
        {"epochs": 1, "learning_rate": 0.1, "train_from": "body.stage3"},
        {"epochs": 1, "learning_rate": 0.1, "layer_decay": 0.5},
    ]
    first = recipe_with(phases=phases[:1], average=0.0)
    both = recipe_with(phases=phases, average=0.0)
    fresh = recipe_with(phases=[{"epochs": 1, "learning_rate": 1e-30}], average=0.0)
    frozen = trained(tiny, first, tmp_path / "frozen")["state_dict"]
    thawed = trained(tiny, both, tmp_path / "thawed")["state_dict"]
    start = trained(tiny, fresh, tmp_path / "start")["state_dict"]
    for name in start:
        learns = name.startswith(("network.body.stage3", "network.heads"))
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            if not learns:  # not even its statistics move
                assert torch.equal(frozen[name], torch.zeros_like(frozen[name])) or (
                    name.endswith("var")
                    and torch.equal(frozen[name], torch.ones_like(frozen[name]))
                )
        elif name.endswith("weight") and start[name].ndim > 1:
            assert torch.equal(frozen[name], start[name]) != learns, name
            assert not torch.equal(thawed[name], frozen[name]), name


def test_a_phase_that_begins_nowhere_is_refused(tiny: Dataset, tmp_path: Path) -> None:
    recipe = recipe_with(phases=[{"epochs": 1, "learning_rate": 0.1, "train_from": "layer9"}])
    with pytest.raises(SettingsError, match=r"'layer9' begins no parameter.*body\.stem, .*heads"):
        fit(tiny, recipe, tmp_path, say=quiet)


def test_a_plateau_lowers_the_rate_and_patience_ends_the_run(tiny: Dataset, tmp_path: Path) -> None:
    recipe = recipe_with(
        optimizer={"name": "adam", "weight_decay": 0.0, "gradient_clip": 1.0},
        schedule={"kind": "plateau", "factor": 0.5, "patience": 0, "lowest": 1e-4},
        phases=[{"epochs": 30, "learning_rate": 1e-2}],
        choose_by="loss",
        patience=3,
        average=0.0,
        class_weights="balanced",
    )
    content = trained(tiny, recipe, tmp_path)

    rate, best, since = 1e-2, float("inf"), 0
    losses = [row["public_loss"] for row in content["history"]]
    for loss in losses:
        rate = rate if loss < best * (1 - 1e-4) else max(rate / 2, 1e-4)
        since = 0 if loss < best else since + 1
        best = min(best, loss)
    assert since == 3, "it stopped three epochs after its best"
    assert len(losses) < 30
    rates = {group["lr"] for group in content["optimizer_states"][0]["param_groups"]}
    assert rates == {rate}
    assert rate < 1e-2


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


def test_a_run_whose_loss_is_no_number_ends_and_keeps_what_was_good(
    tiny: Dataset, tmp_path: Path
) -> None:
    phases = [
        {"epochs": 1, "learning_rate": 1e-3},
        {"epochs": 3, "learning_rate": 1e30},
    ]
    with pytest.raises(SettingsError, match=r"epoch 2 is no longer a number.*learning_rate"):
        fit(tiny, recipe_with(phases=phases, average=0.0), tmp_path, say=quiet)
    assert [row["epoch"] for row in load_checkpoint(tmp_path / BEST)[1]["history"]] == [1]
    assert torch.load(tmp_path / LAST, weights_only=True)["epoch"] == 0


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


def test_a_folder_that_cannot_be_written_is_named(tiny: Dataset) -> None:
    with pytest.raises(SettingsError, match="cannot write to the folder /proc/1"):
        fit(tiny, RECIPE, Path("/proc/1"), say=quiet)


def test_weight_decay_of_what_is_not_there(tiny: Dataset, tmp_path: Path) -> None:
    recipe = recipe_with(optimizer={"weight_decay_of": {"body.blok2": 0.02}})
    with pytest.raises(SettingsError, match=r"weight_decay_of: 'body\.blok2' begins no parameter"):
        fit(tiny, recipe, tmp_path, say=quiet)


def test_the_average_begins_near_the_weights_and_slows_down() -> None:
    def part(steps: int) -> float:
        """How much of the way to 1 the average goes at one step."""
        averaged = [torch.zeros(1), torch.zeros(2)]
        _move(0.99, averaged, [torch.ones(1), torch.ones(2)], torch.tensor(steps))
        return averaged[1][0].item()

    assert part(1) == pytest.approx(9 / 11)
    assert part(21) == pytest.approx(9 / 31)
    assert part(5000) == pytest.approx(0.01)
    counters = [torch.tensor(3)]
    _move(0.99, counters, [torch.tensor(7)], torch.tensor(5))
    assert counters[0] == 7


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


def test_the_rate_warms_up_and_ends_at_zero_in_each_phase() -> None:
    phases = [
        {"epochs": 10, "learning_rate": 0.4},
        {"epochs": 20, "learning_rate": 0.2, "layer_decay": 0.5},
    ]
    recipe = recipe_with(phases=phases, schedule={"kind": "cosine", "warm_up_epochs": 2.0})
    rates = [rate_at(recipe, step / 10, 0) for step in range(301)]
    assert rates[10] == pytest.approx(0.2)
    assert max(rates) == rates[20] == pytest.approx(0.4)
    assert all(later < earlier for earlier, later in pairwise(rates[20:100]))
    assert rates[99] < 0.001
    assert max(rates[100:]) == rates[120] == pytest.approx(0.2)
    assert rates[300] == pytest.approx(0)
    assert rate_at(recipe, 12.0, 3) == pytest.approx(0.2 / 8)
