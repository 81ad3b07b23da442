"""Pictures on a device: held for later steps, let go with the host's or where room is short.

On the CPU, or where MIEN_TEST_PROVIDER says (deploy/gpu_check.sh).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import pytest

from worker.detect.ongraph import load_graph_detector
from worker.detect.propose import Pyramid
from worker.device import Device, Place
from worker.errors import ModelError
from worker.records import Image, Provider

PROVIDER = cast("Provider", os.environ.get("MIEN_TEST_PROVIDER", "cpu"))


class Counted(Device):
    """Notes what it was sent, and cannot take so many pictures."""

    sent: list[int]
    too_many = 100

    def put(self, images):  # type: ignore[no-untyped-def]
        self.sent.append(len(images))
        if len(images) >= self.too_many:
            raise RuntimeError("CUDA failure 2: out of memory")
        return super().put(images)


@pytest.fixture
def device() -> Counted:
    detector = load_graph_detector(
        pyramid=Pyramid(40, 0.709), thresholds=(0.6, 0.7, 0.7), provider=PROVIDER
    )
    device = Counted(detector.device._table)
    device.sent = []
    return device


def noise(count: int, height: int = 40, width: int = 70) -> list[Image]:
    rng = np.random.default_rng(height)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def shows(place: Place, image: Image) -> bool:
    """Whether the sums there are those of the picture."""
    height, width = image.shape[:2]
    sums = place.tables.sums.numpy()[place.row]
    expected = image.astype(np.int64).cumsum(0).cumsum(1)
    return bool(
        place.tables.size.tolist() == [height, width]
        and (sums[1 : height + 1, 1 : width + 1] == expected).all()
        and not sums[0].any()
    )


def test_pictures_that_are_held_are_not_sent_again(device: Counted) -> None:
    first, second = noise(3), noise(2)
    device.hold(first)
    device.hold(second)
    asked = [second[1], first[0], second[0], first[2], first[0]]
    places = device.locate(asked)
    assert device.sent == [3, 2]
    assert all(shows(*pair) for pair in zip(places, asked, strict=True))


def test_those_that_are_not_held_are_sent_together(device: Counted) -> None:
    some = noise(4)
    device.hold(some[1:2])
    places = device.locate(some)
    assert device.sent == [1, 3]
    assert all(shows(*pair) for pair in zip(places, some, strict=True))
    assert device.locate(some) == places
    assert device.sent == [1, 3]


def test_no_picture_is_taken_for_one_that_is_gone(device: Counted) -> None:
    for level in range(20):  # a new one often lies where the last one lay
        image = np.full((40, 70, 3), level, np.uint8)
        (place,) = device.locate([image])
        assert shows(place, image)
        del image, place
    assert device.sent == [1] * 20


def test_the_device_lets_go_of_what_the_host_has_let_go_of(device: Counted) -> None:
    kept, *gone = noise(5)
    device.hold([kept])
    device.hold(gone)
    del gone
    device.hold(noise(1))
    assert shows(device.locate([kept])[0], kept)
    assert len(device._held) <= 2


def test_the_oldest_make_room(device: Counted) -> None:
    some = noise(5)
    each = device.hold(some[:1]).nbytes
    device._most_held = 3 * each
    for image in some:
        device.hold([image])
    device.sent = []
    device.locate(some[2:])
    assert device.sent == []
    device.locate(some)
    assert device.sent == [2]


def test_where_memory_is_short_held_pictures_are_forgotten_before_batches_are_halved(
    device: Counted,
) -> None:
    held, some = noise(1), [*noise(4, height=33), *noise(1, height=50)]
    device.hold(held)
    device.too_many = 3

    def find(chosen: Sequence[int]) -> list[Place]:
        return device.locate([some[i] for i in chosen])

    places = device.in_batches(some, range(5), find)
    assert all(shows(places[i], image) for i, image in enumerate(some))
    assert device.sent == [1, 4, 4, 2, 2, 1]
    device.sent = []
    device.locate(held)
    assert device.sent == [1]


def test_where_memory_was_short_half_as_many_are_held_from_then_on(device: Counted) -> None:
    some = noise(4)
    device._most_held = 4 * device.hold(some[:1]).nbytes
    assert device.forget()
    assert not device.forget(), "nothing was held: that was not what was too much"
    for image in some:
        device.hold([image])
    device.sent = []
    device.locate(some)
    assert device.sent == [2]


def test_several_threads_hold_and_locate(device: Counted) -> None:
    device._most_held = 6 * device.hold(noise(1)).nbytes

    def work(number: int) -> bool:
        some = noise(5, height=40 + number % 2)
        return all(
            shows(place, image)
            for _ in range(20)
            for place, image in zip(device.locate(some), some, strict=True)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


def test_memory_that_is_short_after_the_pictures_are_there_ends_with_a_sentence(
    device: Counted,
) -> None:
    """Each try holds its pictures: forgetting them is not to go on for ever."""
    some, tries = noise(2), []

    def fails(chosen: object) -> list[None]:
        tries.append(chosen)
        device.hold(some)
        raise RuntimeError("Failed to allocate memory for requested buffer of size 4096")

    with pytest.raises(ModelError, match="memory does not hold one picture of 70x40"):
        device.in_batches(some, [0, 1], fails)
    assert 2 <= len(tries) <= 4


def test_other_errors_are_not_taken_for_want_of_memory(device: Counted) -> None:
    def fails(chosen: object) -> list[None]:
        raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")

    with pytest.raises(RuntimeError, match="CUDNN"):
        device.in_batches(noise(2), [0, 1], fails)
