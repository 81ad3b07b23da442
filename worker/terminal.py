"""The person's terminal: what every command needs to speak to it."""

from __future__ import annotations

from rich.console import Console


def plain_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that shows text as it is: a name may look like Rich's markup or an emoji's code."""
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


screen = plain_console(stderr=True)


def say(message: str) -> None:
    """One line in the program's name, on standard error."""
    screen.print(f"mien: {message}", soft_wrap=True)
