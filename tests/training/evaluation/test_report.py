from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from training.evaluation.protocol import evaluate
from training.evaluation.report import as_dict, worst_mistakes, write_report
from training.evaluation.robustness import measure_robustness
from worker.errors import SettingsError
from worker.records import ModelInfo

HISTORY = [
    {"epoch": n, "train_loss": 2 - n / 10, "public_loss": 1.9 - n / 10, "public_accuracy": n / 10}
    for n in (1, 2, 3)
]
VOID = {"meta", "img", "path", "circle", "rect", "br"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps what is of interest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def full(mean_model, small, tmp_path: Path):
    """Everything that a report can hold."""
    training = {"recipe": {"augmentation": {"crop": 44}}, "epoch": 2, "history": HISTORY}
    metadata = {
        "training": json.dumps(training),
        "parameters": "893761",
        "multiply_adds": "59500000",
    }
    model = mean_model(metadata=metadata)
    model.info = ModelInfo("<script>alert(1)</script>", "1", "0" * 16)
    found = evaluate(model, small, ledger=tmp_path / "ledger.csv", averaging=True)
    return found, measure_robustness(model, found.public.images, found.public.labels)


def test_the_json_holds_the_figures_and_no_pixels(full, small, tmp_path: Path) -> None:
    path, _ = write_report(tmp_path / "new" / "folder", *full)
    report = json.loads(path.read_text())

    assert report["model"]["parameters"] == 893761
    assert report["model"]["history"] == HISTORY
    assert report["data"]["digest"] == small.digest()
    assert report["data"]["pictures"] == {"PublicTest": 3, "PrivateTest": 3}
    assert report["protocol"]["private_test_evaluated"] is True
    public = report["sets"]["PublicTest"]
    assert public["accuracy"] == 2 / 3
    assert public["classes"]["fear"]["recall"] == 1
    assert sum(map(sum, public["confusion"])) == 3
    assert public["at_temperature_1"]["ece"] > public["ece"]
    assert public["averaging"]["flip"]["n"] == 3
    assert public["abstaining"]["answered"] == 1
    assert len(public["coverage"]) == 11
    assert report["robustness"]["size"][0]["value"] == 48
    assert "numpy" in report["versions"]
    assert "images" not in path.read_text()
    assert len(path.read_text()) < 40_000


def test_the_page_needs_nothing_from_outside(full, tmp_path: Path) -> None:
    _, path = write_report(tmp_path, *full)
    text = path.read_text(encoding="utf-8")
    page = Page(text)

    assert not re.search(r"https?://|url\(|@import", text)
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    assert [image["src"][:22] for image in page.all("img")] == ["data:image/png;base64,"]
    assert (
        page.all("img")[0]["alt"]
        == "A face that is labelled angry, and was called neutral with 70.00\N{NO-BREAK SPACE}%"
    )
    assert all(svg["aria-label"] for svg in page.all("svg"))
    assert len(page.all("svg")) == 2 + 1 + 5
    assert all(head["scope"] in ("row", "col") for head in page.all("th"))
    assert "<script>alert(1)</script> 1" in page.text


def test_the_page_says_what_a_reader_must_know(full, tmp_path: Path) -> None:
    _, path = write_report(tmp_path, *full)
    text = " ".join(Page(path.read_text(encoding="utf-8")).text.split())
    assert "Perceived expressions, not inner states." in text
    assert "Do not pass this page on." in text
    assert "epoch (2) and temperature were chosen on it" in text
    assert "which left a line in the ledger" in text
    assert "for comparison with the original experiments only" in text
    assert "PrivateTest without copies in Training2100.00 %" in text
    assert text.count("labelled ↓said →") == 3


def test_an_old_model_file_gets_a_page_of_what_is_there(mean_model, small, tmp_path: Path) -> None:
    _, path = write_report(tmp_path, evaluate(mean_model(), small))
    page = Page(path.read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    assert "carries no history of its training" in text
    assert "It was not looked at for this report." in text
    assert "Behind a real detector" not in text
    assert "averaging at test time" not in text
    assert len(page.all("svg")) == 1


def test_without_a_mistake_there_is_no_picture(mean_model, dataset, tmp_path: Path) -> None:
    found = evaluate(mean_model(), dataset([(1, 1, "PublicTest")]))
    _, path = write_report(tmp_path, found)
    text = path.read_text(encoding="utf-8")
    assert Page(text).all("img") == []
    assert "Do not pass this page on" not in text


def test_the_surest_mistakes_come_first(mean_model, dataset) -> None:
    class Unsure(mean_model().__class__):
        def classify(self, crops: np.ndarray) -> np.ndarray:
            # The brighter, the surer that it is happy.
            sure = crops.reshape(len(crops), -1).mean(axis=1) / 255
            answer = np.repeat(((1 - sure) / 6)[:, None], 7, axis=1).astype(np.float32)
            answer[:, 3] = sure
            return answer

    rows = [
        (100, 0, "PublicTest"),
        (250, 1, "PublicTest"),
        (200, 6, "PublicTest"),
        (254, 3, "PublicTest"),
    ]
    found = worst_mistakes(evaluate(Unsure(), dataset(rows)), 2)
    assert [one.truth for one in found] == ["disgust", "neutral"]
    assert [int(one.image[0, 0]) for one in found] == [250, 200]
    assert found[0].probabilities["happy"] == pytest.approx(250 / 255)


def test_a_report_can_be_had_without_files(full) -> None:
    assert json.loads(json.dumps(as_dict(*full)))["sets"].keys() == full[0].sets.keys()


def test_a_folder_that_cannot_be_written_is_told(mean_model, small, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot write the report to .*file: (Not|File)"):
        write_report(tmp_path / "file", evaluate(mean_model(), small))
