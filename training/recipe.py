"""What a training run is told: one TOML file, typed, and rejected early.

``mien train NAME`` reads ``training/configs/NAME.toml``; a bare name means ``best/``. A recipe's
digest stands for everything in it, so that a result names what made it.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.errors import SettingsError

CONFIGS = Path(__file__).with_name("configs")

Part = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Width = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Unknown keys are mistakes, and nothing changes after it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Augmentation(Settings):
    """How far the random changes may go. The crop is the size of the pictures that come out."""

    crop: int = Field(default=44, ge=32, le=48)
    rotation: float = Field(default=12.0, ge=0, le=180)
    """Degrees, either way."""
    translation: Part = 0.10
    """Part of the picture's side, either way, in both directions."""
    scale: tuple[Positive, Positive] = (0.85, 1.10)
    """The face's size against its size in the data."""
    shear: float = Field(default=0.0, ge=0, lt=45)
    """Degrees, either way: rows slide along the horizontal."""
    brightness: Part = 0.2
    """Added to all pixels, either way, where white is 1."""
    contrast: Part = 0.25
    """Factor 1 - contrast to 1 + contrast, around the picture's mean."""
    blur: float = Field(default=0.0, ge=0, le=1)
    """Part of the pictures that are blurred, by a Gaussian of up to 2 pixels of deviation: small
    faces in a video, and those that move."""
    erasing: float = Field(default=0.3, ge=0, le=1)
    """Part of the pictures in which a rectangle is replaced by one random grey."""
    mixup: float = Field(default=0.2, ge=0, le=2)
    """Parameter of the Beta distribution that mixes pictures in pairs; 0 does not mix."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale must be (smallest, largest)")
        return self


class SmallCnnModel(Settings):
    network: Literal["small-cnn"]
    widths: tuple[Width, Width, Width, Width] = (32, 56, 112, 224)


class OriginalCnnModel(Settings):
    network: Literal["original-cnn"]


class PretrainedModel(Settings):
    """A torchvision network; what follows its features is our own."""

    weights: str = "none"
    """``imagenet`` (torchvision downloads them), ``none``, or a file with torchvision's own."""
    top: Literal["pool", "dense"] = "pool"
    """``pool``: global average, dropout. ``dense``: the layers of the original experiment."""
    dropout: Part = 0.0
    """Before the last layer, with ``pool``."""


class Vgg16Model(PretrainedModel):
    network: Literal["vgg16"]
    batch_norm: bool = True


class ResNet50Model(PretrainedModel):
    network: Literal["resnet50"]
    stem: Literal["imagenet", "7x7", "3x3", "deep"] = "imagenet"
    """``imagenet``: 7 x 7 convolution of stride 2 and max-pool, a quarter of the side is left;
    ``7x7``: without the max-pool, a half; ``3x3``: 3 x 3 of stride 1, without it: all of it;
    ``deep``: a quarter, after 3 x 3 convolutions of stride 1 before each of two max-pools."""
    zero_residual: bool = False
    """Each block begins as its shortcut alone: the last scale of what it adds to that is 0 (Goyal
    et al. 2017)."""

    @model_validator(mode="after")
    def _pretrained_fits(self) -> Self:
        if self.weights != "none" and (self.stem == "deep" or self.zero_residual):
            raise ValueError(
                'the stem "deep" and zero_residual are for random first weights: for others there '
                "is transfer/resnet50"
            )
        return self


Model = Annotated[
    SmallCnnModel | OriginalCnnModel | Vgg16Model | ResNet50Model, Field(discriminator="network")
]


class Optimizer(Settings):
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """SGD with Nesterov momentum, Adam, or Adam with a weight decay of its own."""
    momentum: Part = 0.9
    weight_decay: float = Field(default=5e-4, ge=0)
    """Not on biases and normalisation. With ``adam`` it is coupled: Keras' L2 of half as much; with
    ``adamw`` weights shrink by this part of the learning rate, whatever their gradients, and a
    value a hundred times as high is usual."""
    weight_decay_of: dict[str, NotNegative] = {}
    """Other values for the parameters whose names start so."""
    gradient_clip: float = Field(default=0.0, ge=0)
    """The longest that the gradient may be, by its 2-norm; 0 does not clip."""


class Cosine(Settings):
    """A linear warm-up, then a half cosine to 0, in each phase."""

    kind: Literal["cosine"]
    warm_up_epochs: float = Field(default=2.0, ge=0)


class Plateau(Settings):
    """The rate falls when PublicTest's loss has not for a while."""

    kind: Literal["plateau"]
    factor: float = Field(default=0.5, gt=0, lt=1)
    patience: int = Field(default=2, ge=0)
    lowest: float = Field(default=1e-6, ge=0)


class Phase(Settings):
    """A part of the run. Transfer learning has two: a frozen body, then deeper layers as well."""

    epochs: int = Field(ge=1)
    learning_rate: Positive
    """The highest, of the layers nearest to the output."""
    train_from: str | None = None
    """Start of the name of the first parameter that learns; all before it are frozen."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each block further from the output learns at this part of the next one's rate."""
    augmentation: Augmentation | None = None
    """In place of the recipe's: what is left out has its default, not the recipe's value. The crop
    must be the recipe's."""
    self_distillation: float = Field(default=0.0, ge=0, le=1)
    """Part of each target that is what the network itself, the moving average, said of the picture
    and its mirror image when the phase began (born-again networks, Furlanello et al. 2018); of
    pictures whose voters could not tell, all there is. Not in the first phase."""


class Distillation(Settings):
    """A part of each target is what other models say of the picture and its mirror image."""

    teachers: tuple[str, ...] = Field(min_length=1)
    """Files of ``mien export``, or ``shipped``, which is the worker's own model as it is now; their
    probabilities are averaged."""
    weight: float = Field(gt=0, le=1)


class Recipe(Settings):
    """Everything that a run's result depends on, besides the data and the machine."""

    model: Model
    label_set: Literal["fer2013", "ferplus"] = "fer2013"
    """What the network is for, and what its epoch is chosen by."""
    auxiliary_weight: float = Field(default=0.0, ge=0)
    """Weight of the loss of a second head, which learns the other label set; 0 has no such head."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    batch_size: int = Field(default=128, ge=2)
    """Of all processes together."""
    augmentation: Augmentation = Augmentation()
    optimizer: Optimizer = Optimizer()
    schedule: Annotated[Cosine | Plateau, Field(discriminator="kind")] = Cosine(kind="cosine")
    phases: tuple[Phase, ...] = Field(min_length=1)
    label_smoothing: Part = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: each class's loss is weighted by N / (classes x its pictures)."""
    average: Part = 0.999
    """Decay of the moving average of the weights, a step; it is the average that is evaluated. 0
    does not average."""
    choose_by: Literal["accuracy", "loss"] = "accuracy"
    """What on PublicTest chooses the epoch that is kept, and stops the run early."""
    patience: int | None = Field(default=None, ge=1)
    """Epochs without a better one after which the run stops; None runs to the end."""
    distillation: Distillation | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for phase in self.phases:
            if phase.augmentation and phase.augmentation.crop != self.augmentation.crop:
                raise ValueError("phases.augmentation.crop must be augmentation.crop")
        if self.phases[0].self_distillation:
            raise ValueError("before the first phase the network has nothing to teach itself")
        random = isinstance(self.model, PretrainedModel) and self.model.weights == "none"
        if random and any(phase.train_from for phase in self.phases):
            raise ValueError(
                'phases.train_from freezes layers, which with weights = "none" have learnt nothing'
            )
        return self

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def phase_at(self, epoch: int) -> tuple[Phase, int]:
        """The phase of an epoch (from 0), and the phase's own first epoch."""
        first = 0
        for phase in self.phases:
            if epoch < first + phase.epochs:
                return phase, first
            first += phase.epochs
        return self.phases[-1], first - self.phases[-1].epochs

    @property
    def needs_votes(self) -> bool:
        return self.label_set == "ferplus" or self.auxiliary_weight > 0

    def changed(
        self,
        *,
        seed: int | None = None,
        weights: str | None = None,
        max_epochs: int | None = None,
    ) -> Recipe:
        """The same with what the command line says; None leaves a value as it is.

        Raises:
            SettingsError: the network has no weights to begin with, or cannot do without.
        """
        changes: dict[str, Any] = {}
        if seed is not None:
            changes["seed"] = seed
        if weights is not None:
            if not isinstance(self.model, PretrainedModel):
                raise SettingsError(
                    f"{self.model.network} has no pretrained weights: leave --weights"
                )
            values = {**self.model.model_dump(), "weights": weights}
            try:
                changes["model"] = type(self.model).model_validate(values)
            except ValidationError as error:
                raise SettingsError(_first(error)[1]) from None
            if weights == "none" and any(phase.train_from for phase in self.phases):
                raise SettingsError(
                    f"this experiment freezes layers of {self.model.network}, which have learnt "
                    f"nothing without weights: train best/{self.model.network} instead"
                )
        if max_epochs is not None:
            changes["phases"] = _limited(self.phases, max_epochs)
        return self.model_copy(update=changes)

    def digest(self) -> str:
        """SHA-256 over all values but the seed, 64 hex digits; a default counts as left out.

        So a setting that is added later changes no digest of before, as long as it is not used.
        """
        values = self.model_dump(mode="json", exclude={"seed"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _limited(phases: tuple[Phase, ...], epochs: int) -> tuple[Phase, ...]:
    """So many epochs at most; the last phases are the first to be shortened."""
    kept: list[Phase] = []
    for phase in phases:
        if epochs > 0:
            kept.append(phase.model_copy(update={"epochs": min(phase.epochs, epochs)}))
            epochs -= phase.epochs
    return tuple(kept)


def find_config(name: str) -> Path:
    """``cnn`` -> best/cnn.toml, ``reproduce/cnn`` -> that one, in the package.

    Raises:
        SettingsError: there is none of this name; the text lists those that there are.
    """
    if name.endswith(".toml"):
        raise SettingsError(f"{name} is a file: give it with --config")
    path = CONFIGS / (f"{name}.toml" if "/" in name else f"best/{name}.toml")
    known = sorted(
        p.relative_to(CONFIGS).with_suffix("").as_posix() for p in CONFIGS.rglob("*.toml")
    )
    if (name if "/" in name else f"best/{name}") not in known:
        raise SettingsError(f"there is no experiment {name!r}; known: {', '.join(known)}")
    return path


def read_recipe(path: Path) -> Recipe:
    """Read one TOML file; paths in it are relative to the working directory.

    Raises:
        SettingsError: it is missing, no TOML, or a value is wrong; the text names the file and it.
    """
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None
    return recipe_of(values, str(path))


def recipe_of(values: dict[str, Any], where: str) -> Recipe:
    """Check plain values, as TOML or a checkpoint holds them."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        field, why = _first(error)
        raise SettingsError(f"{where}: {field}: {why}") from None


def _first(error: ValidationError) -> tuple[str, str]:
    """Which value is wrong, and why."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "the whole"
    return field, first["msg"].removeprefix("Value error, ")
