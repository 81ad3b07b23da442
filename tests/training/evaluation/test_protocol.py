from __future__ import annotations

from pathlib import Path

import pytest

from training.data import FERPLUS
from training.evaluation.abstention import Coverage
from training.evaluation.protocol import MERGED, PRIVATE, PUBLIC, WITHOUT_COPIES, describe, evaluate
from worker.errors import DataError, SettingsError


def test_public_test_alone_unless_it_is_written_down(mean_model, small) -> None:
    model = mean_model()
    found = evaluate(model, small)

    assert list(found.sets) == [PUBLIC]
    figures = found.sets[PUBLIC].figures
    assert (figures.n, figures.accuracy) == (3, 2 / 3)
    assert found.split_sizes == {PUBLIC: 3}
    # Nothing but PublicTest's three pictures was shown to the model.
    assert [len(crops) for crops in model.seen] == [3]
    assert "PrivateTest" not in describe(found)


def test_a_final_model_is_written_down_and_shown_without_copies(
    mean_model, small, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.csv"
    found = evaluate(mean_model(), small, ledger=ledger)

    assert list(found.sets) == [PUBLIC, PRIVATE, WITHOUT_COPIES, MERGED]
    shown = {name: (one.figures.n, one.figures.accuracy) for name, one in found.sets.items()}
    assert shown == {
        PUBLIC: (3, 2 / 3),
        PRIVATE: (3, 2 / 3),
        WITHOUT_COPIES: (2, 1.0),
        MERGED: (6, 4 / 6),
    }
    (line,) = ledger.read_text().splitlines()[1:]
    assert line == f"{found.date},mean,1,{'0' * 16},,,fer2013,0.666667,1.000000,3"
    assert "PrivateTest without copies in Training: 2 pictures\n  accuracy 100.00 %" in describe(
        found
    )


def test_no_ledger_no_figures(mean_model, small, tmp_path: Path) -> None:
    model = mean_model()
    with pytest.raises(SettingsError, match="cannot be written"):
        evaluate(model, small, ledger=tmp_path / "none" / "ledger.csv")
    assert model.seen == []

    # It becomes unusable only while the pictures are classified.
    ledger = tmp_path / "ledger.csv"

    def spoil(chunks: range) -> range:
        ledger.write_text("something else\n")
        return chunks

    with pytest.raises(SettingsError, match="no ledger of PrivateTest"):
        evaluate(model, small, ledger=ledger, track=spoil)


def test_crowd_votes_count_where_there_is_a_majority(mean_model, dataset, tmp_path: Path) -> None:
    happiness, split = [0, 9, 1, 0, 0, 0, 0, 0, 0, 0], [5, 5, 0, 0, 0, 0, 0, 0, 0, 0]
    data = dataset(
        [
            (0, 6, "Training"),
            (1, 3, "PublicTest"),
            (2, 3, "PublicTest"),
            (1, 3, "PrivateTest"),
            (0, 3, "PrivateTest"),
        ],
        votes=[happiness, happiness, split, happiness, happiness],
    )
    found = evaluate(mean_model(FERPLUS), data, ledger=tmp_path / "ledger.csv")

    assert list(found.sets) == [PUBLIC, PRIVATE, WITHOUT_COPIES]
    assert found.sets[PUBLIC].figures.n == 1
    assert found.split_sizes == {PUBLIC: 2, PRIVATE: 2}
    assert found.sets[PRIVATE].figures.accuracy == 0.5
    # The grey 0 is Training's.
    assert found.sets[WITHOUT_COPIES].figures.accuracy == 1
    assert ",ferplus,0.500000,1.000000,2" in (tmp_path / "ledger.csv").read_text()


def test_crowd_votes_are_missed(mean_model, small) -> None:
    with pytest.raises(DataError, match="votes"):
        evaluate(mean_model(FERPLUS), small)


def test_temperature_and_averaging_are_shown_beside(mean_model, small) -> None:
    found = evaluate(mean_model(), small, averaging=True).sets[PUBLIC]
    # At temperature 2 the top is 0.7 and the others 0.05: at 1, 0.49 / (0.49 + 6 * 0.0025).
    top = 0.49 / 0.505
    assert found.at_temperature_1.ece == pytest.approx(top - 2 / 3)
    assert found.at_temperature_1.accuracy == found.figures.accuracy
    assert list(found.averaged) == ["flip", "ten-crop"]
    # A flat picture looks the same from everywhere.
    assert found.averaged["ten-crop"].nll == pytest.approx(found.figures.nll)


def test_what_abstaining_does_is_shown(mean_model, small) -> None:
    """All of this model's tops are 0.7."""
    assert "abstains below 0.000: answers 100.00 % of pictures, 66.67 %" in describe(
        evaluate(mean_model(), small)
    )
    model = mean_model()
    model.uncertain_below = 0.8
    found = evaluate(model, small).sets[PUBLIC]
    assert found.abstaining == Coverage(0.8, 0.0, None, 2 / 3)
    assert [one.answered for one in found.coverage] == [1.0] * 11


def test_splits_that_cannot_be_measured_are_refused(mean_model, dataset, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.csv"
    with pytest.raises(DataError, match="no pictures of PublicTest"):
        evaluate(mean_model(), dataset([(1, 1, "Training")]))
    public = (1, 1, "PublicTest")
    with pytest.raises(DataError, match="no pictures of PrivateTest"):
        evaluate(mean_model(), dataset([public]), ledger=ledger)
    with pytest.raises(DataError, match="every picture of PrivateTest has a copy"):
        evaluate(
            mean_model(),
            dataset([public, (2, 2, "Training"), (2, 2, "PrivateTest")]),
            ledger=ledger,
        )
    assert len(ledger.read_text().splitlines()) == 1
