"""Non-maximum suppression: of boxes that overlap too much, the one with the best score stays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from worker.records import Floats

Ints = npt.NDArray[np.int64]

_BLOCK = 256
"""Boxes compared with each other at once: bounds the memory in crowded pictures."""


def nms(boxes: Floats, scores: Floats, threshold: float, *, minimum: bool = False) -> Ints:
    """Indices of the boxes that stay, best score first.

    A box goes if its overlap with a better one that stays is above ``threshold``. Overlap is
    intersection over union as in ``torchvision.ops.nms``, or with ``minimum`` the intersection over
    the smaller area, in pixels counted inclusively, as in MTCNN's last step. Of equal scores (the
    O-Net gives many an exact 1) the lower index wins, with ``minimum`` the higher, as in
    facenet-pytorch's two functions.

    Greedy suppression runs without a loop over boxes: within a block of boxes, sorted by score,
    "I stay if none that stays beats me" is applied to all boxes at once until nothing changes. Each
    round settles at least one more box for good, from the best on, and in practice a few do.
    """
    if minimum:
        order = np.argsort(scores, kind="stable")[::-1]
    else:
        order = np.argsort(-scores, kind="stable")
    if len(order) < 2:
        return order
    kept: Ints = order[:0]
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        if len(kept):
            beaten = (_overlap(boxes[kept], boxes[block], minimum) > threshold).any(axis=0)
            block = block[~beaten]
        clashes = np.triu(_overlap(boxes[block], boxes[block], minimum) > threshold, k=1)
        stays = np.ones(len(block), bool)
        while True:
            settled = np.logical_not(clashes[stays].any(axis=0))
            if np.array_equal(settled, stays):
                break
            stays = settled
        kept = np.concatenate([kept, block[stays]])
    return kept


def nms_by_group(
    boxes: Floats, scores: Floats, groups: Ints, threshold: float, *, minimum: bool = False
) -> Ints:
    """``nms`` within each group: the indices that stay, group by group, each best score first."""
    if len(groups) and (groups == groups[0]).all():
        return nms(boxes, scores, threshold, minimum=minimum)
    kept = []
    for group in np.unique(groups):
        mine = np.flatnonzero(groups == group)
        kept.append(mine[nms(boxes[mine], scores[mine], threshold, minimum=minimum)])
    return np.concatenate(kept) if kept else np.zeros(0, np.int64)


def covered(
    boxes: Floats, groups: Ints, by: Floats, by_groups: Ints, threshold: float
) -> npt.NDArray[np.bool_]:
    """Which boxes (K, 4) a box of ``by`` (F, 4) of the same group covers.

    It does if they overlap by more than ``threshold`` of the smaller one, as ``nms`` measures it
    with ``minimum``.
    """
    alike = _overlap(by, boxes, True) > threshold
    alike &= np.equal.outer(by_groups, groups)
    return np.asarray(alike.any(axis=0))


def _overlap(a: Floats, b: Floats, minimum: bool) -> Floats:
    """Overlap of each box of ``a`` (A, 4) with each of ``b`` (B, 4), as (A, B)."""
    inclusive = np.float32(minimum)
    width = np.minimum.outer(a[:, 2], b[:, 2]) - np.maximum.outer(a[:, 0], b[:, 0]) + inclusive
    height = np.minimum.outer(a[:, 3], b[:, 3]) - np.maximum.outer(a[:, 1], b[:, 1]) + inclusive
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area_a, area_b = (
        (boxes[:, 2] - boxes[:, 0] + inclusive) * (boxes[:, 3] - boxes[:, 1] + inclusive)
        for boxes in (a, b)
    )
    if minimum:
        whole = np.minimum.outer(area_a, area_b)
    else:
        whole = np.add.outer(area_a, area_b)
        whole -= shared
    # Two boxes without area overlap by 0/0, which is above no threshold.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(shared / whole, np.float32)
