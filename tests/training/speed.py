"""How fast a training step is, with the deep layers' convolutions as matrix products and without.

    python -m tests.training.speed [vgg16] [resnet50] [--steps 8] [--threads 2]

Whole steps on random pictures, in bfloat16 on the CPU: augmentation, network, loss, gradients, SGD;
and looks without gradients, as at PublicTest. The two ways take turns, step by step. Printed:
medians, and what an epoch of FER2013 would take, its look at PublicTest included.
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

TRAINING, PUBLIC = 28_709, 3_589
"""Pictures in FER2013's splits."""


def stepper(name: str, *, quick: bool) -> Callable[[], tuple[float, float]]:
    """A function that takes one step and one look at as many pictures; returns their seconds."""
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

    def step() -> tuple[float, float]:
        network.train()
        began = time.perf_counter()
        pictures = augment(faces, recipe.augmentation, generator)
        pictures, mixed = mixup(pictures, targets, recipe.augmentation.mixup, generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(pictures.contiguous(memory_format=torch.channels_last))
        loss = -(logits.float().log_softmax(1) * mixed).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stepped = time.perf_counter()
        network.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            network(pictures.contiguous(memory_format=torch.channels_last))
        return stepped - began, time.perf_counter() - stepped

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
        turns = [(*plain(), *quick()) for _ in range(arguments.steps + 2)][2:]
        medians = [statistics.median(some) for some in zip(*turns, strict=True)]
        size = read_recipe(find_config(name)).batch_size
        for way, step, look in (
            ("the library's convolutions", *medians[:2]),
            ("matrix products", *medians[2:]),
        ):
            epoch = (TRAINING * step + PUBLIC * look) / size
            print(
                f"{name}, {way}: a step {1000 * step:.0f} ms, a look {1000 * look:.0f} ms, "
                f"an epoch {epoch:.0f} s"
            )


if __name__ == "__main__":
    main()
