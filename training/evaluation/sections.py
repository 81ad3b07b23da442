"""The parts of the page that show figures: curves, matrices, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from training.evaluation.charts import (
    Axis,
    Line,
    axis_over,
    line_chart,
    percent_tick,
    reliability_chart,
)
from training.evaluation.figures import Bin
from training.evaluation.markup import as_table, interval, percent, swatch, table
from training.evaluation.protocol import PRIVATE, PUBLIC, WITHOUT_COPIES


def curves(model: Mapping[str, Any]) -> str:
    """How loss and accuracy went, epoch by epoch; takes the report's ``model``."""
    history = model["history"]
    if not history:
        return (
            "<h2>Training</h2>\n<p class='soft'>The model file carries no history of its training,"
            " so there are no curves.</p>"
        )
    epochs = [float(one["epoch"]) for one in history]
    x = axis_over("epoch", [0, *epochs], "{:.0f}".format)
    losses = {key: [float(one[key]) for one in history] for key in ("train_loss", "public_loss")}
    accuracy = [float(one["public_accuracy"]) for one in history]
    loss_chart = line_chart(
        f"Loss by epoch: on Training from {losses['train_loss'][0]:.2f} to "
        f"{losses['train_loss'][-1]:.2f}, on PublicTest from {losses['public_loss'][0]:.2f} to "
        f"{losses['public_loss'][-1]:.2f}",
        x,
        axis_over("loss", [*losses["train_loss"], *losses["public_loss"]], "{:g}".format),
        [
            Line(list(zip(epochs, losses["train_loss"], strict=True)), "s1"),
            Line(list(zip(epochs, losses["public_loss"], strict=True)), "s0"),
        ],
        model["epoch"],
    )
    accuracy_chart = line_chart(
        f"Accuracy on PublicTest by epoch: from {percent(accuracy[0])} to "
        f"{percent(accuracy[-1])}, best {percent(max(accuracy))}",
        x,
        axis_over("accuracy", accuracy, percent_tick),
        [Line(list(zip(epochs, accuracy, strict=True)), "s0")],
        model["epoch"],
    )
    return f"""<h2>Training</h2>
<p class="soft">The dashed line is the epoch that was kept. The loss on Training is that of
augmented, possibly mixed pictures, so that it may lie above PublicTest’s.</p>
<div class="charts"><figure>{loss_chart}
<figcaption>{swatch("s1", "Training")}{swatch("s0", "PublicTest")}</figcaption></figure>
<figure>{accuracy_chart}<figcaption>{swatch("s0", "PublicTest")}</figcaption></figure></div>"""


def confusion(report: Mapping[str, Any]) -> str:
    """Who was taken for whom."""
    return f"""<h2>Confusion matrix</h2>
<p class="small soft">Each row is what the picture is labelled, each column what the model said;
share of the row, and number of pictures. PublicTest.</p>
{_matrix(report, PUBLIC)}{_of_private(report, _matrix)}"""


def classes(report: Mapping[str, Any]) -> str:
    """Precision and recall of each label."""
    return f"""<h2>Label by label</h2>
{_class_table(report, PUBLIC)}{_of_private(report, _class_table)}"""


def _of_private(report: Mapping[str, Any], show: Callable[[Mapping[str, Any], str], str]) -> str:
    return "".join(
        f"<details><summary>{name}</summary>{show(report, name)}</details>"
        for name in (PRIVATE, WITHOUT_COPIES)
        if name in report["sets"]
    )


def _matrix(report: Mapping[str, Any], name: str) -> str:
    labels, rows = report["labels"], report["sets"][name]["confusion"]
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    body = ""
    for index, (label, row) in enumerate(zip(labels, rows, strict=True)):
        total = max(1, sum(row))
        cells = "".join(
            f'<td{" class=right" if column == index else ""} style="--share:{count / total:.3f}">'
            f"{100 * count / total:.0f}&nbsp;%<small>{count:,}</small></td>"
            for column, count in enumerate(row)
        )
        body += f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>'
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix, {name}">
<table class="confusion">
<thead><tr><th scope="col">labelled&nbsp;↓<br>said&nbsp;→</th>{head}</tr></thead>
<tbody>{body}</tbody></table></div>"""


def _class_table(report: Mapping[str, Any], name: str) -> str:
    rows = [
        [
            escape(label),
            f"{one['precision']:.3f}",
            f"{one['recall']:.3f}",
            f"{one['f1']:.3f}",
            f"{one['support']:,}",
        ]
        for label, one in report["sets"][name]["classes"].items()
    ]
    return table([name, "precision", "recall", "F1", "pictures"], rows)


def reliability(report: Mapping[str, Any]) -> str:
    """The reliability diagram."""
    public = report["sets"][PUBLIC]
    bins = [Bin(**one) for one in public["reliability"]]
    chart = reliability_chart(
        f"Reliability on PublicTest: expected calibration error {percent(public['ece'])}", bins
    )
    rows = [
        [
            f"{one.low:.2f}–{one.high:.2f}",
            f"{one.n:,}",
            percent(one.confidence),
            percent(one.accuracy),
        ]
        for one in bins
        if one.confidence is not None and one.accuracy is not None
    ]
    return f"""<h2>Does it know when it is right?</h2>
<p class="soft">Where the dots lie on the diagonal, pictures that are called something with
80&nbsp;% are called so rightly in 80 of 100 cases. Below it, the model is too sure of itself.</p>
<div class="charts one"><figure>{chart}<figcaption>PublicTest; the larger a dot, and
the higher its grey bar, the more pictures it stands for.</figcaption></figure></div>
{as_table(["top probability", "pictures", "mean", "right"], rows)}"""


def averaging(report: Mapping[str, Any]) -> str:
    """What test-time averaging gives; nothing where it was not measured."""
    if not any(one["averaging"] for one in report["sets"].values()):
        return ""
    rows = [
        [escape(name), kind, percent(one["accuracy"]), interval(one), f"{one['nll']:.4f}",
         f"{one['ece']:.4f}"]
        for name, whole in report["sets"].items()
        for kind, one in {"none": whole, **whole["averaging"]}.items()
    ]  # fmt: skip
    return f"""<h2>With averaging at test time</h2>
<p class="soft">What more looks at each picture would give: its mirror image, or five crops and
their mirror images. Workers look once, and so do all other figures here.</p>
{table(["set", "averaging", "accuracy", "95&nbsp;% interval", "NLL", "ECE"], rows)}"""


def robustness(report: Mapping[str, Any]) -> str:
    """The curves of ``robustness.py``; nothing where they were not measured."""
    found = report["robustness"]
    if found is None:
        return ""
    curves = {
        "margin": ("Crop margin", "added to the model’s own margin", _signed),
        "jitter": (
            "Box beside the face",
            "centre and size off by up to ±, of the side",
            percent_tick,
        ),
        "roll": ("Tilted head", "degrees", "{:.0f}".format),
        "blur": ("Blur", "Gaussian’s deviation, in pixels of 48", "{:g}".format),
        "size": ("Face size", "side in pixels", "{:.0f}".format),
    }
    bounds = [bound for key in curves for one in found[key] for bound in one["interval"]]
    y = axis_over("accuracy", bounds, percent_tick)
    shown = ""
    rows = []
    for key, (title, label, form) in curves.items():
        points = found[key]
        values = [one["value"] for one in points]
        x = Axis(label, values[0], values[-1], values, form)
        line = Line(
            [(one["value"], one["accuracy"]) for one in points],
            "s0",
            [tuple(one["interval"]) for one in points],
            dots=True,
        )
        told = ", ".join(f"{percent(one['accuracy'])} at {form(one['value'])}" for one in points)
        shown += f"<figure><h3>{title}</h3>{line_chart(f'{title}: {told}', x, y, [line])}</figure>"
        rows += [
            [title, form(one["value"]), percent(one["accuracy"]), interval(one)] for one in points
        ]
    return f"""<h2>Behind a real detector</h2>
<p class="soft">{found["n"]:,} pictures of PublicTest, cut again by the function that cuts faces for
the workers, with one thing wrong at a time. Shaded: 95&nbsp;% interval. What lies around a picture
is not known, so its edge is repeated there: crops that reach beyond it show less than a video
would.</p>
<div class="charts">{shown}</div>
{as_table(["what", "how much", "accuracy", "95&nbsp;% interval"], rows)}"""


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−") if value else "0"
