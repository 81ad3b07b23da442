"""``mien train``, ``mien evaluate`` and ``mien export``, as the command line finds them.

torch is imported inside the functions: ``mien --help`` must not wait for it, and an install without
the training extra must say so in one sentence.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from training.data import FER2013, FERPLUS, Dataset, read_data
from worker.errors import SettingsError

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        envvar="MIEN_FER2013",
        help="fer2013.csv of Kaggle, a zip that holds it, or a folder with train/ and test/.",
    ),
]
Votes = Annotated[
    Path | None,
    typer.Option("--votes", envvar="MIEN_FERPLUS", help="fer2013new.csv, the votes of FER+."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Processor threads; default: all cores.")
]


class Labels(StrEnum):
    FER2013 = "fer2013"
    FERPLUS = "ferplus"


class Precision(StrEnum):
    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


def train(
    data: Data,
    experiment: Annotated[
        str | None,
        typer.Argument(help="cnn, vgg16, resnet50 (our best recipe), or reproduce/cnn and so on."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="Or a recipe of your own, in TOML, like those in training/configs."
        ),
    ] = None,
    votes: Votes = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for checkpoints; default: runs/ and the recipe's name."),
    ] = None,
    max_epochs: Annotated[
        int | None,
        typer.Option(
            "--max-epochs",
            min=1,
            help="Fewer epochs; the schedule shrinks. --resume with more goes on.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Another random seed.")] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="For vgg16 and resnet50: imagenet, none, or a file."),
    ] = None,
    devices: Annotated[
        int, typer.Option("--devices", min=1, help="GPUs, or processes on a CPU, of each machine.")
    ] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines.")] = 1,
    threads: Threads = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last whole epoch in --out.")
    ] = False,
) -> None:
    """Train a network: fit on Training, choose the epoch on PublicTest.

    The recipes of best/ and transfer/ also learn from FER+'s votes, and need --votes.

    Example: mien train cnn --data fer2013.csv.zip --votes fer2013new.csv

    Four GPUs: mien train vgg16 --devices 4 ...

    Two machines with four each, on both of them:

    \b
        torchrun --nnodes 2 --nproc-per-node 4 \\
            --rdzv-backend c10d --rdzv-endpoint HOST:PORT --no-python \\
            mien train vgg16 --nodes 2 --devices 4 ...
    """
    with _needs_training_extra("train"):
        import torch

        from training.recipe import find_config, read_recipe
        from training.train import fit
    if (experiment is None) == (config is None):
        raise SettingsError("name one experiment (mien train cnn), or a file with --config")
    path = config or find_config(experiment or "")
    recipe = read_recipe(path).changed(seed=seed, weights=weights, max_epochs=max_epochs)
    if threads:
        torch.set_num_threads(threads)
    best = fit(
        _read(data, votes if recipe.needs_votes else None),
        recipe,
        out or Path("runs") / _run_name(path, experiment, seed),
        resume=resume,
        progress=sys.stderr.isatty(),
        devices=devices,
        nodes=nodes,
        say=typer.echo,
    )
    if best is not None:
        typer.echo(
            f"the best epoch on PublicTest is in {best}; next: mien export --checkpoint {best}"
        )


def _run_name(path: Path, experiment: str | None, seed: int | None) -> str:
    """best-cnn; of a file of one's own its name; and another seed is another run."""
    name = f"{path.parent.name}-{path.stem}" if experiment else path.stem
    return name if seed is None else f"{name}-seed{seed}"


def evaluate(
    data: Data,
    model: Annotated[
        Path | None, typer.Option("--model", help="An ONNX file; default: what a worker runs here.")
    ] = None,
    votes: Votes = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for report.json and report.html; measures more."),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample", min=1, help="With --out: so many pictures behind the simulated detector."
        ),
    ] = None,
    final: Annotated[
        bool,
        typer.Option("--final", help="PrivateTest too. For final models: the ledger keeps count."),
    ] = False,
    ledger: Annotated[
        Path | None,
        typer.Option("--ledger", help="With --final: another ledger than the source tree's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    threads: Threads = None,
) -> None:
    """Measure a model file on PublicTest, by the path that serves it.

    Accuracy with its 95 % interval, macro-F1, negative log-likelihood, calibration error, figures
    of each class, confusion matrix. With --out also mirrored and ten-crop averages, what a
    detector's errors cost, and a page to look at. With --final also PrivateTest, without the
    pictures that Training holds, and with them.

    Example: mien evaluate --model model.onnx --data fer2013.csv.zip --out report
    """
    from training.evaluation import (
        LEDGER,
        as_dict,
        describe,
        label_set_of,
        measure_robustness,
        write_report,
    )
    from training.evaluation import evaluate as measure
    from worker.emotion.classifier import load_classifier

    if ledger is not None and not final:
        raise SettingsError("--ledger is for --final: nothing is written without it")
    classifier = load_classifier(model, threads=threads or os.cpu_count() or 1)
    wanted = votes if label_set_of(classifier) == FERPLUS else None
    faces = _read(data, wanted)
    evaluation = measure(
        classifier,
        faces,
        ledger=(ledger or LEDGER) if final else None,
        averaging=out is not None,
        track=_tracked("classifying"),
    )
    robustness = None
    if out is not None:
        robustness = measure_robustness(
            classifier,
            evaluation.public.images,
            evaluation.public.labels,
            sample=sample,
            track=_tracked("behind a simulated detector"),
        )
        write_report(out, evaluation, robustness)
    typer.echo(json.dumps(as_dict(evaluation, robustness)) if as_json else describe(evaluation))
    if evaluation.model.data_digest not in (None, evaluation.data_digest):
        typer.echo(
            "the model was trained on other data: what is PublicTest here may have been Training",
            err=True,
        )
    if out is not None and not as_json:
        typer.echo(f"\nthe report is in {out}: report.html, report.json")


def data(
    data: Data,
    votes: Votes = None,
    near: Annotated[
        bool, typer.Option("--near/--exact", help="Look for near copies, too: about a minute.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Report on a data set: counts, copies within and across its splits, conflicting labels.

    Example: mien data --data fer2013.csv.zip --votes fer2013new.csv
    """
    from training.data.report import report, table

    found = report(_read(data, votes), near=near, track=_tracked("comparing"))
    typer.echo(json.dumps(found.as_dict()) if as_json else table(found))


def export(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="best.ckpt of a run.")],
    data: Data,
    votes: Votes = None,
    labels: Annotated[
        Labels | None,
        typer.Option("--labels", help="Which head, where there are two; default: the main one."),
    ] = None,
    precision: Annotated[
        Precision, typer.Option("--precision", help="fp16 is for GPUs, int8 for processors.")
    ] = Precision.FP32,
    out: Annotated[Path, typer.Option("--out", help="The ONNX file to write.")] = Path(
        "model.onnx"
    ),
    name: Annotated[
        str | None,
        typer.Option("--name", help="The model's name in events; default: mien- and the network."),
    ] = None,
    version: Annotated[str, typer.Option("--version", help="And its version.")] = "1",
    abstain: Annotated[
        float,
        typer.Option(
            "--abstain",
            min=0,
            max=0.9,
            help="The least certain share of PublicTest, on which it is to say `uncertain`.",
        ),
    ] = 0.1,
    threads: Threads = None,
) -> None:
    """Turn a checkpoint into the ONNX file that workers run.

    The temperature is chosen on PublicTest, and so is the probability below which the model
    abstains; the file is checked against PyTorch there. fp16 and int8 are checked against fp32, and
    not written where they stray too far from it.

    Example: mien export --checkpoint runs/best-cnn/best.ckpt --data fer2013.csv.zip --out m.onnx
    """
    with _needs_training_extra("export"):
        import torch

        from training.checkpoint import open_checkpoint
        from training.export import export as export_checkpoint

    if threads:
        torch.set_num_threads(threads)
    label_set = {None: None, Labels.FER2013: FER2013, Labels.FERPLUS: FERPLUS}[labels]
    recipe = open_checkpoint(checkpoint)["hyper_parameters"]["recipe"]
    wanted = label_set.name if label_set else recipe["label_set"]
    faces = _read(data, votes if wanted == FERPLUS.name else None)
    network = recipe["model"]["network"].removeprefix("small-")
    head = "-ferplus" if wanted == FERPLUS.name else ""
    with Console(stderr=True).status("exporting and checking"):
        made = export_checkpoint(
            checkpoint,
            faces,
            out,
            name=name or f"mien-{network}{head}",
            version=version,
            label_set=label_set,
            precision=precision.value,
            abstain=abstain,
        )
    figures, agreement = made.figures, made.agreement
    typer.echo(
        f"{out}: {out.stat().st_size / 1e6:.2f} MB, {100 * figures.accuracy:.2f} % on PublicTest, "
        f"NLL {figures.nll:.4f}, ECE {figures.ece:.4f}; within {made.parity:.1g} of PyTorch"
    )
    typer.echo(made.abstaining.sentence())
    if agreement is not None:
        typer.echo(
            f"{precision} against fp32: the same top label on {100 * agreement.top1:.2f} %, "
            f"{agreement.lost} pictures lost, {agreement.won} won (p = {agreement.p:.2g})"
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


def _read(path: Path, votes: Path | None = None) -> Dataset:
    with Console(stderr=True).status(f"reading {path.name}"):
        return read_data(path, votes)


def _tracked(what: str) -> Callable[[range], Iterable[int]]:
    def tracked(chunks: range) -> Iterable[int]:
        return track(chunks, what, console=Console(stderr=True), transient=True)

    return tracked
