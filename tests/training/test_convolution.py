from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", reason="needs the training extra")

from torch import Tensor, nn  # noqa: E402

from training.convolution import quicken  # noqa: E402


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _pair(plain: nn.Conv2d) -> tuple[nn.Conv2d, nn.Conv2d]:
    """It, and a quick copy of it."""
    quick = copy.deepcopy(plain)
    quicken(quick)
    return plain, quick


def _run(network: nn.Module, pictures: Tensor, *, low: bool = True) -> tuple[Tensor, list[Tensor]]:
    """What comes out, and the gradients of the pictures and of all parameters."""
    pictures = pictures.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        out = network(pictures)
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
    (out.float() * weights).sum().backward()
    return out, [pictures.grad, *(one.grad for one in network.parameters())]


def _products(run: Callable[[], object]) -> set[str]:
    from torch.profiler import profile

    with profile() as profiled:
        run()
    return {event.key for event in profiled.key_averages()}


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6])
@pytest.mark.parametrize(("kernel", "bias"), [(3, True), (3, False), (1, True), (1, False)])
@pytest.mark.parametrize("step", [1, 2])
def test_the_products_are_the_convolution(side: int, kernel: int, bias: bool, step: int) -> None:
    torch.manual_seed(side)
    plain = nn.Conv2d(64, 48, kernel, step, padding=kernel // 2, bias=bias)
    plain, quick = _pair(plain.to(memory_format=torch.channels_last))
    # Not square, so that no two sides can be mixed up.
    pictures = torch.randn(3, 64, side, max(1, side - 1))
    # Held against full precision: of so few pixels the library's own gradient in bfloat16 is not
    # always a number.
    (want, wanted), (got, gradients) = _run(plain, pictures, low=False), _run(quick, pictures)
    assert got.dtype == torch.bfloat16
    assert got.shape == want.shape
    for one, other in zip([got, *gradients], [want, *wanted], strict=True):
        difference = (one.float() - other.float()).abs().max()
        assert difference <= 0.01 * other.float().abs().max()

    assert "aten::mkldnn_convolution" in _products(lambda: _run(plain, pictures))
    assert "aten::mkldnn_convolution" not in _products(lambda: _run(quick, pictures))


def test_names_and_values_stay() -> None:
    network = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    quicken(network)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(64, 64, 3),
        nn.Conv2d(64, 64, 3, padding=1, stride=3),
        nn.Conv2d(64, 64, 3, padding=1, stride=(1, 2)),
        nn.Conv2d(64, 64, 3, padding=2, dilation=2),
        nn.Conv2d(64, 64, 3, padding=1, groups=64),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(64, 64, (3, 1), padding=1),
        nn.Conv2d(64, 64, 5, padding=2),
        nn.Conv2d(3, 64, 3, padding=1),
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(convolution: nn.Conv2d) -> None:
    quicken(convolution)
    assert type(convolution) is nn.Conv2d


def test_full_precision_is_left_alone() -> None:
    plain, quick = _pair(nn.Conv2d(64, 64, 3, padding=1))
    pictures = torch.randn(2, 64, 4, 4)
    assert torch.equal(quick(pictures), plain(pictures))


def test_large_pictures_are_left_to_the_library() -> None:
    plain, quick = _pair(nn.Conv2d(64, 64, 3, padding=1))
    pictures = torch.randn(1, 64, 7, 4)
    (want, wanted), (got, gradients) = _run(plain, pictures), _run(quick, pictures)
    assert torch.equal(got, want)
    assert all(map(torch.equal, gradients, wanted))


def test_frozen_weights_have_no_gradient_and_pass_it_on() -> None:
    convolution = nn.Conv2d(64, 64, 3, padding=1, bias=False).requires_grad_(False)
    pictures = torch.linspace(-1, 1, 2 * 64 * 16).view(2, 64, 4, 4)
    (_, expected), (_, found) = (_run(one, pictures) for one in _pair(convolution))
    assert found[1] is expected[1] is None
    torch.testing.assert_close(found[0], expected[0], rtol=0.02, atol=0.02)
