"""The protocol: everything is chosen on PublicTest; PrivateTest is for final models, and leaves
a line in the ledger each time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data import FER2013, Dataset, LabelSet, without_copies
from training.evaluation.abstention import Coverage, cover, coverage_curve
from training.evaluation.facts import ModelFacts, read_facts
from training.evaluation.figures import Figures, Labels, measure, untempered
from training.evaluation.ledger import Entry, append, check_ledger
from training.evaluation.prediction import (
    Pictures,
    Track,
    label_set_of,
    predict,
    predict_averaged,
)
from worker.emotion.classifier import Classifier
from worker.errors import DataError
from worker.records import Floats

PUBLIC, PRIVATE = "PublicTest", "PrivateTest"
WITHOUT_COPIES = "PrivateTest without copies in Training"
MERGED = "PublicTest + PrivateTest"
"""For comparison with the original experiments only: they had no other test set."""


@dataclass(frozen=True, slots=True)
class Answers:
    """A model's probabilities (N, L), by kind of averaging, beside pictures and truth."""

    images: Pictures
    labels: Labels
    """(N,): index into the label set's labels."""
    probabilities: dict[str, Floats]
    """``none`` always; ``flip`` and ``ten-crop`` where they were asked for."""

    def rows(self, chosen: npt.NDArray[np.bool_]) -> Answers:
        return Answers(
            self.images[chosen],
            self.labels[chosen],
            {name: values[chosen] for name, values in self.probabilities.items()},
        )

    def __add__(self, other: Answers) -> Answers:
        return Answers(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.labels, other.labels]),
            {
                name: np.concatenate([values, other.probabilities[name]])
                for name, values in self.probabilities.items()
            },
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """One set of pictures, as the model file answers, and otherwise."""

    figures: Figures
    """Without averaging, at the file's temperature: what workers publish, and the gates use."""
    at_temperature_1: Figures
    averaged: dict[str, Figures]
    """By kind of test-time averaging; empty where it was not asked for."""
    abstaining: Coverage
    """At the file's own threshold."""
    coverage: list[Coverage]
    """At others."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model file, measured."""

    date: str
    """ISO 8601, UTC."""
    model: ModelFacts
    label_set: LabelSet
    data_digest: str
    """Of the data that it was measured on."""
    split_sizes: dict[str, int]
    """Pictures by split, before those without a label in the label set were left out."""
    sets: dict[str, Measured]
    """By PUBLIC and, for a final model, PRIVATE, WITHOUT_COPIES and, for FER2013, MERGED."""
    public: Answers
    """Of PublicTest, for a closer look at single pictures."""


def evaluate(
    classifier: Classifier,
    data: Dataset,
    *,
    ledger: Path | None = None,
    averaging: bool = False,
    track: Track = iter,
) -> Evaluation:
    """Measure a model file on PublicTest; with a ledger, on PrivateTest too.

    ``averaging`` measures flip and ten-crop as well, which takes ten times as long. ``track`` is
    called for each pass over the pictures.

    Raises:
        ModelError: the model's labels or its metadata cannot be used.
        DataError: a split has no pictures that are labelled in the model's label set, or all of
            PrivateTest has copies in Training.
        SettingsError: the ledger cannot be written, or is none; nothing was measured then.
    """
    facts, label_set = read_facts(classifier), label_set_of(classifier)
    if ledger is not None:
        check_ledger(ledger)
    now = datetime.now(UTC).date().isoformat()

    def measured(answers: Answers) -> Measured:
        return _measured(answers, label_set, classifier)

    def answered(split: str) -> Answers:
        images, labels = _pictures(data, split, label_set)
        if averaging:
            told = predict_averaged(classifier, images, facts.crop, track)
        else:
            told = {"none": predict(classifier, images, track)}
        return Answers(images, labels, told)

    public = answered(PUBLIC)
    sets = {PUBLIC: measured(public)}
    splits = [PUBLIC]
    if ledger is not None:
        splits.append(PRIVATE)
        # Before an hour of work, rather than after it.
        new = without_copies(_pictures(data, PRIVATE, label_set)[0], data.split("Training").images)
        if not new.any():
            raise DataError("every picture of PrivateTest has a copy in Training")
        private = answered(PRIVATE)
        sets[PRIVATE], sets[WITHOUT_COPIES] = measured(private), measured(private.rows(new))
        if label_set == FER2013:
            sets[MERGED] = measured(public + private)
        append(ledger, _entry(now, facts, sets))
    return Evaluation(
        date=now,
        model=facts,
        label_set=label_set,
        data_digest=data.digest(),
        split_sizes={split: len(data.split(split).labels) for split in splits},
        sets=sets,
        public=public,
    )


def describe(evaluation: Evaluation) -> str:
    """The figures as text for a terminal."""
    return "\n\n".join(
        _table(name, measured, evaluation.label_set) for name, measured in evaluation.sets.items()
    )


def _pictures(data: Dataset, split: str, label_set: LabelSet) -> tuple[Pictures, Labels]:
    images, labels = data.split(split).labelled(label_set)
    if len(labels) == 0:
        raise DataError(f"the data has no pictures of {split}")
    return images, labels


def _measured(answers: Answers, label_set: LabelSet, classifier: Classifier) -> Measured:
    plain = answers.probabilities["none"]
    before = untempered(plain, classifier.temperature)
    return Measured(
        figures=measure(plain, answers.labels, label_set),
        at_temperature_1=measure(before, answers.labels, label_set),
        averaged={
            name: measure(values, answers.labels, label_set)
            for name, values in answers.probabilities.items()
            if name != "none"
        },
        abstaining=cover(plain, answers.labels, classifier.uncertain_below),
        coverage=coverage_curve(plain, answers.labels),
    )


def _entry(date: str, model: ModelFacts, sets: dict[str, Measured]) -> Entry:
    full = sets[PRIVATE].figures
    return Entry(
        date=date,
        model=model.name,
        version=model.version,
        digest=model.digest,
        config_digest=model.config_digest or "",
        seed="" if model.seed is None else str(model.seed),
        label_set=model.label_set,
        accuracy=f"{full.accuracy:.6f}",
        accuracy_without_copies=f"{sets[WITHOUT_COPIES].figures.accuracy:.6f}",
        n=full.n,
    )


def _table(name: str, measured: Measured, label_set: LabelSet) -> str:
    figures, before = measured.figures, measured.at_temperature_1
    low, high = figures.interval
    width = max(map(len, label_set.labels))
    lines = [
        f"{name}: {figures.n} pictures",
        f"  accuracy {100 * figures.accuracy:.2f} %  (95 % interval {100 * low:.2f} to "
        f"{100 * high:.2f})  macro-F1 {figures.macro_f1:.4f}",
        f"  NLL {figures.nll:.4f}  ECE {figures.ece:.4f}  (before temperature scaling "
        f"{before.nll:.4f} and {before.ece:.4f})",
    ]
    lines += [
        f"  {kind} averaging: accuracy {100 * one.accuracy:.2f} %  NLL {one.nll:.4f}  "
        f"ECE {one.ece:.4f}"
        for kind, one in measured.averaged.items()
    ]
    lines.append(f"  {measured.abstaining.sentence()}")
    lines.append(
        f"  {'':{width}}  precision  recall      F1  pictures   predicted as "
        + " ".join(f"{label[:5]:>5}" for label in label_set.labels)
    )
    for (label, one), row in zip(figures.classes.items(), figures.confusion, strict=True):
        lines.append(
            f"  {label:{width}}  {one.precision:9.3f}  {one.recall:6.3f}  {one.f1:6.3f}  "
            f"{one.support:8d}                " + " ".join(f"{count:5d}" for count in row)
        )
    return "\n".join(lines)
