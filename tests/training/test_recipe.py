from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.recipe import CONFIGS, find_config, read_recipe
from worker.errors import SettingsError

MINIMAL = """
[model]
network = "small-cnn"
[[phases]]
epochs = 3
learning_rate = 0.1
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.toml")), ids=lambda p: p.stem)
def test_every_config_of_the_package_can_be_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.epochs >= 10
    assert find_config(path.relative_to(CONFIGS).with_suffix("").as_posix()) == path


def test_a_bare_name_is_our_best_recipe() -> None:
    assert find_config("vgg16") == CONFIGS / "best" / "vgg16.toml"
    with pytest.raises(SettingsError, match=r"no experiment 'lstm'; known: best/cnn, .*reproduce/"):
        find_config("lstm")
    for name in ("../secret", "/etc/secret"):
        with pytest.raises(SettingsError, match=f"no experiment '{name}'"):
            find_config(name)
    with pytest.raises(SettingsError, match=r"mine\.toml is a file: give it with --config"):
        find_config("/home/me/mine.toml")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("epochs = 3", "epochs = 0"), r"phases\.0\.epochs: .*greater than or equal to 1"),
        (("epochs", "epoch"), r"phases\.0\.epochs: Field required"),
        (('"small-cnn"', '"lstm"'), r"model: .*'small-cnn', 'original-cnn', 'vgg16', 'resnet50'"),
        (("[model]", "batch = 3\n[model]"), r"batch: Extra inputs are not permitted"),
        (("[model]", "augmentation = {scale = [1.1, 0.9]}\n[model]"), r"smallest, largest"),
        (
            ("epochs = 3", "epochs = 3\naugmentation = {crop = 40}"),
            r"phases\.augmentation\.crop must be augmentation\.crop",
        ),
        (("epochs = 3", "epochs = 3\nself_distillation = 0.5"), "has nothing to teach itself"),
        (("[model]", 'schedule = {kind = "step"}\n[model]'), r"schedule: .*'cosine', 'plateau'"),
        (("[model]", "[model"), "is not TOML"),
        (
            ('"small-cnn"', '"resnet50"\nstem = "deep"\nweights = "imagenet"'),
            r"are for random first weights: for others there is transfer/resnet50",
        ),
        (('"small-cnn"', '"small-cnn"\nwidths = [0, 1, 2, 3]'), r"widths\.0: .*greater than or"),
        (
            ('"small-cnn"', '"vgg16"\n[[phases]]\nepochs=1\nlearning_rate=1\ntrain_from="heads"'),
            'freezes layers, which with weights = "none" have learnt nothing',
        ),
    ],
)
def test_a_mistake_is_named_with_its_file(
    tmp_path: Path, change: tuple[str, str], complaint: str
) -> None:
    path = written(tmp_path, MINIMAL.replace(*change))
    with pytest.raises(SettingsError, match=complaint) as raised:
        read_recipe(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the configuration .*none\.toml"):
        read_recipe(tmp_path / "none.toml")


def test_the_digest_is_of_the_values_and_not_of_the_seed(tmp_path: Path) -> None:
    plain = read_recipe(written(tmp_path, MINIMAL))
    spelt_out = read_recipe(written(tmp_path, "batch_size = 128 # as by default\n" + MINIMAL))
    other = read_recipe(written(tmp_path, "batch_size = 64\n" + MINIMAL))
    assert plain.digest() == spelt_out.digest() == plain.changed(seed=5).digest()
    assert other.digest() != plain.digest()
    assert "batch_size" in plain.model_dump(), "what is not said is known all the same"


def test_fewer_epochs_shorten_the_last_phases_first(tmp_path: Path) -> None:
    text = MINIMAL + "[[phases]]\nepochs = 10\nlearning_rate = 0.01\n"
    recipe = read_recipe(written(tmp_path, text))
    assert recipe.epochs == 13
    assert [phase.epochs for phase in recipe.changed(max_epochs=5).phases] == [3, 2]
    assert [phase.epochs for phase in recipe.changed(max_epochs=2).phases] == [2]
    assert recipe.changed(max_epochs=99) == recipe
    assert recipe.phase_at(2) == (recipe.phases[0], 0)
    assert recipe.phase_at(3) == (recipe.phases[1], 3)
    assert recipe.phase_at(13) == (recipe.phases[1], 3)


def test_weights_are_for_networks_that_have_some(tmp_path: Path) -> None:
    small = read_recipe(written(tmp_path, MINIMAL))
    with pytest.raises(SettingsError, match="small-cnn has no pretrained weights"):
        small.changed(weights="imagenet")
    big = read_recipe(written(tmp_path, MINIMAL.replace("small-cnn", "vgg16")))
    deep = read_recipe(find_config("resnet50"))
    with pytest.raises(SettingsError, match="for others there is transfer/resnet50"):
        deep.changed(weights="imagenet")
    frozen = read_recipe(find_config("reproduce/vgg16"))
    with pytest.raises(SettingsError, match="nothing without weights: train best/vgg16 instead"):
        frozen.changed(weights="none")
    assert big.changed(weights="file.pth").model.weights == "file.pth"  # type: ignore[union-attr]


@pytest.mark.parametrize(("report", "config"), [("best-cnn", "cnn"), ("best-ferplus", "cnn")])
def test_a_committed_result_is_of_the_committed_recipe(report: str, config: str) -> None:
    path = CONFIGS.parent / "results" / report / "report.json"
    model = json.loads(path.read_text())["model"]
    assert model["config_digest"] == read_recipe(find_config(config)).digest()
