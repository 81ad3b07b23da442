"""The pictures of the page under deploy/pictures, taken from a running set-up.

    python -m tests.worker.web.pictures [FOLDER]

Feeds show the sample clip as it is and as a camera would spoil it (at night, noisy, in fog);
what the page says of them is what the shipped models say.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pictures

from tests.worker.web.browser import Looked, browsing, looked_at
from tests.worker.web.stage import ROOT, SAMPLE, Stage, staged
from worker.subscribe.annotate import AnnotatedVideo

_FOLDER = ROOT / "deploy" / "pictures"
_CSS = (ROOT / "worker" / "web" / "static" / "css" / "base.css").read_text()
_MOST_BYTES = 150_000
_FPS = 3.0
Values = npt.NDArray[np.float64]
_noise = np.random.default_rng(0)

SPOILED: dict[str, Callable[[Values], Values]] = {
    "north-gate": lambda image: image[:, ::-1] * 0.22 + _noise.normal(0, 9, image.shape),
    "stairs": lambda image: image + _noise.normal(0, 42, image.shape),
    "car-park": lambda image: cv2.GaussianBlur(image, (0, 0), 3.5) * 0.55 + 95,
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        rooms = Path(name)
        (rooms / "empty").mkdir()
        with staged(rooms / "empty", worker=False) as stage:
            _take(folder, stage, "page-empty", "light", 1000, 560, lambda seen: None)
        with staged(rooms, worker=False) as stage:
            stage.start_worker("--feed", "studio", "--preview", "off")
            seen = ("lobby", "archive", *SPOILED)
            stage.start_worker(*(word for feed in seen for word in ("--feed", feed)))
            stage.push("lobby", fps=_FPS)
            stage.push("archive", fps=_FPS, policy="lossless", loop=False)
            stage.push("studio", fps=_FPS)
            for feed, spoil in SPOILED.items():
                stage.push(feed, _spoiled(rooms / f"{feed}.mp4", spoil), fps=_FPS)
            _take_running(folder, stage)


def _take_running(folder: Path, stage: Stage) -> None:
    with (
        browsing() as browser,
        looked_at(browser, stage.page, width=1180, height=1010, scheme="light") as seen,
    ):
        seen.says(".card[data-feed=lobby] .condition", "live")
        seen.page.wait_for_timeout(35_000)  # the strips fill
        _save(seen, folder / "page-desktop.png")
    _take(folder, stage, "page-phone", "dark", 390, 844, lambda seen: None)
    _take(folder, stage, "page-dark", "dark", 1300, 1100, _into_a_feed)
    _take(folder, stage, "page-phone-feed", "light", 390, 1500, _into_a_feed)
    _take(folder, stage, "page-history", "light", 1300, 1100, _back_in_time)
    _take(folder, stage, "page-stalled", "dark", 1180, 820, lambda seen: _stall(seen, stage))


def _take(
    folder: Path, stage: Stage, name: str, scheme: str, width: int, height: int,
    act: Callable[[Looked], None],
) -> None:  # fmt: skip
    assert scheme in ("dark", "light")
    with (
        browsing() as browser,
        looked_at(browser, stage.page, width=width, height=height, scheme=scheme) as seen,
    ):
        seen.says("#link-state", "connected")
        seen.page.wait_for_timeout(6000)
        act(seen)
        _save(seen, folder / f"{name}.png")


def _into_a_feed(seen: Looked) -> None:
    seen.page.goto(f"{seen.address}#/feed/car-park")
    seen.page.locator(".faces li").first.wait_for()
    seen.page.wait_for_timeout(6000)
    seen.page.locator(".faces li").first.wait_for()


def _back_in_time(seen: Looked) -> None:
    _into_a_feed(seen)
    seen.page.get_by_role("button", name="30 s").click()
    seen.page.wait_for_timeout(1000)
    box = seen.page.locator(".lanes").bounding_box()
    assert box
    seen.page.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + 12)
    seen.page.mouse.move(5, 5)
    seen.says(".caption", "Frame of")


def _stall(seen: Looked, stage: Stage) -> None:
    for worker in stage.workers:
        worker.kill()
    seen.says(".card[data-feed=lobby] .condition", "no worker is running")
    seen.page.wait_for_timeout(4000)


def _spoiled(path: Path, spoil: Callable[[Values], Values]) -> Path:
    """The sample clip at a few pictures a second, each one spoiled."""
    with av.open(str(SAMPLE)) as sample, AnnotatedVideo(path) as copy:
        for index, frame in enumerate(sample.decode(video=0)):
            if index % 5 == 0:
                image = spoil(frame.to_ndarray(format="rgb24").astype(float))
                copy.add(np.clip(image, 0, 255).astype(np.uint8), index / 25)
    return path


def _save(seen: Looked, path: Path) -> None:
    """As a PNG of 256 colours, those of the page's design among them, as large as it may be."""
    seen.page.screenshot(path=path)
    full = Pictures.open(path).convert("RGB")
    design = [bytes.fromhex(found) for found in sorted(set(re.findall(r"#(\w{6})\b", _CSS)))]
    for scale in (1.0, 0.85, 0.75, 0.65, 0.5):
        size = (round(full.width * scale), round(full.height * scale))
        picture = full.resize(size, Pictures.Resampling.LANCZOS)
        others = picture.quantize(256 - len(design)).getpalette() or []
        palette = Pictures.new("P", (1, 1))
        palette.putpalette([*b"".join(design), *others])
        picture.quantize(palette=palette, dither=Pictures.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < _MOST_BYTES:
            return
    raise AssertionError(f"{path} is too large")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else _FOLDER)
