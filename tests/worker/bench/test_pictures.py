"""Sizes as users write them, clips at a size, crowds in which each face is found."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from worker.bench.pictures import MOST_FACES, Clip, crowd, fitted, load_clip, size_of
from worker.detect.mtcnn import load_detector
from worker.errors import SettingsError, SourceError


def decoded(data: bytes):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_a_size_is_width_x_height():
    assert size_of("1280x720") == (1280, 720)


@pytest.mark.parametrize("text", ["1280", "1280x", "x720", "10x720", "99999x720", "1280*720", ""])
def test_another_size_is_refused_by_name(text):
    with pytest.raises(SettingsError, match=r"--size .*WIDTHxHEIGHT"):
        size_of(text)


def test_the_sample_clip_at_a_size():
    clip = load_clip(None, (320, 180), 5)
    assert (clip.source, clip.width, clip.height) == ("sample clip", 320, 180)
    assert len(clip.jpegs) == len(clip.seconds) == 5
    assert decoded(clip.jpegs[4]).shape == (180, 320, 3)
    assert clip.seconds == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_a_clip_has_no_more_frames_than_its_video():
    assert len(load_clip(None, (64, 48), 10_000).jpegs) == 350


def test_a_picture_keeps_its_shape():
    image = np.zeros((100, 100, 3), np.uint8)
    assert fitted(image, (1280, 720)).shape == (720, 720, 3)
    assert fitted(image, None) is image


def test_what_is_no_file_is_refused():
    with pytest.raises(SettingsError, match="--video 0 is no file"):
        load_clip("0", None, 5)
    with pytest.raises(SourceError, match=r"nowhere\.mp4"):
        load_clip("nowhere.mp4", None, 5)


@pytest.mark.parametrize("faces", [1, MOST_FACES])
def test_each_face_of_a_crowd_is_found(faces):
    clip = crowd(faces, (1280, 720), 2)
    (found,) = load_detector(provider="cpu").detect([decoded(clip.jpegs[1])])
    assert len(found) == faces


def test_a_crowd_does_not_stand_still():
    assert len(set(crowd(1, (1280, 720), 16).jpegs)) > 8


def test_a_clip_is_written_in_the_order_of_its_frames(tmp_path):
    clip = load_clip(None, (64, 48), 12)
    clip.write(tmp_path)
    assert tuple(path.read_bytes() for path in sorted(tmp_path.iterdir())) == clip.jpegs


def test_a_clip_that_lasts_is_itself_over_and_over():
    clip = Clip("c", 4, 3, (b"a", b"b", b"c"), (0.0, 0.1, 0.2))
    longer = clip.lasting(5)
    assert longer.jpegs == (b"a", b"b", b"c") * 2
    assert longer.seconds == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert clip.lasting(3) == clip
    assert len(clip.lasting(1).jpegs) == 3, "it is never cut"
    assert Clip("c", 4, 3, (b"a",), (0.0,)).lasting(2).seconds == (0.0, 1.0)
