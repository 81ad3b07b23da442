"""``mien dead``: list, show, redrive and purge the frames that could not be analysed."""

from __future__ import annotations

import json as json_module
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf import json_format
from rich.table import Table

from worker.errors import MienError, SettingsError
from worker.operate import dead
from worker.operate.durations import seconds
from worker.operate.feeds_command import Redis
from worker.terminal import plain_console, say
from worker.wire.registry import registered, settings_of
from worker.wire.server import Server

app = typer.Typer(
    help="Dead letters: the frames that could not be analysed, and why.\n\nExample: mien dead list",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Feed = Annotated[str, typer.Argument(help="Name of the feed.")]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids as mien dead list shows them.")]


@app.command("list")
def list_command(
    feed: Annotated[str | None, typer.Argument(help="Only this feed's.")] = None,
    redis: Redis = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List dead letters, the oldest of each feed first.

    Example: mien dead list cam1
    """
    server = Server(redis)
    feeds = [feed] if feed is not None else sorted(registered(server, removing=True)[0])
    if feed is not None:
        settings_of(server, feed)
    table = Table(box=None, header_style="bold")
    for heading in ("feed", "id", "died", "reason", "deliveries", "pixels", "error"):
        table.add_column(heading, no_wrap=heading != "error")
    for name in feeds:
        for letter in dead.letters(server, name):
            if json:
                print(json_module.dumps(_as_json(letter)))
            table.add_row(
                name,
                letter.letter_id,
                f"{letter.died_at:%Y-%m-%d %H:%M:%SZ}",
                letter.reason,
                str(letter.deliveries),
                "no" if letter.kept < 0 else f"{letter.kept} B",
                letter.error,
            )
    if not json:
        out = plain_console(width=None if sys.stdout.isatty() else 1000)
        out.print(table if table.row_count else "no dead letters")


@app.command("show")
def show_command(
    feed: Feed,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As mien dead list shows it.")],
    redis: Redis = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the frame's data here, as it was pushed.")
    ] = None,
) -> None:
    """Show all that is known of one dead letter, as JSON.

    Example: mien dead show cam1 1760000000000-0 --save bad.jpg
    """
    server = Server(redis)
    print(json_module.dumps(_as_json(dead.letter(server, feed, letter_id)), indent=2))
    if save is not None:
        data = dead.pixels(server, feed, letter_id)
        try:
            save.write_bytes(data)
        except OSError as error:
            raise SettingsError(f"cannot write {save}: {error.strerror or error}") from None


@app.command("redrive")
def redrive_command(
    feed: Feed,
    ids: Ids = None,
    every: Annotated[bool, typer.Option("--all", help="All whose pixels were kept.")] = False,
    redis: Redis = None,
) -> None:
    """Offer the frames of dead letters again, as new frames that name their origin.

    Needs their pixels, which are kept after: mien feeds set FEED --dead-pixels on. In a live feed
    they may be dropped as any frame may.

    Example: mien dead redrive cam1 --all
    """
    server = Server(redis)
    without = 0
    if _either(ids, every):
        found = list(dead.letters(server, feed))
        chosen = [letter.letter_id for letter in found if letter.kept >= 0]
        without = len(found) - len(chosen)
    else:
        chosen = list(dict.fromkeys(ids or ()))
    settings_of(server, feed)
    done = 0
    try:
        for letter_id, frame_id in dead.redrive(
            server, feed, chosen, stop=threading.Event(), say=say
        ):
            print(f"{letter_id} -> {frame_id}", flush=True)
            done += 1
    finally:
        say(f"{feed}: {done} redriven" + (f", {without} without pixels" if without else ""))


@app.command("purge")
def purge_command(
    feed: Feed,
    ids: Ids = None,
    every: Annotated[bool, typer.Option("--all", help="All of the feed.")] = False,
    older_than: Annotated[
        str | None, typer.Option(help="Those that died so long ago: 90, 15m, 12h, 7d.")
    ] = None,
    redis: Redis = None,
) -> None:
    """Throw dead letters away. The books keep what they counted.

    Example: mien dead purge cam1 --older-than 7d
    """
    server = Server(redis)
    settings_of(server, feed)
    age_s = seconds("--older-than", older_than)
    if age_s is not None:
        if ids or every:
            raise SettingsError("give ids, --all or --older-than, not several of them")
        gone = dead.purge(server, feed, older_than_s=age_s)
    elif _either(ids, every, "ids, --all or --older-than"):
        gone = dead.purge(server, feed)
    else:
        gone = dead.purge(server, feed, ids)
        if gone < (named := len(set(ids or ()))):
            raise MienError(f"feed {feed}: {gone} of {named} purged, it has no others of these ids")
    print(f"{feed}: {gone} dead letters purged")


def _either(ids: list[str] | None, every: bool, choice: str = "ids or --all") -> bool:
    """Whether all are meant; exactly one of the two must be given."""
    if bool(ids) == every:
        raise SettingsError(f"say which dead letters: {choice}")
    return every


def _as_json(letter: dead.Letter) -> dict[str, Any]:
    header = letter.header
    return {
        "feed": letter.feed,
        "id": letter.letter_id,
        "died_at": letter.died_at.isoformat(),
        "frame_id": letter.frame_id,
        "reason": letter.reason,
        "error": letter.error,
        "deliveries": letter.deliveries,
        "kept_bytes": max(0, letter.kept),
        "frame": json_format.MessageToDict(header) if header else None,
    }
