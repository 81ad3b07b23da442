"""The annotated video: what cannot be written is one sentence, and costs no file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from tests.worker.subscribe.test_watch import event
from worker.errors import SettingsError
from worker.subscribe.annotate import AnnotatedVideo, draw


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.mov", "a:b.mp4"])
def test_pictures_become_a_video_with_even_sides(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with AnnotatedVideo(path) as video:
        for seconds in (0, 0.5, 0.25):  # time never runs back
            video.add(np.full((49, 65, 3), 99, np.uint8), seconds)
        video.add(np.zeros((10, 10, 3), np.uint8), 1)
    with av.open(f"file:{path}") as written:
        frames = list(written.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(64, 48)] * 4


def test_a_face_of_which_the_model_abstains_is_marked() -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    (face,) = event().faces
    sure = draw(image, event())
    unsure = draw(image, replace(event(), faces=(replace(face, uncertain=True),)))
    assert not image.any(), "a copy is drawn on"
    (rows, columns) = np.nonzero((sure != unsure).any(axis=2))
    assert rows.size, "a question mark more"
    assert rows.max() < 130
    assert columns.max() < 320


@pytest.mark.parametrize(
    "name",
    ["out.gif", "out.mp3", "out.webm", "out.ogg", "out.png", "out.xyz", "out", "nowhere/out.mp4"],
)
def test_a_name_that_will_not_do_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(SettingsError, match=name):
        AnnotatedVideo(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 64, 3), (64, 1, 3)])
def test_a_picture_too_small_for_the_codec_is_named(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    size = f"{shape[1]}x{shape[0]}"
    with (
        pytest.raises(SettingsError, match=size),
        AnnotatedVideo(tmp_path / "out.mp4") as video,
    ):
        video.add(np.zeros(shape, np.uint8), 0.0)
    assert not (tmp_path / "out.mp4").exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.symlink_to("/dev/full")
    with pytest.raises(SettingsError, match="No space left"), AnnotatedVideo(path) as video:
        video.add(np.zeros((48, 64, 3), np.uint8), 0.0)
