"""The loop of a worker: read and decode, detect, analyse, settle, each in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass

import structlog

from worker.analysis import Analyst
from worker.config import WorkerSettings
from worker.consume.backlog import backlog
from worker.consume.inhand import InHand
from worker.consume.leases import Leases
from worker.consume.load import LoadMeter
from worker.consume.opening import Opened, Opener, Unfit
from worker.consume.reader import Reader
from worker.errors import ServerError, ServerUnavailable
from worker.health import Health
from worker.metrics import Metrics
from worker.outcomes import Outcomes, Seen
from worker.publish.previews import Previews
from worker.publish.settle import Outcome, Settled, settle, trim
from worker.wire.server import Backoff, Server

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Detected:
    """A batch between its two steps."""

    items: list[Seen | Outcome]
    work_s: float
    """How long detection took."""
    decode_s: float
    """How long its pictures were decoded before it, all together."""
    pixels: Counter[str]
    """How much of it is each feed's."""


Hands = InHand[Opened | Unfit, Detected, Outcome]

_TURN_S = 1.0
"""So often at the least each thread comes round, whatever the others do."""
_PIXELS_AHEAD = 32_000_000
"""Decoded for the next batch, if all of them are whole: 96 MB, ten pictures of 2048x1536."""
_TRIM_EVERY_S = 60.0


class Pipeline:
    """One worker's pipeline. Construct it with loaded models, then :meth:`run` it."""

    def __init__(
        self,
        server: Server,
        analyst: Analyst,
        settings: WorkerSettings,
        metrics: Metrics,
        health: Health,
    ) -> None:
        self._server = server
        self._analyst = analyst
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._meter = LoadMeter()
        self._leases = Leases(
            server,
            ttl_s=settings.lease_ttl_s,
            feeds=settings.feeds,
            progressing=lambda: health.alive()[0],
            meter=self._meter,
        )
        metrics.follow(self._meter.busy, lambda: astuple(backlog(server, self._leases.held())))
        self._previews = Previews(server, settings.preview)
        self._cores = analyst.cores
        self._backoff = Backoff()
        self._trouble = ""
        self._trim_at = time.monotonic() + _TRIM_EVERY_S

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; then settle what is in hand and release the leases.

        Call :meth:`Analyst.try_models` before: without working models no feed is to be taken.

        Raises:
            ModelError: the models fail on what they must be able to analyse. What is in hand stays
                pending, for a worker whose models work; a frame that was alone in hand has had one
                of its ``max_attempts``.
        """
        self._health.turn()
        self._health.stops_with(stop, self._settings.grace_s)
        self._leases.start()
        try:
            while not stop.is_set():
                self._health.turn()
                try:
                    self._work(stop)
                except ServerError as error:
                    # Any frame may be in doubt: all that was in hand is read again.
                    self._troubled(str(error))
                    self._backoff.wait(stop)
        finally:
            self._previews.close()
            self._leases.close()

    def _work(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set, or a thread cannot go on."""
        settings = self._settings
        hands = Hands(
            size=settings.batch_size,
            wait_s=settings.batch_wait_ms / 1000,
            pixels=_PIXELS_AHEAD,
        )
        outcomes = Outcomes(self._server, self._analyst, self._meter.busy, self._previews)
        with (
            self._thread("settling", hands, lambda: self._settle(hands)),
            self._thread("detection", hands, lambda: self._detect(hands, outcomes)),
            self._thread("reading", hands, lambda: self._read(hands, outcomes, stop)),
        ):
            try:
                self._analyse(hands, outcomes)
            finally:
                hands.end()
        if hands.failure is not None:
            raise hands.failure

    def _read(self, hands: Hands, outcomes: Outcomes, stop: threading.Event) -> None:
        settings = self._settings
        reader = Reader(self._server, self._leases, hands)
        opener = Opener(
            # Pictures are decoded where the analysis leaves room.
            self._cores,
            max_pixels=settings.max_pixels,
            max_attempts=settings.max_attempts,
            first=outcomes.scale_for if settings.detect_every > 1 else None,
        )
        try:
            while not stop.is_set() and not hands.over:
                self._health.turn()
                if trouble := self._leases.trouble:
                    raise trouble
                for one in opener.open(reader.read(stop)):
                    while not hands.offer(one, _TURN_S):
                        if hands.over:
                            return
                        self._health.turn()
                self._leases.hand_over(reader.drained)
                if hands.empty:
                    self._well()
            hands.all_read()
        finally:
            opener.close()
            reader.close()

    def _detect(self, hands: Hands, outcomes: Outcomes) -> None:
        while (batch := hands.batch(_TURN_S)) is not None:
            self._health.turn()
            outcomes.keep(self._leases.held())
            if not batch:
                continue
            with self._cores:
                began = time.monotonic()
                items = outcomes.detect(batch)
                work_s = time.monotonic() - began
            # A frame's work goes mostly by its pixels; what is not looked at makes hardly any.
            pixels: Counter[str] = Counter()
            for one in batch:
                pixels[one.delivery.feed] += one.pixels + 1
            hands.detected(Detected(items, work_s, sum(one.decode_s for one in batch), pixels))
        hands.all_detected()

    def _analyse(self, hands: Hands, outcomes: Outcomes) -> None:
        ended = time.monotonic()
        while (batches := hands.to_analyse(_TURN_S)) is not None:
            self._health.turn()
            for batch in batches:
                with self._cores:
                    began = time.monotonic()
                    hands.analysed(outcomes.of(batch.items))
                now = time.monotonic()
                self._metrics.batch_frames.observe(len(batch.items))
                self._metrics.stage.labels("decode").observe(batch.decode_s)
                # What limits is the longer step, or that all of them share the cores.
                steps = batch.work_s, now - began
                shared = (sum(steps) + batch.decode_s) / self._settings.threads
                self._meter.worked(min(now - ended, max(*steps, shared)), batch.pixels)
                ended = now

    def _settle(self, hands: Hands) -> None:
        settings = self._settings
        while (outcomes := hands.outcomes(_TURN_S)) is not None:
            self._health.turn()
            self._metrics.hold({lease.feed for lease in self._leases.held()})
            self._trim_quiet_feeds()
            if not outcomes:
                continue
            with self._metrics.timed("settle"):
                answers = settle(
                    self._server,
                    outcomes,
                    events_kept=settings.events_kept,
                    dead_kept=settings.dead_kept,
                    events_age_s=settings.events_age_s,
                    dead_age_s=settings.dead_age_s,
                )
            for answer in answers:
                self._account(answer, hands)
            hands.settled(outcome.delivery for outcome in outcomes)
            self._well()

    def _account(self, answer: Settled, hands: Hands) -> None:
        outcome, metrics = answer.outcome, self._metrics
        lease, frame_id = outcome.delivery.lease, outcome.delivery.frame_id
        if answer.status == "lost":
            hands.doubt(lease)
            return
        if answer.status != "settled":
            hands.doubt(lease, answer.error or f"settling: {answer.status}")
            return
        if answer.kind == "published":
            age_s = (answer.published_ms - int(frame_id.partition("-")[0])) / 1000
            metrics.settled(lease.feed, answer.kind, expressions=outcome.expressions, age_s=age_s)
        else:
            metrics.settled(lease.feed, answer.kind)
        if answer.kind == "dead":
            reason = outcome.reason or "event-refused"
            log.warning(
                "dead letter", feed=lease.feed, frame_id=frame_id, reason=reason, why=outcome.detail
            )
        if answer.kind != outcome.kind:
            hands.doubt(lease)  # its tracks were not saved

    def _trim_quiet_feeds(self) -> None:
        """Settling trims by age as well; where nothing is settled, events grow old all the same."""
        if time.monotonic() < self._trim_at:
            return
        self._trim_at = time.monotonic() + _TRIM_EVERY_S
        settings = self._settings
        with suppress(ServerUnavailable):  # of an outage reading tells
            trim(
                self._server,
                self._leases.held(),
                events_age_s=settings.events_age_s,
                dead_age_s=settings.dead_age_s,
            )

    def _well(self) -> None:
        """Nothing is in trouble now."""
        self._health.ready()
        self._backoff.reset()
        self._trouble = ""

    def _troubled(self, why: str) -> None:
        if why != self._trouble:
            log.warning("trouble with the server, trying again", why=why)
        self._trouble = why
        self._metrics.server_errors.inc()
        self._health.not_ready(why)

    @contextmanager
    def _thread(self, stage: str, hands: Hands, work: Callable[[], None]) -> Iterator[None]:
        """Runs ``work`` beside the block, which is to make it end; what it raises ends all."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                hands.fail(error)
            finally:
                self._health.ended(stage)

        self._health.turn(stage)
        thread = threading.Thread(target=run, name=stage)
        thread.start()
        try:
            yield
        finally:
            thread.join()
