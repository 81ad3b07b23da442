"""The form of what is logged. In processes of its own: logging is configured once for a process."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.processes import ROOT, SAMPLE, mien, running
from tests.feeds import push_frames, wait_until
from worker.wire.books import read_books
from worker.wire.keys import FeedKeys
from worker.wire.server import Server
from worker.wire.workers import live_workers

SAYS = """
import logging, sys, threading, warnings
import structlog
from worker import logs
log = structlog.get_logger()
counted = []
logs.configure(sys.argv[2], sys.argv[1], count=counted.append, worker="host:7")
{}
print(",".join(counted))
"""


def says(code: str, format: str, level: str = "info") -> tuple[list[str], list[str]]:
    """The lines on standard error of a process that runs ``code``, and the levels counted."""
    done = subprocess.run(
        [sys.executable, "-c", SAYS.format(code), format, level],
        check=True, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    return done.stderr.splitlines(), done.stdout.strip().split(",")


def test_a_line_is_an_object() -> None:
    lines, counted = says("log.warning('dead letter', feed='cam', frame_id='1-0', n=3)", "json")
    (line,) = map(json.loads, lines)
    age = datetime.now(UTC) - datetime.fromisoformat(line.pop("timestamp"))
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert line == {
        "level": "warning", "event": "dead letter", "worker": "host:7", "feed": "cam",
        "frame_id": "1-0", "n": 3,
    }  # fmt: skip
    assert counted == ["warning"]


def test_logfmt_and_pretty() -> None:
    code = "log.info('lease taken', feed='cam')"
    (line,), _ = says(code, "logfmt")
    assert line.endswith(' level=info event="lease taken" worker=host:7 feed=cam')
    (line,), _ = says(code, "pretty")
    assert "lease taken" in line
    assert "feed=cam" in line
    assert "\x1b" not in line  # no colours where there is no terminal
    assert (
        says(code, "auto")[0][0].partition(" ")[2] == says(code, "logfmt")[0][0].partition(" ")[2]
    )


def test_what_libraries_log_has_the_same_form() -> None:
    code = """
logging.getLogger("uvicorn.access").info('%s "%s"', "127.0.0.1", "GET /")
logging.getLogger("mien").warning("%s events were trimmed", 3, extra={"feed": "cam", "x": 1})
logging.getLogger("redis").debug("not this")
warnings.warn("careful")
"""
    lines, counted = says(code, "json", "debug")
    access, ours, warning = map(json.loads, lines)
    assert access["event"] == '127.0.0.1 "GET /"'
    assert ours["event"] == "3 events were trimmed"
    assert (ours["feed"], ours["level"]) == ("cam", "warning")
    assert "x" not in ours
    assert "careful" in warning["event"]
    assert {one["worker"] for one in (access, ours, warning)} == {"host:7"}
    assert counted == ["info", "warning", "warning"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(level: str, expected: list[str]) -> None:
    code = "log.debug('a'); log.info('b'); log.warning('c'); log.error('d')"
    lines, counted = says(code, "json", level)
    assert [json.loads(line)["level"] for line in lines] == counted == expected


def test_an_exception_is_within_its_line() -> None:
    code = """
for one in (log, logging.getLogger("library")):
    try:
        raise ValueError("a\\nb")
    except ValueError:
        one.exception("it failed")
"""
    for line in says(code, "json")[0]:
        assert json.loads(line)["exception"].endswith("ValueError: a\nb")
    assert len(says(code, "logfmt")[0]) == 2


def test_a_thread_says_which_feed_is_its() -> None:
    code = """
from structlog.contextvars import bind_contextvars
def run():
    bind_contextvars(feed="cam")
    log.info("inside")
    logging.getLogger("mien").warning("inside")
thread = threading.Thread(target=run)
thread.start()
thread.join()
log.info("outside")
"""
    feeds = [json.loads(line).get("feed") for line in says(code, "json")[0]]
    assert feeds == ["cam", "cam", None]


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("auto", "mien: cam: it waits"),
        ("pretty", "mien: cam: it waits"),
        ("logfmt", "level=warning"),
    ],
)
def test_a_sentence_for_a_person(format: str, expected: str) -> None:
    (line,), _ = says("logs.tell('it waits', feed='cam')", format)
    assert expected in line


def test_every_line_of_a_worker_says_whose_it_is(
    server: Server, server_url: str, feed: str
) -> None:
    """A dead letter's line names worker, feed and frame."""
    push_frames(server, feed, 1)
    server.command("XADD", FeedKeys.of(feed).frames, "*", "frame", b"no frame")
    with running("worker", "--redis", server_url, "--log-format", "json") as worker:
        wait_until(lambda: read_books(server, feed).dead == 1, 60)
        (entry,) = live_workers(server).values()
        worker.terminate()
        err = worker.communicate(timeout=20)[1]
    lines = [json.loads(line) for line in err.splitlines()]
    assert {line["worker"] for line in lines} == {entry.name}
    (letter,) = [line for line in lines if line["event"] == "dead letter"]
    assert (letter["feed"], letter["reason"]) == (feed, "not-a-frame")
    (dead,) = server.command("XRANGE", FeedKeys.of(feed).dead, "-", "+")
    assert letter["frame_id"] == dead[1][b"frame_id"].decode()
    assert {"lease taken", "worker stopped"} <= {line["event"] for line in lines}


def test_a_push_that_a_machine_reads(server: Server, server_url: str, feed: str) -> None:
    words = ("--redis", server_url, "--fps", "1", "--width", "64", "--log-format", "json")
    done = mien("push", SAMPLE, "--feed", feed, *words)
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["event"], line["feed"], line["state"]) == ("pushed", feed, "ended")
    assert line["accepted"] == read_books(server, feed).offered == 14


def test_an_error_that_ends_the_command_is_a_line_too() -> None:
    done = mien("worker", "--redis", "redis://127.0.0.1:1", "--log-format", "json")
    assert done.returncode == 1
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["level"] == "error"
    assert "127.0.0.1:1" in line["event"]
    assert mien("worker", "--log-level", "loud").returncode == 2
