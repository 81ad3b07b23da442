"""A worker's cores: so many compute at once, whoever they are."""

from __future__ import annotations

import os
import threading
import time

import pytest

from tests.children import child
from worker.cores import Cores

ALL = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
needs_two = pytest.mark.skipif(len(ALL) < 2, reason="needs two processors that can be told apart")


class Meeting:
    """Counts who is there at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.there = self.most = 0

    def attend(self, item: int) -> int:
        with self.lock:
            self.there += 1
            self.most = max(self.most, self.there)
        time.sleep(0.002)
        with self.lock:
            self.there -= 1
        return -item


def places(cores: Cores, count: int) -> list[set[int]]:
    """Where each of ``count`` threads may run while all of them compute."""
    found, all_there = [], threading.Barrier(count)

    def compute() -> None:
        with cores:
            all_there.wait(10)
            found.append(os.sched_getaffinity(0))
            all_there.wait(10)
        assert os.sched_getaffinity(0) == ALL

    threads = [threading.Thread(target=compute) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("items", [0, 1, 2, 20])
def test_each_item_has_its_result_in_its_place(count: int, items: int) -> None:
    cores = Cores(count)
    with cores:
        assert cores.map(lambda item: -item, range(items)) == [-item for item in range(items)]


def test_several_work_at_once() -> None:
    cores, both = Cores(2), threading.Barrier(2)
    with cores:
        assert len(set(cores.map(lambda _: both.wait(10), range(2)))) == 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_more_compute_than_there_are_cores(count: int) -> None:
    """Three threads that each have others help, and two that compute alone."""
    cores, meeting = Cores(count), Meeting()
    found: list[list[int]] = []

    def share() -> None:
        for _ in range(5):
            with cores:
                found.append(cores.map(meeting.attend, range(7)))

    def alone() -> None:
        for item in range(20):
            with cores:
                meeting.attend(item)

    threads = [threading.Thread(target=work) for work in (share, share, share, alone, alone)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [[-item for item in range(7)]] * 15
    assert meeting.most <= count


def test_whoever_has_a_core_waits_for_no_other() -> None:
    cores, mapped, both = Cores(2), threading.Event(), threading.Barrier(2)

    def keep() -> None:
        with cores:
            both.wait(10)
            assert mapped.wait(10)

    other = threading.Thread(target=keep)
    other.start()
    both.wait(10)
    with cores:
        assert cores.map(lambda item: -item, range(20)) == [-item for item in range(20)]
    mapped.set()
    other.join(10)
    # And whoever wanted to help gives the core back.
    assert places(cores, 2) == [ALL] * 2


def test_what_fails_is_raised_and_the_others_are_done() -> None:
    done = []

    def work(item: int) -> None:
        if item % 2:
            raise ValueError(f"item {item}")
        done.append(item)

    cores = Cores(2)
    with cores, pytest.raises(ValueError, match="item 1"):
        cores.map(work, range(6))
    assert sorted(done) == [0, 2, 4]


def test_who_waits_for_others_leaves_its_core_to_a_third() -> None:
    cores, both, third = Cores(2), threading.Barrier(2), threading.Event()
    caller = threading.get_ident()

    def compute() -> None:
        with cores:
            third.set()

    def work(_: int) -> bool:
        both.wait(10)  # each of the two has one
        if threading.get_ident() == caller:
            return True
        threading.Thread(target=compute).start()
        return third.wait(10)

    with cores:
        assert all(cores.map(work, range(2)))


@needs_two
def test_threads_that_have_all_processors_have_one_each() -> None:
    cores = Cores(len(ALL))
    assert places(cores, len(ALL)) == [ALL] * len(ALL), "unasked"
    cores.keep_apart()
    for _ in range(3):
        assert sorted(places(cores, len(ALL)), key=min) == [{one} for one in sorted(ALL)]


@needs_two
@pytest.mark.parametrize("fewer", [1, -1])
def test_where_there_are_other_processors_the_system_chooses(fewer: int) -> None:
    cores = Cores(len(ALL) - fewer)
    cores.keep_apart()
    assert places(cores, cores.count) == [ALL] * cores.count


@needs_two
def test_another_process_computes_where_the_thread_that_waits_for_it_would() -> None:
    cores = Cores(len(ALL))
    cores.keep_apart()
    with child() as process:
        with cores:
            cores.lend(process.pid)
            assert os.sched_getaffinity(process.pid) == os.sched_getaffinity(0) != ALL
        cores.lend(process.pid)
        assert os.sched_getaffinity(process.pid) == ALL
    cores.lend(process.pid)  # it has ended: nothing to do
