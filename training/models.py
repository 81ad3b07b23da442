"""The networks: grey faces as float (N, 1, S, S) in 0..1 go in, logits (N, labels) come out.

A network is a body, which gives features (N, D), and one linear head for each label set.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

from training.recipe import (
    Model,
    OriginalCnnModel,
    ResNet50Model,
    SmallCnnModel,
    Vgg16Model,
)
from worker.errors import ModelError

# Mean and standard deviation of the pixels of FER2013's Training split, in 0..1.
_MEAN, _DEVIATION = 0.508, 0.255
# What torchvision's ImageNet weights expect of red, green and blue.
_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


Blocks = list[tuple[str, nn.Module]]
Weights = dict[str, Tensor]


class Normalise(nn.Module):
    """(N, 1, S, S) in 0..1 -> (N, C, S, S): grey repeated, less each mean, over each deviation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        shape = (1, len(mean), 1, 1)
        self.register_buffer("mean", torch.tensor(mean).reshape(shape), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).reshape(shape), persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        return (faces - self.mean) / self.deviation


class ConvBlock(nn.Sequential):
    """3 x 3 convolution, batch normalisation, ReLU; the size of the picture stays."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """x + ConvBlock(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = ConvBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.block(x)
        return out


class Average(nn.Module):
    """(N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def small_cnn(model: SmallCnnModel) -> Blocks:
    """A stem, then three stages of convolution and residual convolution, each after a halving.

    At 44 x 44 pixels: 0.89 million parameters, 59.5 million multiply-adds. The pictures are halved
    right after the stem: at full size the same multiply-adds buy fewer channels.
    """
    stages: Blocks = [("stem", ConvBlock(1, model.widths[0]))]
    for number, (before, after) in enumerate(pairwise(model.widths), 1):
        stages.append(
            (
                f"stage{number}",
                nn.Sequential(nn.MaxPool2d(2), ConvBlock(before, after), Residual(after)),
            )
        )
    normalise = Normalise((_MEAN,), (_DEVIATION,))
    return [("normalise", normalise), *stages]


def original_cnn() -> Blocks:
    """The original notebook's custom CNN up to its dense layer; in Keras' order of layers."""

    def conv(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]

    def block(*layers: nn.Module) -> nn.Module:
        return nn.Sequential(*layers)

    half = nn.MaxPool2d(2)
    return [
        ("normalise", Normalise((_MEAN,), (_DEVIATION,))),
        ("block1", block(*conv(1, 64), *conv(64, 64), half, nn.BatchNorm2d(64))),
        ("block2", block(*conv(64, 128), *conv(128, 128), nn.BatchNorm2d(128), half)),
        ("block3", block(*conv(128, 256), half)),
        ("block4", block(*conv(256, 256), half, nn.BatchNorm2d(256))),
        # At 48 pixels 3 x 3 are left here, and then 1 x 1.
        ("block5", block(*conv(256, 512), half)),
        ("block6", block(*conv(512, 512), nn.BatchNorm2d(512))),
    ]


def vgg16(model: Vgg16Model, weights: Weights | None, colour: bool) -> Blocks:
    """torchvision's VGG16 features, in its five blocks."""
    from torchvision.models import vgg16 as plain
    from torchvision.models import vgg16_bn

    whole = (vgg16_bn if model.batch_norm else plain)(weights=None)
    _load(whole, weights, "vgg16")
    if not colour:
        whole.features[0] = nn.Conv2d(1, 64, 3, padding=1)
    layers = list(whole.features)
    if model.top == "pool":
        layers.pop()  # the average takes the last max-pool's place
    blocks: list[list[nn.Module]] = [[]]
    for layer in layers:
        blocks[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d) and len(blocks) < 5:
            blocks.append([])
    named = [(f"block{n}", nn.Sequential(*block)) for n, block in enumerate(blocks, 1)]
    return [("normalise", _normalise(colour)), *named]


def resnet50(model: ResNet50Model, weights: Weights | None, colour: bool) -> Blocks:
    """torchvision's ResNet50 features; the stem can be one that keeps more of a small picture."""
    from torchvision.models import resnet50 as plain
    from torchvision.models.resnet import Bottleneck

    whole = plain(weights=None)
    _load(whole, weights, "resnet50")
    channels = 3 if colour else 1
    if model.stem == "3x3":
        whole.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    elif not colour:
        whole.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    stem: list[nn.Module] = [whole.conv1, whole.bn1, whole.relu]
    if model.stem == "imagenet":
        stem.append(whole.maxpool)
    elif model.stem == "deep":
        first = [ConvBlock(channels, 32), nn.MaxPool2d(2)]
        stem = [*first, ConvBlock(32, 64), ConvBlock(64, 64), nn.MaxPool2d(2)]
    if model.zero_residual:
        for module in whole.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
    layers = [(f"layer{n}", getattr(whole, f"layer{n}")) for n in (1, 2, 3, 4)]
    return [("normalise", _normalise(colour)), ("stem", nn.Sequential(*stem)), *layers]


def _load(network: nn.Module, weights: Weights | None, name: str) -> None:
    if weights is None:
        return
    own = network.state_dict()
    # Files from before PyTorch 0.4.1, as torchvision's VGG16 with batch norm, do not count batches.
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    weights = {**counters, **weights}
    wanted = {key: value.shape for key, value in own.items()}
    for key in [*wanted, *weights]:
        if key not in weights or key not in wanted or weights[key].shape != wanted[key]:
            raise ModelError(
                f"the weights are not those of torchvision's {name}: {key} is "
                + (
                    "missing"
                    if key not in weights
                    else "unknown"
                    if key not in wanted
                    else "of another shape"
                )
            )
    network.load_state_dict(weights)


def _normalise(colour: bool) -> Normalise:
    if colour:
        return Normalise(_IMAGENET_MEAN, _IMAGENET_DEVIATION)
    return Normalise((_MEAN,), (_DEVIATION,))


def _top(model: Model, channels: int, size: int) -> nn.Module:
    """(N, channels, size, size) -> (N, D): an average, or the dense layers of the original."""
    flat = channels * size * size
    match model:
        case OriginalCnnModel():
            return nn.Sequential(nn.Flatten(), *_dense(flat, 1024))
        case Vgg16Model(top="dense"):
            first, second = _dense(flat, 1024), _dense(1024, 512)
            return nn.Sequential(nn.Flatten(), *first, nn.Dropout(0.5), *second, nn.Dropout(0.5))
        case ResNet50Model(top="dense"):
            before = (nn.Dropout(0.25), nn.BatchNorm2d(channels), nn.Flatten())
            return nn.Sequential(
                *before, *_dense(flat, 1024), nn.Dropout(0.3), nn.BatchNorm1d(1024)
            )
        case SmallCnnModel():
            return Average()
        case _:
            return nn.Sequential(Average(), nn.Dropout(model.dropout))


def _dense(before: int, after: int) -> tuple[nn.Module, nn.Module]:
    return nn.Linear(before, after), nn.ReLU(inplace=True)


class Network(nn.Module):
    """A body of named blocks, in the order in which a picture passes them, and heads after it."""

    def __init__(
        self,
        model: Model,
        heads: dict[str, int],
        crop: int,
        weights: Weights | None = None,
        colour: bool | None = None,
    ) -> None:
        """``heads``: number of labels by name of label set; ``crop``: the side S of its pictures.

        ``weights`` is torchvision's state dict for a network that has one, None for random values.
        ``colour``: the grey is repeated to three channels and normalised as ImageNet was; by
        default where there are weights.

        Raises:
            ModelError: ``weights`` are those of another network.
        """
        super().__init__()
        colour = weights is not None if colour is None else colour
        match model:
            case SmallCnnModel():
                blocks = small_cnn(model)
            case OriginalCnnModel():
                blocks = original_cnn()
            case Vgg16Model():
                blocks = vgg16(model, weights, colour)
            case ResNet50Model():
                blocks = resnet50(model, weights, colour)
        self.body = nn.Sequential(OrderedDict(blocks))
        _, channels, size, _ = _shape(self.body, crop)
        self.body.add_module("top", _top(model, channels, size))
        features = _shape(self.body, crop)[1]
        self.heads = nn.ModuleDict({name: nn.Linear(features, n) for name, n in heads.items()})
        for name, block in self.body.named_children():
            if weights is None or name == "top":
                block.apply(_he_normal)

    def forward(self, faces: Tensor) -> Tensor:
        """Logits of all heads side by side, in their order: (N, sum of labels)."""
        features = self.body(faces)
        return torch.cat([head(features) for head in self.heads.values()], 1)

    def logits(self, faces: Tensor, label_set: str) -> Tensor:
        """Of one head: (N, labels)."""
        logits: Tensor = self.heads[label_set](self.body(faces))
        return logits

    def depth_below_output(self, parameter: str) -> int:
        """How many blocks lie between a parameter and the output: 0 for the heads' own."""
        place, _, rest = parameter.partition(".")
        if place == "heads":
            return 0
        owners = (name.partition(".")[0] for name, _ in self.body.named_parameters())
        blocks = list(dict.fromkeys(owners))
        return len(blocks) - blocks.index(rest.partition(".")[0])


def _shape(body: nn.Module, crop: int) -> tuple[int, ...]:
    """Of what a body makes of one picture."""
    body.eval()
    with torch.no_grad():
        shape = tuple(body(torch.zeros(1, 1, crop, crop)).shape)
    body.train()
    return shape


def _he_normal(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        out = isinstance(module, nn.Conv2d)
        nn.init.kaiming_normal_(
            module.weight, mode="fan_out" if out else "fan_in", nonlinearity="relu"
        )


_SPREAD = 1 / 12
"""Part of a pixel that each neighbour along an axis gets; see ``as_trained``."""


def as_trained(faces: Tensor, size: int) -> Tensor:
    """The middle ``size`` x ``size`` pixels of (N, C, H, W), no sharper than in training.

    There each picture is read at places between its pixels (``training.augment``): at a part f of
    the way to the next one that is (1 - f, f), which spreads a pixel with variance f (1 - f). For
    all f alike that is 1/6 on average, as of (1/12, 10/12, 1/12) here.
    """
    padded = nn.functional.pad(faces, (1, 1, 1, 1), mode="replicate")
    rows = padded[:, :, 1:-1].lerp((padded[:, :, :-2] + padded[:, :, 2:]) / 2, 2 * _SPREAD)
    faces = rows[..., 1:-1].lerp((rows[..., :-2] + rows[..., 2:]) / 2, 2 * _SPREAD)
    top, left = (faces.shape[2] - size) // 2, (faces.shape[3] - size) // 2
    return faces[:, :, top : top + size, left : left + size]


class Predictor(nn.Module):
    """What is exported: uint8 (N, 48, 48, 1) in, probabilities (N, labels) of one head out.

    Crop, sharpness, scaling, temperature and softmax are inside, so that serving cannot get them
    wrong.
    """

    temperature: Tensor

    def __init__(self, network: Network, label_set: str, crop: int, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.label_set = label_set
        self.crop = crop
        self.register_buffer("temperature", torch.tensor(temperature))

    def logits(self, faces: Tensor) -> Tensor:
        picture = faces.permute(0, 3, 1, 2).to(torch.float32) / 255
        return self.network.logits(as_trained(picture, self.crop), self.label_set)

    def forward(self, faces: Tensor) -> Tensor:
        return torch.softmax(self.logits(faces) / self.temperature, dim=1)
