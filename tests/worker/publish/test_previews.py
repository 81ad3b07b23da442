"""Previews: small, rare, gone after seconds, and blurred so that nobody can be recognised."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import pytest
from structlog.testing import capture_logs

from tests.feeds import wait_until
from tests.pictures import reducible
from worker.consume.leases import Lease
from worker.detect.mtcnn import load_detector
from worker.picture import FramePicture
from worker.publish import previews
from worker.publish.previews import KEPT_S, WIDTH, Previews, preview_of
from worker.records import Face, Image
from worker.sample.portrait import portrait_with_face
from worker.wire.keys import FeedKeys
from worker.wire.registry import FeedSettings
from worker.wire.server import Server


def lease_of(server: Server, feed: str) -> Lease:
    keys = FeedKeys.of(feed)
    server.command("SET", keys.lease, "me.1")
    return Lease(feed, "me.1", keys, FeedSettings())


def picture(width: int = 640, height: int = 360, value: int = 90) -> Image:
    return np.full((height, width, 3), value, np.uint8)


def shown(width: int = 640, height: int = 360) -> FramePicture:
    return FramePicture.of(picture(width, height))


def entries(server: Server, feed: str) -> list[dict[bytes, bytes]]:
    found = server.command("XRANGE", FeedKeys.of(feed).preview, "-", "+")
    return [fields for _, fields in found]


def made_of(server: Server, feed: str) -> int:
    """How many previews the feed has had."""
    flat = server.command("XINFO", "STREAM", FeedKeys.of(feed).preview)
    return int(dict(zip(flat[::2], flat[1::2], strict=True))[b"entries-added"])


@pytest.fixture
def clear(server: Server) -> Iterator[Previews]:
    made = Previews(server, "clear")
    yield made
    made.close()


def test_a_preview_is_small_names_its_frame_and_runs_out(
    server: Server, feed: str, clear: Previews
) -> None:
    clear.offer(lease_of(server, feed), "7-0", shown(), ())
    wait_until(lambda: bool(entries(server, feed)))
    (entry,) = entries(server, feed)
    assert entry[b"frame_id"] == b"7-0"
    image = cv2.imdecode(np.frombuffer(entry[b"jpeg"], np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (180, WIDTH, 3)
    assert (entry[b"width"], entry[b"height"]) == (b"320", b"180")
    assert 0 < server.command("PTTL", FeedKeys.of(feed).preview) <= 1000 * KEPT_S


def test_a_feed_has_a_few_a_second_and_the_server_keeps_a_few(
    server: Server, feed: str, clear: Previews
) -> None:
    lease, other = lease_of(server, feed), lease_of(server, f"{feed}-b")
    until, offered = time.monotonic() + 2.2, 0
    while time.monotonic() < until:
        clear.offer(lease, f"{offered}-0", shown(32, 24), ())
        clear.offer(other, f"{offered}-0", shown(32, 24), ())
        offered += 1
        time.sleep(0.01)
    wait_until(lambda: len(entries(server, feed)) == 4)
    assert 2 <= len(entries(server, f"{feed}-b")) <= 4, "one feed does not take the other's"
    assert int(entries(server, feed)[0][b"frame_id"].partition(b"-")[0]) > 0, "the oldest went"
    assert made_of(server, feed) <= 7


def test_who_does_not_own_the_feed_shows_nothing(
    server: Server, feed: str, clear: Previews
) -> None:
    lease = lease_of(server, feed)
    server.command("SET", lease.keys.lease, "another.1")
    clear.offer(lease, "7-0", shown(), ())
    clear.offer(lease_of(server, f"{feed}-b"), "8-0", shown(), ())
    wait_until(lambda: bool(entries(server, f"{feed}-b")))
    assert not entries(server, feed)


def test_a_picture_of_any_shape_is_small_and_costs_no_other_feed_its_previews(
    server: Server, feed: str, clear: Previews
) -> None:
    clear.offer(lease_of(server, feed), "7-0", shown(4, 65_530), ())
    clear.offer(lease_of(server, f"{feed}-b"), "8-0", shown(), ())
    wait_until(lambda: bool(entries(server, f"{feed}-b")))
    (entry,) = entries(server, feed)
    assert int(entry[b"height"]) <= 4 * WIDTH


def test_previews_go_on_after_one_that_cannot_be_made(
    server: Server, feed: str, clear: Previews, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = previews.preview_of

    def preview_of(seen: FramePicture, faces: Sequence[Face], *, blurred: bool) -> Image:
        if seen.height == 13:
            raise RuntimeError("stumbled")
        return make(seen, faces, blurred=blurred)

    monkeypatch.setattr(previews, "preview_of", preview_of)
    with capture_logs() as logs:
        clear.offer(lease_of(server, feed), "7-0", shown(64, 13), ())
        clear.offer(lease_of(server, f"{feed}-b"), "8-0", shown(), ())
        wait_until(lambda: bool(entries(server, f"{feed}-b")))
    assert [(line["event"], line["feed"]) for line in logs] == [("no preview", feed)]


def test_what_has_waited_for_too_long_is_not_shown(
    server: Server, feed: str, clear: Previews, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was away meanwhile: it would be taken for what the camera sees now."""
    monkeypatch.setattr(previews, "KEPT_S", -1.0)
    clear.offer(lease_of(server, feed), "7-0", shown(), ())
    wait_until(lambda: not clear._offers)
    monkeypatch.undo()
    clear.offer(lease_of(server, f"{feed}-b"), "8-0", shown(), ())
    wait_until(lambda: bool(entries(server, f"{feed}-b")))
    assert not entries(server, feed)


def test_off_is_off(server: Server, feed: str) -> None:
    made = Previews(server, "off")
    made.offer(lease_of(server, feed), "7-0", shown(), ())
    made.close()
    assert server.command("EXISTS", FeedKeys.of(feed).preview) == 0


def test_an_outage_costs_previews_and_nothing_else(feed: str) -> None:
    made = Previews(Server("redis://127.0.0.1:1"), "clear")
    lease = Lease(feed, "me.1", FeedKeys.of(feed), FeedSettings())
    for number in range(3):
        began = time.monotonic()
        made.offer(lease, f"{number}-0", shown(), ())
        assert time.monotonic() - began < 3
    made.close()


@pytest.mark.parametrize("side", [60, 100, 200, 400])
@pytest.mark.parametrize("known", [True, False])
def test_nobody_can_be_recognised_in_a_blurred_preview(side: int, known: bool) -> None:
    """Not even that there is a face is seen by the detector that found it, at twice the size."""
    scene = np.full((720, 1280, 3), 110, np.uint8)
    portrait = portrait_with_face(side)[:720, :1280]
    scene[: portrait.shape[0], : portrait.shape[1]] = portrait
    detector = load_detector(min_face=20, provider="cpu")
    (found,) = detector.detect([scene])
    assert len(found)
    faces = [
        Face(1, tuple(box.tolist()), 1.0, (), {}, "") for box in (found.boxes if known else ())
    ]
    before = scene.copy()
    blurred = preview_of(FramePicture.of(scene), faces, blurred=True)
    clear = preview_of(FramePicture.of(scene), faces, blurred=False)
    assert (scene == before).all(), "the picture itself stays as it is"
    twice = [
        np.ascontiguousarray(cv2.resize(one, None, fx=2, fy=2), np.uint8)
        for one in (blurred, clear)
    ]
    in_blurred, in_clear = detector.detect(twice)
    assert not len(in_blurred)
    assert len(in_clear), "in the clear one it is"
    # What distinguishes two spots of the face is gone: detail finer than a third of it.
    detail = cv2.Laplacian(cv2.cvtColor(blurred, cv2.COLOR_RGB2GRAY), cv2.CV_32F)
    sharp = cv2.Laplacian(cv2.cvtColor(clear, cv2.COLOR_RGB2GRAY), cv2.CV_32F)
    assert np.abs(detail).max() < np.abs(sharp).max() / 20


def test_a_picture_that_is_small_already_is_not_touched() -> None:
    small = picture(64, 48)
    small[:, 32:] = 255
    face = Face(1, (10, 10, 50, 40), 1.0, (), {}, "")
    before = small.copy()
    assert preview_of(FramePicture.of(small), [face], blurred=True).shape == small.shape
    assert (small == before).all()
    assert preview_of(FramePicture.of(picture(1, 1)), [], blurred=True).shape == (1, 1, 3)


@pytest.mark.parametrize(("size", "made"), [((720, 1280), [2]), ((1000, 600), [1])])
def test_a_preview_is_made_of_half_where_that_is_enough(
    size: tuple[int, int], made: list[int]
) -> None:
    image = np.zeros((*size, 3), np.uint8)
    image[:, : size[1] // 2] = 200
    large, sizes = reducible(image)
    face = Face(1, (0, 0, size[1] / 4, size[0] / 4), 1.0, (), {}, "")
    for blurred in (False, True):
        small = preview_of(large, [face], blurred=blurred)
        assert small.shape[1] == WIDTH
        np.testing.assert_allclose(
            small, preview_of(FramePicture.of(image), [face], blurred=blurred), atol=4
        )
    assert sizes == made
