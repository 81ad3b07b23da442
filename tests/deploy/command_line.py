"""Whether the command line takes what a manifest would give it."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from worker.app import app


def assert_parses(command: str, options: Sequence[str]) -> None:
    """The command line's own parser takes this; nothing is run."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert command in commands
    commands[command].make_context(command, list(options))
