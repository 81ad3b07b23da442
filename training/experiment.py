"""One recipe as Lightning wants it: the steps, the rates, what is frozen when."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from training.augment import augment, mixup
from training.average import MovingAverage
from training.batches import Batches, seeded
from training.convolution import quicken
from training.models import Network, Weights, as_trained
from training.pretrained import NONE
from training.recipe import Cosine, Phase, Recipe
from training.targets import NOT_COUNTED, Examples, label_sets
from worker.errors import SettingsError

_PUBLIC_BATCH = 512


class Experiment(pl.LightningModule):
    """Fits one network; PublicTest is looked at after each epoch."""

    def __init__(
        self,
        recipe: Recipe,
        data: Examples,
        provenance: dict[str, Any],
        weights: Weights | None = None,
    ) -> None:
        """``provenance`` says where data and weights are from; checkpoints keep it.

        Raises:
            SettingsError: the recipe names a parameter that the network has not.
            ModelError: ``weights`` are those of another network.
        """
        super().__init__()
        sets = label_sets(recipe)
        # Plain values only: a checkpoint says what it is, and opens without running any code.
        self.save_hyperparameters(
            {
                "recipe": recipe.model_dump(mode="json"),
                "labels": {one.name: list(one.labels) for one in sets},
                **provenance,
            }
        )
        self.recipe = recipe
        self.data = data
        self.history: list[dict[str, float]] = []
        heads = {one.name: len(one.labels) for one in sets}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.network = Network(
                recipe.model,
                heads,
                recipe.augmentation.crop,
                weights,
                # A resumed run brings its weights along, but not those that it once began with.
                colour=provenance["pretrained"] != NONE,
            )
        self.network.to(memory_format=torch.channels_last)
        quicken(self.network)
        for phase in recipe.phases:
            self._first_to_learn(phase)
        for start in recipe.optimizer.weight_decay_of:
            self._first_that_begins("optimizer.weight_decay_of", start)
        self.random = torch.Generator()
        self.plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None
        # The first epoch of a phase, and what the network itself said then, (N, sum of labels).
        self._own_word: tuple[int, Tensor] | None = None
        self._targets = torch.empty(0)
        # Of each head: its columns among the logits, its part of the loss, its classes' weights.
        self._columns = list(heads.values())
        self._parts = [1.0, recipe.auxiliary_weight][: len(heads)]
        for index, value in enumerate(torch.split(data.class_weights, self._columns)):
            self.register_buffer(f"class_weights_{index}", value, persistent=False)
        self.public_loss = MeanMetric(nan_strategy="disable")  # or it would leave them out
        self.public_accuracy = nn.ModuleList(
            MulticlassAccuracy(n, average="micro", ignore_index=NOT_COUNTED) for n in self._columns
        )

    def train_dataloader(self) -> Batches:
        # Here, and not before the fit: only now is it known which device this process has.
        # A copy: what the batches read is that of the phase.
        self._targets = self.data.targets.to(self.device, copy=True)
        return Batches(
            self.data.faces.to(self.device),
            self._targets,
            self.recipe.batch_size,
            lambda: seeded(self.recipe.seed, self.current_epoch),
            self.global_rank,
            self.trainer.world_size,
        )

    def val_dataloader(self) -> Batches:
        return Batches(
            self.data.public_faces.to(self.device),
            self.data.public_labels.to(self.device),
            _PUBLIC_BATCH,
            rank=self.global_rank,
            world=self.trainer.world_size,
        )

    def on_train_epoch_start(self) -> None:
        # Another stream than the shuffle's, or the two would repeat each other.
        stream = self.recipe.seed + 1 + 7919 * self.global_rank
        self.random = seeded(stream, self.current_epoch, self.device)
        # Dropout takes no generator: its own stream, too, begins anew with each epoch.
        torch.manual_seed(stream * 1_000_003 + self.current_epoch + 499_979)
        phase, first = self.recipe.phase_at(self.current_epoch)
        self._teach_itself(phase, first)
        self._freeze(phase)
        for group in self.trainer.optimizers[0].param_groups:
            if isinstance(self.recipe.schedule, Cosine):
                # A run that was to end where this phase begins left a rate of 0 for its first step.
                group["lr"] = rate_at(self.recipe, self.current_epoch, group["depth"])
            elif self.current_epoch == first:
                group["lr"] = _highest(phase, group["depth"])

    def _teach_itself(self, phase: Phase, first: int) -> None:
        """Put the targets of the phase, whose first epoch this is, where the batches read them."""
        self._targets.copy_(self.data.targets)
        if phase.self_distillation == 0:
            self._own_word = None
            return
        if self._own_word is None or self._own_word[0] != first:
            # The same for all processes, however each one's kernels round.
            said = self.trainer.strategy.broadcast(self._say(self.data.faces))
            self._own_word = first, said
        self._targets.lerp_(self._own_word[1].to(self.device), phase.self_distillation)

    @torch.no_grad()
    def _say(self, faces: Tensor) -> Tensor:
        """(N, 1, 48, 48) -> (N, sum of labels): the average's probabilities, of each head in turn.

        The mean over a picture and its mirror image.
        """
        average = next((c for c in self.trainer.callbacks if isinstance(c, MovingAverage)), None)  # type: ignore[attr-defined]
        said = []
        with (
            average.in_place(self) if average else nullcontext(),
            self.trainer.precision_plugin.forward_context(),
        ):
            self.network.eval()
            for part in torch.split(faces, _PUBLIC_BATCH):
                seen = self._whole(part.to(self.device))
                views = [
                    torch.cat(
                        [head.softmax(1) for head in self._split(self.network(view).float())], 1
                    )
                    for view in (seen, seen.flip(3))
                ]
                said.append(torch.stack(views).mean(0))
        return torch.cat(said)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        faces, targets = batch
        phase, _ = self.recipe.phase_at(self.current_epoch)
        settings = phase.augmentation or self.recipe.augmentation
        # Half precision would move the places where pixels are read by a tenth of a pixel.
        with torch.autocast(self.device.type, enabled=False):
            pictures = augment(faces, settings, self.random)
            pictures, targets = mixup(pictures, targets, settings.mixup, self.random)
        logits = self.network(pictures.contiguous(memory_format=torch.channels_last)).float()
        losses = [
            part * nn.functional.cross_entropy(head, target, self.get_buffer(f"class_weights_{i}"))
            for i, (head, target, part) in enumerate(
                zip(self._split(logits), self._split(targets), self._parts, strict=True)
            )
        ]
        self.log("train_loss", losses[0].detach(), on_step=False, on_epoch=True, sync_dist=True)
        return torch.stack(losses).sum()

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        faces, labels = batch
        if len(labels) == 0:  # the last batch may be smaller than the number of processes
            return
        pictures = self._whole(faces)
        logits = self._split(self.network(pictures).float())
        losses = nn.functional.cross_entropy(
            logits[0], labels[:, 0], ignore_index=NOT_COUNTED, reduction="none"
        )
        self.public_loss.update(losses, (labels[:, 0] != NOT_COUNTED).float())
        for head, truth, accuracy in zip(logits, labels.T, self.public_accuracy, strict=True):
            accuracy.update(head, truth)  # type: ignore[operator]

    def _whole(self, faces: Tensor) -> Tensor:
        """uint8 (N, 1, 48, 48) as the network sees them when nothing is changed at random."""
        return as_trained(faces.float() / 255, self.recipe.augmentation.crop)

    def on_validation_epoch_end(self) -> None:
        self.log("public_loss", self.public_loss)
        for index, name in enumerate(self.network.heads):
            key = "public_accuracy" if index == 0 else f"public_accuracy_{name}"
            self.log(key, self.public_accuracy[index])  # type: ignore[arg-type]

    def on_train_epoch_end(self) -> None:
        figures = self.trainer.callback_metrics
        keys = [key for key in figures if key.startswith(("train_loss", "public_"))]
        # Before the checkpoints of the epoch: those that there are keep what was good.
        if not all(math.isfinite(figures[key]) for key in keys):
            raise SettingsError(
                f"the loss of epoch {self.current_epoch + 1} is no longer a number: begin again "
                "with a lower phases.learning_rate"
            )
        self.history.append(
            {
                "epoch": self.current_epoch + 1,
                **{key: round(float(figures[key]), 6) for key in keys},
            }
        )

        # Lightning would do this only after the checkpoint of the epoch is written, and a resumed
        # run would miss a step.
        if self.plateau is not None:
            self.plateau.step(float(figures["public_loss"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = list(self.history)
        checkpoint["plateau"] = self.plateau.state_dict() if self.plateau else None
        checkpoint["own_word"] = self._own_word

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint["history"])
        self._plateau_state = checkpoint.get("plateau")
        self._own_word = checkpoint.get("own_word")

    def configure_optimizers(self) -> Any:
        settings = self.recipe.optimizer
        groups: dict[tuple[int, float], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            key = (self.network.depth_below_output(name), self._decay(name, parameter))
            groups.setdefault(key, []).append(parameter)
        depths = [depth for depth, _ in groups]
        parameters = [
            {"params": group, "weight_decay": decay, "depth": depth}
            for (depth, decay), group in groups.items()
        ]
        schedule = self.recipe.schedule
        # The cosine gives the rate itself, so its optimizer's own is 1.
        rate = 1.0 if isinstance(schedule, Cosine) else self.recipe.phases[0].learning_rate
        optimizer: torch.optim.Optimizer
        if settings.name == "sgd":
            nesterov = settings.momentum > 0
            optimizer = torch.optim.SGD(
                parameters, rate, momentum=settings.momentum, nesterov=nesterov
            )
        elif settings.name == "adam":
            optimizer = torch.optim.Adam(parameters, rate)
        else:
            # In one pass over the weights, which Lightning refuses where it is to clip.
            fused = None if settings.gradient_clip else True
            optimizer = torch.optim.AdamW(parameters, rate, fused=fused)
        if isinstance(schedule, Cosine):
            steps = len(self.data.targets) // min(self.recipe.batch_size, len(self.data.targets))
            each: list[Callable[[int], float]] = [
                partial(self._rate, steps, depth) for depth in depths
            ]
            scheduler = {"scheduler": LambdaLR(optimizer, each), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": scheduler}
        self.plateau = ReduceLROnPlateau(
            optimizer, factor=schedule.factor, patience=schedule.patience, min_lr=schedule.lowest
        )
        if self._plateau_state is not None:
            self.plateau.load_state_dict(self._plateau_state)
        return optimizer

    def _rate(self, steps: int, depth: int, step: int) -> float:
        return rate_at(self.recipe, step / steps, depth)

    def _decay(self, name: str, parameter: Tensor) -> float:
        for start, value in self.recipe.optimizer.weight_decay_of.items():
            if name.startswith(start):
                return value if parameter.ndim > 1 else 0.0
        return self.recipe.optimizer.weight_decay if parameter.ndim > 1 else 0.0

    def _split(self, columns: Tensor) -> tuple[Tensor, ...]:
        return torch.split(columns, self._columns, 1)

    def _first_to_learn(self, phase: Phase) -> int:
        if phase.train_from is None:
            return 0
        return self._first_that_begins("phases.train_from", phase.train_from)

    def _first_that_begins(self, setting: str, start: str) -> int:
        names = [name for name, _ in self.network.named_parameters()]
        for index, name in enumerate(names):
            if name.startswith(start):
                return index
        blocks = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
        raise SettingsError(
            f"{setting}: {start!r} begins no parameter of the network; its blocks are "
            f"{', '.join(blocks)}"
        )

    def _freeze(self, phase: Phase) -> None:
        """What is frozen keeps its statistics, too, and drops nothing out."""
        first = self._first_to_learn(phase)
        for index, parameter in enumerate(self.network.parameters()):
            parameter.requires_grad_(index >= first)
        self.network.train()
        for module in self.network.modules():
            own = list(module.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()


def rate_at(recipe: Recipe, epoch: float, depth: int) -> float:
    """The learning rate, ``epoch`` epochs (with fractions) into a run with a cosine schedule.

    ``depth`` is the number of blocks between a parameter and the output.
    """
    assert isinstance(recipe.schedule, Cosine)
    phase, first = recipe.phase_at(int(epoch))
    warm_up = min(recipe.schedule.warm_up_epochs, phase.epochs / 2)
    into = epoch - first
    if into < warm_up:
        part = max(into, 1e-2) / warm_up
    else:
        done = min(1.0, (into - warm_up) / (phase.epochs - warm_up))
        part = 0.5 * (1 + math.cos(math.pi * done))
    return part * _highest(phase, depth)


def _highest(phase: Phase, depth: int) -> float:
    return phase.learning_rate * phase.layer_decay**depth
