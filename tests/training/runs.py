"""Runs for tests, and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from training.checkpoint import LAST, open_checkpoint
from training.data import Dataset
from training.recipe import Recipe
from training.train import fit


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
