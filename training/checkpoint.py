"""What a run keeps: its checkpoints, opened without running any code of theirs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from training.data import LabelSet
from training.models import Network, Predictor
from training.recipe import Recipe, recipe_of
from worker.errors import ModelError, SettingsError

LAST, BEST = "last.ckpt", "best.ckpt"


def open_checkpoint(path: Path) -> dict[str, Any]:
    """All that Lightning wrote, on the CPU.

    Raises:
        ModelError: the file is missing, or is no checkpoint of ``mien train``.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        content["hyper_parameters"]["data_digest"]
    except OSError as error:
        raise ModelError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} is not a checkpoint of mien train: {_first_line(error)}"
        ) from None
    return content


def load_checkpoint(
    path: Path, label_set: LabelSet | None = None
) -> tuple[Predictor, dict[str, Any]]:
    """The network of a checkpoint at temperature 1, in evaluation mode, and how it was trained.

    ``label_set`` chooses one of its heads, None the one that it was trained for. The facts:
    ``recipe``, ``config_digest``, ``seed``, ``epoch``, ``label_set``, ``history`` (a row of figures
    an epoch), ``data_digest``, ``pretrained`` (where its first weights were from).

    Raises:
        ModelError: the file is missing, is no such checkpoint, or has no such head.
    """
    content = open_checkpoint(path)
    settings = content["hyper_parameters"]
    try:
        recipe = recipe_of(settings["recipe"], str(path))
        heads = {name: len(labels) for name, labels in settings["labels"].items()}
        network = _network(recipe, heads, content)
    except (RuntimeError, KeyError, TypeError, SettingsError) as error:
        raise ModelError(
            f"{path} is not a checkpoint of mien train: {_first_line(error)}"
        ) from None
    wanted = label_set.name if label_set else recipe.label_set
    if wanted not in heads:
        raise ModelError(
            f"the network of {path} has no head for {wanted}, it was trained on {', '.join(heads)}"
        )
    facts = {
        "recipe": recipe.model_dump(mode="json"),
        "config_digest": recipe.digest(),
        "seed": recipe.seed,
        "epoch": content["epoch"] + 1,
        "label_set": wanted,
        "history": content.get("history", []),
        "data_digest": settings["data_digest"],
        "pretrained": settings["pretrained"],
    }
    return Predictor(network, wanted, recipe.augmentation.crop, temperature=1.0).eval(), facts


def check_resumable(path: Path, recipe: Recipe, data_digest: str) -> None:
    """Refuse to go on with another recipe or other data; only numbers of epochs may change.

    Raises:
        SettingsError: there is nothing to resume, or something else differs; the text says what.
        ModelError: the checkpoint is corrupt.
    """
    if not path.exists():
        raise SettingsError(f"there is no run to resume in {path.parent} (no {path.name})")
    settings = open_checkpoint(path)["hyper_parameters"]
    before = recipe_of(settings["recipe"], str(path)).model_dump(mode="json")
    now = recipe.model_dump(mode="json")
    for values in (before, now):
        values["phases"] = [{**phase, "epochs": None} for phase in values["phases"]]
    for key, value in now.items():
        if before.get(key) != value:
            raise SettingsError(
                f"the run in {path.parent} has {key} = {before.get(key)}, not {value}: "
                "resume it with its own settings, or choose another --out"
            )
    if settings["data_digest"] != data_digest:
        raise SettingsError(f"the run in {path.parent} was begun on other data")


def _network(recipe: Recipe, heads: dict[str, int], content: dict[str, Any]) -> Network:
    prefix = "network."
    state = {
        key.removeprefix(prefix): value
        for key, value in content["state_dict"].items()
        if key.startswith(prefix)
    }
    # A network that began with ImageNet's weights has three channels, and normalises as they do.
    first = next(value for value in state.values() if value.ndim == 4)
    network = Network(recipe.model, heads, recipe.augmentation.crop, colour=first.shape[1] == 3)
    network.load_state_dict(state)
    return network


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
