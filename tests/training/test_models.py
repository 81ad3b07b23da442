from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the training extra")

from training.data import Dataset  # noqa: E402
from training.models import Network, Normalise, Predictor, as_trained  # noqa: E402
from training.recipe import Model, OriginalCnnModel, ResNet50Model, SmallCnnModel, Vgg16Model  # noqa: E402  # noqa: E402

HEADS = {"fer2013": 7, "ferplus": 8}
SMALL = SmallCnnModel(network="small-cnn")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("model", "crop", "blocks"),
    [
        (SMALL, 44, 4),
        (OriginalCnnModel(network="original-cnn"), 48, 7),
        (Vgg16Model(network="vgg16", dropout=0.3), 44, 5),
        (Vgg16Model(network="vgg16", batch_norm=False, top="dense"), 48, 6),
        (ResNet50Model(network="resnet50", stem="3x3"), 32, 5),
        (ResNet50Model(network="resnet50", stem="7x7"), 44, 5),
        (ResNet50Model(network="resnet50", stem="deep", zero_residual=True), 44, 5),
        (ResNet50Model(network="resnet50", top="dense"), 48, 6),
    ],
    ids=lambda value: getattr(value, "network", None),
)
def test_every_network_answers_for_each_head(model: Model, crop: int, blocks: int) -> None:
    torch.manual_seed(0)
    network = Network(model, HEADS, crop).eval()
    faces = torch.rand(2, 1, crop, crop)
    with torch.no_grad():
        both = network(faces)
        assert both.shape == (2, 15)
        assert torch.equal(network.logits(faces, "ferplus"), both[:, 7:])
    assert both.std() > 0.01
    depths = [network.depth_below_output(name) for name, _ in network.named_parameters()]
    assert depths == sorted(depths, reverse=True)
    assert set(depths) == set(range(blocks + 1))


def test_the_small_network_keeps_its_budget() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    network = Network(SMALL, {"fer2013": 7}, 44).eval()
    assert sum(p.numel() for p in network.parameters()) <= 2_000_000
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, 44, 44))
    assert counter.get_total_flops() / 2 <= 60_000_000


def test_the_original_network_is_the_notebooks() -> None:
    network = Network(OriginalCnnModel(network="original-cnn"), {"fer2013": 7}, 48)
    widths = [m.out_channels for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert widths == [64, 64, 128, 128, 256, 256, 512, 512]
    dense = [m.out_features for m in network.modules() if isinstance(m, torch.nn.Linear)]
    assert dense == [1024, 7]


@pytest.mark.parametrize(
    ("stem", "left"), [("3x3", 44), ("7x7", 22), ("deep", 11), ("imagenet", 11)]
)
def test_a_stem_leaves_as_much_of_the_picture_as_it_says(stem: Any, left: int) -> None:
    network = Network(ResNet50Model(network="resnet50", stem=stem), HEADS, 44).eval()
    assert isinstance(network.body, torch.nn.Sequential)
    with torch.no_grad():
        assert network.body[:2](torch.zeros(1, 1, 44, 44)).shape == (1, 64, left, left)


def test_blocks_can_begin_as_their_shortcuts() -> None:
    def first(*, zero: bool) -> torch.nn.Module:
        torch.manual_seed(0)
        model = ResNet50Model(network="resnet50", stem="deep", zero_residual=zero)
        return Network(model, HEADS, 44).eval().body

    given = {1: 64, 2: 256, 3: 512, 4: 1024}
    for zero in (True, False):
        for layer, channels in given.items():
            blocks = list(first(zero=zero).get_submodule(f"layer{layer}").children())
            x = torch.rand(1, channels, 4, 4)
            with torch.no_grad():
                shortcut = blocks[0].get_submodule("downsample")(x).relu()
                assert torch.equal(blocks[0](x), shortcut) == zero
                assert all(torch.equal(block(shortcut), shortcut) == zero for block in blocks[1:])


def test_a_predictor_crops_scales_and_divides_by_its_temperature() -> None:
    network = Network(SMALL, HEADS, 44).eval()
    faces = torch.randint(0, 256, (3, 48, 48, 1), dtype=torch.uint8)
    predictor = Predictor(network, "ferplus", 44, 2.0).eval()
    with torch.no_grad():
        shown = as_trained(faces.permute(0, 3, 1, 2) / 255, 44)
        by_hand = network.logits(shown, "ferplus")
        assert torch.allclose(predictor(faces), torch.softmax(by_hand / 2, 1), atol=1e-6)


def test_the_networks_constants_are_the_datas(fer2013: Dataset) -> None:
    images = fer2013.split("Training").images
    normalise = next(m for m in Network(SMALL, HEADS, 44).modules() if isinstance(m, Normalise))
    assert np.mean(images) / 255 == pytest.approx(normalise.mean.item(), abs=1e-3)
    deviation = np.std(images, dtype=np.float32) / 255
    assert deviation == pytest.approx(normalise.deviation.item(), abs=1e-3)


def test_the_network_learns_to_tell_seven_patterns_apart(tiny: Dataset) -> None:
    """A whole step by hand, without Lightning: the loss falls to almost nothing."""
    torch.manual_seed(0)
    network = Network(SMALL, {"fer2013": 7}, 44)
    training = tiny.split("Training")
    pictures = as_trained(torch.from_numpy(training.images)[:, None].float() / 255, 44)
    labels = torch.from_numpy(training.labels)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(network(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
