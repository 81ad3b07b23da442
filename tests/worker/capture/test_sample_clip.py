"""The clip that the demo shows."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from worker.capture.sources import open_source
from worker.sample import build

CLIP = Path(str(resources.files("worker.sample") / "faces.mp4"))


def test_size_and_times() -> None:
    assert CLIP.stat().st_size <= 1_000_000
    with open_source(str(CLIP)) as source:
        assert (source.width, source.height, source.rate, source.frames) == (640, 360, 25, 350)
        assert source.duration_s == pytest.approx(14)
        pictures = list(source.pictures())
    assert len(pictures) == 350
    assert float(pictures[-1].pts * pictures[-1].time_base) == pytest.approx(13.96)
    change = np.abs(pictures[175].image.astype(int) - pictures[174].image).mean()
    assert change > 30  # the hard cut
    steady = np.abs(pictures[174].image.astype(int) - pictures[173].image).mean()
    assert steady < 5


def test_the_script_draws_what_the_clip_shows() -> None:
    pytest.importorskip("skimage", reason="the dev extra brings the portrait")
    drawn = next(build.pictures()).astype(int)
    with open_source(str(CLIP)) as source:
        shown = next(source.pictures()).image
    assert np.abs(drawn - shown).mean() < 4
