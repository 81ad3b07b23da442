"""The detector: facenet-pytorch's faces, whatever the batch, and no crash on any picture.

Real faces are scikit-image's astronaut (NASA, public domain) and compositions of it; pictures and
a video of the real data are used where they are.
"""

import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

import worker.detect.cascade as cascade
import worker.detect.mtcnn as mtcnn
import worker.detect.propose as propose
from tests.astronauts import assert_same, astronauts, composition, overlap
from worker.cores import Cores
from worker.detect.boxes import doubled
from worker.detect.mtcnn import FaceDetector, load_detector
from worker.detect.resample import AreaSampler, TableMemory
from worker.errors import ModelError, SettingsError
from worker.picture import FramePicture
from worker.records import ModelInfo

NO_TRAINING = "the training extra is not installed"
SHIPPED = Path(mtcnn.__file__).parent


class Counted:
    """A network that counts the crops it is asked about."""

    def __init__(self, session):
        self.session, self.crops = session, 0
        self.get_outputs = session.get_outputs

    def run(self, names, feeds):
        self.crops += len(feeds["images"])
        return self.session.run(names, feeds)


@pytest.fixture(scope="module")
def detector():
    return load_detector(provider="cpu")


@pytest.fixture(scope="module")
def agreement():
    pytest.importorskip("torch", reason=NO_TRAINING)
    pytest.importorskip("facenet_pytorch", reason=NO_TRAINING)
    from tests import agreement

    return agreement


# Agreement with facenet-pytorch


@pytest.mark.parametrize("min_face", [20, 40, 90])
def test_boxes_scores_and_landmarks_are_the_originals(agreement, min_face):
    reference = agreement.Reference(min_face=min_face)
    settings = {"min_face": min_face, "exact": True, "provider": "cpu"}
    original = load_detector(**settings, sampler=agreement.OriginalSampler)
    shipped = load_detector(**settings)
    counts = agreement.compare(astronauts().items(), reference, [original, shipped])
    for count in counts:
        assert count.faces >= 8
        assert count.notes == []
        assert (count.found, count.extra, count.equal) == (count.faces, 0, count.faces)


def test_settings_mean_what_they_mean_in_the_original(agreement):
    settings = {"min_face": 30, "thresholds": (0.5, 0.6, 0.95), "factor": 0.8}
    reference = agreement.Reference(**settings)
    ours = load_detector(provider="cpu", exact=True, **settings)
    (count,) = agreement.compare(astronauts().items(), reference, [ours])
    assert count.notes == []
    assert count.equal == count.faces >= 8


@pytest.mark.parametrize("min_face", [20, 40, 90])
def test_one_look_a_face_finds_the_originals_faces(agreement, detector, min_face):
    reference = agreement.Reference(min_face=min_face)
    ours = load_detector(provider="cpu", min_face=min_face)
    (count,) = agreement.compare(astronauts().items(), reference, [ours])
    check_gates(count, at_least=8, mean_iou=0.85)


def test_the_onet_looks_at_few_candidates_of_a_face(detector):
    looks = []
    each = load_detector(provider="cpu", exact=True)
    for one in (detector, each):
        onet = Counted(one._cascade.onet)
        one = copy.copy(one)
        one._cascade = replace(one._cascade, onet=onet)
        faces = one.detect([astronauts()["three"]])[0]
        looks.append(onet.crops)
    assert len(faces) <= looks[0] <= looks[1] / 2


def check_gates(count, at_least, mean_iou=0.97):
    report = "\n".join(count.notes)
    assert count.faces >= at_least
    assert count.found_share >= 0.995, report
    assert count.mean_iou >= mean_iou, report
    assert count.extra_share <= 0.005, report


def test_real_pictures(agreement, data_dir):
    pictures = list(agreement.pictures_of(data_dir / "faces" / "images"))[::3]
    original = load_detector(provider="cpu", exact=True, sampler=agreement.OriginalSampler)
    exact = load_detector(provider="cpu", exact=True)
    counts = agreement.compare(
        pictures, agreement.Reference(), [original, exact, load_detector(provider="cpu")]
    )
    for count, mean_iou in zip(counts, (0.97, 0.97, 0.92), strict=True):
        assert count.pictures >= 20
        check_gates(count, at_least=50, mean_iou=mean_iou)
    # Float tolerance, except where a rounding error tips a box over to another whole pixel.
    assert counts[0].equal >= 0.98 * counts[0].faces, counts[0].notes


def test_real_video(agreement, data_dir):
    video = data_dir / "videos" / "WolfgangLanger_Pexels.mp4"
    (count,) = agreement.compare(
        agreement.frames_of(video, 25), agreement.Reference(), [load_detector(provider="cpu")]
    )
    check_gates(count, at_least=20, mean_iou=0.92)


# Batches


def test_a_batch_of_mixed_sizes_is_one_picture_at_a_time(detector, monkeypatch):
    pictures = [*astronauts().values(), np.zeros((5, 7, 3), np.uint8), data.astronaut()]
    alone = [detector.detect([picture])[0] for picture in pictures]
    assert [len(faces) > 0 for faces in alone] == [True] * 7 + [False, True]
    together = detector.detect(pictures)
    assert len(together) == len(pictures)
    for a, b in zip(together, alone, strict=True):
        assert_same(a, b)
    # Every cap reached: groups of pictures, levels and crops all split; and none.
    for pixels, crops in ((600_000, 3), (100_000_000, 10_000)):
        monkeypatch.setattr(mtcnn, "_PIXELS_TOGETHER", pixels)
        monkeypatch.setattr(propose, "_PIXELS_AT_ONCE", pixels // 600_000)
        monkeypatch.setattr(cascade, "_CROPS_AT_ONCE", crops)
        for a, b in zip(detector.detect(pictures), alone, strict=True):
            assert_same(a, b)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(detector, threads):
    # Fewer groups of pictures than threads, and more.
    several = load_detector(provider="cpu", cores=Cores(threads))
    pictures = list(astronauts().values())
    for chosen in (pictures[:1], pictures, [data.astronaut()] * 12):
        for a, b in zip(several.detect(chosen), detector.detect(chosen), strict=True):
            assert_same(a, b)


def test_two_threads_may_look_at_once(detector):
    """As the worker's do: one detects in a batch while another follows faces in the one before."""
    images = [composition(240, 320, [(10 * i, 20, 200, False)]) for i in range(6)]
    detected = detector.detect(images)
    boxes = [faces.boxes for faces in detected]
    followed = detector.follow(images, boxes)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            again = (
                pool.submit(detector.detect, images),
                pool.submit(detector.follow, images, boxes),
            )
            for one, other in zip(again[0].result(), detected, strict=True):
                assert_same(one, other)
            for one, other in zip(again[1].result(), followed, strict=True):
                assert_same(one, other)
    assert sum(map(len, boxes)) >= 5


def test_tables_kept_from_larger_pictures_change_nothing(detector):
    face = data.astronaut()
    (before,) = load_detector(provider="cpu").detect([face])
    detector.detect([cv2.resize(face, (1400, 1400))])
    assert_same(detector.detect([face])[0], before)


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
    steps = cascade.Cascade(
        FakePNet(),
        FakeLater(landmarks=False),
        FakeLater(landmarks=True),
        info=ModelInfo("fake", "0", "0" * 16),
        pyramid=propose.Pyramid(40, 0.709),
        thresholds=(0.6, 0.7, 0.7),
        alike=(0.5, 0.5),
        sampler=lambda images: AreaSampler(images, TableMemory()),
    )
    detector = FaceDetector(steps, Cores())
    picture = np.zeros((200, 400, 3), np.uint8)
    picture[:, 200:] = 255
    faces = detector.detect([picture])[0]
    # The bright one is at the right. facenet-pytorch keeps the lost crop's box and fails.
    assert len(faces) == 2
    np.testing.assert_allclose(faces.scores, [1.0, 0.75], atol=1e-6)
    assert faces.boxes[0, 0] > 200 > faces.boxes[1, 2]
    assert (faces.landmarks[0, :, 0] > 200).all()


def test_a_broken_suppression_is_told_when_the_detector_is_opened(monkeypatch):
    def broken():
        raise ModelError("nms.onnx is not there")

    monkeypatch.setattr(mtcnn, "nms_operator", broken)
    with pytest.raises(ModelError, match=r"nms\.onnx is not there"):
        load_detector(provider="cpu")


# Glances at large faces


def glance(detector, *images):
    """At half the size, as they are meant."""
    return [doubled(faces) for faces in detector.glance([FramePicture.of(i).half for i in images])]


def test_a_glance_sees_the_large_faces(detector):
    pictures = [data.astronaut(), astronauts()["enlarged"], np.zeros((5, 7, 3), np.uint8)]
    for faces, glanced in zip(detector.detect(pictures), glance(detector, *pictures), strict=True):
        large = [box for box in faces.boxes if box[3] - box[1] >= 90]
        assert len(glanced) == len(large)
        for box, one in zip(large, glanced.boxes, strict=True):
            assert overlap(box, one) >= 0.7
    found, glanced = detector.detect(pictures[:1])[0], glance(detector, pictures[0])[0]
    np.testing.assert_allclose(glanced.landmarks[0], found.landmarks[0], atol=8)


def test_a_glance_sees_no_small_face_and_costs_less():
    looking = load_detector(provider="cpu")
    small = composition(300, 400, [(100, 80, 130, False)])
    (faces,) = looking.detect([small])
    assert len(faces) == 1
    assert len(glance(looking, small)[0]) == 0
    counts = []
    steps = looking._cascade
    three = astronauts()["three"]
    for look, image in ((looking.detect, three), (looking.glance, FramePicture.of(three).half)):
        rnet = Counted(steps.rnet)
        looking._cascade = replace(steps, rnet=rnet)
        look([image])
        counts.append(rnet.crops)
    assert 0 < counts[1] < counts[0] / 2


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (1, 900), (39, 39), (81, 79), (81, 83)])
def test_a_glance_at_a_tiny_picture(detector, size):
    assert len(glance(detector, np.full((*size, 3), 128, np.uint8))[0]) == 0


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
