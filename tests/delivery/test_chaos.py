"""The chaos run, short: all of it happens, and every frame is accounted for.

A person starts it for longer: python -m tests.delivery.chaos --minutes 10 --seed 7
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.delivery.chaos.evidence import Death, Evidence, Journal, RolledBack
from tests.delivery.chaos.picture import Kind, Mark, draw, kind_of, read
from tests.delivery.chaos.plan import plan
from tests.delivery.chaos.run import FEEDS, WORKERS, run
from tests.delivery.chaos.verdict import judge
from tests.delivery.conftest import ROOT
from tests.doubles import OneFace
from tests.feeds import START, wait_until
from worker.consume.images import decode_picture
from worker.records import Encoding, Face, Frame, FrameEvent
from worker.wire.books import Books

SEED = int(os.environ.get("MIEN_CHAOS_SEED", "2"))
SECONDS = 25.0
POISON_AT = 10
"""The sequence of the first feed's first poison frame, whatever the seed."""


def test_a_short_run_with_everything_in_it(tmp_path: Path) -> None:
    report = run(SEED, SECONDS, tmp_path, failovers=True, say=print)
    again = f"python -m tests.delivery.chaos --minutes {SECONDS / 60:g} --seed {SEED} --failovers"
    assert not report.faults, f"{report.faults} ({again})"
    assert all(verdict.lost == verdict.repeated == 0 for verdict in report.verdicts)
    assert all(one.books.published > 0 for one in report.evidence)
    planned = {act.what for act in plan(SEED, SECONDS, workers=3, writers=4, failovers=True)}
    done = {what for what, number in report.counts.items() if number > 0}
    # A machine that is slow may never have its replica ready.
    assert planned - {"fail_over"} <= done


def test_the_schedule_is_told_by_its_seed() -> None:
    def of(seed: int, seconds: float = 60.0) -> object:
        return plan(seed, seconds, workers=WORKERS, writers=len(FEEDS), failovers=True)

    assert of(7) == of(7)
    assert of(7) != of(8)
    acts = plan(7, 60.0, workers=WORKERS, writers=len(FEEDS), failovers=True)
    assert len({act.what for act in acts}) == 16, "everything that can be done is done"
    assert max(act.at_s + act.lasts_s for act in acts) <= 60
    strict = plan(7, 60.0, workers=WORKERS, writers=len(FEEDS), failovers=False)
    assert "fail_over" not in {act.what for act in strict}


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.CORRUPT])
def test_a_picture_tells_its_number(kind: Kind) -> None:
    mark = Mark(feed=3, writer=40_000, sequence=16_000_000, kind=kind)
    frame = Frame("a", "s", 0, START, 0, 1, 0, 0, Encoding.JPEG, draw(mark))  # type: ignore[arg-type]
    image = decode_picture(frame)
    assert read(image) == mark
    damaged = image.copy()
    damaged[8:16, 8:16] = 255 - damaged[8:16, 8:16]
    assert read(damaged) is None


def good() -> Evidence:
    """Of the first feed: four frames published, and one poison frame dead."""
    seed = next(
        seed
        for seed in range(100)
        if all(kind_of(seed, len(FEEDS), 0, 1, n) is Kind.PLAIN for n in range(4))
    )
    assert seed == 0
    session = "00000000000000a-1"
    events = [
        FrameEvent(
            feed=FEEDS[0].name, frame_id=f"{n + 1}-0", session=session, sequence=n,
            captured_at=START, ingested_at=START, pts_seconds=float(n), width=64, height=64,
            faces=(Face(1, (0, 0, 1, 1), 1.0, ((1.0, float(n)), (0.0, 0.0)), {}, "calm"),),
            detector=OneFace.info, classifier=OneFace.info, ordinal=n + 1,
        )
        for n in range(4)
    ]  # fmt: skip
    offered = {0, 1, 2, 3, POISON_AT}
    return Evidence(
        feed=FEEDS[0],
        books=Books(5, 0, 0, 4, 0, 0, 1, 0.0, owned=False),
        events=events,
        deaths=[Death("9-0", "poison", session, POISON_AT)],
        journals=[Journal(1, session, offered, set(offered))],
    )


def faults_of(evidence: Evidence, seen: list[tuple[str, int]] | None = None) -> str:
    if seen is None:
        seen = [(event.frame_id, event.ordinal) for event in evidence.events]
    verdict = judge(evidence, seen, seed=0, feeds=len(FEEDS), rolled_back=RolledBack())
    return " / ".join(verdict.faults)


def test_the_judge_is_content_when_all_is_well() -> None:
    assert faults_of(good()) == ""


def shown_as(number: int) -> tuple[Face, ...]:
    face = good().events[0].faces[0]
    return (replace(face, landmarks=((1.0, float(number)), (0.0, 0.0))),)


def with_event(place: int, **changes: object) -> Evidence:
    events = list(good().events)
    events[place] = replace(events[place], **changes)  # type: ignore[arg-type]
    return replace(good(), events=events)


BAD: dict[str, Callable[[], Evidence]] = {
    "do not balance": lambda: replace(good(), books=replace(good().books, offered=6)),
    "do not tell what the streams hold": lambda: replace(good(), deaths=[]),
    "several outcomes": lambda: with_event(2, sequence=1),
    "without an outcome": lambda: replace(good(), events=good().events[:3]),
    "nobody pushed": lambda: with_event(2, sequence=77),
    "of another frame": lambda: with_event(2, faces=shown_as(1)),
    "has the ordinal": lambda: with_event(2, ordinal=4),
    "comes after": lambda: with_event(2, frame_id="1-0"),
    "was published": lambda: with_event(3, sequence=POISON_AT),
    "dead of corrupt": lambda: replace(
        good(), deaths=[replace(good().deaths[0], reason="corrupt")]
    ),
    "dropped or skipped": lambda: replace(good(), books=replace(good().books, dropped=1)),
}


@pytest.mark.parametrize("fault", BAD)
def test_the_judge_finds(fault: str) -> None:
    assert fault in faults_of(BAD[fault]())


def test_the_judge_hears_what_a_subscriber_saw() -> None:
    seen = [(event.frame_id, event.ordinal) for event in good().events]
    assert "a subscriber saw" in faults_of(good(), [*seen, seen[-1]])
    assert "a subscriber saw" in faults_of(good(), seen[1:])


def marked(mark: str, folder: Path) -> list[int]:
    """The processes that have ``mark`` in their environment, or run within ``folder``: a server
    writes its title over its environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            within = (path.parent / "cwd").readlink().is_relative_to(folder)
            if within or mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has just ended, or is another user's
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find processes")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_nothing_is_left_of_a_run_that_is_broken_off(
    tmp_path: Path, number: int, code: int
) -> None:
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.delivery.chaos", "--minutes", "1", "--seed", "1"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "MARK": mark, "TMPDIR": str(tmp_path)},
        # A shell has what it starts in the background ignore SIGINT, down to here.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        # This one, the nursery, the server, and some workers and writers.
        wait_until(lambda: len(marked(mark, tmp_path)) >= 7)
        process.send_signal(number)
        assert process.wait(timeout=20) == code
        if number == signal.SIGKILL:
            wait_until(lambda: len(marked(mark, tmp_path)) <= 1)  # the server has nobody to end it
        else:
            assert marked(mark, tmp_path) == []
            assert list(tmp_path.glob("mien-chaos-*")) == []
    finally:
        process.kill()
        process.communicate()
        for left in marked(mark, tmp_path):
            os.kill(left, signal.SIGKILL)


def test_the_command_line_says_what_it_wants() -> None:
    command = [sys.executable, "-m", "tests.delivery.chaos"]
    began = time.monotonic()
    shown = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0
    assert "--minutes 10 --seed 7" in shown.stdout
    wrong = subprocess.run([*command, "--minutes", "0"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "--minutes must be within" in wrong.stderr
    assert time.monotonic() - began < 60, "it does not begin to run"
