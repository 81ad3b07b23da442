"""A worker's cores: so many compute at once, whoever they are."""

from __future__ import annotations

import threading
import time

import pytest

from worker.cores import Cores


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
    cores = Cores(2)
    with cores, cores:  # the second is another thread's, which keeps it
        assert cores.map(lambda item: -item, range(20)) == [-item for item in range(20)]
    # And whoever wanted to help gives the core back.
    with cores, cores:
        pass


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
