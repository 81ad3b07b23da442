"""``mien train``, ``mien evaluate`` and ``mien export``, as the command line finds them.

torch is imported inside the functions: ``mien --help`` must not wait for it, and an install without
the training extra must say so in one sentence.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from training.data import SPLITS, Fer2013, read_fer2013
from worker.errors import SettingsError

Data = Annotated[
    Path, typer.Option("--data", help="fer2013.csv of Kaggle, or a zip that holds it.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Processor threads; default: all cores.")
]


class Split(StrEnum):
    PUBLIC = "PublicTest"
    PRIVATE = "PrivateTest"
    ALL = "all"


def train(
    model: Annotated[str, typer.Argument(help="Which network; for now: cnn.")],
    data: Data,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for checkpoints; default: runs/MODEL.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 80,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2)] = 128,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    threads: Threads = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last whole epoch in --out.")
    ] = False,
) -> None:
    """Train a network on FER2013: fit on Training, choose the epoch on PublicTest.

    Example: mien train cnn --data fer2013.csv.zip --epochs 60 --out runs/cnn
    """
    with _needs_training_extra("train"):
        import torch

        from training.models import MODELS
        from training.recipe import Recipe
        from training.train import fit
    if model not in MODELS:
        raise SettingsError(f"there is no model {model!r}; known: {', '.join(MODELS)}")
    if threads:
        torch.set_num_threads(threads)
    recipe = Recipe(model=model, epochs=epochs, batch_size=batch_size, seed=seed)
    best = fit(
        _read(data),
        recipe,
        out or Path("runs") / model,
        resume=resume,
        progress=sys.stderr.isatty(),
        say=typer.echo,
    )
    typer.echo(f"the best epoch on PublicTest is in {best}; next: mien export --checkpoint {best}")


def evaluate(
    data: Data,
    model: Annotated[
        Path | None, typer.Option("--model", help="An ONNX file; default: the one mien ships.")
    ] = None,
    split: Annotated[
        Split, typer.Option("--split", help="PrivateTest is for final models only.")
    ] = Split.ALL,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    threads: Threads = None,
) -> None:
    """Measure a model file on FER2013's PublicTest and PrivateTest.

    Accuracy with its 95 % interval, macro-F1, negative log-likelihood, calibration error, figures
    of each class, confusion matrix; PrivateTest also without the pictures that Training holds.

    Example: mien evaluate --model model.onnx --data fer2013.csv.zip
    """
    from training.evaluate import evaluate_splits, table
    from worker.emotion.classifier import load_classifier

    classifier = load_classifier(model, threads=threads or os.cpu_count() or 1)
    splits = SPLITS[1:] if split is Split.ALL else (split.value,)
    found = evaluate_splits(classifier, _read(data), splits, _tracked)
    if as_json:
        info = classifier.info
        typer.echo(
            json.dumps(
                {
                    "model": {"name": info.name, "version": info.version, "digest": info.digest},
                    "splits": {name: figures.as_dict() for name, figures in found.items()},
                }
            )
        )
        return
    for name, figures in found.items():
        typer.echo(table(name, figures) + "\n")


def export(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="best.ckpt of a run.")],
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The ONNX file to write.")] = Path(
        "model.onnx"
    ),
    name: Annotated[str, typer.Option("--name", help="The model's name in events.")] = "mien-cnn",
    version: Annotated[str, typer.Option("--version", help="And its version.")] = "1",
) -> None:
    """Turn a checkpoint into the ONNX file that workers run.

    The temperature is chosen on PublicTest, and the file is checked against PyTorch there.

    Example: mien export --checkpoint runs/cnn/best.ckpt --data fer2013.csv.zip --out model.onnx
    """
    with _needs_training_extra("export"):
        from training.export import export as export_checkpoint

    fer = _read(data)
    with Console(stderr=True).status("exporting and checking"):
        figures = export_checkpoint(checkpoint, fer, out, name=name, version=version)
    typer.echo(
        f"{out}: {out.stat().st_size / 1e6:.2f} MB, {100 * figures.accuracy:.2f} % on PublicTest, "
        f"NLL {figures.nll:.4f}, ECE {figures.ece:.4f}"
    )


@contextmanager
def _needs_training_extra(command: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("training", "worker"):
            raise
        raise SettingsError(
            f"mien {command} needs the training extra: pip install 'mien[training]'"
        ) from None


def _read(path: Path) -> Fer2013:
    with Console(stderr=True).status(f"reading {path.name}"):
        return read_fer2013(path)


def _tracked(chunks: range) -> Iterable[int]:
    return track(chunks, "classifying", console=Console(stderr=True), transient=True)
