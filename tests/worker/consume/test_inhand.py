"""What is in hand: counted, passed on in order, and void after a doubt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.feeds import wait_until
from worker.consume.inhand import Delivery, InHand
from worker.consume.leases import Lease
from worker.wire.keys import FeedKeys
from worker.wire.registry import FeedSettings

LEASES = {name: Lease(name, f"token-{name}", FeedKeys.of(name), FeedSettings()) for name in "abc"}


@dataclass(frozen=True, slots=True)
class Item:
    delivery: Delivery
    pixels: int = 100


Hands = InHand[Item, str, Item]


def hands_of(size: int = 8, wait_s: float = 0.0, pixels: int = 10_000) -> Hands:
    return InHand(size=size, wait_s=wait_s, pixels=pixels)


def read(hands: Hands, feeds: str, pixels: int = 100) -> list[Item]:
    """One new frame of each of ``feeds``, a letter each."""
    found = [
        Delivery(LEASES[name], f"{i}-0", b"", doubts=hands.doubts(LEASES[name]))
        for i, name in enumerate(feeds)
    ]
    hands.took(found)
    return [Item(delivery, pixels) for delivery in found]


def offer(hands: Hands, feeds: str) -> list[Item]:
    items = read(hands, feeds)
    assert all(hands.offer(item, 0.0) for item in items)
    return items


def names(items: list[Item] | None) -> str:
    assert items is not None
    return "".join(item.delivery.feed for item in items)


def test_a_frame_is_in_hand_until_it_is_settled() -> None:
    hands = hands_of()
    items = offer(hands, "aab")
    look = hands.look()
    assert look.unsettled == look.ready == {"token-a": 2, "token-b": 1}
    assert (look.room, look.settled) == (5, set())
    assert names(hands.batch(0.0)) == "ab"
    assert names(hands.batch(0.0)) == "a"
    hands.analysed(items)
    assert names(hands.outcomes(0.0)) == "aab"
    assert not hands.empty
    assert hands.holds(LEASES["b"])
    hands.settled(item.delivery for item in items)
    assert hands.empty
    assert not hands.holds(LEASES["b"])
    assert hands.look().settled == {FeedKeys.of(name).frames for name in "ab"}
    assert hands.look().settled == set(), "told once"


@pytest.mark.parametrize(
    ("ready", "batches"),
    [
        ("aaaaaaaa", ["aaaaaaaa"]),
        ("aaaabb", ["aabb", "aa"]),
        ("aabbbbbc", ["aabbc", "bbb"]),
        ("aaaaaaab", ["ab", "aaaaaa"]),
    ],
)
def test_no_feed_has_more_of_a_batch_than_the_next_one(ready: str, batches: list[str]) -> None:
    hands = hands_of()
    items = offer(hands, ready)
    taken = [hands.batch(0.0) or [] for _ in batches]
    assert [names(batch) for batch in taken] == batches
    for name in set(ready):
        own = [item for batch in taken for item in batch if item.delivery.feed == name]
        assert own == [item for item in items if item.delivery.feed == name], "in their order"


def test_a_batch_waits_for_more_until_it_is_full_or_its_time_is_up() -> None:
    hands = hands_of(size=3, wait_s=60.0)
    offer(hands, "a")
    assert hands.batch(0.01) == []
    offer(hands, "ab")
    assert names(hands.batch(0.0)) == "ab"
    hands = hands_of(wait_s=60.0)
    offer(hands, "a")
    hands.hurry()
    assert names(hands.batch(0.0)) == "a"
    hands = hands_of(wait_s=0.05)
    offer(hands, "a")
    assert names(hands.batch(30.0)) == "a"


def test_what_waits_is_bounded_by_its_pixels() -> None:
    hands = hands_of(wait_s=60.0, pixels=1000)
    first, second, third = (read(hands, "a", pixels=600)[0] for _ in range(3))
    assert hands.offer(first, 0.0)
    assert not hands.offer(second, 0.01)
    assert hands.batch(0.0) == [first], "it is as full as can be"
    huge = read(hands, "a", pixels=5000)[0]
    assert hands.offer(huge, 0.0), "alone it always fits"
    assert not hands.offer(third, 0.0)
    taken: list[bool] = []
    waiting = threading.Thread(target=lambda: taken.append(hands.offer(third, 30.0)))
    waiting.start()
    assert hands.batch(5.0) == [huge]
    waiting.join(timeout=10)
    assert taken == [True]


def test_no_more_is_read_than_five_batches() -> None:
    hands = hands_of(size=2)
    items = []
    for _ in range(5):
        assert hands.look().room == 2
        items += offer(hands, "aa")
        hands.analysed(hands.batch(0.0) or [])
    assert hands.look().room == 0, "though no frame is ready"
    hands.settled([items[0].delivery])
    assert hands.look().room == 1


def test_after_a_doubt_all_that_was_read_before_is_void() -> None:
    hands = hands_of()
    (waits, other) = offer(hands, "ab")
    (analysed,) = read(hands, "a")
    hands.doubt(LEASES["a"])
    (again,) = read(hands, "a")
    assert hands.offer(again, 0.0)
    assert hands.batch(0.0) == [other, again]
    hands.analysed([analysed, other, again])
    assert hands.outcomes(0.0) == [other, again]
    assert hands.look().unsettled == {"token-a": 1, "token-b": 1}, "what is void is not in hand"
    assert waits.delivery.feed == "a"


def test_what_was_refused_is_told_once() -> None:
    hands = hands_of()
    hands.doubt(LEASES["a"], "spoilt")
    hands.doubt(LEASES["b"])
    assert hands.look().refused == [(LEASES["a"], "spoilt")]
    assert hands.look().refused == []


def test_at_the_end_all_that_is_in_hand_passes_through() -> None:
    hands = hands_of(wait_s=60.0)
    items = offer(hands, "ab")
    hands.all_read()
    assert hands.batch(0.0) == items
    assert hands.batch(0.0) is None
    hands.analysed(items)
    hands.end()
    assert hands.over
    assert hands.outcomes(0.0) == items
    assert hands.outcomes(0.0) is None


def test_a_batch_is_handed_from_one_step_to_the_next() -> None:
    hands, passed = hands_of(), []

    def detect() -> None:
        for name in ("first", "second"):
            hands.detected(name)
            passed.append(name)
        hands.all_detected()

    assert hands.to_analyse(0.0) == []
    detecting = threading.Thread(target=detect)
    detecting.start()
    detecting.join(timeout=0.05)
    assert passed == [], "it waits until the batch is taken"
    assert hands.to_analyse(10.0) == ["first"]
    assert hands.to_analyse(10.0) == ["second"]
    assert hands.to_analyse(10.0) is None
    detecting.join(timeout=10)
    assert passed == ["first", "second"]


def test_who_detects_is_let_go_when_the_analysis_ends() -> None:
    hands = hands_of(wait_s=60.0)
    offer(hands, "a")
    waiting = threading.Thread(target=lambda: hands.detected("for nobody"))
    waiting.start()
    hands.end()
    waiting.join(timeout=10)
    assert not waiting.is_alive()
    assert hands.batch(0.0) is None


def test_a_failure_wakes_all_and_throws_everything_away() -> None:
    hands = hands_of(wait_s=60.0)
    offer(hands, "ab")
    answers: list[object] = []
    waiting = [
        threading.Thread(target=lambda: answers.append(hands.batch(60.0))),
        threading.Thread(target=lambda: answers.append(hands.to_analyse(60.0))),
        threading.Thread(target=lambda: answers.append(hands.outcomes(60.0))),
    ]
    for thread in waiting:
        thread.start()
    error = RuntimeError("no more")
    hands.fail(error)
    hands.fail(RuntimeError("later"))
    for thread in waiting:
        thread.join(timeout=10)
    assert answers == [None, None, None]
    hands.detected("too late")  # does not wait
    assert hands.outcomes(0.0) is None
    assert hands.failure is error
    assert not hands.offer(read(hands, "c")[0], 0.0)


def test_the_reader_is_woken_by_what_it_waits_for() -> None:
    hands = hands_of(wait_s=60.0)
    rung = threading.Event()
    hands.ring = rung.set
    items = offer(hands, "a")
    assert not rung.is_set()
    events: list[Callable[[], object]] = [
        lambda: hands.batch(0.0),
        lambda: hands.settled(item.delivery for item in items),
        hands.end,
        lambda: hands.fail(RuntimeError()),
    ]
    for event in events:
        rung.clear()
        event()
        wait_until(rung.is_set)


def test_who_has_work_is_not_looked_after_at_once() -> None:
    hands = hands_of(wait_s=60.0)
    rested = threading.Event()

    def rest() -> None:
        hands.rest(60.0)
        rested.set()

    hands.rest(60.0)  # nothing is ready: no rest
    offer(hands, "a")
    resting = threading.Thread(target=rest)
    resting.start()
    assert not rested.wait(0.05)
    assert hands.batch(0.2) == []
    resting.join(timeout=10)
    assert rested.is_set(), "the analysis came for its batch"
