from __future__ import annotations

import bz2
import zipfile
from pathlib import Path

import numpy as np
import pytest

from training.data import SPLITS, Dataset, read_data
from worker.errors import DataError

GOOD_PIXELS = " ".join(["7"] * 2304)
HEADER = "emotion,pixels,Usage"


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    ramp = " ".join(str(i % 256) for i in range(2304))
    path = write(tmp_path / "f.csv", HEADER, f"6,{ramp},PrivateTest", f"0,{GOOD_PIXELS},Training")

    data = read_data(path)

    assert data.images.shape == (2, 48, 48)
    assert data.images.dtype == np.uint8
    # Rows from the top: the 49th value is the first of the second row.
    assert data.images[0, 1, 0] == 48
    assert data.labels.tolist() == [6, 0]
    assert [SPLITS[index] for index in data.splits] == ["PrivateTest", "Training"]
    assert (data.images[1] == 7).all()
    assert data.votes is None


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_gives_the_same(tiny_csv: Path, tiny: Dataset, tmp_path: Path, method: int) -> None:
    packed = tmp_path / "fer2013.csv.zip"
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.write(tiny_csv, "fer2013.csv")
    data = read_data(packed)
    np.testing.assert_array_equal(data.images, tiny.images)
    np.testing.assert_array_equal(data.labels, tiny.labels)
    np.testing.assert_array_equal(data.splits, tiny.splits)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (f"0,{GOOD_PIXELS}", "2 columns instead of 3"),
        (f"0,{GOOD_PIXELS},Training,x", "4 columns instead of 3"),
        ("", "0 columns instead of 3"),
        (f"0,{GOOD_PIXELS} 7,Training", r"2305 pixels instead of 2304 \(48 x 48\)"),
        ("0," + " ".join(["7"] * 47 * 47) + ",Training", "2209 pixels instead of 2304"),
        (f"0,256{GOOD_PIXELS[1:]},Training", "pixel value '256' is not"),
        (f"0,-1{GOOD_PIXELS[1:]},Training", "pixel value '-1' is not"),
        (f"0,7.5{GOOD_PIXELS[1:]},Training", r"pixel value '7\.5' is not"),
        (f"0,{GOOD_PIXELS},Test", "unknown Usage 'Test', expected Training, PublicTest"),
        (f"7,{GOOD_PIXELS},Training", "unknown emotion '7', expected 0 to 6"),
        (f"happy,{GOOD_PIXELS},Training", "unknown emotion 'happy'"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: str, complaint: str) -> None:
    good = f"3,{GOOD_PIXELS},Training"
    path = write(tmp_path / "fer.csv", HEADER, good, good, row, good)
    with pytest.raises(DataError, match=rf"fer\.csv, line 4: {complaint}"):
        read_data(path)


@pytest.mark.parametrize("header", ["", "emotion,pixels", "pixels,emotion,Usage", "\x00"])
def test_other_columns_are_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match="line 1: the columns must be emotion,pixels,Usage"):
        read_data(write(tmp_path / "fer.csv", header, f"3,{GOOD_PIXELS},Training"))


def test_files_that_are_no_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the data .*none\.csv: No such file"):
        read_data(tmp_path / "none.csv")

    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(DataError, match="not nothing"):
        read_data(tmp_path / "empty.csv")
    with pytest.raises(DataError, match="no rows"):
        read_data(write(tmp_path / "header.csv", HEADER))

    (tmp_path / "binary.csv").write_bytes(bz2.compress(b"x") * 20)
    with pytest.raises(DataError, match=r"binary\.csv"):
        read_data(tmp_path / "binary.csv")


def test_a_mark_before_the_text_is_none_of_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f"{HEADER}\n3,{GOOD_PIXELS},Training\n", encoding="utf-8-sig")
    assert read_data(path).labels.tolist() == [3]


def test_half_a_download_is_named(tmp_path: Path, tiny_csv: Path) -> None:
    packed = tmp_path / "data.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tiny_csv, "fer2013.csv")
    packed.write_bytes(packed.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"data\.zip is an incomplete zip"):
        read_data(packed)


def test_zips_without_one_csv_or_with_damage_are_refused(tmp_path: Path, tiny_csv: Path) -> None:
    packed = tmp_path / "data.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(DataError, match=r"must hold one \.csv file, but it holds 0"):
        read_data(packed)

    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(packed, "w", method) as archive:
            archive.write(tiny_csv, "fer2013.csv")
        content = bytearray(packed.read_bytes())
        content[2000:2400] = bytes(400)
        packed.write_bytes(content)
        with pytest.raises(DataError, match=r"data\.zip"):
            read_data(packed)


def test_the_real_file_has_its_known_counts(fer2013: Dataset) -> None:
    counts = {split: np.bincount(fer2013.split(split).labels).tolist() for split in SPLITS}
    assert counts == {
        "Training": [3995, 436, 4097, 7215, 4830, 3171, 4965],
        "PublicTest": [467, 56, 496, 895, 653, 415, 607],
        "PrivateTest": [491, 55, 528, 879, 594, 416, 626],
    }
