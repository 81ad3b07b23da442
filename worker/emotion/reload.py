"""A new model file is taken up without a restart: looked at, tried, and only then used.

Put the file in place in one step (write it beside, then rename); a file ``NAME.sha256`` beside it,
as sha256sum writes it, is held against it. Whatever is wrong with the new file, the old model stays
in use, and the log says why.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import structlog

from worker.emotion.align import crop_faces
from worker.emotion.classifier import Classifier, load_classifier
from worker.errors import MienError, ModelError
from worker.records import Floats, Provider
from worker.sample.portrait import portrait_with_face

log = structlog.get_logger()

_LOOK_S = 1.0
"""How often the file is looked at; one that has changed since the last look is not whole yet."""

Stamp = tuple[int, int, int]
"""What tells a file's content from another's: inode, time of the change, size."""
Stamps = tuple[Stamp, Stamp | None]
"""The model's, and that of the digest beside it, which may come later."""


class ModelFile:
    """Watches the file of the classifier in use, in a thread of its own."""

    def __init__(
        self,
        path: Path,
        in_use: Classifier,
        use: Callable[[Classifier], None],
        *,
        provider: Provider = "auto",
        engine_cache: Path | None = None,
    ) -> None:
        """
        Args:
            in_use: was loaded from ``path`` just now, with ``provider`` and ``engine_cache``.
            use: called with each new model, in the watching thread.
        """
        self._path, self._provider, self._engine_cache = path, provider, engine_cache
        self._use, self._digest = use, in_use.info.digest
        self._seen = self._tried = _stamps(path)
        self._asked = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._watch, name="model file", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Look at the file now, and say so if it is the one in use (for SIGHUP)."""
        self._tried = None
        self._asked.set()

    def close(self) -> None:
        self._closing = True
        self._asked.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closing:
            now = _stamps(self._path)
            if now is not None and now == self._seen and now != self._tried:
                self._tried = now
                try:
                    self._try(now)
                except Exception:
                    # This thread must not die: the next file may be a good one.
                    log.exception("new model refused, the old one stays in use")
            self._seen = now
            self._asked.wait(_LOOK_S)
            self._asked.clear()

    def _try(self, stamps: Stamps) -> None:
        try:
            new = load_classifier(
                self._path, provider=self._provider, engine_cache=self._engine_cache
            )
            if new.info.digest == self._digest:
                log.info("the model file is the one in use", model=new.info.name)
                return
            check_digest(self._path)
            check_answers(new)
        except MienError as error:
            log.error("new model refused, the old one stays in use", why=str(error))
            return
        if _stamps(self._path) != stamps:
            return  # what was loaded may not be what was checked: the next look finds it whole
        self._digest = new.info.digest
        self._use(new)
        log.info("new model", model=new.info.name, version=new.info.version, digest=new.info.digest)


def check_digest(path: Path) -> None:
    """Hold the file against ``NAME.sha256`` beside it, if there is one.

    Raises:
        ModelError: they disagree, or one cannot be read.
    """
    beside = _beside(path)
    try:
        promised = beside.read_text().split()
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot hold the model {path} against {beside}: {error}") from None
    if not promised or promised[0].lower() != found:
        raise ModelError(f"the model {path} has the SHA-256 {found}, which {beside} does not say")


def check_answers(model: Classifier) -> None:
    """Try a model on crops of the built-in portrait, as warm-up and as a check that it works here.

    Each crop alone must give what it gives in a batch, every row must be probabilities that sum to
    1, and faces that differ must not all have the same answer.

    Raises:
        ModelError: what of this does not hold.
    """
    crops = _crops(model)
    together = model.classify(crops)
    alone = np.concatenate([model.classify(crop[None]) for crop in crops])
    if np.abs(together.sum(axis=1) - 1).max() > 1e-3:
        raise ModelError(f"the probabilities of the model {model.info.name} do not sum to 1")
    if _apart(together, alone) > 0.02:
        raise ModelError(f"the model {model.info.name} answers otherwise in a batch than alone")
    if _apart(together, together[:1]) < 1e-6:
        raise ModelError(f"the model {model.info.name} answers the same whatever it is shown")


def _apart(one: Floats, other: Floats) -> float:
    return float(np.abs(one - other).max())


def _crops(model: Classifier) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The portrait's face and what differs from it: darker, upside down, nearer, other parts."""
    image = portrait_with_face(100)
    height, width = image.shape[:2]
    box = np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]], np.float32)
    views = [image, image // 3, image[::-1], image[:, ::-1], 255 - image]
    boxes = [box, box, box, box * 0.8, box * 1.1]
    return np.concatenate(
        [
            crop_faces(
                np.ascontiguousarray(view), at,
                size=model.size, margin=model.margin, colour=model.colour,
            )
            for view, at in zip(views, boxes, strict=True)
        ]
    )  # fmt: skip


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _stamps(path: Path) -> Stamps | None:
    """None while there is no model."""
    model = _stamp(path)
    return None if model is None else (model, _stamp(_beside(path)))


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
