"""Tiny measurements through the real thing: what matters here is that the books are right."""

from __future__ import annotations

import math

import pytest

from worker.bench.pictures import load_clip
from worker.bench.stream import DEFAULT, FULL, filled, paced
from worker.errors import MienError

FRAMES = 120


@pytest.fixture(scope="module")
def clip():
    return load_clip(None, (160, 90), FRAMES)


def test_each_frame_of_a_filled_stream_comes_to_an_event(clip):
    found = filled(clip, FULL, threads=1)
    assert [event.sequence for event in found.events] == list(range(FRAMES))
    assert [event.pts_seconds for event in found.events] == pytest.approx(clip.seconds)
    assert {(event.width, event.height) for event in found.events} == {(160, 90)}
    assert 0 < found.frames <= FRAMES - 30  # the warm-up is not among them
    assert found.worker_cpu_s > 0.01
    assert found.peak_bytes > 50_000_000
    detect = found.stages["detect"]
    assert 0 < detect.buckets[math.inf] <= found.frames + 1
    assert detect.seconds > 0


def test_several_feeds_are_all_drained(clip):
    found = filled(clip, DEFAULT, threads=1, feeds=3)
    assert len(found.events) == 3 * FRAMES
    assert {event.feed for event in found.events} == {"bench0", "bench1", "bench2"}


def test_a_worker_that_cannot_start_says_why(clip, tmp_path):
    missing = tmp_path / "missing.onnx"
    with pytest.raises(MienError, match=r"the worker could not go on: .*missing\.onnx"):
        filled(clip, {"MIEN_MODEL": str(missing)}, threads=1)


def test_paced_feeds_get_what_was_planned(clip):
    found = paced(clip, DEFAULT, threads=1, feeds=2, rate=5, seconds=2.0)
    assert 12 <= found.offered <= 28  # 20 were planned; this machine may be busy
    assert found.seconds >= 2.0
    lost = found.dropped + found.skipped + found.dead
    assert found.offered <= len(found.events) + lost  # a little more is pushed at the end
    assert {event.feed for event in found.events} == {"bench0", "bench1"}
    assert found.push_late_ms > 0
