"""How fast a training step is, with the deep layers' convolutions as matrix products and without.

    python -m tests.training.speed [vgg16] [resnet50] [--steps 8] [--threads 2]

Whole steps on random pictures, in bfloat16 on the CPU: augmentation, network, loss, gradients, SGD.
The two ways take turns, step by step. Printed: medians, and what an epoch of FER2013 would take.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from training.augment import augment, mixup
from training.convolution import quicken
from training.data import FER2013, FERPLUS
from training.models import Network
from training.recipe import find_config, read_recipe

TRAINING = 28_709
"""Pictures in FER2013's Training split."""


def stepper(name: str, *, quick: bool) -> Callable[[], float]:
    """A function that takes one step and returns its seconds."""
    recipe = read_recipe(find_config(name))
    heads = {one.name: len(one.labels) for one in (FER2013, FERPLUS)}
    torch.manual_seed(0)
    network = Network(recipe.model, heads, recipe.augmentation.crop)
    network.to(memory_format=torch.channels_last)
    if quick:
        quicken(network)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True)
    faces = torch.randint(0, 256, (recipe.batch_size, 1, 48, 48), dtype=torch.uint8)
    targets = torch.randn(recipe.batch_size, sum(heads.values())).softmax(1)
    generator = torch.Generator().manual_seed(0)

    def step() -> float:
        began = time.perf_counter()
        pictures = augment(faces, recipe.augmentation, generator)
        pictures, mixed = mixup(pictures, targets, recipe.augmentation.mixup, generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(pictures.contiguous(memory_format=torch.channels_last))
        loss = -(logits.float().log_softmax(1) * mixed).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.perf_counter() - began

    return step


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.training.speed")
    parser.add_argument("experiments", nargs="*", default=["vgg16", "resnet50"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.experiments:
        plain, quick = (stepper(name, quick=quick) for quick in (False, True))
        pairs = [(plain(), quick()) for _ in range(arguments.steps + 2)][2:]
        medians = [statistics.median(some) for some in zip(*pairs, strict=True)]
        size = read_recipe(find_config(name)).batch_size
        epochs = [TRAINING / size * seconds for seconds in medians]
        print(
            f"{name}: a step {1000 * medians[0]:.0f} ms with the library's convolutions, "
            f"{1000 * medians[1]:.0f} ms with matrix products ({medians[1] / medians[0]:.2f}); "
            f"an epoch {epochs[0]:.0f} and {epochs[1]:.0f} s"
        )


if __name__ == "__main__":
    main()
