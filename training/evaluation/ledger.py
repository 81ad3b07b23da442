"""The ledger of PrivateTest: whoever looks at it leaves a line, so that looking stays rare.

A figure that was looked at often enough has been chosen by. The file is committed, and nothing but
its appending is done to it.
"""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from worker.errors import SettingsError

LEDGER = Path(__file__).parents[1] / "private_test_ledger.csv"
"""The one in the source tree."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One evaluation of PrivateTest; the fields are the file's columns, in order."""

    date: str
    """ISO 8601, UTC."""
    model: str
    version: str
    digest: str
    config_digest: str
    """Empty where the model file does not say; so is the seed."""
    seed: str
    label_set: str
    accuracy: str
    """0..1, over all labelled pictures of PrivateTest."""
    accuracy_without_copies: str
    """Over those of them that have no copy in Training."""
    n: int
    """Number of labelled pictures."""


_HEADER = [field.name for field in fields(Entry)]


def check_ledger(path: Path) -> None:
    """Make sure that a line can be appended, before anything is measured; creates the file.

    Raises:
        SettingsError: it cannot be read or written, or is not such a ledger.
    """
    try:
        with path.open("a+", newline="", encoding="utf-8") as file:
            if file.tell() == 0:
                file.write(_line(_HEADER))
                return
            file.seek(0)
            content = file.read()
    except OSError as error:
        raise SettingsError(
            f"the ledger {path} cannot be written, so PrivateTest was not evaluated: "
            f"{error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is no ledger of PrivateTest: it is not text") from None
    if not content.endswith("\n") or next(csv.reader([content.splitlines()[0]])) != _HEADER:
        raise SettingsError(
            f"{path} is no ledger of PrivateTest: its first line must be {','.join(_HEADER)}, "
            "and its last one must end"
        )


def append(path: Path, entry: Entry) -> None:
    """Add one line; the file is checked again, as it may have changed while pictures were measured.

    Raises:
        SettingsError: as ``check_ledger``.
    """
    check_ledger(path)
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            file.write(_line(astuple(entry)))
    except OSError as error:
        raise SettingsError(
            f"the ledger {path} cannot be written, so PrivateTest's figures are not shown: "
            f"{error.strerror}"
        ) from None


def _line(values: list[str] | tuple[object, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
