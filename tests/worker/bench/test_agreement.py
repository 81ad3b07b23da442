"""The books of agreement and of label changes, on events made by hand."""

from __future__ import annotations

import pytest

from tests.worker.bench.events import event, face
from worker.bench.agreement import Seen, agreement, label_changes, partners, seen

HERE, NEAR, AWAY = (0, 0, 10, 10), (0, 0, 10, 9), (50, 50, 60, 60)


def test_equal_frames_agree_in_all():
    frames = [[Seen(HERE, "calm"), Seen(AWAY, "cross")], []]
    found = agreement("full", frames, "naive", frames)
    assert (found.reference_faces, found.found, found.extra, found.equal_labels) == (2, 1, 0, 1)


def test_what_is_missed_extra_or_labelled_otherwise_is_counted():
    theirs = [[Seen(HERE, "calm"), Seen(AWAY, "cross")], [Seen(HERE, "calm")], [Seen(HERE, "glad")]]
    ours = [[Seen(NEAR, "cross")], [Seen(AWAY, "calm")], [Seen(AWAY, "glad"), Seen(NEAR, "glad")]]
    found = agreement("default", ours, "full", theirs)
    assert found.reference_faces == 4
    assert found.found == pytest.approx(2 / 4)
    assert found.extra == pytest.approx(2 / 4)
    assert found.equal_labels == pytest.approx(1 / 2)


def test_frames_must_be_as_many():
    with pytest.raises(ValueError):
        agreement("full", [[]], "naive", [[], []])


def test_each_face_has_one_partner_the_best():
    theirs = [Seen((0, 0, 10, 8), "calm"), Seen((0, 0, 10, 10), "calm")]
    assert partners(theirs, [Seen(HERE, "calm")]) == [(1, 0)]


@pytest.mark.parametrize(("right", "pairs"), [(5.0, 1), (4.9, 0)])
def test_half_an_overlap_is_enough(right, pairs):
    assert len(partners([Seen(HERE, "")], [Seen((0, 0, right, 10), "")])) == pairs


def test_the_label_of_a_face_is_that_of_its_greatest_raw_probability():
    faces = [[found.label for found in frame] for frame in seen([event(1, [face("glad")])])]
    assert faces == [["glad"]]


def test_frames_stand_in_the_order_of_their_sequence():
    frames = seen([event(1, [face("calm")]), event(0)])
    assert [len(frame) for frame in frames] == [0, 1]


def test_label_changes_are_counted_track_by_track():
    said = ["calm", "cross", "calm", "calm"]
    events = [
        event(
            i,
            [face(raw, track=1, label="calm"), face("glad", track=2)],
            pts_s=i * 10.0,
        )
        for i, raw in enumerate(said)
    ]
    found = label_changes(events)
    assert found.track_minutes == pytest.approx(1.0)  # two tracks of half a minute
    assert found.raw_per_minute == pytest.approx(2.0)
    assert found.steady_per_minute == 0.0


def test_a_steady_label_that_changes_is_counted():
    events = [event(i, [face("calm", label=label)], pts_s=30.0 * i)
              for i, label in enumerate(["calm", "glad", "glad"])]  # fmt: skip
    assert label_changes(events).steady_per_minute == pytest.approx(1.0)


def test_without_tracks_nothing_changes():
    assert label_changes([event(0)]).raw_per_minute == 0.0
