"""Deliveries are opened in order, in several threads; what is wrong with one stays its own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.feeds import jpeg
from worker.consume import opening
from worker.consume.inhand import Delivery
from worker.consume.leases import Lease
from worker.consume.opening import Opened, Opener, Unfit
from worker.cores import Cores
from worker.picture import FramePicture, Scale
from worker.records import Frame
from worker.wire import frame_pb2
from worker.wire.keys import FeedKeys
from worker.wire.registry import FeedSettings

LEASE = Lease("cam", "token", FeedKeys.of("cam"), FeedSettings())


def delivery(
    width: int = 64, *, data: bytes | None = None, gone: bool = False,
    stale_at: float = math.inf, attempts: int = 0,
) -> Delivery:  # fmt: skip
    """A frame whose picture is so wide, and 48 high."""
    data = jpeg(width, 48) if data is None else data
    body = frame_pb2.Frame(feed="cam", encoding=frame_pb2.ENCODING_JPEG, data=data)
    return Delivery(LEASE, "1700000000000-0", body.SerializeToString(), gone, stale_at, attempts)


def opener_of(cores: Cores) -> Opener:
    return Opener(cores, max_pixels=100_000, max_attempts=2)


@pytest.fixture(params=[1, 3])
def opener(request: pytest.FixtureRequest) -> Iterator[Opener]:
    made = opener_of(Cores(request.param))
    yield made
    made.close()


def widths(found: list[Opened | Unfit]) -> list[int]:
    return [one.picture.width for one in found if isinstance(one, Opened)]


def test_the_order_is_kept(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(frame: Frame, max_pixels: int, **_how: Any) -> FramePicture:
        width = int(frame.data)
        time.sleep(0.02 if width % 2 else 0.0)
        return FramePicture.of(np.zeros((48, width, 3), np.uint8))

    monkeypatch.setattr(opening, "open_picture", decode)
    deliveries = [delivery(data=b"%d" % (10 + i)) for i in range(12)]
    found = list(opener.open(deliveries))
    assert [one.delivery for one in found] == deliveries
    assert widths(found) == list(range(10, 22))
    assert sum(one.decode_s for one in found) > 6 * 0.02 * 0.9


def test_what_cannot_be_analysed_is_told(opener: Opener) -> None:
    found = list(
        opener.open(
            [
                delivery(),
                delivery(gone=True),
                delivery(stale_at=0.0),
                delivery(attempts=3),
                delivery(attempts=2),
                delivery(data=b"no picture"),
                delivery(width=4000),
                Delivery(LEASE, "1-0", None),
            ]
        )
    )
    told = [(one.kind, one.error and one.error.reason) for one in found if isinstance(one, Unfit)]
    assert told == [
        ("dropped", None),
        ("skipped", None),
        ("dead", "poison"),
        ("dead", "corrupt"),
        ("dead", "too-large"),
        ("dead", "not-a-frame"),
    ]
    assert widths(found) == [64, 64]
    assert [one.pixels for one in found if isinstance(one, Opened)] == [64 * 48] * 2


def test_no_more_is_decoded_than_cores_are_free_and_little_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock, at_once, most, begun = threading.Lock(), 0, 0, 0

    def decode(frame: Frame, max_pixels: int, **_how: Any) -> FramePicture:
        nonlocal at_once, most, begun
        with lock:
            at_once += 1
            begun += 1
            most = max(most, at_once)
        time.sleep(0.005)
        with lock:
            at_once -= 1
        return FramePicture.of(np.zeros((48, 64, 3), np.uint8))

    monkeypatch.setattr(opening, "open_picture", decode)
    cores = Cores(3)
    opener = opener_of(cores)
    with cores:  # somebody else computes
        line = opener.open([delivery() for _ in range(20)])
        next(line)
        assert begun <= 5, "whoever does not take the pictures stops the decoding"
        assert len(list(line)) == 19
    assert most <= 2
    opener.close()


@pytest.mark.parametrize(("wanted", "there"), [(None, 1280), (1, 1280), (2, 640)])
def test_large_pictures_are_decoded_at_the_scale_that_their_feed_needs(
    wanted: Scale | None, there: int
) -> None:
    asked = []

    def first(lease: Lease) -> Scale:
        asked.append(lease)
        return wanted or 2

    opener = Opener(Cores(1), max_pixels=1_000_000, max_attempts=2, first=first if wanted else None)
    (found,) = opener.open([delivery(data=jpeg(1280, 720))])
    opener.close()
    assert isinstance(found, Opened)
    assert found.picture.there.shape[1] == there
    assert found.pixels == 1280 * 720
    assert asked == ([LEASE] if wanted else [])
