"""Video files: times, turning, proportions, and files that are damaged or cut off."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from tests.worker.capture.conftest import Clips, read, silence
from worker.capture import upright, video
from worker.capture.sources import open_source
from worker.errors import SourceError
from worker.records import Picture


def seconds(pictures: list[Picture]) -> list[float]:
    return [float(p.pts * p.time_base) for p in pictures]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv", "a.h264"])
def test_times_of_a_steady_clip_with_b_frames(name, clips: Clips, index_of) -> None:
    pictures, end = read(clips.make(name))
    assert end == ""
    assert [index_of(p.image) for p in pictures] == list(range(50))
    assert seconds(pictures) == pytest.approx([i / 25 for i in range(50)], abs=0.002)
    assert pictures[0].pts == 0
    assert all(p.captured_at is None for p in pictures)


def test_pictures_are_rgb_and_contiguous(clips: Clips, corners) -> None:
    pictures, _ = read(clips.make("a.mp4", count=3))
    for picture in pictures:
        assert picture.image.shape == (120, 160, 3)
        assert picture.image.dtype == np.uint8
        assert picture.image.flags.c_contiguous
        assert corners(picture.image) == [0, 1, 2, 3]


def test_what_is_known_before_reading(clips: Clips) -> None:
    with open_source(str(clips.make("a.mp4", audio=True))) as source:
        assert (source.name, source.live) == ("a.mp4", False)
        assert (source.width, source.height) == (160, 120)
        assert (source.rate, source.frames, source.duration_s) == (25, 50, pytest.approx(2))


def test_avi_stores_no_order_of_presentation_and_still_rises(clips: Clips, index_of) -> None:
    pictures, end = read(clips.make("a.avi"))
    assert end == ""
    assert [index_of(p.image) for p in pictures] == list(range(50))
    times = seconds(pictures)
    assert all(b > a for a, b in itertools.pairwise(times))
    assert times[-1] == pytest.approx(1.96, abs=0.15)


def test_variable_rate(clips: Clips, index_of) -> None:
    pts = [0, 10, 45, 46, 300, 1000, 1001, 2500]
    clip = clips.make("a.mkv", count=8, pts=pts, time_base=Fraction(1, 1000))
    pictures, end = read(clip)
    assert end == ""
    assert [index_of(p.image) for p in pictures] == list(range(8))
    assert seconds(pictures) == pytest.approx([t / 1000 for t in pts], abs=0.0011)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_start_offset_is_taken_off(name, clips: Clips) -> None:
    pictures, end = read(clips.make(name, pts=[250 + i for i in range(50)]))
    assert end == ""
    assert seconds(pictures) == pytest.approx([i / 25 for i in range(50)], abs=0.002)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(90, [1, 3, 0, 2]), (180, [3, 2, 1, 0]), (270, [2, 0, 3, 1])],
)
def test_turned_by_the_display_matrix(degrees, expected, clips: Clips, corners) -> None:
    """``degrees`` are anticlockwise, as FFmpeg counts: 90 brings the right side to the top."""
    clip = clips.make("a.mp4", count=3, prepare=lambda s: s.set_display_rotation(degrees))
    with open_source(str(clip)) as source:
        size = (160, 120) if degrees == 180 else (120, 160)
        assert (source.width, source.height) == size
        for picture in source.pictures():
            assert picture.image.shape == (size[1], size[0], 3)
            assert picture.image.flags.c_contiguous
            assert corners(picture.image) == expected


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((0, 65536, -65536, 0), [2, 0, 3, 1]),  # what a phone held upright writes: clockwise
        ((-65536, 0, 0, 65536), [1, 0, 3, 2]),  # mirrored
        ((65536, 0, 0, -65536), [2, 3, 0, 1]),  # upside down
        ((0, 65536, 65536, 0), [0, 2, 1, 3]),  # mirrored along the diagonal
    ],
)
def test_matrix_as_phones_write_it(matrix, expected, clips: Clips, corners) -> None:
    a, b, c, d = matrix
    full = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    clip = clips.make("a.mp4", count=3, prepare=lambda s: s.set_display_matrix(full))
    pictures, end = read(clip)
    assert end == ""
    assert [corners(p.image) for p in pictures] == [expected] * 3


def test_pixels_that_are_not_square_are_stretched_in_width(clips: Clips, corners) -> None:
    def squeeze(stream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    with open_source(str(clips.make("a.mp4", count=3, prepare=squeeze))) as source:
        assert (source.width, source.height) == (213, 120)
        image = next(source.pictures()).image
    assert image.shape == (120, 213, 3)
    assert image.flags.c_contiguous
    assert corners(image) == [0, 1, 2, 3]


def test_mp4_with_its_index_in_front_cut_off(clips: Clips, index_of) -> None:
    whole = clips.make("a.mp4", mux={"movflags": "faststart"}, noise=True, audio=True)
    pictures, end = read(clips.cut(whole, 0.6))
    assert 20 < len(pictures) < 40
    # B-frames come after the picture that they precede, so the last few may be the ones missing.
    assert [index_of(p.image) for p in pictures[:-3]] == list(range(len(pictures) - 3))
    last = (pictures[-1].pts + 512) * pictures[-1].time_base
    assert end == (
        f"cut-a.mp4 broke off at {float(last):.1f} s: the rest of 2.0 s is missing, "
        f"{len(pictures)} pictures were read"
    )


@pytest.mark.parametrize("name", ["a.mkv", "a.flv", "a.avi"])
def test_cut_off_in_other_containers(name, clips: Clips) -> None:
    pictures, end = read(clips.cut(clips.make(name, noise=True), 0.6))
    assert 20 < len(pictures) < 40
    assert end.startswith(f"cut-{name} broke off at 1.")
    assert end.endswith(f"is missing, {len(pictures)} pictures were read")


def test_fragmented_mp4_cut_off_amid_a_packet(clips: Clips) -> None:
    whole = clips.make("a.mp4", mux={"movflags": "frag_keyframe+empty_moov"}, noise=True)
    pictures, end = read(clips.cut(whole, 0.6))
    assert 20 < len(pictures) < 40
    assert end.startswith("cut-a.mp4 broke off at 1.")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.flv", "a.ts", "a.avi"])
def test_sound_longer_than_the_video_is_no_cut(name, clips: Clips) -> None:
    def longer(path: Path) -> Path:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            sound = container.add_stream("aac", rate=8000)
            for i in range(10):
                frame = av.VideoFrame(160, 120, "yuv420p")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            container.mux(sound.encode(silence(8000 * 4)))
            container.mux(sound.encode(None))
        return path

    pictures, end = read(longer(clips.folder / name))
    assert (len(pictures), end) == (10, "")


def test_damage_in_the_middle_is_passed_over_and_told(clips: Clips) -> None:
    whole = clips.make("a.mp4", mux={"movflags": "faststart"}, noise=True)
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    (clips.folder / "damaged.mp4").write_bytes(data)
    pictures, end = read(clips.folder / "damaged.mp4")
    assert 20 < len(pictures) < 50
    assert seconds(pictures)[-1] == pytest.approx(1.96)
    assert end.startswith("damaged.mp4 is damaged: ")
    assert end.endswith(f"packets could not be decoded, {len(pictures)} pictures were read")


def test_what_is_not_a_video(clips: Clips, capfd: pytest.CaptureFixture[str]) -> None:
    folder = clips.folder
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video\n" * 100)
    cut = clips.cut(clips.make("a.mp4"), 0.6)  # its index was at the end
    with av.open(str(folder / "sound.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        container.mux(sound.encode(silence(8000)))
        container.mux(sound.encode(None))
    capfd.readouterr()

    unreadable = "is not a video that can be read, or its beginning or index is missing"
    for path, sentence in {
        folder / "empty.mp4": "empty.mp4 is empty",
        folder / "text.mp4": f"text.mp4 {unreadable}",
        cut: f"cut-a.mp4 {unreadable}",
        folder / "sound.mp4": "sound.mp4 has no video",
        folder / "absent.mp4": f"there is no file or folder {folder / 'absent.mp4'}",
    }.items():
        with pytest.raises(SourceError) as caught:
            open_source(str(path))
        assert str(caught.value) == sentence
    assert capfd.readouterr() == ("", "")


def test_a_cut_file_writes_nothing_to_the_terminal(
    clips: Clips, capfd: pytest.CaptureFixture[str]
) -> None:
    cut = clips.cut(clips.make("a.mp4", mux={"movflags": "faststart"}, noise=True), 0.6)
    capfd.readouterr()
    read(cut)
    assert capfd.readouterr() == ("", "")


def test_reading_may_stop_early_and_close_twice(clips: Clips) -> None:
    source = open_source(str(clips.make("a.mp4")))
    pictures = source.pictures()
    next(pictures)
    next(pictures)
    source.close()
    source.close()
    assert list(pictures) == []


def test_a_name_with_a_colon_is_no_protocol(clips: Clips) -> None:
    clip = clips.make("a.mp4", count=3)
    odd = clip.rename(clips.folder / "http:clip 10%.mp4")
    assert len(read(odd)[0]) == 3


def test_joined_transport_streams_go_on_in_time(clips: Clips, index_of) -> None:
    """Times begin anew in the second part, and it brings a stream that the first does not have."""
    first, second = clips.make("1.ts"), clips.make("2.ts", audio=True)
    joined = clips.folder / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    pictures, end = read(joined)
    assert end == ""
    assert [index_of(p.image) for p in pictures] == [*range(50), *range(50)]
    assert seconds(pictures) == pytest.approx([i / 25 for i in range(100)], abs=0.05)


def test_a_cover_picture_is_no_video(clips: Clips) -> None:
    with av.open(str(clips.folder / "song.m4a"), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(sound.encode(silence(8000)))
        container.mux(sound.encode(None))
        container.mux(cover.encode(av.VideoFrame(64, 64, "yuvj420p")))
        container.mux(cover.encode(None))
    with pytest.raises(SourceError, match=r"^song\.m4a has no video$"):
        open_source(str(clips.folder / "song.m4a"))


def test_more_pixels_or_streams_than_a_stranger_may_bring_are_refused(
    clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(clips.make("a.mp4", count=3, audio=True))
    with monkeypatch.context() as patched:
        patched.setattr(upright, "MAX_PIXELS", 160 * 120 - 1)
        with pytest.raises(SourceError, match=r"a\.mp4 has pictures of 160x120"):
            open_source(path)
    with monkeypatch.context() as patched:
        patched.setattr(video, "_MOST_STREAMS", 1)
        with pytest.raises(SourceError, match=r"a\.mp4 has 2 streams"):
            open_source(path)
    open_source(path).close()
