"""The detector: facenet-pytorch's faces, whatever the batch, and no crash on any picture.

Real faces are scikit-image's astronaut (NASA, public domain) and compositions of it; pictures and
a video of the real data are used where they are.
"""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

import worker.detect.mtcnn as mtcnn
from worker.detect.mtcnn import FaceDetector, load_detector
from worker.errors import ModelError, SettingsError
from worker.records import ModelInfo

NO_TRAINING = "the training extra is not installed"
SHIPPED = Path(mtcnn.__file__).parent


def composition(height, width, places):
    """Astronauts on a grey wall: ``places`` are (left, top, side, mirrored)."""
    wall = np.full((height, width, 3), 90, np.uint8)
    wall += np.random.default_rng(0).integers(0, 30, wall.shape, dtype=np.uint8)
    for left, top, side, mirrored in places:
        one = cv2.resize(data.astronaut(), (side, side), interpolation=cv2.INTER_AREA)
        one = one[:, ::-1] if mirrored else one
        room = wall[max(top, 0) : top + side, max(left, 0) : left + side]
        one = one[max(-top, 0) :, max(-left, 0) :]
        room[...] = one[: room.shape[0], : room.shape[1]]
    return wall


def astronauts():
    """Name -> picture, all with faces; one face is cut by the border, one is small."""
    face = data.astronaut()
    return {
        "portrait": face,
        "mirrored": np.ascontiguousarray(face[:, ::-1]),
        "360p": cv2.resize(face, (640, 360), interpolation=cv2.INTER_AREA),
        "enlarged": cv2.resize(face, (900, 900), interpolation=cv2.INTER_LINEAR),
        "three": composition(
            480, 854, [(0, 0, 400, False), (380, 200, 260, True), (640, 10, 210, False)]
        ),
        "cut": composition(360, 640, [(-150, -20, 380, False), (440, 60, 300, True)]),
        "close": np.ascontiguousarray(face[0:260, 90:340]),
    }


@pytest.fixture(scope="module")
def detector():
    return load_detector(provider="cpu")


@pytest.fixture(scope="module")
def agreement():
    pytest.importorskip("torch", reason=NO_TRAINING)
    pytest.importorskip("facenet_pytorch", reason=NO_TRAINING)
    from tests import agreement

    return agreement


def assert_same(a, b, atol=1e-3):
    assert len(a) == len(b)
    np.testing.assert_allclose(a.boxes, b.boxes, atol=atol)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
    np.testing.assert_allclose(a.landmarks, b.landmarks, atol=atol)


# Agreement with facenet-pytorch


@pytest.mark.parametrize("min_face", [20, 40, 90])
def test_boxes_scores_and_landmarks_are_the_originals(agreement, min_face):
    reference = agreement.Reference(min_face=min_face)
    original = load_detector(provider="cpu", min_face=min_face, sampler=agreement.OriginalSampler)
    shipped = load_detector(provider="cpu", min_face=min_face)
    counts = agreement.compare(astronauts().items(), reference, [original, shipped])
    for count in counts:
        assert count.faces >= 8
        assert count.notes == []
        assert (count.found, count.extra, count.equal) == (count.faces, 0, count.faces)


def test_settings_mean_what_they_mean_in_the_original(agreement):
    settings = {"min_face": 30, "thresholds": (0.5, 0.6, 0.95), "factor": 0.8}
    reference = agreement.Reference(**settings)
    ours = load_detector(provider="cpu", **settings)
    (count,) = agreement.compare(astronauts().items(), reference, [ours])
    assert count.notes == []
    assert count.equal == count.faces >= 8


def check_gates(count, at_least):
    report = "\n".join(count.notes)
    assert count.faces >= at_least
    assert count.found_share >= 0.995, report
    assert count.mean_iou >= 0.97, report
    assert count.extra_share <= 0.005, report


def test_real_pictures(agreement, data_dir):
    pictures = list(agreement.pictures_of(data_dir / "faces" / "images"))[::3]
    original = load_detector(provider="cpu", sampler=agreement.OriginalSampler)
    counts = agreement.compare(
        pictures, agreement.Reference(), [original, load_detector(provider="cpu")]
    )
    for count in counts:
        assert count.pictures >= 20
        check_gates(count, at_least=50)
    # Float tolerance, except where a rounding error tips a box over to another whole pixel.
    assert counts[0].equal >= 0.98 * counts[0].faces, counts[0].notes


def test_real_video(agreement, data_dir):
    video = data_dir / "videos" / "WolfgangLanger_Pexels.mp4"
    (count,) = agreement.compare(
        agreement.frames_of(video, 25), agreement.Reference(), [load_detector(provider="cpu")]
    )
    check_gates(count, at_least=20)


# Batches


def test_a_batch_of_mixed_sizes_is_one_picture_at_a_time(detector, monkeypatch):
    pictures = [*astronauts().values(), np.zeros((5, 7, 3), np.uint8), data.astronaut()]
    alone = [detector.detect([picture])[0] for picture in pictures]
    assert [len(faces) > 0 for faces in alone] == [True] * 7 + [False, True]
    together = detector.detect(pictures)
    assert len(together) == len(pictures)
    for a, b in zip(together, alone, strict=True):
        assert_same(a, b)
    # Every cap reached: chunks of pictures, levels and crops all split.
    monkeypatch.setattr(mtcnn, "_PIXELS_AT_ONCE", 600_000)
    monkeypatch.setattr(mtcnn, "_LEVEL_PIXELS_AT_ONCE", 1)
    monkeypatch.setattr(mtcnn, "_CROPS_AT_ONCE", 3)
    for a, b in zip(detector.detect(pictures), alone, strict=True):
        assert_same(a, b)


def test_results_come_best_first(detector):
    faces = detector.detect([astronauts()["three"]])[0]
    assert len(faces) >= 3
    assert (np.diff(faces.scores) <= 0).all()
    assert faces.boxes.dtype == faces.scores.dtype == faces.landmarks.dtype == np.float32


def test_landmarks_are_where_the_face_is(detector):
    faces = detector.detect([data.astronaut()])[0]
    box, points = faces.boxes[0], faces.landmarks[0]
    assert (points > box[:2]).all()
    assert (points < box[2:]).all()
    left_eye, right_eye, nose, left_mouth, right_mouth = points
    assert left_eye[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert left_eye[1] < nose[1] < left_mouth[1]


# Pictures without faces, and none at all


def test_pictures_without_faces(detector):
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (240, 320, 3), dtype=np.uint8),
        *(np.full((200, 300, 3), value, np.uint8) for value in (0, 127, 255)),
        np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (100, 1, 3)),
    ]
    assert [len(faces) for faces in detector.detect(pictures)] == [0] * 5


@pytest.mark.parametrize(
    "size", [(0, 0), (1, 1), (1, 900), (39, 39), (39, 800), (40, 40), (41, 900), (300, 40)]
)
def test_tiny_pictures(detector, size):
    picture = np.full((*size, 3), 128, np.uint8)
    faces = detector.detect([picture])[0]
    assert len(faces) == 0
    assert faces.landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize("min_face", [12, 37, 47, 49, 94, 98])
def test_pictures_of_exactly_the_smallest_face(min_face):
    # For some of these 12 / min_face * min_face rounds to less than 12: no level at all.
    picture = np.full((min_face, min_face, 3), 128, np.uint8)
    assert len(load_detector(provider="cpu", min_face=min_face).detect([picture])[0]) == 0


def test_no_pictures(detector):
    assert detector.detect([]) == []


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((100, 100), np.uint8),
        np.zeros((100, 100, 4), np.uint8),
        np.zeros((100, 100, 3), np.float32),
    ],
)
def test_what_is_not_a_picture_is_refused(detector, picture):
    with pytest.raises(ValueError, match="a picture is uint8"):
        detector.detect([data.astronaut(), picture])


# Degenerate crops: networks that speak as told, so that each score shows which crop it came from


class FakePNet:
    """Three candidates in the first level; the regression throws the second out of the picture."""

    def __init__(self):
        self.calls = 0

    def run(self, _, feeds):
        n, _, height, width = feeds["images"].shape
        faces = np.zeros((n, height // 2 - 5, width // 2 - 5), np.float32)
        moves = np.zeros((n, 4, *faces.shape[1:]), np.float32)
        if self.calls == 0:
            for column, score in ((0, 0.9), (20, 0.95), (40, 0.8)):
                faces[:, 5, column] = score
            moves[:, :, 5, 20] = 100
        self.calls += 1
        return [faces, moves]


class FakeLater:
    """Scores a crop by its brightness, 0 to 255 as 0.75 to 1, and moves nothing."""

    def __init__(self, landmarks):
        self.landmarks = landmarks

    def get_outputs(self):
        shapes = [(), (4,), (5, 2)][: 3 if self.landmarks else 2]
        return [type("Output", (), {"shape": ["batch", *shape]})() for shape in shapes]

    def run(self, _, feeds):
        crops = feeds["images"]
        outputs = [
            (0.75 + crops.mean(axis=(1, 2, 3)) / 1020).astype(np.float32),
            np.zeros((len(crops), 4), np.float32),
            np.full((len(crops), 5, 2), 0.5, np.float32),
        ]
        return outputs if self.landmarks else outputs[:2]


def test_a_candidate_outside_the_picture_takes_only_itself_away():
    detector = FaceDetector(
        FakePNet(),
        FakeLater(landmarks=False),
        FakeLater(landmarks=True),
        info=ModelInfo("fake", "0", "0" * 16),
        min_face=40,
        thresholds=(0.6, 0.7, 0.7),
        factor=0.709,
        sampler=mtcnn.AreaSampler,
    )
    picture = np.zeros((200, 400, 3), np.uint8)
    picture[:, 200:] = 255
    faces = detector.detect([picture])[0]
    # The bright one is at the right. facenet-pytorch keeps the lost crop's box and fails.
    assert len(faces) == 2
    np.testing.assert_allclose(faces.scores, [1.0, 0.75], atol=1e-6)
    assert faces.boxes[0, 0] > 200 > faces.boxes[1, 2]
    assert (faces.landmarks[0, :, 0] > 200).all()


# Opening


def test_info_names_the_three_files(detector, tmp_path):
    info = detector.info
    assert (info.name, info.version) == ("mtcnn", "1.0.0")
    assert len(info.digest) == 16
    assert load_detector(provider="cpu").info == info


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("min_face", 5),
        ("min_face", float("nan")),
        ("thresholds", (0.6, 0.7)),
        ("thresholds", (0.6, 0.7, 1.5)),
        ("factor", 1.0),
        ("factor", 0),
    ],
)
def test_settings_that_make_no_sense_are_named(setting, value):
    with pytest.raises(SettingsError, match=setting):
        load_detector(**{setting: value})


def copied(tmp_path):
    for name in ("pnet", "rnet", "onet"):
        (tmp_path / f"{name}.onnx").write_bytes((SHIPPED / f"{name}.onnx").read_bytes())
    return tmp_path


def test_missing_and_wrong_files(tmp_path):
    with pytest.raises(ModelError, match=r"pnet\.onnx"):
        load_detector(folder=tmp_path, provider="cpu")
    folder = copied(tmp_path)
    (folder / "onet.onnx").write_bytes((folder / "rnet.onnx").read_bytes())
    with pytest.raises(ModelError, match=r"onet\.onnx is not MTCNN's"):
        load_detector(folder=folder, provider="cpu")
    (folder / "onet.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"onet\.onnx"):
        load_detector(folder=folder, provider="cpu")


def test_nothing_of_training_is_imported():
    check = (
        "import sys, worker.detect.mtcnn, worker.detect.track;"
        "print({'torch', 'torchvision', 'facenet_pytorch', 'training'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
