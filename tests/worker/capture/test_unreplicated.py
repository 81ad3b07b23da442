"""What is kept until replicas have it, and what is pushed again after a failover."""

from __future__ import annotations

from worker.capture.unreplicated import Unreplicated


def kept(*sequences: int) -> Unreplicated:
    """Nothing of them is replicated."""
    frames = Unreplicated()
    for sequence in sequences:
        frames.accepted(sequence, b"%d" % sequence, replicated=False)
    return frames


def test_what_is_replicated_is_kept_no_longer_nor_what_came_before_it() -> None:
    frames = kept(0, 1, 2)
    frames.accepted(3, b"3", replicated=True)
    assert len(frames) == 0
    assert frames.last == 3


def test_the_frames_that_the_new_primary_lacks_come_again_in_order() -> None:
    frames = kept(3, 4, 5)
    assert frames.take_lost(3) == ([(4, b"4"), (5, b"5")], 0)
    assert frames.last == 3, "from here on we believe the new primary"
    assert len(frames) == 0


def test_all_of_them_if_it_has_none() -> None:
    assert kept(0, 1).take_lost(None) == ([(0, b"0"), (1, b"1")], 0)


def test_what_was_accepted_and_not_kept_is_lost_and_counted() -> None:
    frames = kept(0, 1)
    frames.accepted(2, b"2", replicated=True)
    frames.accepted(3, b"3", replicated=False)
    assert frames.take_lost(0) == ([(3, b"3")], 2)


def test_a_repeat_is_kept_once() -> None:
    frames = kept(0, 1, 1)
    assert len(frames) == 2
    assert frames.newest() == (1, b"1")


def test_no_more_bytes_are_kept_than_may_be() -> None:
    frames = Unreplicated(most_bytes=8)
    assert not frames.full
    frames.accepted(0, bytes(4), replicated=False)
    frames.accepted(1, bytes(4), replicated=False)
    assert frames.full
    frames.forget_oldest()
    assert not frames.full
    assert frames.take_lost(None)[0] == [(1, bytes(4))]
    frames.forget_oldest()
    assert len(frames) == 0
