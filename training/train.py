"""Fit a network on the Training split; the epoch is chosen on PublicTest.

PrivateTest is not touched here: ``mien evaluate --final`` reads it, for the final model.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from training.checkpoint import BEST, LAST, check_resumable
from training.data import Dataset
from training.experiment import Experiment
from training.pretrained import load_weights
from training.recipe import Recipe
from training.targets import examples
from worker.errors import ModelError, SettingsError

Say = Callable[[str], None]


class EpochLines(pl.Callback):
    """One line an epoch, for people and for log files."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._began = monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        figures = trainer.callback_metrics
        auxiliary = [
            f"  {key.removeprefix('public_accuracy_')} {100 * value:.2f} %"
            for key, value in figures.items()
            if key.startswith("public_accuracy_")
        ]
        self._say(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            f"  train loss {figures['train_loss']:.4f}"
            f"  PublicTest loss {figures['public_loss']:.4f}"
            f"  accuracy {100 * figures['public_accuracy']:.2f} %"
            f"{''.join(auxiliary)}"
            f"  {monotonic() - self._began:.0f} s"
        )


def fit(
    data: Dataset,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    progress: bool = False,
    devices: int = 1,
    nodes: int = 1,
    say: Say = print,
) -> Path | None:
    """Train, and return the checkpoint of the epoch that was best on PublicTest.

    Of several processes, all but the first return None.

    ``out`` receives ``last.ckpt`` (each epoch, for ``resume``), ``best.ckpt`` and ``logs/``.
    ``devices`` processes on each of ``nodes`` machines share each batch (Lightning's DDP; on more
    than one machine ``torchrun`` starts them).

    Raises:
        SettingsError: ``out`` holds a run already and ``resume`` is off; or it holds none to
            resume, or another one (only the number of epochs may change); or it cannot be written;
            or ImageNet's weights cannot be had.
        DataError: a label has no pictures in Training or in PublicTest, or votes are missing.
        ModelError: the checkpoint to resume from is corrupt, or the weights are another network's.
    """
    given = examples(data, recipe)
    last = out / LAST
    digest = data.digest()
    if resume:
        check_resumable(last, recipe, digest)
    elif last.exists():
        raise SettingsError(
            f"{out} already holds a run: continue it with --resume, or choose another --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot write to the folder {out}: {error.strerror}") from None

    weights, pretrained = load_weights(recipe)
    provenance = {"data_digest": digest, "pretrained": pretrained}
    try:
        experiment = Experiment(recipe, given, provenance, weights)
    except RuntimeError as error:
        raise ModelError(
            f"the weights are not those of {recipe.model.network}: {str(error).splitlines()[0]}"
        ) from None
    trainer = _trainer(recipe, out, say, progress, devices, nodes)
    with warnings.catch_warnings():
        # Lightning 2.6 calls what torch has renamed since.
        warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
        # What a resumed run finds there is its own.
        warnings.filterwarnings("ignore", message=".*exists and is not empty")
        trainer.fit(experiment, ckpt_path=last if resume else None)
    if not trainer.is_global_zero:
        return None
    _complete_history(out / BEST, experiment.history)
    return out / BEST


def _trainer(
    recipe: Recipe, out: Path, say: Say, progress: bool, devices: int, nodes: int
) -> pl.Trainer:
    monitor = f"public_{recipe.choose_by}"
    mode = "max" if recipe.choose_by == "accuracy" else "min"
    # Two, because Lightning's own save_last is refreshed only when the best one is.
    every_epoch: dict[str, Any] = {
        "dirpath": out,
        "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }
    callbacks: list[pl.Callback] = [
        EpochLines(say),
        ModelCheckpoint(filename=Path(BEST).stem, monitor=monitor, mode=mode, **every_epoch),
        ModelCheckpoint(filename=Path(LAST).stem, **every_epoch),
    ]
    if recipe.average:
        callbacks.insert(0, EMAWeightAveraging(decay=recipe.average))
    if recipe.patience:
        callbacks.append(
            EarlyStopping(
                monitor, mode=mode, patience=recipe.patience, check_on_train_epoch_end=True
            )
        )
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    strategy = "auto"
    if devices * nodes > 1:
        frozen = any(phase.train_from for phase in recipe.phases)
        strategy = "ddp_find_unused_parameters_true" if frozen else "ddp"
    return pl.Trainer(
        accelerator="auto",
        devices=devices,
        num_nodes=nodes,
        strategy=strategy,
        precision=_precision(),
        max_epochs=recipe.epochs,
        gradient_clip_val=recipe.optimizer.gradient_clip or None,
        callbacks=callbacks,
        logger=CSVLogger(out, name="logs"),
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        benchmark=True,
    )


def _complete_history(best: Path, history: list[dict[str, float]]) -> None:
    """The best epoch is seldom the last: its file gets the figures of those that came after it."""
    content = torch.load(best, map_location="cpu", weights_only=True)
    draft = best.with_suffix(".draft")
    torch.save({**content, "history": history}, draft)
    draft.replace(best)


def _precision() -> Any:
    """Mixed, where the GPU or the processor has instructions for it."""
    if torch.cuda.is_available():
        return (
            "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
        )
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"
