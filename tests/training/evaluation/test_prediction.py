from __future__ import annotations

import numpy as np
import pytest

from training.data import FER2013, FERPLUS
from training.evaluation.prediction import label_set_of, predict, predict_averaged
from worker.emotion.align import Colour
from worker.errors import ModelError


@pytest.mark.parametrize(("size", "colour", "channels"), [(48, "gray", 1), (96, "rgb", 3)])
@pytest.mark.parametrize("label_set", [FER2013, FERPLUS])
def test_predictions_keep_order_whatever_the_model_wants(
    mean_model, flat, label_set, size: int, colour: Colour, channels: int
) -> None:
    labels = tuple(reversed(label_set.labels))
    model = mean_model(label_set, labels=labels, size=size, colour=colour)
    wanted = [i % len(labels) for i in range(300)]

    probabilities = predict(model, flat(wanted))

    assert label_set_of(model) == label_set
    assert probabilities.argmax(axis=1).tolist() == wanted
    assert {crops.shape[1:] for crops in model.seen} == {(size, size, channels)}


def test_a_model_of_other_labels_is_refused(mean_model, flat) -> None:
    with pytest.raises(ModelError, match=r"knows the labels calm; FER2013 has angry.*contempt$"):
        predict(mean_model(labels=("calm",)), flat([0]))


def test_ten_crops_are_the_corners_that_a_centre_crop_leaves_out(mean_model) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 7, (3, 48, 48), np.uint8)
    model = mean_model()

    found = predict_averaged(model, images, crop=44)

    corners = [(2, 2), (0, 0), (0, 4), (4, 0), (4, 4)]
    # A picture that moves down shows its centre crop more of the top: the order is the other way.
    expected = [corners[0], *reversed(corners[1:])]
    assert len(model.seen) == 10
    for number, (top, left) in enumerate(expected):
        view, mirrored = (crops[:, 2:46, 2:46, 0] for crops in model.seen[2 * number :][:2])
        wanted = images[:, top : top + 44, left : left + 44]
        np.testing.assert_array_equal(view, wanted)
        np.testing.assert_array_equal(mirrored, view[:, :, ::-1])

    views = np.stack([model.classify(crops) for crops in model.seen[:10]])
    np.testing.assert_allclose(found["none"], views[0])
    np.testing.assert_allclose(found["flip"], views[:2].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["ten-crop"], views.mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize(("crop", "reach"), [(40, 4), (48, 2)])
def test_the_reach_follows_the_models_crop(mean_model, crop: int, reach: int) -> None:
    image = np.zeros((1, 48, 48), np.uint8)
    image[0, 24, 24] = 200
    model = mean_model()
    predict_averaged(model, image, crop)
    places = {tuple(np.argwhere(crops[0, :, :, 0])[0].tolist()) for crops in model.seen[::2]}
    assert places == {(24, 24)} | {
        (24 + a, 24 + b) for a in (-reach, reach) for b in (-reach, reach)
    }
