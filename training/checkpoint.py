"""What a run keeps: its checkpoints, opened without running any code of theirs."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from training.data import LabelSet
from training.models import Network, Predictor
from training.recipe import Recipe, recipe_of
from worker.errors import ModelError, SettingsError

LAST, BEST = "last.ckpt", "best.ckpt"

_NOTHING = 1e-30
"""A weight below this adds nothing to any sum here. Strong decay drives some on to where float32
has no full precision (1e-38), and there processors are some twenty times slower."""

# What torch.load raises on files that are not its own.
NOT_TORCHS = (
    pickle.UnpicklingError,
    EOFError,
    RuntimeError,
    LookupError,
    ValueError,
    AttributeError,
    TypeError,
)


def open_checkpoint(path: Path) -> dict[str, Any]:
    """All that Lightning wrote, on the CPU.

    Raises:
        ModelError: the file is missing, or is no checkpoint of ``mien train``.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        known = "data_digest" in content["hyper_parameters"] and "state_dict" in content
    except OSError as error:
        raise ModelError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    except NOT_TORCHS:
        known = False
    if not known:
        raise ModelError(f"{path} is not a checkpoint of mien train")
    return content


def load_checkpoint(
    path: Path, label_set: LabelSet | None = None
) -> tuple[Predictor, dict[str, Any]]:
    """The network of a checkpoint at temperature 1, in evaluation mode, and how it was trained.

    ``label_set`` chooses one of its heads, None the one that it was trained for. The facts:
    ``recipe``, ``config_digest``, ``seed``, ``epoch``, ``label_set``, ``history`` (a row of figures
    an epoch), ``data_digest``, ``pretrained`` (where its first weights were from), ``teachers``
    (digests of the models that it learned from), ``replanned`` (as the function gives it).

    Raises:
        ModelError: the file is missing, is no such checkpoint, or has no such head.
    """
    content = open_checkpoint(path)
    settings = content["hyper_parameters"]
    try:
        recipe = recipe_of(settings["recipe"], str(path))
        heads = {name: len(labels) for name, labels in settings["labels"].items()}
        network = _network(recipe, heads, content)
    except (*NOT_TORCHS, SettingsError) as error:
        raise ModelError(
            f"the checkpoint {path} contradicts itself: {_first_line(error)}"
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
        "teachers": settings.get("teachers", "").split(),
        "replanned": settings.get("replanned", []),
    }
    return Predictor(network, wanted, recipe.augmentation.crop, temperature=1.0).eval(), facts


def check_resumable(path: Path, recipe: Recipe, provenance: dict[str, Any]) -> None:
    """Refuse to go on with another recipe or other data.

    Only numbers of epochs may change, and phases that have not begun come or go.

    Raises:
        SettingsError: there is nothing to resume, or something else differs; the text says what.
        ModelError: the checkpoint is corrupt.
    """
    if not path.exists():
        raise SettingsError(f"there is no run to resume in {path.parent} (no {path.name})")
    content = open_checkpoint(path)
    settings = content["hyper_parameters"]
    begun = recipe_of(settings["recipe"], str(path))
    # A run that was limited to its first epochs knows nothing of the phases after them.
    phases = min(len(begun.phases), len(recipe.phases))
    before, now = _flat(begun, phases), _flat(recipe, phases)
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise SettingsError(
                f"the run in {path.parent} has {key} = {before.get(key)}, not {now.get(key)}: "
                "resume it with its own settings, or choose another --out"
            )
    for key, what in (("data_digest", "data"), ("votes_digest", "votes"), ("teachers", "teachers")):
        if settings.get(key, "") != provenance[key]:
            raise SettingsError(f"the run in {path.parent} was begun with other {what}")
    done = content["epoch"] + 1
    in_phase = len(_lengths(begun, done))
    if in_phase > len(recipe.phases):
        raise SettingsError(
            f"the run in {path.parent} has begun phase {in_phase}, and there are "
            f"only {len(recipe.phases)}: resume it with its own settings, or choose another --out"
        )
    if done > recipe.epochs:
        raise SettingsError(
            f"the run in {path.parent} has {done} epochs, more than {recipe.epochs}"
        )


def replanned(begun: dict[str, Any], recipe: Recipe) -> list[list[int]]:
    """How often a run's length was changed before it goes on with ``recipe``.

    A pair each time: how many epochs it had had, and how many it was to have until then. A schedule
    that was stretched or cut short is that of no recipe; phases that begin only where it goes on
    leave it as it was.
    """
    settings = begun["hyper_parameters"]
    before = recipe_of(settings["recipe"], "the checkpoint")
    pairs: list[list[int]] = list(settings.get("replanned", []))
    done = begun["epoch"] + 1
    changed = _lengths(before, done) != _lengths(recipe, done)
    return [*pairs, [done, before.epochs]] if changed else pairs


def _lengths(recipe: Recipe, done: int) -> list[int]:
    """The epochs of the phases that the first ``done`` epochs have begun."""
    lengths = [phase.epochs for phase in recipe.phases]
    return [n for index, n in enumerate(lengths) if sum(lengths[:index]) < done]


def _flat(recipe: Recipe, phases: int) -> dict[str, Any]:
    """``augmentation.crop`` -> 44 and so on, without the numbers of epochs."""

    def walk(name: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(f"{name}.{key}" if name else key, inner)
        else:
            yield name, value

    values = recipe.model_dump(mode="json")
    values["phases"] = {
        str(index): {**phase, "epochs": None}
        for index, phase in enumerate(values["phases"][:phases])
    }
    return dict(walk("", values))


def _network(recipe: Recipe, heads: dict[str, int], content: dict[str, Any]) -> Network:
    prefix = "network."
    state = {
        key.removeprefix(prefix): value
        for key, value in content["state_dict"].items()
        if key.startswith(prefix)
    }
    # A network that began with ImageNet's weights has three channels, and normalises as they do.
    first = next((value for value in state.values() if value.ndim == 4), None)
    if first is None:
        raise ValueError("it has no weights")
    network = Network(recipe.model, heads, recipe.augmentation.crop, colour=first.shape[1] == 3)
    network.load_state_dict(state)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[parameter.abs() < _NOTHING] = 0
    return network


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
