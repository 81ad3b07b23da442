"""The contract as a client in another language meets it: .proto files and plain commands."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest

from tests.doubles import running_worker
from worker.errors import EntryError
from worker.records import Encoding, Face, Frame, FrameEvent, ModelInfo
from worker.wire import codec, frame_pb2
from worker.wire.generate import ROOT, TARGET, generate
from worker.wire.server import Server

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)


def test_generated_modules_are_current() -> None:
    pytest.importorskip("grpc_tools", reason="the dev extra brings protoc")
    modules = generate()
    assert len(modules) == 4
    for name, content in modules.items():
        assert (TARGET / name).read_text() == content, "run python -m worker.wire.generate"


def test_a_plain_client_needs_only_the_proto_files(
    server: Server, server_url: str, feed: str, tmp_path: Path
) -> None:
    """Modules made afresh from proto/, redis-py, and nothing of ours, in another process."""
    pytest.importorskip("grpc_tools", reason="the dev extra brings protoc")
    if "+cluster" in server_url:
        pytest.skip("the plain client is one of a single server: MIEN_TEST_REDIS is a Cluster")
    made = subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto/mien/v1'}",
            f"--python_out={tmp_path}", "frame.proto", "event.proto",
        ],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with running_worker(server_url):
        ran = subprocess.run(
            [sys.executable, str(Path(__file__).parent / "plain_client.py"), server_url, feed],
            cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [feed, "64x48", "1"]


def frame() -> Frame:
    return Frame(
        feed="f", session="s", sequence=3, captured_at=NOW, pts=900, time_base=Fraction(1, 90_000),
        width=4, height=2, encoding=Encoding.RGB24, data=bytes(24),
    )  # fmt: skip


def test_a_frame_survives_the_wire() -> None:
    assert codec.decode_frame(codec.encode_frame(frame()), "f", NOW) == frame()


def test_a_frame_without_a_clock_counts_from_its_arrival() -> None:
    message = frame_pb2.Frame(feed="f", encoding=frame_pb2.ENCODING_JPEG, data=b"x")
    decoded = codec.decode_frame(message.SerializeToString(), "f", NOW)
    assert decoded.captured_at == NOW
    assert decoded.time_base == 1
    # Nor does one whose clock was never set stand still in 1970.
    message.captured_at.SetInParent()
    assert message.HasField("captured_at")
    assert codec.decode_frame(message.SerializeToString(), "f", NOW).captured_at == NOW


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "not-a-frame"),
        (b"\xff\xff\xff", "not-a-frame"),
        (b"", "wrong-feed"),
        (frame_pb2.Frame(feed="g", encoding=1, data=b"x").SerializeToString(), "wrong-feed"),
        (frame_pb2.Frame(feed="f", encoding=1).SerializeToString(), "empty"),
        (frame_pb2.Frame(feed="f", data=b"x").SerializeToString(), "unsupported"),
        (frame_pb2.Frame(feed="f", encoding=99, data=b"x").SerializeToString(), "unsupported"),
    ],
)
def test_what_is_not_a_frame_is_told_apart(body: bytes | None, reason: str) -> None:
    with pytest.raises(EntryError) as error:
        codec.decode_frame(body, "f", NOW)
    assert error.value.reason == reason


def test_a_time_out_of_range_is_not_a_frame() -> None:
    message = frame_pb2.Frame(feed="f", encoding=1, data=b"x")
    message.captured_at.seconds = 10**15
    with pytest.raises(EntryError) as error:
        codec.decode_frame(message.SerializeToString(), "f", NOW)
    assert error.value.reason == "not-a-frame"


def test_an_event_survives_the_wire_and_reads_as_json() -> None:
    face = Face(
        track_id=7, box=(1.5, 2.5, 30.0, 40.25), score=0.5,
        landmarks=((1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0), (9.0, 10.0)),
        raw={"happy": 0.75, "sad": 0.25}, label="happy",
    )  # fmt: skip
    event = FrameEvent(
        feed="f", frame_id="5-1", session="s", sequence=2, captured_at=NOW,
        ingested_at=NOW + timedelta(seconds=1), pts_seconds=0.5, width=64, height=48,
        faces=(face,), detector=ModelInfo("mtcnn", "1", "aa"), classifier=ModelInfo("c", "2", "bb"),
        published_at=NOW + timedelta(seconds=2), ordinal=9,
    )  # fmt: skip
    assert codec.decode_event(codec._event_message(event).SerializeToString(), 9) == event
    text = codec.event_to_json(event)
    assert "\n" not in text
    assert '"capturedAt": "2026-03-01T12:30:15.123456Z"' in text
    assert json.loads(text)["faces"][0]["raw"] == {"happy": 0.75, "sad": 0.25}


def test_a_dead_letters_header_has_no_pixels() -> None:
    header = frame_pb2.Frame.FromString(codec.frame_header(codec.encode_frame(frame())))
    assert header.sequence == 3
    assert header.data == b""
    assert codec.frame_header(b"\xff\xff") == b""
    assert codec.frame_header(None) == b""
