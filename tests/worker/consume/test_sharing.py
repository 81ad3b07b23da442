"""The plan by which workers share feeds: nobody idle, nothing left over, no feed to and fro."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.consume.sharing import plan
from worker.wire.workers import WorkerEntry

Workers = dict[str, WorkerEntry]


def workers(**feeds: Mapping[str, float]) -> Workers:
    return {name: WorkerEntry(name, feeds=held) for name, held in feeds.items()}


def one_round(them: Workers, feeds: Collection[str], loads: Mapping[str, float]) -> Workers:
    """Everyone looks at the same table, then carries out its part; taken feeds bring their load."""
    plans = {me: plan(me, them, feeds, loads=loads) for me in them}
    after = {}
    for me, its in plans.items():
        kept = {feed: load for feed, load in them[me].feeds.items() if feed not in its.give}
        taken = {feed: loads.get(feed, 0.0) for feed in its.take}
        after[me] = replace(them[me], feeds={**kept, **taken})
    return after


def settled(them: Workers, feeds: Collection[str], loads: Mapping[str, float]) -> Workers:
    for _ in range(20):
        after = one_round(them, feeds, loads)
        if after == them:
            return them
        them = after
    raise AssertionError("the feeds still change hands after twenty rounds")


def idle(count: int) -> dict[str, float]:
    return {f"f{i:03}": 0.0 for i in range(count)}


def test_one_worker_takes_everything() -> None:
    assert set(plan("a", workers(a={}), ["x", "y"], loads={}).take) == {"x", "y"}


def test_free_feeds_are_split_without_two_wanting_the_same() -> None:
    them = workers(a={}, b={}, c={})
    taken = [set(plan(me, them, idle(31), loads={}).take) for me in them]
    assert set().union(*taken) == set(idle(31))
    assert sorted(map(len, taken)) == [10, 10, 11]


def test_a_worker_that_joins_gets_its_share_of_idle_feeds() -> None:
    after = settled(workers(a=idle(50), b={}), idle(50), idle(50))
    assert abs(len(after["a"].feeds) - len(after["b"].feeds)) <= 6, "a tenth, and one feed"


def test_two_idle_feeds_are_one_each() -> None:
    after = settled(workers(a=idle(2), b={}), idle(2), idle(2))
    assert [len(worker.feeds) for worker in after.values()] == [1, 1]


def test_the_load_counts_where_it_is_measured_not_the_number() -> None:
    loads = {"heavy": 0.6, **{f"light{i}": 0.06 for i in range(10)}}
    after = settled(workers(a=loads, b={}), loads, loads)
    apart = {frozenset(worker.feeds) for worker in after.values()}
    assert apart == {frozenset({"heavy"}), frozenset(loads.keys() - {"heavy"})}


def test_a_feed_too_heavy_to_help_stays_where_it_is() -> None:
    them = workers(a={"only": 0.9}, b={})
    assert plan("a", them, ["only"], loads={}).give == ()


def test_what_goes_up_and_down_by_some_hundredths_moves_nothing() -> None:
    dice = random.Random(4)
    feeds = {f"f{i}": 0.04 for i in range(20)}
    names = sorted(feeds)
    for _ in range(200):
        noisy = {feed: load * dice.uniform(0.95, 1.05) for feed, load in feeds.items()}
        them = workers(
            a={feed: noisy[feed] for feed in names[:10]},
            b={feed: noisy[feed] for feed in names[10:]},
        )
        assert all(plan(me, them, feeds, loads={}).give == () for me in them)


def test_what_we_had_comes_back_to_us_whoever_has_less() -> None:
    them = workers(a={"x": 0.1}, b={})
    assert plan("a", them, ["x", "mine"], loads={}, claims={"mine"}).take == ("mine",)


def test_the_giver_gives_what_the_taker_expects() -> None:
    them = workers(a=idle(4), b={})
    assert plan("a", them, idle(4), loads={}).give == plan("b", them, idle(4), loads={}).expect
    assert plan("b", them, idle(4), loads={}).take == (), "not before it is free"


def test_feeds_go_only_to_workers_that_may_hold_them() -> None:
    them = workers(a={}, b={}) | {"c": WorkerEntry("c", only=("x",))}
    after = settled(them, idle(8) | {"x": 0.0}, {})
    assert set(after["c"].feeds) <= {"x"}
    assert len(after["a"].feeds) + len(after["b"].feeds) >= 8
    alone = {"c": WorkerEntry("c", only=("x",))}
    assert plan("c", alone, ["x", "y"], loads={}).take == ("x",)


loads = st.dictionaries(
    st.integers(0, 40).map(lambda i: f"f{i}"), st.floats(0, 1, allow_nan=False), max_size=40
)


@given(loads, st.integers(1, 6), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_from_any_start_it_comes_to_rest_with_every_feed_held_once(
    loads: dict[str, float], count: int, dice: random.Random
) -> None:
    names = [f"w{i}" for i in range(count)]
    held: dict[str, dict[str, float]] = {name: {} for name in names}
    for feed, load in loads.items():
        if dice.random() < 0.8:
            held[dice.choice(names)][feed] = load
    after = settled(workers(**held), loads, loads)
    owned = [feed for worker in after.values() for feed in worker.feeds]
    assert sorted(owned) == sorted(loads)
    sums = [sum(0.005 + load for load in worker.feeds.values()) for worker in after.values()]
    heaviest = max(loads.values(), default=0.0) + 0.005
    assert max(sums) - min(sums) <= heaviest + 0.1 * max(sums) + 1e-9
