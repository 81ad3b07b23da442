"""What becomes of each frame of a batch; what is remembered of feeds from one batch to the next."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import cast

import numpy as np
import pytest
from structlog.testing import capture_logs

from tests.feeds import START
from worker.analysis import Analyst, Shot
from worker.consume.inhand import Delivery
from worker.consume.leases import Lease
from worker.consume.opening import Opened, Unfit
from worker.detect.find import Look
from worker.detect.track import Tracks
from worker.errors import EntryError, ModelError
from worker.memory import Memory
from worker.outcomes import Outcomes
from worker.picture import FramePicture, Scale
from worker.publish.previews import Previews
from worker.publish.settle import Outcome
from worker.records import Detections, Encoding, Frame, FrameEvent, Image, ModelInfo, Policy
from worker.wire.codec import time_of_id
from worker.wire.keys import FeedKeys
from worker.wire.registry import FeedSettings
from worker.wire.server import Server

INFO = ModelInfo("model", "1", "0" * 16)
BAD = 13
"""Height of the pictures on which the models fail."""
WORSE = 14
"""Height of those on which they fail in the second step."""


class Models:
    """Stands in for the analyst; the state after a frame is its number."""

    def __init__(self) -> None:
        self.broken = False
        self.calls: list[list[int]] = []
        self.later_calls: list[list[int]] = []
        self.memories: list[Memory] = []

    def detect(self, shots: Sequence[Shot], *, busy: float) -> list[Look]:
        assert busy == 0.25
        self.calls.append([shot.frame.sequence for shot in shots])
        if any(shot.picture.height == BAD for shot in shots):
            raise RuntimeError("stumbled")
        self.memories += [shot.memory for shot in shots]
        return [cast(Look, shot.frame.sequence) for shot in shots]

    def analyse(
        self, shots: Sequence[Shot], looks: Sequence[Look]
    ) -> list[tuple[FrameEvent, bytes]]:
        numbers = [shot.frame.sequence for shot in shots]
        assert list(looks) == numbers
        self.later_calls.append(numbers)
        if any(shot.picture.height == WORSE for shot in shots):
            raise RuntimeError("stumbled later")
        return [(event_of(shot), b"%d" % shot.frame.sequence) for shot in shots]

    def try_models(self, shape: tuple[int, ...]) -> None:
        assert shape in ((BAD, 64), (WORSE, 64))
        if self.broken:
            raise ModelError("the models do not work here")


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def outcomes(server: Server, models: Models) -> Outcomes:
    return Outcomes(server, cast(Analyst, models), lambda: 0.25, Previews(server, "off"))


def event_of(shot: Shot) -> FrameEvent:
    return FrameEvent(
        feed=shot.frame.feed, frame_id=shot.frame_id, session="s", sequence=shot.frame.sequence,
        captured_at=START, ingested_at=time_of_id(shot.frame_id), pts_seconds=0.0, width=64,
        height=48, faces=(), detector=INFO, classifier=INFO,
    )  # fmt: skip


def delivery_of(
    feed: str,
    number: int,
    *,
    stale_at: float = math.inf,
    doubts: int = 0,
    policy: Policy = "live",
) -> Delivery:
    lease = Lease(feed, f"token-{feed}", FeedKeys.of(feed), FeedSettings(policy=policy))
    return Delivery(lease, f"{number}-0", b"", stale_at=stale_at, doubts=doubts)


def opened(delivery: Delivery, height: int = 48) -> Opened:
    number = int(delivery.frame_id.partition("-")[0])
    frame = Frame(
        feed=delivery.feed, session="s", sequence=number, captured_at=START, pts=number,
        time_base=Fraction(1, 25), width=64, height=height, encoding=Encoding.JPEG, data=b"",
    )  # fmt: skip
    return Opened(delivery, frame, FramePicture.of(np.zeros((height, 64, 3), np.uint8)), 0.0)


def both_steps(outcomes: Outcomes, batch: Sequence[Opened | Unfit]) -> list[Outcome]:
    return outcomes.of(outcomes.detect(batch))


def test_each_frame_has_its_outcome_in_its_place(outcomes: Outcomes, models: Models) -> None:
    late = time.monotonic() - 0.001
    batch: list[Opened | Unfit] = [
        opened(delivery_of("a", 1)),
        Unfit(delivery_of("a", 2), "dropped"),
        opened(delivery_of("b", 3)),
        Unfit(delivery_of("a", 4), "dead", EntryError("corrupt", "no picture")),
        opened(delivery_of("b", 5, stale_at=late)),
        Unfit(delivery_of("b", 6), "skipped"),
        opened(delivery_of("a", 7)),
    ]
    found = both_steps(outcomes, batch)
    assert [outcome.delivery for outcome in found] == [one.delivery for one in batch]
    assert [outcome.kind for outcome in found] == [
        "published", "dropped", "published", "dead", "skipped", "skipped", "published",
    ]  # fmt: skip
    assert models.calls == [[1, 3, 7]], "what has waited too long is not looked at"
    assert [outcome.state for outcome in found] == [b"1", b"", b"3", b"", b"", b"", b"7"]
    assert (found[3].reason, found[3].detail) == ("corrupt", "no picture")
    assert models.memories[0] is models.memories[2] is not models.memories[1]


def test_nothing_to_analyse_is_not_analysed(outcomes: Outcomes, models: Models) -> None:
    assert [one.kind for one in both_steps(outcomes, [Unfit(delivery_of("a", 1), "dropped")])] == [
        "dropped"
    ]
    assert models.calls == []


def test_a_frame_that_cannot_be_analysed_takes_no_other_with_it(
    outcomes: Outcomes, models: Models
) -> None:
    heights = {2: BAD, 4: WORSE}
    batch = [opened(delivery_of("a", i), heights.get(i, 48)) for i in range(1, 6)]
    with capture_logs() as logs:
        found = both_steps(outcomes, batch)
    assert [one.kind for one in found] == ["published", "dead", "published", "dead", "published"]
    assert [found[i].reason for i in (1, 3)] == ["analysis-failed"] * 2
    assert [found[i].detail for i in (1, 3)] == [
        "RuntimeError('stumbled')", "RuntimeError('stumbled later')",
    ]  # fmt: skip
    assert models.calls == [[1, 2, 3, 4, 5], [1], [2], [3], [4], [5]]
    assert models.later_calls == [[1, 3, 4, 5], [1], [3], [4], [5]]
    assert [line["event"] for line in logs] == [
        "detection failed in a batch, its frames run alone",
        "a frame cannot be analysed",
        "a batch failed, its frames run alone",
        "a frame cannot be analysed",
    ]


@pytest.mark.parametrize("height", [BAD, WORSE])
def test_models_that_fail_bury_nothing(outcomes: Outcomes, models: Models, height: int) -> None:
    models.broken = True
    with pytest.raises(ModelError), capture_logs():
        both_steps(outcomes, [opened(delivery_of("a", 1), height)])


def test_a_feed_is_remembered_until_there_is_a_doubt(
    server: Server, outcomes: Outcomes, models: Models
) -> None:
    saved = Memory(classifier="from the server")
    delivery = delivery_of("a", 1)
    server.command("SET", delivery.lease.keys.state, saved.state())
    both_steps(outcomes, [opened(delivery)])
    server.command("DEL", delivery.lease.keys.state)
    both_steps(outcomes, [opened(delivery_of("a", 2))])
    both_steps(outcomes, [opened(delivery_of("a", 3, doubts=1))])
    both_steps(outcomes, [opened(delivery_of("a", 4, doubts=1))])
    first, second, third, fourth = models.memories
    assert first is second
    assert first.classifier == "from the server"
    assert third is fourth is not first
    assert third.classifier == ""


def test_what_is_no_memory_is_told_and_the_tracks_begin_anew(
    server: Server, outcomes: Outcomes, models: Models
) -> None:
    server.command("SET", FeedKeys.of("a").state, "no memory")
    server.command("LPUSH", FeedKeys.of("b").state, "not even text")
    with capture_logs() as logs:
        both_steps(outcomes, [opened(delivery_of("a", 7)), opened(delivery_of("b", 8))])
    assert [(line["event"], line["feed"]) for line in logs] == [
        ("tracks start anew", "a"),
        ("tracks start anew", "b"),
    ]
    # Their ids begin beyond those that the feed may have had.
    assert [memory.tracks.next_id for memory in models.memories] == [7, 8]


def test_nothing_is_kept_of_other_feeds(outcomes: Outcomes, models: Models) -> None:
    both_steps(outcomes, [opened(delivery_of("a", 1)), opened(delivery_of("b", 1))])
    outcomes.keep([delivery_of("a", 1).lease])
    both_steps(outcomes, [opened(delivery_of("a", 2)), opened(delivery_of("b", 2))])
    first_a, first_b, second_a, second_b = models.memories
    assert first_a is second_a
    assert first_b is not second_b


@pytest.mark.parametrize("step", ["detect", "analyse"])
def test_a_picture_that_turns_out_to_be_broken_is_a_dead_letter_of_its_own(
    outcomes: Outcomes, models: Models, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """At half its size it could be decoded. The models are not to blame, and not tried."""
    work = getattr(models, step)

    def decode(scale: Scale) -> Image:
        raise EntryError("corrupt", "the JPEG picture cannot be decoded")

    def look_closely(shots: Sequence[Shot], *more: object, **options: object) -> object:
        for shot in shots:
            assert shot.picture.whole.shape
        return work(shots, *more, **options)

    monkeypatch.setattr(models, step, look_closely)
    models.broken = True
    batch = [opened(delivery_of("a", number)) for number in (1, 2, 3)]
    batch[1] = replace(batch[1], picture=FramePicture(48, 64, decode=decode))
    with capture_logs():
        found = both_steps(outcomes, batch)
    assert [(one.kind, one.reason) for one in found] == [
        ("published", ""), ("dead", "corrupt"), ("published", "")
    ]  # fmt: skip


def test_a_live_feed_with_small_faces_needs_its_pictures_whole(
    outcomes: Outcomes, models: Models
) -> None:
    lease = delivery_of("a", 1).lease
    assert outcomes.scale_for(lease) == 2
    both_steps(outcomes, [opened(delivery_of("a", 1))])
    assert outcomes.scale_for(lease) == 2
    boxes = np.array([[0, 0, 200, 200], [300, 0, 360, 60]], np.float32)
    for some, scale in ((boxes, 1), (boxes[:1], 2)):
        faces = Detections(some, np.ones(len(some)), np.zeros((len(some), 5, 2)))
        models.memories[-1].tracks, _ = Tracks().after(faces, 0.0)
        assert outcomes.scale_for(lease) == scale
        # Of the same token, but lossless: always the same, however far the analysis has come.
        assert outcomes.scale_for(delivery_of("a", 1, policy="lossless").lease) == 2
