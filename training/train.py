"""Fit a network on the Training split; the epoch is chosen on PublicTest.

PrivateTest is not touched here: ``mien evaluate --final`` reads it, for the final model.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from training.average import MovingAverage
from training.checkpoint import BEST, LAST, check_resumable, open_checkpoint, replanned
from training.data import Dataset
from training.experiment import Experiment
from training.pretrained import load_weights
from training.recipe import Recipe
from training.targets import examples
from worker.errors import SettingsError

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
            resume, or another one (see ``check_resumable``); or it cannot be written;
            or ImageNet's weights cannot be had.
        DataError: a label has no pictures in Training or in PublicTest, or votes are missing.
        ModelError: the checkpoint to resume from is corrupt, or the weights are another network's.
    """
    _check_processes(recipe, devices, nodes)
    given = examples(data, recipe)
    weights, pretrained = (None, "") if resume else load_weights(recipe)
    provenance: dict[str, Any] = {
        "data_digest": data.digest(),
        "votes_digest": data.votes_digest() if recipe.needs_votes else "",
        "teachers": " ".join(given.teachers),
        "pretrained": pretrained,
        "replanned": [],
    }
    last, best = out / LAST, out / BEST
    if resume:
        check_resumable(last, recipe, provenance)
        begun = open_checkpoint(last)
        provenance["pretrained"] = begun["hyper_parameters"]["pretrained"]
        provenance["replanned"] = replanned(begun, recipe)
        if not best.exists():
            raise SettingsError(f"{out} has no {BEST}, which an earlier epoch may have been")
        if recipe.patience is not None and _waited(begun) >= recipe.patience:
            say(f"the run in {out} has ended: {recipe.patience} epochs brought nothing better")
            return best
    elif last.exists():
        raise SettingsError(
            f"{out} already holds a run: continue it with --resume, or choose another --out"
        )
    _make_writable(out)

    experiment = Experiment(recipe, given, provenance, weights)
    trainer = _trainer(recipe, out, say, progress, devices, nodes)
    if trainer.is_global_zero:
        say(
            f"{recipe.model.network}, first weights: {provenance['pretrained']}; "
            f"{len(given.faces)} pictures of Training, {len(given.public_faces)} of PublicTest; "
            f"{trainer.strategy.root_device.type}, {trainer.precision}"
        )
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 calls what torch has renamed since.
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
            # What a resumed run finds there is its own.
            warnings.filterwarnings("ignore", message=".*exists and is not empty")
            trainer.fit(experiment, ckpt_path=last if resume else None)
    except OSError as error:
        raise SettingsError(f"cannot write to the folder {out}: {error.strerror}") from None
    finally:
        if trainer.interrupted and last.exists():
            say(f"interrupted; go on with --resume --out {out}")
        if trainer.is_global_zero and best.exists():
            try:
                _complete_history(best, experiment.history)
            except (OSError, RuntimeError):
                say(f"cannot write the figures of the epochs after it into {best}")
    return best if trainer.is_global_zero else None


def _check_processes(recipe: Recipe, devices: int, nodes: int) -> None:
    """Refuse to train as many networks as there are processes, or to wait for ones that never come.

    Raises:
        SettingsError: torchrun and the arguments disagree, or a batch cannot be shared out evenly.
    """
    wanted = devices * nodes
    if "TORCHELASTIC_RUN_ID" in os.environ:
        started = int(os.environ["WORLD_SIZE"])
        if started != wanted:
            raise SettingsError(
                f"torchrun started {started} processes, --devices times --nodes makes {wanted}"
            )
    elif nodes > 1:
        raise SettingsError("--nodes is for runs that torchrun starts: see mien train --help")
    if recipe.batch_size % wanted:
        raise SettingsError(
            f"batch_size = {recipe.batch_size} cannot be shared evenly by {wanted} processes"
        )


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SettingsError(f"cannot write to the folder {out}: {error.strerror}") from None


def _waited(checkpoint: dict[str, Any]) -> int:
    """For how many epochs early stopping had seen nothing better."""
    states = checkpoint["callbacks"].items()
    return next((state["wait_count"] for key, state in states if "EarlyStopping" in key), 0)


class _Kept(ModelCheckpoint):
    """Remembers what was best, also where the folder of the run was moved meanwhile."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {key: here(state_dict[key]) for key in paths}
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": scores, "dirpath": self.dirpath}
        )


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
        _Kept(filename=Path(BEST).stem, monitor=monitor, mode=mode, **every_epoch),
        _Kept(filename=Path(LAST).stem, **every_epoch),
    ]
    if recipe.average:
        callbacks.insert(0, MovingAverage(recipe.average))
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
    if len(history) <= len(content["history"]):
        return  # a run that failed before it had resumed knows of no epoch
    draft = best.with_suffix(".draft")
    try:
        torch.save({**content, "history": history}, draft)
        draft.replace(best)
    finally:
        draft.unlink(missing_ok=True)


def _precision() -> Any:
    """Mixed, where the GPU or the processor has instructions for it."""
    if torch.cuda.is_available():
        return (
            "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
        )
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"
