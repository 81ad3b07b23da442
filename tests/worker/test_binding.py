"""Rows of an array on a device are parts of it, and not copies.

On the CPU, or where MIEN_TEST_PROVIDER says (deploy/gpu_check.sh).
"""

from __future__ import annotations

import os
from typing import cast

import numpy as np
import pytest

from worker.binding import Kind, Rows, run
from worker.emotion.ongraph import GRAPHS
from worker.inference import open_network
from worker.records import Provider

PROVIDER = cast("Provider", os.environ.get("MIEN_TEST_PROVIDER", "cpu"))
KIND: Kind = "cpu" if PROVIDER == "cpu" else "cuda"


def test_parts_of_parts_lie_where_they_should() -> None:
    whole = Rows.new(KIND, 5, 2)
    part = whole[1:4]
    assert (len(part), part.shape, part.dtype) == (3, (3, 2), np.uint8)
    assert part.address == whole.address + 2
    assert part[1:].address == whole.address + 4
    assert len(whole[3:99]) == 2
    assert len(whole[4:2]) == 0


def test_all_parts_can_be_padded_and_nothing_beyond_the_array() -> None:
    for count in range(1, 20):
        rows = Rows.new(KIND, count, 2)
        for start in range(count):
            part = rows[start:]
            padded = part.padded()
            assert padded.address == part.address
            assert len(padded) == 2 ** int(np.ceil(np.log2(len(part))))
            assert start + len(padded) <= rows.whole.shape()[0]
    with pytest.raises(ValueError, match="there are no 4 rows from 3 on"):
        Rows(KIND, Rows.new(KIND, 3, 2).whole, 3, 4).padded()


def test_an_array_of_nothing_has_no_rows() -> None:
    assert Rows.new(KIND, 0, 48, 48, 1).shape == (0, 48, 48, 1)


def test_a_graph_takes_and_fills_the_rows_that_it_is_given() -> None:
    graph = open_network(GRAPHS / "sharpness.onnx", provider=KIND).session
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 1), np.uint8)
    noise[1] = 9
    rows = Rows.new(KIND, 4, 48, 48, 1)
    rows.whole.update_inplace(np.concatenate([noise, noise]))
    expected = run(graph, {"crops": noise}, "cpu")["sharpness"].numpy()
    found = run(graph, {"crops": rows[1:3]}, "cpu")["sharpness"].numpy()
    assert found.tolist() == expected[1:3].tolist()
    assert found[0] == 0 < found[1]

    graph = open_network(GRAPHS / "crop.onnx", provider=KIND).session
    sums = np.zeros((1, 64, 64, 3), np.int32)
    sums[0, 1:, 1:] = np.full((63, 63, 3), 200).cumsum(0).cumsum(1)
    given = {
        "table": sums,
        "size": np.array([63, 63]),
        "pictures": np.zeros(2, np.int64),
        "squares": np.array([[0, 0, 63], [5, 5, 0]]),
        "side": np.array(48),
        "mix": np.full((3, 1), 1 / 3, np.float32),
    }
    assert run(graph, given, KIND, {"crops": rows[1:3]}) == {}
    after = rows.whole.numpy()[:4]
    assert (after[1] == 200).all()
    assert (after[2] == 128).all()
    assert (after[[0, 3]] == noise[[0, 3]]).all()
