"""The networks: grey faces as float (N, 1, S, S) in 0..1 go in, logits (N, labels) come out."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

# Mean and standard deviation of the pixels of FER2013's Training split, in 0..1.
_MEAN, _DEVIATION = 0.508, 0.255


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


class SmallCnn(nn.Module):
    """A stem, then three stages of convolution and residual convolution, each after a halving.

    At 44 x 44 pixels: 0.89 million parameters, 59.5 million multiply-adds. The pictures are halved
    right after the stem: at full size the same multiply-adds buy fewer channels.
    """

    def __init__(self, labels: int, widths: tuple[int, int, int, int] = (32, 56, 112, 224)) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvBlock(1, widths[0])]
        for before, after in pairwise(widths):
            layers += [nn.MaxPool2d(2), ConvBlock(before, after), Residual(after)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], labels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, faces: Tensor) -> Tensor:
        features = self.features((faces - _MEAN) / _DEVIATION)
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


MODELS: dict[str, type[SmallCnn]] = {"cnn": SmallCnn}


def centre_crop(faces: Tensor, size: int) -> Tensor:
    """The middle ``size`` x ``size`` pixels of (N, C, H, W)."""
    top, left = (faces.shape[2] - size) // 2, (faces.shape[3] - size) // 2
    return faces[:, :, top : top + size, left : left + size]


class Predictor(nn.Module):
    """What is exported: uint8 (N, 48, 48, 1) in, probabilities (N, labels) out.

    Crop, scaling, temperature and softmax are inside, so that serving cannot get them wrong.
    """

    temperature: Tensor

    def __init__(self, network: nn.Module, crop: int, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.crop = crop
        self.register_buffer("temperature", torch.tensor(temperature))

    def logits(self, faces: Tensor) -> Tensor:
        picture = faces.permute(0, 3, 1, 2).to(torch.float32) / 255
        logits: Tensor = self.network(centre_crop(picture, self.crop))
        return logits

    def forward(self, faces: Tensor) -> Tensor:
        return torch.softmax(self.logits(faces) / self.temperature, dim=1)
