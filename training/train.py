"""Fit a network on FER2013's Training split; the epoch is chosen on PublicTest.

PrivateTest is not touched here: ``mien evaluate`` reads it, once, for the final model.
"""

from __future__ import annotations

import logging
import math
import pickle
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from training.augment import augment, mixup
from training.batches import Batches, seeded
from training.data import LABELS, Fer2013
from training.models import MODELS, centre_crop
from training.recipe import Recipe
from worker.errors import DataError, ModelError, SettingsError

LAST, BEST = "last.ckpt", "best.ckpt"


class Experiment(pl.LightningModule):
    """One recipe as Lightning wants it."""

    def __init__(self, recipe: Recipe, steps: int) -> None:
        """``steps`` is the length of an epoch in batches."""
        super().__init__()
        # Plain values only: a checkpoint says what it is, and opens without running any code.
        self.save_hyperparameters({"recipe": asdict(recipe), "labels": list(LABELS)})
        self.recipe = recipe
        self.steps = steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = MODELS[recipe.model](len(LABELS))
        self.network.to(memory_format=torch.channels_last)
        self.random = torch.Generator()

    def on_train_epoch_start(self) -> None:
        # Another stream than the shuffle's, or the two would repeat each other.
        self.random = seeded(self.recipe.seed + 1, self.current_epoch, self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        faces, labels = batch
        settings = self.recipe.augmentation
        pictures = augment(faces, settings, self.random)
        targets = nn.functional.one_hot(labels, len(LABELS)).float()
        pictures, targets = mixup(pictures, targets, settings.mixup, self.random)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        loss = nn.functional.cross_entropy(self.network(pictures).float(), targets)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        faces, labels = batch
        pictures = centre_crop(faces.float() / 255, self.recipe.augmentation.crop)
        logits = self.network(pictures).float()
        size = len(labels)
        self.log("public_loss", nn.functional.cross_entropy(logits, labels), batch_size=size)
        self.log("public_accuracy", (logits.argmax(1) == labels).float().mean(), batch_size=size)

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        weights = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        optimizer = torch.optim.SGD(
            [
                {"params": weights, "weight_decay": recipe.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: rate(
                step, int(recipe.warm_up_epochs * self.steps), recipe.epochs * self.steps
            ),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate(step: int, warm_up: int, total: int) -> float:
    """The part of the highest learning rate that step ``step`` of ``total`` uses, 0..1."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, total - warm_up))))


class EpochLines(pl.Callback):
    """One line an epoch, for people and for log files."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._began = monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        figures = trainer.callback_metrics
        self._say(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            f"  train loss {figures['train_loss']:.4f}"
            f"  PublicTest loss {figures['public_loss']:.4f}"
            f"  accuracy {100 * figures['public_accuracy']:.2f} %"
            f"  {monotonic() - self._began:.0f} s"
        )


def fit(
    data: Fer2013,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Train, and return the checkpoint of the epoch that was best on PublicTest.

    ``out`` receives ``last.ckpt`` (each epoch, for ``resume``), ``best.ckpt`` and ``logs/``.

    Raises:
        SettingsError: ``out`` holds a run already and ``resume`` is off; or it holds none to
            resume, or one of another recipe (only the number of epochs may change); or it
            cannot be written.
        DataError: a label has no pictures in Training or in PublicTest.
        ModelError: the checkpoint to resume from is corrupt.
    """
    _check_labels(data)
    last = out / LAST
    if last.exists() and not resume:
        raise SettingsError(
            f"{out} already holds a run: continue it with --resume, or choose another --out"
        )
    if resume:
        _check_same_recipe(last, recipe)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot write to the folder {out}: {error.strerror}") from None

    faces, labels = (torch.from_numpy(part) for part in data.split("Training"))
    public_faces, public_labels = (torch.from_numpy(part) for part in data.split("PublicTest"))
    trainer = _trainer(recipe, out, say, progress)
    batches = Batches(
        faces[:, None],
        labels,
        recipe.batch_size,
        lambda: seeded(recipe.seed, trainer.current_epoch),
    )
    with warnings.catch_warnings():
        # Lightning 2.6 calls what torch has renamed since.
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
        # What a resumed run finds there is its own.
        warnings.filterwarnings("ignore", message=".*exists and is not empty")
        trainer.fit(
            Experiment(recipe, len(batches)),
            train_dataloaders=batches,
            val_dataloaders=Batches(public_faces[:, None], public_labels, 512),
            ckpt_path=last if resume else None,
        )
    return out / BEST


def _trainer(recipe: Recipe, out: Path, say: Callable[[str], None], progress: bool) -> pl.Trainer:
    # Two, because Lightning's own save_last is refreshed only when the best one is.
    every_epoch: dict[str, Any] = {
        "dirpath": out,
        "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }
    last_one = ModelCheckpoint(filename=Path(LAST).stem, **every_epoch)
    best_one = ModelCheckpoint(
        filename=Path(BEST).stem, monitor="public_accuracy", mode="max", **every_epoch
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return pl.Trainer(
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if _has_bf16() else "32-true",
        max_epochs=recipe.epochs,
        callbacks=[EMAWeightAveraging(decay=recipe.average), EpochLines(say), best_one, last_one],
        logger=CSVLogger(out, name="logs"),
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )


def _check_labels(data: Fer2013) -> None:
    for split in ("Training", "PublicTest"):
        missing = set(range(len(LABELS))) - set(data.split(split)[1].tolist())
        if missing:
            names = ", ".join(LABELS[index] for index in sorted(missing))
            raise DataError(f"the data has no pictures of {names} in {split}")


def _check_same_recipe(checkpoint: Path, recipe: Recipe) -> None:
    """Refuse to go on with another recipe; only the number of epochs may change."""
    if not checkpoint.exists():
        raise SettingsError(f"there is no run to resume in {checkpoint.parent} (no {LAST})")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        before: dict[str, Any] = content["hyper_parameters"]["recipe"]
    except (OSError, pickle.UnpicklingError, EOFError, RuntimeError, KeyError) as error:
        raise ModelError(f"{checkpoint} is not a checkpoint of mien train: {error}") from None
    for key, value in asdict(recipe).items():
        if key != "epochs" and before.get(key) != value:
            raise SettingsError(
                f"the run in {checkpoint.parent} has {key} = {before.get(key)}, not {value}: "
                "resume it with its own settings, or choose another --out"
            )


def _has_bf16() -> bool:
    """Whether bfloat16 is fast here: in the GPU's or in the processor's own instructions."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())
