"""report.json, from which the results table is filled, and report.html, for a person."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from training.evaluation.page import Mistake, render
from training.evaluation.protocol import PRIVATE, PUBLIC, Evaluation, Measured
from training.evaluation.robustness import Robustness
from worker.errors import SettingsError

MISTAKES = 24
_LIBRARIES = ("numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu")


def write_report(
    folder: Path, evaluation: Evaluation, robustness: Robustness | None = None
) -> tuple[Path, Path]:
    """Write report.json and report.html into ``folder``, and return their paths.

    The JSON holds no pixels and may be committed. The page shows pictures of the data, which may
    not be given on, and says so.

    Raises:
        SettingsError: the folder cannot be written to.
    """
    report = as_dict(evaluation, robustness)
    as_json, as_html = folder / "report.json", folder / "report.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        as_json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        as_html.write_text(render(report, worst_mistakes(evaluation, MISTAKES)), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"cannot write the report to {folder}: {error.strerror}") from None
    return as_json, as_html


def as_dict(evaluation: Evaluation, robustness: Robustness | None = None) -> dict[str, Any]:
    """What report.json holds: plain values, every share and accuracy in 0..1."""
    return {
        "date": evaluation.date,
        "model": asdict(evaluation.model),
        "labels": evaluation.label_set.labels,
        "data": {"digest": evaluation.data_digest, "pictures": evaluation.split_sizes},
        "protocol": {
            "fitted_on": "Training",
            "chosen_on": PUBLIC,
            "private_test_evaluated": PRIVATE in evaluation.sets,
        },
        "sets": {name: _set(measured) for name, measured in evaluation.sets.items()},
        "robustness": None if robustness is None else asdict(robustness),
        "versions": _versions(),
    }


def worst_mistakes(evaluation: Evaluation, count: int) -> list[Mistake]:
    """PublicTest's pictures that were called something else with the highest probability."""
    answers = evaluation.public
    probabilities = answers.probabilities["none"]
    wrong = (probabilities.argmax(axis=1) != answers.labels).nonzero()[0]
    order = wrong[(-probabilities[wrong].max(axis=1)).argsort(kind="stable")][:count]
    names = evaluation.label_set.labels
    return [
        Mistake(
            image=answers.images[index],
            truth=names[answers.labels[index]],
            probabilities=dict(zip(names, probabilities[index].tolist(), strict=True)),
        )
        for index in order
    ]


def _set(measured: Measured) -> dict[str, Any]:
    before = measured.at_temperature_1
    return {
        **asdict(measured.figures),
        "at_temperature_1": {"nll": before.nll, "ece": before.ece},
        "averaging": {kind: figures.summary() for kind, figures in measured.averaged.items()},
        "abstaining": asdict(measured.abstaining),
        "coverage": [asdict(one) for one in measured.coverage],
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("mien", *_LIBRARIES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # onnxruntime comes in two packages, and a checkout needs no installed mien
    return found
