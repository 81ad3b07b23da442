"""ImageNet weights: torchvision's own download, or a file of the same form."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import torch

from training.models import Weights
from training.recipe import Recipe, ResNet50Model, Vgg16Model
from worker.errors import ModelError, SettingsError

NONE = "none"
"""How a result says that a network was trained from random values."""


def load_weights(recipe: Recipe) -> tuple[Weights | None, str]:
    """torchvision's state dict, or None to begin at random; and where it is from, for the record.

    Raises:
        SettingsError: ``imagenet`` cannot be downloaded.
        ModelError: the file is missing, or holds no state dict.
    """
    model = recipe.model
    if not isinstance(model, Vgg16Model | ResNet50Model) or model.weights == "none":
        return None, NONE
    if model.weights == "imagenet":
        return _download(model)
    return _read(Path(model.weights))


def _download(model: Vgg16Model | ResNet50Model) -> tuple[Weights, str]:
    from torchvision import models

    choice: models.WeightsEnum
    if isinstance(model, ResNet50Model):
        choice = models.ResNet50_Weights.IMAGENET1K_V1
    elif model.batch_norm:
        choice = models.VGG16_BN_Weights.IMAGENET1K_V1
    else:
        choice = models.VGG16_Weights.IMAGENET1K_V1
    try:
        weights: Weights = choice.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise SettingsError(
            f"the ImageNet weights of {model.network} could not be downloaded ({reason}): "
            "give a file of them with --weights, or --weights none to train from random values"
        ) from None
    return weights, f"torchvision {choice}"


def _read(path: Path) -> tuple[Weights, str]:
    try:
        content = path.read_bytes()
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot read the weights {path}: {error.strerror}") from None
    except (pickle.UnpicklingError, EOFError, RuntimeError):
        raise ModelError(f"{path} holds no weights that torch can read") from None
    if not isinstance(weights, dict) or not all(
        isinstance(w, torch.Tensor) for w in weights.values()
    ):
        raise ModelError(f"{path} holds something else than a state dict of weights")
    return weights, f"file sha256:{hashlib.sha256(content).hexdigest()}"
