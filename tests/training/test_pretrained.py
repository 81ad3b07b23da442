"""The loading of ImageNet's weights, on files of that form made here: no download happens."""

from __future__ import annotations

import urllib.error
from collections import OrderedDict
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the training extra")

from tests.training.recipes import recipe_with  # noqa: E402
from training.models import Network, Normalise  # noqa: E402
from training.pretrained import load_weights  # noqa: E402
from worker.errors import ModelError, SettingsError  # noqa: E402

HEADS = {"fer2013": 7}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "settings", "first", "deep", "old"),
    [
        (
            "vgg16", {"batch_norm": False}, "features.0.weight",
            ("features.28.weight", "block5.4"), False,
        ),
        # torchvision's own file is as old as that.
        ("vgg16_bn", {}, "features.0.weight", ("features.40.weight", "block5.6"), True),
        ("resnet50", {}, "conv1.weight", ("layer4.2.conv3.weight", "layer4.2.conv3"), False),
        ("resnet50", {}, "conv1.weight", ("layer4.2.conv3.weight", "layer4.2.conv3"), True),
    ],
)  # fmt: skip
def test_a_file_of_torchvisions_weights_is_what_the_network_begins_with(
    name: str,
    settings: dict[str, object],
    first: str,
    deep: tuple[str, str],
    old: bool,
    tmp_path: Path,
) -> None:
    """``old``: from before PyTorch 0.4.1, when no layer counted its batches."""
    from torchvision import models

    torch.manual_seed(5)
    original = getattr(models, name)(weights=None).state_dict()
    if old:
        original = OrderedDict(
            (key, value) for key, value in original.items() if "num_batches" not in key
        )
    path = tmp_path / "imagenet.pth"
    torch.save(original, path)
    model = {"network": name.removesuffix("_bn"), "weights": str(path), **settings}
    recipe = recipe_with(model=model)

    weights, origin = load_weights(recipe)
    network = Network(recipe.model, HEADS, 44, weights)

    assert origin.startswith("file sha256:")
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert torch.equal(convolutions[0].weight, original[first])
    assert torch.equal(network.body.get_submodule(deep[1]).weight, original[deep[0]])
    normalise = next(m for m in network.modules() if isinstance(m, Normalise))
    assert normalise.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert network.eval()(torch.rand(1, 1, 44, 44)).shape == (1, 7)


def test_weights_of_another_network_are_named() -> None:
    recipe = recipe_with(model={"network": "vgg16", "weights": "some.pth"})
    other = {"features.0.weight": torch.zeros(64, 3, 3, 3), "fc.weight": torch.zeros(1)}
    with pytest.raises(ModelError, match=r"not those of torchvision's vgg16: features\.0\.bias is"):
        Network(recipe.model, HEADS, 44, other)


def test_without_weights_nothing_is_called_pretrained() -> None:
    recipe = recipe_with(model={"network": "resnet50", "weights": "none"})
    assert load_weights(recipe) == (None, "none")
    assert load_weights(recipe_with()) == (None, "none")


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_arguments: object, **_options: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    recipe = recipe_with(model={"network": "vgg16", "weights": "imagenet"})
    with pytest.raises(SettingsError, match=r"vgg16 .*Name or service.*train best/vgg16"):
        load_weights(recipe)


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    def load(path: Path) -> None:
        load_weights(recipe_with(model={"network": "vgg16", "weights": str(path)}))

    with pytest.raises(ModelError, match=r"cannot read the weights .*none\.pth"):
        load(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ModelError, match="holds no weights that torch can read"):
        load(tmp_path / "text.pth")
    (tmp_path / "data.csv").write_text("emotion,pixels,Usage\n0,1 2 3,Training\n")
    with pytest.raises(ModelError, match="holds no weights that torch can read"):
        load(tmp_path / "data.csv")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="something else than a state dict"):
        load(tmp_path / "list.pth")
