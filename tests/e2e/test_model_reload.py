"""A running worker takes up a new model file: the events say which model spoke."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.processes import running
from tests.feeds import frame_of, push_frames, wait_until
from tests.worker.emotion.test_reload import versioned
from worker.capture.encode import encode_jpeg
from worker.records import FrameEvent
from worker.sample.portrait import portrait_with_face
from worker.subscribe.events import events
from worker.wire.server import Server


def test_a_worker_takes_up_a_new_model_and_keeps_it_when_the_next_is_bad(
    server: Server, server_url: str, feed: str, tmp_path: Path
) -> None:
    place = versioned(tmp_path / "model.onnx", "one")
    writer = push_frames(server, feed, 0)
    portrait = encode_jpeg(portrait_with_face(80))
    pushed = 0

    def latest() -> str:
        """The version named by the event of a frame that is pushed now."""
        nonlocal pushed
        writer.push(frame_of(writer, pushed, portrait))
        pushed += 1
        wait_until(lambda: len(seen()) == pushed)
        assert seen()[-1].faces, "there is a face to classify"
        return seen()[-1].classifier.version

    def seen() -> list[FrameEvent]:
        return list(events(feed, redis=server_url, since="start", follow=False))

    with running("worker", "--redis", server_url, "--feed", feed, "--model", str(place)):
        assert latest() == "one"
        versioned(tmp_path / "new", "two").rename(place)
        wait_until(lambda: latest() == "two", timeout_s=30)
        place.write_bytes(b"no model")
        for _ in range(5):
            assert latest() == "two"
        versioned(tmp_path / "new", "three").rename(place)
        wait_until(lambda: latest() == "three", timeout_s=30)
    assert [event.sequence for event in seen()] == list(range(pushed)), "no frame was lost by it"
