from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the training extra")

from tests.training.recipes import recipe_with  # noqa: E402
from tests.training.runs import epochs_of, quiet, trained  # noqa: E402
from training.augment import augment, mixup  # noqa: E402
from training.average import _move  # noqa: E402
from training.batches import Batches  # noqa: E402
from training.checkpoint import BEST, LAST, load_checkpoint  # noqa: E402
from training.data import FER2013, FERPLUS, Dataset, read_data  # noqa: E402
from training.experiment import rate_at  # noqa: E402
from training.recipe import Augmentation  # noqa: E402
from training.targets import examples  # noqa: E402
from training.train import fit  # noqa: E402
from worker.errors import DataError, SettingsError  # noqa: E402

RECIPE = recipe_with()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


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


def test_a_phase_may_have_an_augmentation_of_its_own(
    tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def augmented(faces: Any, settings: Augmentation, generator: Any) -> Any:
        seen.append(settings.erasing)
        return augment(faces, settings, generator)

    def mixed(faces: Any, targets: Any, alpha: float, generator: Any) -> Any:
        seen.append(alpha)
        return mixup(faces, targets, alpha, generator)

    monkeypatch.setattr("training.experiment.augment", augmented)
    monkeypatch.setattr("training.experiment.mixup", mixed)
    phases = [
        {"epochs": 1, "learning_rate": 1e-3},
        {"epochs": 1, "learning_rate": 1e-3, "augmentation": {"erasing": 0.0, "mixup": 0.0}},
        {"epochs": 1, "learning_rate": 1e-3},
    ]
    trained(tiny, recipe_with(phases=phases, augmentation={"erasing": 0.5}), tmp_path)
    each = len(seen) // 6
    assert each > 1
    assert seen == [0.5, 0.2] * each + [0.0, 0.0] * each + [0.5, 0.2] * each


@pytest.mark.parametrize("average", [0.999, 0.0])
def test_a_phase_learns_what_the_network_said_when_it_began(
    average: float,
    tiny_csv: Path,
    tiny_votes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both heads; the moving average, where there is one."""
    seen: list[tuple[Any, Any]] = []

    def kept(faces: Any, targets: Any, *_rest: Any) -> Any:
        seen.append((faces, targets))
        return faces, targets

    monkeypatch.setattr("training.experiment.augment", lambda faces, *_: faces.float() / 255)
    monkeypatch.setattr("training.experiment.mixup", kept)
    phases = [
        {"epochs": 2, "learning_rate": 0.3},
        {"epochs": 1, "learning_rate": 1e-2, "self_distillation": 0.75},
        {"epochs": 1, "learning_rate": 1e-2},
    ]
    data = read_data(tiny_csv, tiny_votes)
    whole = {
        "augmentation": {"crop": 48}, "batch_size": 42, "auxiliary_weight": 1.0, "average": average,
    }  # fmt: skip
    trained(data, recipe_with(phases=phases[:1], **whole), tmp_path)
    # With the average, where there is one, and not the last step's weights.
    teachers = [load_checkpoint(tmp_path / LAST, labels)[0] for labels in (FER2013, FERPLUS)]
    trained(data, recipe_with(phases=phases, **whole), tmp_path, resume=True)

    training = data.split("Training")
    targets = examples(data, recipe_with(**whole)).targets
    plain = dict(zip(map(bytes, training.images), targets, strict=True))
    assert len(seen) == 4
    for epoch, (faces, targets) in enumerate(seen, 1):
        images = (faces * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        expected = torch.stack([plain[bytes(image.numpy())] for image in images])
        if epoch == 3:
            with torch.no_grad():
                views = images, images.flip(2)
                said = [sum(teacher(view) for view in views) / 2 for teacher in teachers]
            expected = expected.lerp(torch.cat(said, 1), 0.75)
        # In bf16, where the processor has it.
        assert torch.allclose(targets, expected, atol=0.005), epoch


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


def test_adamw_shrinks_weights_by_their_size_and_adam_by_its_steps(
    tiny: Dataset, tmp_path: Path
) -> None:
    def size(name: str, decay: float, clip: float = 0.0) -> float:
        optimizer = {"name": name, "weight_decay": decay, "gradient_clip": clip}
        phases = [{"epochs": 2, "learning_rate": 1e-3}]
        recipe = recipe_with(optimizer=optimizer, phases=phases, average=0.0)
        state = trained(tiny, recipe, tmp_path / f"{name}-{decay}-{clip}")["state_dict"]
        return float(state["network.body.stage3.1.0.weight"].norm())

    # Six steps whose rates add up to 0.003: no step of Adam's takes more than its rate from a
    # weight (of 0.03, most of them), one of AdamW's takes up to half of the weight.
    plain = size("adamw", 0.0)
    assert size("adamw", 500.0) < 0.5 * plain
    assert size("adamw", 500.0, clip=0.1) < 0.5 * plain
    assert size("adam", 500.0) > 0.8 * size("adam", 0.0)


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
