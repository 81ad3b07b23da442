from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the training extra")

from training.augment import augment, mixup  # noqa: E402
from training.models import as_trained  # noqa: E402
from training.recipe import Augmentation  # noqa: E402

STILL = Augmentation(
    crop=48, rotation=0, translation=0, scale=(1, 1), brightness=0, contrast=0, erasing=0, mixup=0
)


def still_but(**changes: Any) -> Augmentation:
    return Augmentation(**{**STILL.model_dump(), **changes})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def faces(n: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, 48, 48), dtype=torch.uint8, generator=generator(9))


def test_shape_type_and_range() -> None:
    pictures = augment(faces(), Augmentation(), generator())
    assert pictures.shape == (16, 1, 44, 44)
    assert pictures.dtype == torch.float32
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_the_generator_decides_everything() -> None:
    first, again, other = (augment(faces(), Augmentation(), generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_input_is_left_alone() -> None:
    given = faces()
    augment(given, Augmentation(), generator())
    assert torch.equal(given, faces())


def test_without_changes_pictures_are_themselves_or_mirrored() -> None:
    given = faces(64)
    pictures = augment(given, STILL, generator())
    plain = given / 255
    same = (pictures - plain).abs().amax((1, 2, 3)) < 1e-4
    mirrored = (pictures - plain.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert bool((same ^ mirrored).all())
    assert 16 < int(mirrored.sum()) < 48


def test_the_crop_is_of_the_middle_and_keeps_its_size() -> None:
    given = faces(8)
    pictures = augment(given, still_but(crop=44), generator())
    middle = given[:, :, 2:46, 2:46] / 255
    same, mirrored = (
        (pictures - one).abs().amax((1, 2, 3)) < 1e-4 for one in (middle, middle.flip(3))
    )
    assert bool((same ^ mirrored).all())


def test_a_network_is_shown_pictures_as_sharp_as_training_shows_them() -> None:
    """A dot that training has moved by parts of a pixel is as wide, on average, as one shown."""
    dots = torch.zeros(3000, 1, 48, 48, dtype=torch.uint8)
    dots[:, 0, 24, 24] = 255
    where = torch.arange(44.0)

    def width(light: torch.Tensor) -> float:
        across = light[:, 0].sum(1)
        middle = (across * where).sum(1) / across.sum(1)
        variance = (across * (where - middle[:, None]) ** 2).sum(1) / across.sum(1)
        return float(variance.mean())

    trained = width(augment(dots, still_but(crop=44, translation=0.1), generator()))
    shown = as_trained(dots[:1] / 255, 44)
    assert width(shown) == pytest.approx(1 / 6, abs=1e-5)
    assert trained == pytest.approx(1 / 6, abs=0.01)
    assert shown.sum() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(shown, shown.transpose(2, 3))


def test_the_edge_of_what_is_shown_is_repeated() -> None:
    light = torch.full((1, 1, 48, 48), 0.5)
    light[..., 0] = 1.0
    assert as_trained(light, 48)[0, 0, :, 0].tolist() == pytest.approx([1 - 0.5 / 12] * 48)
    assert as_trained(light, 44).unique().tolist() == [0.5]


def test_rotation_turns_about_the_middle_within_its_angle() -> None:
    """Two dots, one right of the middle and one above: both keep their distance and right angle."""
    where = torch.arange(48.0) + 0.5 - 24

    def place(dots: torch.Tensor) -> torch.Tensor:
        light = augment(dots, still_but(rotation=12.0), generator())[:, 0]
        weight = light.sum((1, 2))
        x, y = (light.sum(1) * where).sum(1), (light.sum(2) * where).sum(1)
        return torch.stack([x / weight, y / weight], 1)

    right, above = (torch.zeros(300, 1, 48, 48, dtype=torch.uint8) for _ in range(2))
    right[:, :, 23:25, 38:40] = 255
    above[:, :, 8:10, 23:25] = 255
    a, b = place(right), place(above)
    for one in (a, b):
        assert torch.allclose(one.norm(dim=1), torch.full((300,), 15.0), atol=0.1)
    assert (a * b).sum(1).abs().max() < 2, "the same angle turns both"
    angle = torch.rad2deg(torch.atan2(a[:, 1], a[:, 0].abs()))
    assert 11 < angle.max() < 12.3
    assert -12.3 < angle.min() < -11


def test_brightness_is_added_and_contrast_is_about_the_mean() -> None:
    flat = torch.full((500, 1, 48, 48), 128, dtype=torch.uint8)
    means = augment(flat, still_but(brightness=0.2), generator()).mean((1, 2, 3)) - 128 / 255
    assert 0.19 < means.max() <= 0.2 + 1e-4
    assert -0.2 - 1e-4 <= means.min() < -0.19
    halves = flat.clone()
    halves[:, :, :24], halves[:, :, 24:] = 96, 160
    pictures = augment(halves, still_but(contrast=0.25), generator())
    factors = (pictures[:, 0, 47, 0] - pictures[:, 0, 0, 0]) / (64 / 255)
    assert 1.24 < factors.max() <= 1.25 + 1e-3
    assert 0.75 - 1e-3 <= factors.min() < 0.76
    assert torch.allclose(pictures.mean((1, 2, 3)), torch.tensor(128 / 255), atol=1e-3)


def test_scale_below_one_makes_the_face_smaller() -> None:
    square = torch.zeros(1, 1, 48, 48, dtype=torch.uint8)
    square[:, :, 12:36, 12:36] = 255
    half = still_but(scale=(0.5, 0.5))
    assert augment(square, half, generator()).sum() == pytest.approx(12 * 12, rel=0.02)


def test_shifts_stay_within_their_part_of_the_side() -> None:
    dot = torch.zeros(500, 1, 48, 48, dtype=torch.uint8)
    dot[:, :, 23:25, 23:25] = 255
    moved = still_but(translation=0.1)
    pictures = augment(dot, moved, generator())
    place = torch.arange(48.0) + 0.5
    columns = (pictures.sum(2)[:, 0] * place).sum(1) / pictures.sum((1, 2, 3))
    rows = (pictures.sum(3)[:, 0] * place).sum(1) / pictures.sum((1, 2, 3))
    for found in (columns - 24, rows - 24):
        assert found.abs().max() <= 4.8 + 1e-3
        assert found.abs().max() > 4.0
        assert abs(float(found.mean())) < 0.5


def test_shear_slides_rows_and_leaves_heights() -> None:
    bar = torch.zeros(300, 1, 48, 48, dtype=torch.uint8)
    bar[:, :, 10:38, 22:26] = 255
    pictures = augment(bar, still_but(shear=20.0), generator())[:, 0]
    place = torch.arange(48.0)
    centres = (pictures * place).sum(2) / pictures.sum(2).clamp(min=1e-6)
    slide = centres[:, 34] - centres[:, 13]  # of 21 rows, at most tan(20 degrees) each
    assert slide.abs().max() == pytest.approx(21 * 0.364, abs=0.4)
    assert abs(float(slide.mean())) < 1
    assert (pictures.sum(2) > 1).sum(1).eq(28).all()


def test_blur_is_a_gaussian_on_its_part_of_the_pictures() -> None:
    dot = torch.zeros(1000, 1, 48, 48, dtype=torch.uint8)
    dot[:, :, 24, 24] = 255
    pictures = augment(dot, still_but(blur=0.4), generator())[:, 0]
    assert torch.allclose(pictures.sum((1, 2)), torch.ones(1000), atol=1e-3), "light is kept"
    peaks = pictures.amax((1, 2))
    blurred = peaks < 0.99
    # A tenth of the deviations is too small to be seen.
    assert blurred.float().mean() == pytest.approx(0.4 * 0.9, abs=0.05)
    widest = 1 / (2 * torch.pi * 2**2)
    assert peaks.min() == pytest.approx(widest, rel=0.1)
    flat = torch.full((4, 1, 48, 48), 200, dtype=torch.uint8)
    assert torch.allclose(
        augment(flat, still_but(blur=1.0), generator()), torch.tensor(200 / 255), atol=1e-4
    )


def test_erasing_hits_its_part_of_the_pictures() -> None:
    erasing = still_but(erasing=0.3)
    flat = torch.full((1000, 1, 48, 48), 128, dtype=torch.uint8)
    changed = (augment(flat, erasing, generator()) - 128 / 255).abs() > 1e-3
    part = changed.any(3).any(2).float().mean()
    assert part == pytest.approx(0.3, abs=0.05)
    covered = changed.float().mean((1, 2, 3))
    assert covered.max() <= 0.25


def test_mixup_mixes_pictures_and_targets_alike() -> None:
    pictures = torch.arange(4.0)[:, None, None, None].expand(4, 1, 2, 2)
    targets = torch.eye(4)
    weights = []
    for seed in range(200):
        mixed, wanted = mixup(pictures, targets, 0.2, generator(seed))
        assert torch.allclose(wanted.sum(1), torch.ones(4))
        # A picture's value is its number, so the targets tell what the mixture must be.
        assert torch.allclose(mixed[:, 0, 0, 0], wanted @ torch.arange(4.0), atol=1e-5)
        weights.append(float(wanted.diagonal().min()))
    # Beta(0.2, 0.2) puts most of its weight near 0 and 1.
    assert sum(0.1 < weight < 0.9 for weight in weights) < 100


def test_mixup_can_be_off() -> None:
    pictures, targets = torch.rand(4, 1, 2, 2), torch.eye(4)
    mixed, wanted = mixup(pictures, targets, 0, generator())
    assert mixed is pictures
    assert wanted is targets
