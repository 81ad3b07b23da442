"""What is said on the terminal is said as it is."""

from __future__ import annotations

import pytest

from worker.terminal import plain_console, say


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    plain_console(width=80).print("[/x] [bold] :smile:")
    assert capsys.readouterr().out == "[/x] [bold] :smile:\n"


def test_what_is_said_stays_one_line_and_out_of_the_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say("word " * 100)
    told = capsys.readouterr()
    assert told.err == "mien: " + "word " * 100 + "\n"
    assert told.out == ""
