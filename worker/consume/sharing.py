"""Which worker is to have which feed: one plan, computed by each worker from the same table.

A worker's load is the sum over its feeds of what each costs, in seconds of work a second, and a
little for each feed, so that feeds without frames are shared out by their number.
A free feed goes to the worker that had it until the server failed, else to the one with the least
load, and if that one does not come for it in time, to whoever sees it.
Then, as long as it makes the most loaded worker and the least loaded one more alike by a clear
margin, the heaviest feed for which that is so moves from the one to the other.
Every worker computes this plan from the same heartbeats and carries out its own part: it takes the
free feeds that fall to it, and lets go of those that move away, which are free for the others then.
Each move makes the loads strictly more alike, so for given loads the moves come to an end; the
leases alone decide who owns a feed, and a plan made from an old table costs a hand-over at most.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from worker.wire.workers import WorkerEntry

_EACH = 0.005
"""What a feed costs at the least, in seconds of work a second."""
_MARGIN = 0.1
"""Two workers may differ by so much of the larger load (and one feed) before a feed moves: what is
measured of loads goes up and down by some hundredths."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One worker's part of the plan."""

    take: tuple[str, ...]
    """Free feeds to take."""
    give: tuple[str, ...]
    """Feeds to let go of, when nothing of them is in hand."""
    expect: tuple[str, ...]
    """Feeds that others are to let go of for us."""


def plan(
    me: str,
    workers: Mapping[str, WorkerEntry],
    feeds: Collection[str],
    *,
    loads: Mapping[str, float],
    claims: Collection[str] = (),
) -> Plan:
    """What ``me`` is to take and to give.

    Args:
        me: id of a worker in ``workers``.
        workers: all that live, by id, with the feeds they hold.
        feeds: all that there are.
        loads: what is known of the loads of feeds that nobody holds; an unknown feed is taken for
            an average one.
        claims: feeds that ``me`` is to have if they are free, however much it has: those that it
            held until the server or the network failed, and those that nobody else takes.
    """
    known = {**loads}
    for worker in workers.values():
        known |= worker.feeds
    average = sum(known.values()) / len(known) if known else 0.0
    costs = {feed: _EACH + known.get(feed, average) for feed in feeds}

    hands = {id: set(worker.feeds) & costs.keys() for id, worker in workers.items()}
    sums = {id: sum(costs[feed] for feed in held) for id, held in hands.items()}
    held = set().union(*hands.values())

    def lightest(feed: str) -> str | None:
        may = [id for id, worker in workers.items() if worker.only is None or feed in worker.only]
        return min(may, key=lambda id: (sums[id], id), default=None)

    take = []
    for feed in sorted(costs.keys() - held, key=lambda feed: (-costs[feed], feed)):
        taker = me if feed in claims else lightest(feed)
        if taker is None:
            continue
        hands[taker].add(feed)
        sums[taker] += costs[feed]
        if taker == me:
            take.append(feed)

    give, expect = [], []
    while move := _best_move(hands, sums, costs, lightest):
        giver, taker, feed = move
        hands[giver].remove(feed)
        hands[taker].add(feed)
        sums[giver] -= costs[feed]
        sums[taker] += costs[feed]
        if giver == me and feed not in take:
            give.append(feed)
        elif taker == me:
            expect.append(feed)
    return Plan(tuple(take), tuple(give), tuple(expect))


def _best_move(
    hands: Mapping[str, Collection[str]],
    sums: Mapping[str, float],
    costs: Mapping[str, float],
    lightest: Callable[[str], str | None],
) -> tuple[str, str, str] | None:
    """The next move, (giver, taker, feed); None if none is worth it."""
    least = min(sums.values())
    for giver in sorted(hands, key=lambda id: (-sums[id], id)):
        # Before anything else what every taker would refuse: where loads are even, that is all.
        margin = _MARGIN * sums[giver]
        worth = [feed for feed in hands[giver] if costs[feed] + margin < sums[giver] - least]
        for feed in sorted(worth, key=lambda feed: (-costs[feed], feed)):
            taker = lightest(feed)
            if taker is not None and costs[feed] + margin < sums[giver] - sums[taker]:
                return giver, taker, feed
    return None
