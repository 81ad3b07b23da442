"""Fill the table of training/RESULTS.md from the committed reports, so that no figure is typed.

    python -m training.evaluation.results            # write the table
    python -m training.evaluation.results --check    # exit with 1 if it is out of date

``training/results/rows.toml`` names the rows: the original's figures, the gate, the folders of the
reports (the first is the model that is shown, further ones are other seeds of it), and why there is
none where there is none.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.evaluation.protocol import MERGED, PRIVATE, PUBLIC, WITHOUT_COPIES
from worker.errors import DataError, MienError

PAGE = Path(__file__).parents[1] / "RESULTS.md"
RESULTS = Path(__file__).parents[1] / "results"

_BEGIN = "<!-- table, written by python -m training.evaluation.results -->"
_END = "<!-- end of the table -->"
_HEAD = (
    "model", "recipe", "original, claimed", "original, in its notebook", "gate on PublicTest",
    "PublicTest", "PrivateTest", "without copies in Training", "merged 7,178",
    "macro-F1 on PrivateTest", "ECE on PrivateTest", "epochs", "seeds",
)  # fmt: skip
_NONE = "–"


@dataclass(frozen=True, slots=True)
class Row:
    """One experiment, as rows.toml names it. Accuracies in percent."""

    model: str
    recipe: str
    reports: tuple[str, ...]
    """Folders beside rows.toml, each with a report.json."""
    claimed: str = _NONE
    notebook: str = _NONE
    gate: float | None = None
    not_run: str = ""
    """Why there is no report, where there is none."""


def read_rows(path: Path) -> list[Row]:
    """The rows in the order of the file.

    Raises:
        DataError: it cannot be read, or a key is missing or unknown.
    """
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))["row"]
        return [Row(**{**row, "reports": tuple(row["reports"])}) for row in rows]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not describe rows: {error}") from None


def table(rows: Sequence[Row], folder: Path) -> str:
    """The table in Markdown; below it, why some rows have no figures.

    Raises:
        DataError: a report is malformed, a row has neither a report nor a reason, or its reports
            are no seeds of one recipe.
    """
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    reasons = []
    for row in rows:
        found = [folder / name / "report.json" for name in row.reports]
        missing = [path for path in found if not path.exists()]
        if missing and (len(missing) < len(found) or not row.not_run):
            raise DataError(
                f"{row.model}, {row.recipe}: there is no {missing[0]}, and rows.toml does not say "
                "why"
            )
        reports = [] if missing else [_report(path) for path in found]
        _check_seeds(row, reports)
        if not reports:
            reasons.append(f"- {row.model}, {row.recipe}: not run: {row.not_run}")
        lines.append(_line([*_original(row), *(_figures(reports) if reports else _blank())]))
    return "\n".join([*lines, *(["", *reasons] if reasons else [])])


def fill(page: str, new: str) -> str:
    """The text of RESULTS.md with another table between its two markers.

    Raises:
        DataError: it does not have each marker once, in order.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end or _BEGIN in rest or _END in after:
        raise DataError(f"the results page needs {_BEGIN} and {_END}, each once")
    return f"{before}{_BEGIN}\n\n{new}\n\n{_END}{after}"


def main(arguments: Sequence[str] | None = None, page: Path = PAGE, results: Path = RESULTS) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.results",
        description="Fill the table of training/RESULTS.md from training/results/*/report.json.",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if out of date")
    check = parser.parse_args(arguments).check
    try:
        old = page.read_text(encoding="utf-8")
        new = fill(old, table(read_rows(results / "rows.toml"), results))
        if check and new != old:
            raise DataError(
                f"{page.name} is out of date: run python -m training.evaluation.results"
            )
        if new != old:
            page.write_text(new, encoding="utf-8")
    except OSError as error:
        print(f"cannot use {page}: {error.strerror}", file=sys.stderr)
        return 1
    except MienError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _report(path: Path) -> dict[str, Any]:
    """One report, with the parts that the table needs."""
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for figures in (report["model"]["history"], *report["sets"].values()):
            len(figures)
        report["sets"][PUBLIC]["accuracy"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a report of mien evaluate: {error!r}") from None
    return report


def _check_seeds(row: Row, reports: Sequence[dict[str, Any]]) -> None:
    """Further reports are of the same recipe with other seeds, or they tell nothing of it."""
    models = [report["model"] for report in reports]
    seeds = {model.get("seed") for model in models}
    recipes = {model.get("config_digest") for model in models}
    if len(reports) > 1 and (len(seeds) < len(reports) or len(recipes) > 1):
        raise DataError(
            f"{row.model}, {row.recipe}: the reports {', '.join(row.reports)} are not of one "
            "recipe with different seeds"
        )


def _original(row: Row) -> list[str]:
    gate = _NONE if row.gate is None else f"{row.gate:.1f}"
    return [row.model, row.recipe, row.claimed, row.notebook, gate]


def _figures(reports: Sequence[dict[str, Any]]) -> list[str]:
    shown = reports[0]
    sets, model = shown["sets"], shown["model"]
    private = sets.get(PRIVATE)
    return [
        *(_accuracy(sets.get(name)) for name in (PUBLIC, PRIVATE, WITHOUT_COPIES, MERGED)),
        f"{private['macro_f1']:.3f}" if private else _NONE,
        f"{private['ece']:.3f}" if private else _NONE,
        f"{model['epoch']} of {len(model['history'])}" if model["history"] else _NONE,
        _seeds(reports),
    ]


def _blank() -> list[str]:
    return ["not run", *[_NONE] * 7]


def _accuracy(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return _NONE
    low, high = figures["interval"]
    return f"{100 * figures['accuracy']:.2f} ({100 * low:.1f}–{100 * high:.1f})"


def _seeds(reports: Sequence[dict[str, Any]]) -> str:
    """How many, and how far they lie apart on PublicTest."""
    if len(reports) == 1:
        return "one"
    accuracies = [100 * report["sets"][PUBLIC]["accuracy"] for report in reports]
    return f"{len(reports)}: PublicTest {min(accuracies):.2f} to {max(accuracies):.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
