from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.evaluation.results import Row, fill, main, read_rows, table
from worker.errors import DataError

BEGIN = "<!-- table, written by python -m training.evaluation.results -->"
END = "<!-- end of the table -->"
ROWS = """
[[row]]
model = "small CNN"
recipe = "best"
reports = ["cnn", "cnn-1"]
gate = 69.5

[[row]]
model = "VGG16"
recipe = "reproduce"
claimed = "52-58"
notebook = "48.1"
reports = ["vgg16"]
not_run = "no weights"
"""


def figures(accuracy: float) -> dict[str, object]:
    return {"accuracy": accuracy, "interval": [accuracy - 0.01, accuracy + 0.01],
            "macro_f1": accuracy - 0.02, "ece": 0.0123}  # fmt: skip


def write(
    folder: Path, name: str, public: float, *, seed: int = 0, digest: str = "a", final: bool = False
) -> None:
    sets = {"PublicTest": figures(public)}
    if final:
        sets["PrivateTest"] = figures(0.71)
        sets["PrivateTest without copies in Training"] = figures(0.70)
        sets["PublicTest + PrivateTest"] = figures(0.705)
    model = {"epoch": 7, "history": [{}] * 9, "seed": seed, "config_digest": digest}
    report = {"model": model, "sets": sets}
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "report.json").write_text(json.dumps(report))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "rows.toml").write_text(ROWS)
    write(tmp_path, "cnn", 0.696, final=True)
    return tmp_path


@pytest.fixture
def one_seed(results: Path) -> Path:
    (results / "rows.toml").write_text(ROWS.replace(', "cnn-1"', ""))
    return results


def test_rows_are_filled_from_reports(one_seed: Path) -> None:
    lines = table(read_rows(one_seed / "rows.toml"), one_seed).splitlines()
    assert lines[2] == (
        "| small CNN | best | – | – | 69.5 | 69.60 (68.6–70.6) | 71.00 (70.0–72.0) "
        "| 70.00 (69.0–71.0) | 70.50 (69.5–71.5) | 0.690 | 0.012 | 7 of 9 | one |"
    )
    assert lines[3].startswith("| VGG16 | reproduce | 52-58 | 48.1 | – | not run | – |")
    assert lines[4:] == ["", "- VGG16, reproduce: not run: no weights"]
    assert {line.count("|") for line in lines[:4]} == {14}


def test_further_seeds_show_how_far_they_lie_apart(results: Path) -> None:
    write(results, "cnn-1", 0.690, seed=1)
    told = table(read_rows(results / "rows.toml"), results)
    assert "| 69.60 (68.6–70.6) |" in told
    assert "| 2: PublicTest 69.00 to 69.60 |" in told


@pytest.mark.parametrize("other", [{"seed": 0}, {"seed": 1, "digest": "b"}])
def test_reports_that_are_no_seeds_of_one_recipe_are_refused(
    results: Path, other: dict[str, Any]
) -> None:
    write(results, "cnn-1", 0.690, **other)
    with pytest.raises(DataError, match="small CNN, best: the reports cnn, cnn-1 are not of one"):
        table(read_rows(results / "rows.toml"), results)


def test_one_of_several_reports_is_not_left_out(results: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*cnn-1/report\.json"):
        table(read_rows(results / "rows.toml"), results)


def test_a_model_that_never_saw_private_test_shows_none(one_seed: Path) -> None:
    write(one_seed, "vgg16", 0.66)
    told = table(read_rows(one_seed / "rows.toml"), one_seed)
    assert "| 66.00 (65.0–67.0) | – | – | – | – | – | 7 of 9 | one |" in told
    assert "not run" not in told


def test_a_missing_report_needs_a_reason(results: Path) -> None:
    with pytest.raises(DataError, match=r"x, best: there is no .*none/report\.json"):
        table([Row("x", "best", ("none",))], results)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"model": {}}', '{"model": {"history": []}, "sets": {}}']
)
def test_what_is_no_report_is_named(one_seed: Path, content: str) -> None:
    results = one_seed
    (results / "cnn" / "report.json").write_text(content)
    with pytest.raises(DataError, match=r"cnn/report\.json is not a report of mien evaluate"):
        table(read_rows(results / "rows.toml"), results)


@pytest.mark.parametrize(
    "content", ["x", "", "row = 3", "[[row]]\nmodel = 'x'", ROWS + "speed = 1"]
)
def test_what_describes_no_rows_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.toml"
    path.write_text(content)
    with pytest.raises(DataError, match=r"rows\.toml does not describe rows"):
        read_rows(path)


def test_only_what_lies_between_the_markers_changes(one_seed: Path, capsys) -> None:
    results = one_seed
    page = results / "RESULTS.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")

    assert main(["--check"], page, results) == 1
    assert "RESULTS.md is out of date" in capsys.readouterr().err
    assert "old" in page.read_text()
    assert main([], page, results) == 0
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n\n| model |")
    assert text.endswith(f"no weights\n\n{END}\nafter\n")
    assert main(["--check"], page, results) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_without_its_markers_is_refused(page: str) -> None:
    with pytest.raises(DataError, match="each once"):
        fill(page, "table")


def test_a_missing_page_is_one_sentence(results: Path, capsys) -> None:
    assert main([], results / "none.md", results) == 1
    assert capsys.readouterr().err.startswith("cannot use ")


def test_the_committed_table_shows_the_committed_reports() -> None:
    assert main(["--check"]) == 0
