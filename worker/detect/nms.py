"""Non-maximum suppression: of boxes that overlap too much, the one with the best score stays."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from worker.inference import open_network
from worker.records import Floats

Ints = npt.NDArray[np.int64]

_LEAST = np.array([np.finfo(np.float32).min])

_SCORES_AT_ONCE = 4_000_000
"""The operator wants a score of each box for each group: so many in one call, 16 MB."""


def nms_by_group(boxes: Floats, scores: Floats, groups: Ints, threshold: float) -> Ints:
    """Indices of the boxes (K, 4) that stay, group by group, each best score first.

    A box goes if its intersection over union with a better one of its group that stays is above
    ``threshold``, as in ``torchvision.ops.nms``. Of equal scores the lower index wins.

    onnxruntime's operator does it, which knows classes where we have groups.
    """
    if not len(boxes):
        return np.zeros(0, np.int64)
    names, which = np.unique(groups, return_inverse=True)
    if len(names) > 1 and len(names) * len(boxes) > _SCORES_AT_ONCE:
        middle = len(names) // 2
        parts = np.flatnonzero(which < middle), np.flatnonzero(which >= middle)
        kept = [
            some[nms_by_group(boxes[some], scores[some], which[some], threshold)] for some in parts
        ]
        return np.concatenate(kept)
    by_group = np.full((1, len(names), len(boxes)), -np.inf, np.float32)
    by_group[0, which, np.arange(len(boxes))] = scores
    inputs = {
        "boxes": boxes[None],
        "scores": by_group,
        "most": np.array([len(boxes)]),
        "overlap": np.array([threshold], np.float32),
        "least": _LEAST,
    }
    found: Ints = nms_operator().run(None, inputs)[0][:, 2]
    return found


def nms_of_smaller(boxes: Floats, scores: Floats, threshold: float) -> Ints:
    """The same for one group, where the overlap is counted in parts of the smaller box.

    So does MTCNN's last step, in pixels counted inclusively. Of equal scores (the O-Net gives many
    an exact 1) the higher index wins, as in facenet-pytorch's function.

    Greedy suppression runs without a loop over boxes: sorted by score, "I stay if none that stays
    beats me" is applied to all boxes at once until nothing changes. Each round settles at least one
    more box for good, from the best on, and in practice a few do.
    """
    order = np.argsort(scores, kind="stable")[::-1]
    if len(order) < 2:
        return order
    clashes = np.triu(_overlap(boxes[order], boxes[order]) > threshold, k=1)
    stays = np.ones(len(order), bool)
    while True:
        settled = np.logical_not(clashes[stays].any(axis=0))
        if np.array_equal(settled, stays):
            return order[stays]
        stays = settled


def covered(
    boxes: Floats, groups: Ints, by: Floats, by_groups: Ints, threshold: float
) -> npt.NDArray[np.bool_]:
    """Which boxes (K, 4) a box of ``by`` (F, 4) of the same group covers.

    It does if they overlap by more than ``threshold`` of the smaller one, as ``nms_of_smaller``
    measures it.
    """
    alike = _overlap(by, boxes) > threshold
    alike &= np.equal.outer(by_groups, groups)
    return np.asarray(alike.any(axis=0))


@cache
def nms_operator() -> ort.InferenceSession:
    """The operator, opened once in a process.

    Raises:
        ModelError: its file is missing or corrupt.
    """
    return open_network(Path(__file__).with_name("nms.onnx"), provider="cpu").session


def _overlap(a: Floats, b: Floats) -> Floats:
    """Intersection of each box of ``a`` (A, 4) with each of ``b`` (B, 4), as (A, B).

    In parts of the smaller one, in pixels counted inclusively.
    """
    width = np.minimum.outer(a[:, 2], b[:, 2]) - np.maximum.outer(a[:, 0], b[:, 0]) + 1
    height = np.minimum.outer(a[:, 3], b[:, 3]) - np.maximum.outer(a[:, 1], b[:, 1]) + 1
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area_a, area_b = (
        (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1) for boxes in (a, b)
    )
    # Boxes without area overlap by 0/0, which is above no threshold.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(shared / np.minimum.outer(area_a, area_b), np.float32)
