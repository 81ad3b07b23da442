"""Export MTCNN's three networks from facenet-pytorch's own weights to ONNX, and what suppresses.

    python -m training.export_mtcnn [--out worker/detect]

The networks are those of Zhang et al., "Joint Face Detection and Alignment using Multi-task
Cascaded Convolutional Networks" (IEEE SPL 23(10), 2016), with the weights that facenet-pytorch
2.5.3 (MIT licence) carries. The graphs compute the same numbers in a form that suits the runtime:

- The input is a batch of pictures as float32 (N, 3, height, width), RGB, 0 to 255: the
  normalisation (x - 127.5) / 128 is folded into the first convolution.
- The output is the probability of a face, without its complement, and the box regression; the
  O-Net's landmarks come as (N, 5, 2), x before y.
- PReLU is written with ReLU and convolutions; see ``_Activated`` and ``_Pooled``.
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
IR_VERSION = 10
VERSION = "1.0.0"
DEFAULT_OUT = Path(__file__).parent.parent / "worker" / "detect"


class _Activated(nn.Module):
    """A convolution and its PReLU in what onnxruntime keeps in its blocked memory layout.

    On the CPU it has no PRelu for that layout and reorders the whole tensor around each one. With
    the convolution's weights multiplied by 1 - a, the activation is relu(x) + x * a / (1 - a): one
    ReLU, and one convolution of one channel and one pixel that adds to it. Slopes of one or more do
    not go this way; those behind the layers that use it are all smaller.
    """

    def __init__(self, convolution: nn.Conv2d, slopes: Tensor) -> None:
        super().__init__()
        slopes = slopes.detach()
        assert (slopes < 1).all()
        weight, bias = _parameters(convolution)
        self.scaled = _convolution(weight * _per_channel(1 - slopes, weight), bias * (1 - slopes))
        linear = slopes / (1 - slopes)
        self.linear = _convolution(linear.reshape(-1, 1, 1, 1), groups=len(slopes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.scaled(x)
        activated: Tensor = torch.relu(x) + self.linear(x)
        return activated


class _Pooled(nn.Module):
    """A convolution, its PReLU and the maximum over windows behind it, activated last.

    The activation moves behind the pooling, to a quarter of the pixels. With f(x) = x above and a*x
    below zero, the maximum of f over a window is

        a < 0:       max(M, Q),  with M the maximum of x and Q the maximum of a*x;
        0 <= a <= 1: max(M, a*M);
        a > 1:       min(M, a*M), which is -max(-M, -a*M).

    So the convolution also makes a*x for the channels of negative slope; each max(u, v) is
    u + relu(v - u), with two convolutions of one pixel for u and v - u. Channels fill up blocks of
    sixteen, the last ones zero: with others, onnxruntime would leave its blocked layout.

    The output has ``signs`` (channels,), -1 where it is the negative of the activation, and is
    followed by channels of zeros up to a whole block: ``behind`` prepares the next convolution.
    """

    def __init__(self, convolution: nn.Conv2d, slopes: Tensor, pool: nn.Module) -> None:
        super().__init__()
        slopes = slopes.detach()
        falling = (slopes < 0).nonzero()[:, 0].tolist()
        count, made = len(slopes), len(slopes) + len(falling)
        inside, out = _whole_blocks(made), _whole_blocks(count)
        weight, bias = _parameters(convolution)
        first = []
        for values in (weight, bias):
            scaled = values[falling] * _per_channel(slopes[falling], values)
            padding = torch.zeros(inside - made, *values.shape[1:])
            first.append(torch.cat([values, scaled, padding]))
        self.first = _convolution(*first)
        self.pool = pool

        u, step = torch.zeros(out, inside), torch.zeros(out, inside)
        self.signs = torch.ones(count)
        for channel, slope in enumerate(slopes.tolist()):
            self.signs[channel] = -1 if slope > 1 else 1
            u[channel, channel] = self.signs[channel]
            if slope < 0:
                step[channel, channel] = -1
                step[channel, count + falling.index(channel)] = 1
            else:
                step[channel, channel] = (slope - 1) * self.signs[channel]
        self.u = _convolution(u[:, :, None, None])
        self.step = _convolution(step[:, :, None, None])

    def behind(self, convolution: nn.Conv2d) -> nn.Conv2d:
        """The convolution that makes of this module's output what it made of the original's."""
        weight, bias = _parameters(convolution)
        weight = weight * self.signs[:, None, None]
        missing = self.u.out_channels - len(self.signs)
        padding = torch.zeros(len(weight), missing, *weight.shape[2:])
        return _convolution(torch.cat([weight, padding], dim=1), bias)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(self.first(x))
        activated: Tensor = self.u(pooled) + torch.relu(self.step(pooled))
        return activated


class _FastPNet(nn.Module):
    """The P-Net rearranged: the same function in half the time.

    The last activation, linear on either side of relu, goes into the convolutions behind it; the
    two logits become their difference.
    """

    def __init__(self, net: PNet) -> None:
        super().__init__()
        self.first = _Pooled(net.conv1, net.prelu1.weight, net.pool1)
        self.second = _Activated(self.first.behind(net.conv2), net.prelu2.weight)
        self.third = net.conv3

        logits, logit_bias = _parameters(net.conv4_1)
        regression, regression_bias = _parameters(net.conv4_2)
        weight = torch.cat([logits[1:] - logits[:1], regression])
        bias = torch.cat([logit_bias[1:] - logit_bias[:1], regression_bias])
        slopes = net.prelu3.weight.detach()[:, None, None]
        self.linear = _convolution(weight * slopes, bias)
        self.positive = _convolution(weight * (1 - slopes))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.third(self.second(self.first(images)))
        x = self.linear(x) + self.positive(torch.relu(x))
        # Not torch.sigmoid: onnxruntime approximates that one, and among scores so near to one a
        # rounding error decides which of two overlapping candidates stays.
        return torch.reciprocal(1 + torch.exp(-x[:, 0])), x[:, 1:]


class _Later(nn.Module):
    """The R- or O-Net rearranged."""

    def __init__(self, net: RNet | ONet) -> None:
        super().__init__()
        first = _Pooled(net.conv1, net.prelu1.weight, net.pool1)
        self.features = nn.Sequential(
            first,
            _Activated(first.behind(net.conv2), net.prelu2.weight),
            net.pool2,
            _Activated(net.conv3, net.prelu3.weight),
        )
        heads: tuple[nn.Module, ...]
        if isinstance(net, ONet):
            self.features.extend([net.pool3, _Activated(net.conv4, net.prelu4.weight)])
            dense, self.prelu = net.dense5, net.prelu5
            heads = net.dense6_1, net.dense6_2, net.dense6_3
        else:
            dense, self.prelu = net.dense4, net.prelu4
            heads = net.dense5_1, net.dense5_2
        # The original flattens columns first, channels last: so ordered are its weights.
        weight = dense.weight.detach().reshape(len(dense.weight), 3, 3, -1)
        dense.weight.data = weight.permute(0, 3, 2, 1).flatten(1).contiguous()
        self.dense = dense
        self.faces, self.regression = heads[:2]
        self.landmarks = nn.ModuleList(heads[2:])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.prelu(self.dense(self.features(images).flatten(1)))
        faces = torch.softmax(self.faces(x), dim=1)[:, 1]
        # As trained: five x, then five y.
        points = [head(x).reshape(-1, 2, 5).transpose(1, 2) for head in self.landmarks]
        return faces, self.regression(x), *points


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


def _whole_blocks(channels: int) -> int:
    """The next multiple of the blocked layout's sixteen channels."""
    return -(-channels // 16) * 16


def _take_bytes(net: nn.Module) -> None:
    """Let the first convolution take 0..255 for (x - 127.5) / 128; the same sums, as none pads."""
    first = net.get_submodule("conv1")
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    with torch.no_grad():
        first.weight /= 128
        first.bias -= 127.5 * first.weight.sum((1, 2, 3))


def export(out: Path) -> list[Path]:
    """Write pnet, rnet, onet and nms.onnx into the folder ``out``; returns their paths."""
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
        _export_suppression(out),
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


def _export_suppression(out: Path) -> Path:
    """The operator alone, for worker.detect.nms: onnxruntime runs graphs only."""
    kinds: dict[str, tuple[int, list[str | int]]] = {
        "boxes": (onnx.TensorProto.FLOAT, [1, "boxes", 4]),
        "scores": (onnx.TensorProto.FLOAT, [1, "groups", "boxes"]),
        "most": (onnx.TensorProto.INT64, [1]),
        "overlap": (onnx.TensorProto.FLOAT, [1]),
        "least": (onnx.TensorProto.FLOAT, [1]),
    }
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("NonMaxSuppression", list(kinds), ["kept"])],
        "nms",
        [onnx.helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()],
        [onnx.helper.make_tensor_value_info("kept", onnx.TensorProto.INT64, ["kept", 3])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    path = out / "nms.onnx"
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
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder for the files")
    for path in export(parser.parse_args(arguments).out):
        print(f"{path}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
