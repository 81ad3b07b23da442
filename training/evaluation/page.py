"""The report as one HTML page that needs no network: a view of report.json, and of mistakes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from training.evaluation import sections
from training.evaluation.markup import count, interval, percent, png, short, table
from training.evaluation.prediction import Pictures
from training.evaluation.protocol import MERGED, PRIVATE, PUBLIC, WITHOUT_COPIES

_TEMPLATE = Path(__file__).with_name("page.html")
_LABEL_SETS = {"fer2013": "FER2013’s seven labels", "ferplus": "FER+’s majority votes"}


@dataclass(frozen=True, slots=True)
class Mistake:
    """A picture (48, 48) that was called something else than the truth."""

    image: Pictures
    truth: str
    probabilities: dict[str, float]


def render(report: Mapping[str, Any], mistakes: Sequence[Mistake]) -> str:
    """The page of one report, as ``report.as_dict`` gives it."""
    parts = [
        _head(report),
        _results(report),
        _protocol(report),
        sections.curves(report["model"]),
        sections.confusion(report),
        sections.classes(report),
        sections.reliability(report),
        sections.averaging(report),
        sections.robustness(report),
        _mistakes(mistakes),
        _facts(report),
    ]
    model = report["model"]
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"{model['name']} {model['version']}: evaluation"), body="\n".join(parts)
    )


def _head(report: Mapping[str, Any]) -> str:
    model, public = report["model"], report["sets"][PUBLIC]
    tiles = [("first", *_accuracy_tile("Accuracy on PublicTest", public))]
    if PRIVATE in report["sets"]:
        tiles += [
            ("", *_accuracy_tile("Accuracy on PrivateTest", report["sets"][PRIVATE])),
            ("", *_accuracy_tile("… without copies in Training", report["sets"][WITHOUT_COPIES])),
        ]
    tiles += [
        ("", "Macro-F1", f"{public['macro_f1']:.3f}", "PublicTest, all labels alike"),
        ("", "Calibration error", percent(public["ece"]), "PublicTest, 15 bins"),
    ]
    if model["parameters"]:
        tiles.append(
            ("", "Parameters", short(model["parameters"]),
             f"{short(model['multiply_adds'])} multiply-adds a face"
             if model["multiply_adds"] else "")
        )  # fmt: skip
    shown = "".join(
        f'<div class="{kind}"><dt>{name}</dt><dd>{value}</dd><dd>{below}</dd></div>'
        for kind, name, value, below in tiles
    )
    return f"""<header>
<p class="over">mien · evaluation of a model file · {escape(report["date"])}</p>
<h1>{escape(model["name"])} {escape(model["version"])}</h1>
<p class="lead">{_LABEL_SETS[model["label_set"]]} · file <code>{escape(model["digest"])}</code></p>
<dl class="tiles">{shown}</dl>
<p class="note"><strong>Perceived expressions, not inner states.</strong> A label says what people
who looked at a picture called the face in it. It does not say what the person felt, and this model
must not be used to infer emotions at work or in education.</p>
</header>"""


def _accuracy_tile(name: str, figures: Mapping[str, Any]) -> tuple[str, str, str]:
    return (
        name,
        percent(figures["accuracy"]),
        f"95&nbsp;%: {interval(figures)}, n = {figures['n']:,}",
    )


def _results(report: Mapping[str, Any]) -> str:
    rows = [
        [
            escape(name),
            f"{one['n']:,}",
            percent(one["accuracy"]),
            interval(one),
            f"{one['macro_f1']:.3f}",
            f"{one['nll']:.4f}",
            f"{one['at_temperature_1']['nll']:.4f}",
            f"{one['ece']:.4f}",
            f"{one['at_temperature_1']['ece']:.4f}",
        ]
        for name, one in report["sets"].items()
    ]
    merged = (
        "<p class='small soft'>The merged set is there for comparison with the original"
        " experiments only: half of it is what this model was chosen on.</p>"
        if MERGED in report["sets"]
        else ""
    )
    return f"""<h2>Results</h2>
{
        table(
            [
                "set",
                "pictures",
                "accuracy",
                "95&nbsp;% interval",
                "macro‑F1",
                "NLL",
                "NLL at T&nbsp;=&nbsp;1",
                "ECE",
                "ECE at T&nbsp;=&nbsp;1",
            ],
            rows,
        )
    }
<p class="small soft">The model file as workers run it: one look at each picture, temperature
T = {report["model"]["temperature"]:.3f} inside. The interval tells how far chance in the pictures
reaches (Wilson), not chance in training. NLL in nats; ECE over 15 bins.</p>{merged}"""


def _protocol(report: Mapping[str, Any]) -> str:
    model, sets = report["model"], report["sets"]
    items = [
        "<strong>Training</strong>: the weights were fitted on it, as published.",
        "<strong>PublicTest</strong>: recipe, epoch"
        + (f" ({model['epoch']})" if model["epoch"] else "")
        + " and temperature were chosen on it, so its figures flatter a little.",
        "<strong>PrivateTest</strong>: nothing is chosen on it. "
        + (
            "It was evaluated for this report, which left a line in the ledger. Some of its"
            " pictures have an exact copy in Training: the figure without them is the honest one."
            if PRIVATE in sets
            else "It was not looked at for this report."
        ),
    ]
    if model["label_set"] == "ferplus":
        sizes = report["data"]["pictures"]
        kept = ", ".join(f"{sets[name]['n']:,} of {sizes[name]:,} in {name}" for name in sizes)
        items.append(
            "<strong>Labels</strong>: only pictures with a majority are counted, those that more"
            f" than half of FER+’s ten votes give one of the eight expressions: {kept}."
        )
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f"<h2>What was chosen on what</h2>\n<ul>{listed}</ul>"


def _mistakes(mistakes: Sequence[Mistake]) -> str:
    if not mistakes:
        return ""
    cards = ""
    for one in mistakes:
        ranked = sorted(one.probabilities.items(), key=lambda item: -item[1])
        said, sure = ranked[0]
        shown = ranked[:3] if one.truth in dict(ranked[:3]) else [
            *ranked[:2], (one.truth, one.probabilities[one.truth])
        ]  # fmt: skip
        listed = "".join(
            f"<dt{' class=true' if name == one.truth else ''}>{escape(name)}</dt>"
            f"<dd{' class=true' if name == one.truth else ''}>{percent(value)}</dd>"
            for name, value in shown
        )
        alt = f"A face that is labelled {one.truth}, and was called {said} with {percent(sure)}"
        cards += (
            f'<li><img src="{png(one.image)}" alt="{escape(alt)}" width="144" height="144">'
            f"<p>said <strong>{escape(said)}</strong>, labelled "
            f'<span class="true">{escape(one.truth)}</span></p><dl>{listed}</dl></li>'
        )
    return f"""<h2>Worst mistakes</h2>
<p class="soft">The pictures of PublicTest that it got wrong with the most certainty. The
labels of this data are known to be noisy: look before you blame the model.</p>
<p class="note"><strong>Do not pass this page on.</strong> The pictures belong to the data set: they
have no licence that clearly allows giving them to others. report.json beside this page holds
none.</p>
<ul class="faces">{cards}</ul>"""


def _teachers(digests: Sequence[str] | None) -> str | None:
    return None if digests is None else ", ".join(digests) or "none"


def _replanned(changes: Sequence[Sequence[int]]) -> dict[str, str]:
    told = "; ".join(f"until epoch {had} it was to have {planned}" for had, planned in changes)
    return {"epochs, changed while it ran": told} if told else {}


def _facts(report: Mapping[str, Any]) -> str:
    model = report["model"]
    facts = {
        "file": model["digest"],
        "precision": model["precision"],
        "parameters": count(model["parameters"]),
        "multiply-adds a face": count(model["multiply_adds"]),
        "input": f"{model['input_size']} × {model['input_size']}, {model['colour']}",
        "crop margin": f"{model['margin']:+.2f}",
        "temperature": f"{model['temperature']:.4f}",
        "weights before training": model["pretrained"],
        "teachers": _teachers(model.get("teachers")),
        "seed": model["seed"],
        "epoch": model["epoch"],
        **_replanned(model.get("replanned", [])),
        "configuration": model["config_digest"],
        "data, trained on": model["data_digest"],
        "data, measured on": report["data"]["digest"],
        **report["versions"],
    }
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>'
        + ("<span class='soft'>not said</span>" if value is None else
           f"<code>{escape(str(value))}</code>")
        + "</td></tr>"
        for name, value in facts.items()
    )  # fmt: skip
    recipe = (
        f"<details><summary>Recipe</summary><pre>{escape(json.dumps(model['recipe'], indent=1))}"
        "</pre></details>"
        if model["recipe"]
        else ""
    )
    return f"""<h2>The file, and how this was measured</h2>
<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>{recipe}
<footer>Written by <code>mien evaluate</code>. All figures are in report.json.</footer>"""
