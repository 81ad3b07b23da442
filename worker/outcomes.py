"""What becomes of each frame of a batch. A frame that cannot be analysed takes no other with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import structlog

from worker.analysis import Analyst, Shot
from worker.consume.inhand import Delivery
from worker.consume.leases import Lease
from worker.consume.opening import Opened, Unfit
from worker.detect.find import Look
from worker.errors import EntryError, ServerError, ServerUnavailable
from worker.memory import Memory
from worker.metrics import UNCERTAIN
from worker.picture import FOLLOWED_SIDE, Scale
from worker.publish.previews import Previews
from worker.publish.settle import Outcome
from worker.wire.codec import encode_event, frame_header
from worker.wire.server import Server

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame that has gone through the first step, detection."""

    opened: Opened
    shot: Shot
    look: Look


class Outcomes:
    """Analyses batches in two steps; knows what is remembered of each feed.

    Each step is for one thread alone; the first may be ahead of the second. What the server holds
    is the truth: after any doubt a feed's memory is restored from there.
    """

    def __init__(
        self, server: Server, analyst: Analyst, busy: Callable[[], float], previews: Previews
    ) -> None:
        """``busy``: the share of its time that the worker works, 0 to 1."""
        self._server = server
        self._analyst = analyst
        self._busy = busy
        self._previews = previews
        # By lease token: how many doubts there had been about the feed when the memory was
        # restored, and the memory.
        self._memories: dict[str, tuple[int, Memory]] = {}

    def detect(self, batch: Sequence[Opened | Unfit]) -> list[Seen | Outcome]:
        """The first step of each frame, or its outcome already; no entry can raise.

        Raises:
            ModelError: the models fail on what they must be able to analyse.
            ServerUnavailable: a feed's memory cannot be restored.
        """
        # Judged as late as can be: a live frame may have waited for the batch before it.
        fit = [one for one in batch if isinstance(one, Opened) and not one.delivery.stale]
        results = iter(self._detected(fit))
        kept = {id(one) for one in fit}
        return [next(results) if id(one) in kept else _unfit(one) for one in batch]

    def of(self, batch: Sequence[Seen | Outcome]) -> list[Outcome]:
        """The second step: one outcome for each frame, in the same order; no entry can raise.

        Raises:
            ModelError: the models fail on what they must be able to analyse.
        """
        results = iter(self._analysed([one for one in batch if isinstance(one, Seen)]))
        return [next(results) if isinstance(one, Seen) else one for one in batch]

    def scale_for(self, lease: Lease) -> Scale:
        """The scale at which the feed's next pictures are probably needed. For any thread.

        In a feed that is not live always the same: how far the analysis has come is to make no
        difference there, and which scale is there first makes a slight one to the schedule.
        """
        if lease.settings.policy != "live":
            return 2
        _, memory = self._memories.get(lease.token, (0, None))
        return 1 if memory and memory.tracks.smallest < 2 * FOLLOWED_SIDE else 2

    def keep(self, leases: Collection[Lease]) -> None:
        """Keep what is remembered of these feeds, and of no others."""
        for token in self._memories.keys() - {lease.token for lease in leases}:
            del self._memories[token]

    def _detected(self, fit: Sequence[Opened]) -> list[Seen | Outcome]:
        if not fit:
            return []
        shots = [self._shot(one) for one in fit]
        try:
            looks = self._analyst.detect(shots, busy=self._busy())
        except Exception as error:
            if len(fit) > 1:
                # One of them is to blame: each alone, so that the others pass.
                log.warning("detection failed in a batch, its frames run alone", why=repr(error))
                return [seen for one in fit for seen in self._detected([one])]
            return [self._failed(fit[0], error)]
        return [Seen(*each) for each in zip(fit, shots, looks, strict=True)]

    def _analysed(self, seen: Sequence[Seen]) -> list[Outcome]:
        if not seen:
            return []
        try:
            results = self._analyst.analyse([one.shot for one in seen], [one.look for one in seen])
        except Exception as error:
            if len(seen) > 1:
                log.warning("a batch failed, its frames run alone", why=repr(error))
                return [outcome for one in seen for outcome in self._analysed([one])]
            return [self._failed(seen[0].opened, error)]
        outcomes = []
        for one, (event, state) in zip(seen, results, strict=True):
            delivery, faces = one.opened.delivery, event.faces
            shown = tuple(UNCERTAIN if face.uncertain else face.label for face in faces)
            body = encode_event(event)
            outcomes.append(Outcome(delivery, "published", body, state, expressions=shown))
            self._previews.offer(delivery.lease, delivery.frame_id, one.opened.picture, faces)
        return outcomes

    def _failed(self, one: Opened, error: Exception) -> Outcome:
        """What becomes of a frame that failed alone.

        Raises:
            ModelError: they fail on others as well.
        """
        if isinstance(error, EntryError):  # it could be decoded at half its size, but not whole
            return _dead(one.delivery, error)
        self._analyst.try_models((one.picture.height, one.picture.width))
        delivery = one.delivery
        log.error(
            "a frame cannot be analysed",
            feed=delivery.feed, frame_id=delivery.frame_id, exc_info=error,
        )  # fmt: skip
        return _dead(delivery, EntryError("analysis-failed", repr(error)))

    def _shot(self, one: Opened) -> Shot:
        delivery = one.delivery
        live = delivery.lease.settings.policy == "live"
        return Shot(one.frame, delivery.frame_id, one.picture, self._memory(delivery), live)

    def _memory(self, delivery: Delivery) -> Memory:
        lease = delivery.lease
        doubts, memory = self._memories.get(lease.token, (-1, None))
        if memory is None or doubts != delivery.doubts:
            try:
                memory = Memory.restore(self._saved(lease))
            except ValueError as error:
                log.warning("tracks start anew", feed=lease.feed, why=str(error))
                memory = Memory.anew(int(delivery.frame_id.partition("-")[0]))
            self._memories[lease.token] = delivery.doubts, memory
        return memory

    def _saved(self, lease: Lease) -> bytes | None:
        try:
            state: bytes | None = self._server.command("GET", lease.keys.state)
            return state
        except ServerUnavailable:
            raise
        except ServerError as error:  # somebody put something else there
            raise ValueError(str(error)) from None


def _unfit(one: Opened | Unfit) -> Outcome:
    if isinstance(one, Opened):
        return Outcome(one.delivery, "skipped")
    if one.error is not None:
        return _dead(one.delivery, one.error)
    return Outcome(one.delivery, one.kind)


def _dead(delivery: Delivery, error: EntryError) -> Outcome:
    return Outcome(
        delivery,
        "dead",
        body=frame_header(delivery.body),
        reason=error.reason,
        detail=str(error)[:500],
    )
