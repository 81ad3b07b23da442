"""The file of many feeds: what it may say, and how each mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.capture.options import PushOptions, read_feeds
from worker.errors import SettingsError


def write(folder: Path, text: str) -> Path:
    path = folder / "feeds.toml"
    path.write_text(text)
    return path


def test_feeds_with_their_options_and_defaults(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [defaults]
        fps = 5
        width = 1280

        [[feed]]
        name = "door"
        source = "rtsp://user:secret@10.0.0.5/stream1"
        policy = "live"
        depth = 4
        staleness_s = 1
        stall_s = 3.5
        give_up_s = 60
        decode_threads = 2

        [[feed]]
        name = "archive.2"
        source = "clips/0.mp4"
        width = 320
        quality = 70
        loop = true
        realtime = true

        [[feed]]
        name = "desk"
        source = "0"
        """,
    )
    door, archive, desk = read_feeds(path)
    assert door == PushOptions(
        name="door", source="rtsp://user:secret@10.0.0.5/stream1", policy="live", depth=4,
        staleness_s=1, fps=5, width=1280, stall_s=3.5, give_up_s=60, decode_threads=2,
    )  # fmt: skip
    assert archive == PushOptions(
        name="archive.2", source=str(tmp_path / "clips/0.mp4"), fps=5, width=320, quality=70,
        loop=True, realtime=True,
    )  # fmt: skip
    assert (desk.source, desk.decode_threads, desk.give_up_s) == ("0", 1, None)
    assert "secret" not in repr(door)


def test_a_file_named_like_a_camera(tmp_path: Path) -> None:
    (feed,) = read_feeds(write(tmp_path, '[[feed]]\nname = "a"\nsource = "./0"\n'))
    assert feed.source == str(tmp_path / "0")


DOOR = '[[feed]]\nname = "door"\nsource = "0"\n'


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["has no feed"]),
        ("x = @", ["not valid TOML", "line 1"]),
        ("[feeds.door]\nsource = '0'", ["'feeds'", "[[feed]]"]),
        ("[feed]\nname = 'a'", ["[[feed]]", "double brackets"]),
        ("feed = [1]", ["[[feed]]"]),
        (DOOR + "fps = -1", ["feed door: fps = -1", "greater than 0"]),
        (DOOR + "fps = nan", ["feed door: fps = nan"]),
        (DOOR + "fps = '5'", ["feed door: fps = '5'", "number"]),
        (DOOR + "loop = 1", ["feed door: loop = 1", "boolean"]),
        (DOOR + "policy = 'often'", ["feed door: policy = 'often'", "lossless"]),
        (DOOR + "depth = 200000", ["feed door: depth"]),
        (DOOR + "quality = 0", ["feed door: quality"]),
        (DOOR + "stall_s = 0", ["feed door: stall_s"]),
        (DOOR + "fsp = 5", ["feed door: there is no option 'fsp'"]),
        ("[defaults]\nwidth = 0\n" + DOOR, ["defaults: width = 0"]),
        ("[defaults]\nsource = '1'\n" + DOOR, ["[defaults]", "no source"]),
        (DOOR + "[[feed]]\nsource = '1'", ["feed 2: name is missing"]),
        ("[[feed]]\nname = 'door'", ["feed door: source is missing"]),
        ("[[feed]]\nname = 'a b'\nsource = '1'", ["feed 1: name: 'a b'"]),
        ("[[feed]]\nname = 7\nsource = '1'", ["feed 1: name = 7"]),
        ("[[feed]]\nname = 'door'\nsource = ''", ["feed door: source cannot be used", "empty"]),
        ("[[feed]]\nname = 'door'\nsource = 0", ["feed door: source cannot be used", "text"]),
        (DOOR + DOOR, ["feed door", "two feeds of this name"]),
    ],
)
def test_a_mistake_is_named_with_file_feed_and_field(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        read_feeds(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    "text",
    [
        '[[feed]]\nname = "a"\nsource = "rtsp://user:secret/x@cam/live"',
        '[[feed]]\nname = "a"\nsource = ["rtsp://user:secret@cam"]',
        '[[feed]]\nname = "a"\nsuorce = "rtsp://user:secret@cam"',
    ],
)
def test_no_mistake_repeats_a_password(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_feeds(write(tmp_path, text))
    assert "secret" not in str(caught.value)
    assert "feed a: " in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read: No such file"):
        read_feeds(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    with pytest.raises(SettingsError, match="UTF-8"):
        read_feeds(tmp_path / "latin.toml")
