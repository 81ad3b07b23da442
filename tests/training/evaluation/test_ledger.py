from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from training.evaluation.ledger import LEDGER, Entry, append, check_ledger
from worker.errors import SettingsError

ENTRY = Entry("2026-01-02", "a, b", "1", "f" * 16, "", "0", "fer2013", "0.700000", "0.680000", 3589)
HEADER = (
    "date,model,version,digest,config_digest,seed,label_set,accuracy,accuracy_without_copies,n\n"
)


def test_each_entry_adds_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    append(path, ENTRY)
    append(path, replace(ENTRY, seed="1"))
    line = '2026-01-02,"a, b",1,ffffffffffffffff,,0,fer2013,0.700000,0.680000,3589\n'
    assert path.read_text() == HEADER + line + line.replace(",,0,", ",,1,")


def test_a_file_that_is_no_ledger_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    for content in (b"date,accuracy\n", HEADER.rstrip().encode(), b"\n", b"\xff\xfe\n"):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=r"ledger\.csv is no ledger of PrivateTest"):
            append(path, ENTRY)
        assert path.read_bytes() == content


def test_a_ledger_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "ledger.csv"):
        with pytest.raises(SettingsError, match="cannot be written, so PrivateTest was not eval"):
            check_ledger(path)


def test_the_committed_ledger_can_be_read() -> None:
    check_ledger(LEDGER)
    with LEDGER.open(newline="") as file:
        first = next(csv.DictReader(file))
    assert first == {
        "date": "2026-11-22",
        "model": "mien-cnn",
        "version": "1",
        "digest": "fef72d19c5258b18",
        "config_digest": "",
        "seed": "0",
        "label_set": "fer2013",
        # 2472 of 3589, and 2224 of 3301.
        "accuracy": "0.688771",
        "accuracy_without_copies": "0.673735",
        "n": "3589",
    }
