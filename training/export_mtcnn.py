"""Export MTCNN's three networks from facenet-pytorch's own weights to ONNX.

    python -m training.export_mtcnn [--out worker/detect]

The networks are those of Zhang et al., "Joint Face Detection and Alignment using Multi-task
Cascaded Convolutional Networks" (IEEE SPL 23(10), 2016), with the weights that facenet-pytorch
2.5.3 (MIT licence) carries. The graphs compute the same numbers in a form that suits the runtime:

- The input is a batch of pictures as float32 (N, 3, height, width), RGB, 0 to 255: the
  normalisation (x - 127.5) / 128 is folded into the first convolution.
- The output is the probability of a face, without its complement, and the box regression; the
  O-Net's landmarks come as (N, 5, 2), x before y.
- PReLU is written with ReLU and convolutions; see ``_ChannelwisePReLU`` and ``_FastPNet``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import onnx
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from torch import Tensor, nn

OPSET = 18
VERSION = "1.0.0"
DEFAULT_OUT = Path(__file__).parent.parent / "worker" / "detect"


class _ChannelwisePReLU(nn.Module):
    """PReLU as a*x + (1 - a)*relu(x), each product a convolution of one channel and one pixel.

    onnxruntime keeps convolutions, ReLU and sums in a blocked memory layout on the CPU, but has no
    PRelu for that layout and reorders the whole tensor around each one. Written so, the R- and the
    O-Net take two thirds of the time. The slopes have both signs, so no simpler form (LeakyRelu, a
    maximum) would do.
    """

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        channels = len(slopes)
        self.linear = _convolution(slopes.reshape(-1, 1, 1, 1), groups=channels)
        self.positive = _convolution(1 - slopes.reshape(-1, 1, 1, 1), groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        linear: Tensor = self.linear(x)
        positive: Tensor = self.positive(torch.relu(x))
        return linear + positive


class _FastPNet(nn.Module):
    """The P-Net rearranged: the same function in half the time.

    Its first activation, on the full picture, moves behind the pooling, to a quarter of the pixels.
    With f(x) = x above and a*x below zero, the maximum of f over a window is

        a < 0:       max(M, Q),  with M the maximum of x and Q the maximum of a*x;
        0 <= a <= 1: max(M, a*M);
        a > 1:       min(M, a*M), which is -max(-M, -a*M).

    So the first convolution also makes a*x for its six channels of negative slope, which fills the
    blocked layout's sixteen channels exactly; each max(u, v) is u + relu(v - u), with two
    convolutions of one pixel for u and v - u; and the second convolution takes the channel of slope
    above one with its sign turned. The last activation, linear on either side of relu, goes into
    the convolutions behind it; the two logits become their difference.
    """

    def __init__(self, net: PNet) -> None:
        super().__init__()
        slopes = net.prelu1.weight.detach()
        falling = (slopes < 0).nonzero()[:, 0].tolist()
        count, width = len(slopes), len(slopes) + len(falling)
        weight, bias = _parameters(net.conv1)
        scaled = [
            values[falling] * _per_channel(slopes[falling], values) for values in (weight, bias)
        ]
        self.first = _convolution(torch.cat([weight, scaled[0]]), torch.cat([bias, scaled[1]]))
        self.pool = net.pool1

        u, step = torch.zeros(count, width), torch.zeros(count, width)
        signs = torch.ones(count)
        for channel, slope in enumerate(slopes.tolist()):
            signs[channel] = -1 if slope > 1 else 1
            u[channel, channel] = signs[channel]
            if slope < 0:
                step[channel, channel] = -1
                step[channel, count + falling.index(channel)] = 1
            else:
                step[channel, channel] = (slope - 1) * signs[channel]
        # Sixteen outputs again, the last of them zero: with ten, onnxruntime would leave the next
        # convolution out of the blocked layout.
        padding = torch.zeros(width - count, width)
        self.u = _convolution(torch.cat([u, padding])[:, :, None, None])
        self.step = _convolution(torch.cat([step, padding])[:, :, None, None])
        weight, bias = _parameters(net.conv2)
        weight = torch.cat(
            [weight * signs[:, None, None], torch.zeros(len(weight), width - count, 3, 3)], dim=1
        )
        self.second = _convolution(weight, bias)
        self.activation = _ChannelwisePReLU(net.prelu2.weight.detach())
        self.third = net.conv3

        logits, logit_bias = _parameters(net.conv4_1)
        regression, regression_bias = _parameters(net.conv4_2)
        weight = torch.cat([logits[1:] - logits[:1], regression])
        bias = torch.cat([logit_bias[1:] - logit_bias[:1], regression_bias])
        slopes = net.prelu3.weight.detach()[:, None, None]
        self.linear = _convolution(weight * slopes, bias)
        self.positive = _convolution(weight * (1 - slopes))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.pool(self.first(images))
        x = self.u(pooled) + torch.relu(self.step(pooled))
        x = self.third(self.activation(self.second(x)))
        x = self.linear(x) + self.positive(torch.relu(x))
        # Not torch.sigmoid: onnxruntime approximates that one, and among scores so near to one a
        # rounding error decides which of two overlapping candidates stays.
        return torch.reciprocal(1 + torch.exp(-x[:, 0])), x[:, 1:]


class _Later(nn.Module):
    """The R- or O-Net with this project's outputs and activations."""

    def __init__(self, net: RNet | ONet) -> None:
        super().__init__()
        self.net = net
        for name, child in list(net.named_children()):
            # The PReLU behind a dense layer works on (N, channels) and stays as it is.
            if isinstance(child, nn.PReLU) and name.replace("prelu", "conv") in net._modules:
                setattr(net, name, _ChannelwisePReLU(child.weight.detach()))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        regression, *landmarks, faces = self.net(images)
        # As trained: five x, then five y.
        points = [p.reshape(-1, 2, 5).transpose(1, 2) for p in landmarks]
        return faces[:, 1], regression, *points


def _convolution(weight: Tensor, bias: Tensor | None = None, *, groups: int = 1) -> nn.Conv2d:
    """A convolution with these parameters, its weight (out, in / groups, height, width)."""
    out, inside, height, width = weight.shape
    made = nn.Conv2d(inside * groups, out, (height, width), groups=groups, bias=bias is not None)
    made.weight.data = weight.detach().clone()
    if made.bias is not None and bias is not None:
        made.bias.data = bias.detach().clone()
    return made


def _parameters(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert layer.bias is not None
    return layer.weight.detach(), layer.bias.detach()


def _per_channel(factors: Tensor, values: Tensor) -> Tensor:
    """Factors (C,) in a shape that multiplies values (C, ...)."""
    return factors.reshape(-1, *[1] * (values.dim() - 1))


def _take_bytes(net: nn.Module) -> None:
    """Let the first convolution take 0..255 for (x - 127.5) / 128; the same sums, as none pads."""
    first = net.get_submodule("conv1")
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    with torch.no_grad():
        first.weight /= 128
        first.bias -= 127.5 * first.weight.sum((1, 2, 3))


def export(out: Path) -> list[Path]:
    """Write pnet.onnx, rnet.onnx and onet.onnx into the folder ``out``; returns their paths."""
    pnet, rnet, onet = PNet(), RNet(), ONet()
    for net in (pnet, rnet, onet):
        _take_bytes(net)
    batch = torch.export.Dim("batch")
    any_size = {0: batch, 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    outputs = ["faces", "regression", "landmarks"]
    out.mkdir(parents=True, exist_ok=True)
    return [
        _export("pnet", _FastPNet(pnet), (40, 50), any_size, outputs[:2], out),
        _export("rnet", _Later(rnet), (24, 24), {0: batch}, outputs[:2], out),
        _export("onet", _Later(onet), (48, 48), {0: batch}, outputs, out),
    ]


def _export(
    name: str,
    net: nn.Module,
    size: tuple[int, int],
    dynamic: dict[int, torch.export.Dim],
    outputs: Sequence[str],
    out: Path,
) -> Path:
    program = torch.onnx.export(
        net.eval(),
        (torch.zeros(2, 3, *size),),
        dynamo=True,
        dynamic_shapes=(dynamic,),
        opset_version=OPSET,
        input_names=["images"],
        output_names=list(outputs),
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    _strip_traces(model)
    source = f"facenet-pytorch {version('facenet-pytorch')}"
    for key, value in {
        "name": f"mtcnn-{name}",
        "version": VERSION,
        "source": source,
        "licence": "MIT",
    }.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    path = out / f"{name}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: they name files of the machine that exported."""
    del model.metadata_props[:]
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.graph.metadata_props[:]
    for items in (model.graph.node, model.graph.value_info, model.graph.initializer):
        for item in items:
            item.doc_string = ""
            del item.metadata_props[:]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.export_mtcnn",
        description="Export MTCNN's three networks from facenet-pytorch's weights to ONNX.",
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder for the three files")
    for path in export(parser.parse_args(arguments).out):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
