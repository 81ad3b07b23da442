"""The loop of a worker: read, decode, analyse, settle."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import astuple

import structlog

from worker.analysis import Analyst, Memory, Shot
from worker.config import WorkerSettings
from worker.consume.backlog import backlog
from worker.consume.images import decode_picture
from worker.consume.leases import Lease, Leases
from worker.consume.load import LoadMeter
from worker.consume.reader import Delivery, Reader
from worker.errors import EntryError, ServerError, ServerUnavailable
from worker.health import Health
from worker.metrics import UNCERTAIN, Metrics
from worker.publish.settle import Outcome, Settled, settle, trim
from worker.records import Frame, Image
from worker.wire.codec import decode_frame, encode_event, frame_header, time_of_id
from worker.wire.server import Backoff, Server

log = structlog.get_logger()

Opened = tuple[Delivery, Frame, Image]

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
        self._reader = Reader(server, self._leases)
        metrics.follow(self._meter.busy, lambda: astuple(backlog(server, self._leases.held())))
        self._pixels: Counter[str] = Counter()
        """Looked at for each feed, in this turn."""
        # Lease token -> what is remembered of the feed. What the server holds is the truth: after
        # any doubt a memory is dropped here and restored from there.
        self._memories: dict[str, Memory] = {}
        self._trim_at = time.monotonic() + _TRIM_EVERY_S

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set; then settle what is in hand and release the leases.

        Call :meth:`Analyst.try_models` before: without working models no feed is to be taken.

        Raises:
            ModelError: the models fail on what they must be able to analyse. What is in hand stays
                pending, for a worker whose models work; a frame that was alone in hand has had one
                of its ``max_attempts``.
        """
        backoff = Backoff()
        self._health.turn()
        self._health.stops_with(stop, self._settings.grace_s)
        self._leases.start()
        said = ""
        try:
            while not stop.is_set():
                self._health.turn()
                try:
                    if trouble := self._leases.trouble:
                        raise trouble
                    self._turn(stop)
                    self._health.ready()
                    backoff.reset()
                    said = ""
                except ServerError as error:
                    if str(error) != said:
                        log.warning("trouble with the server, trying again", why=str(error))
                    said = str(error)
                    self._metrics.server_errors.inc()
                    self._health.not_ready(said)
                    self._forget(None)
                    backoff.wait(stop)
        finally:
            self._leases.close()
            self._reader.close()

    def _turn(self, stop: threading.Event) -> None:
        settings = self._settings
        batch = self._reader.next_batch(settings.batch_size, settings.batch_wait_ms / 1000, stop)
        self._let_go_of_the_rest()
        if batch:
            began = time.monotonic()
            self._metrics.batch_frames.observe(len(batch))
            self._settle(self._outcomes(batch))
            # A frame's work goes mostly by its pixels; one that is not looked at makes hardly any.
            self._pixels.update(delivery.feed for delivery in batch)
            self._meter.worked(time.monotonic() - began, self._pixels)
            self._pixels.clear()
        self._leases.hand_over(self._reader.drained)
        self._trim_quiet_feeds()

    def _outcomes(self, batch: list[Delivery]) -> list[Outcome]:
        """One outcome for each delivery, in the same order; no entry can raise."""
        tokens = {delivery.lease.token for delivery in batch}
        before = {token: self._memories[token].state() for token in tokens & self._memories.keys()}
        try:
            return self._analyse(batch)
        except ServerError:
            raise
        except Exception as error:
            # The failed attempt may have moved some tracks on: undo that.
            for token in tokens:
                self._memories.pop(token, None)
            self._memories |= {token: Memory.restore(state) for token, state in before.items()}
            if len(batch) > 1:
                # One of them is to blame: each alone, so that the others pass.
                log.warning("a batch failed, its frames run alone", why=repr(error))
                return [outcome for one in batch for outcome in self._outcomes([one])]
            opened = self._open(batch[0])
            self._analyst.try_models(() if isinstance(opened, Outcome) else opened[2].shape[:2])
            log.exception(
                "a frame cannot be analysed", feed=batch[0].feed, frame_id=batch[0].frame_id
            )
            return [_dead(batch[0], EntryError("analysis-failed", repr(error)))]

    def _analyse(self, batch: list[Delivery]) -> list[Outcome]:
        outcomes: dict[str, Outcome] = {}
        opened: list[Opened] = []
        with self._metrics.timed("decode"):
            for delivery in batch:
                self._health.turn()
                result = self._open(delivery)
                if isinstance(result, Outcome):
                    outcomes[_key(delivery)] = result
                else:
                    opened.append(result)
                    self._pixels[delivery.feed] += result[2].shape[0] * result[2].shape[1]
        shots = [
            Shot(frame, delivery.frame_id, image, self._memory(delivery.lease))
            for delivery, frame, image in opened
        ]
        for (delivery, *_), (event, state) in zip(
            opened, self._analyst.analyse(shots), strict=True
        ):
            outcomes[_key(delivery)] = Outcome(
                delivery,
                "published",
                encode_event(event),
                state,
                expressions=tuple(
                    UNCERTAIN if face.uncertain else face.label for face in event.faces
                ),
            )
        return [outcomes[_key(delivery)] for delivery in batch]

    def _open(self, delivery: Delivery) -> Opened | Outcome:
        """The delivery's frame and picture, or its outcome if there is nothing to analyse."""
        if delivery.gone:
            return Outcome(delivery, "dropped")
        if delivery.stale:
            return Outcome(delivery, "skipped")
        if delivery.attempts > self._settings.max_attempts:
            ended = delivery.attempts - 1
            why = f"{ended} workers in a row had this frame alone in hand and ended or lost it"
            return _dead(delivery, EntryError("poison", why))
        try:
            frame = decode_frame(delivery.body, delivery.feed, time_of_id(delivery.frame_id))
            return delivery, frame, decode_picture(frame, self._settings.max_pixels)
        except EntryError as error:
            return _dead(delivery, error)

    def _memory(self, lease: Lease) -> Memory:
        memory = self._memories.get(lease.token)
        if memory is None:
            try:
                memory = Memory.restore(self._saved(lease))
            except ValueError as error:
                log.warning("tracks start anew", feed=lease.feed, why=str(error))
                memory = Memory()
            self._memories[lease.token] = memory
        return memory

    def _saved(self, lease: Lease) -> bytes | None:
        try:
            state: bytes | None = self._server.command("GET", lease.keys.state)
            return state
        except ServerUnavailable:
            raise
        except ServerError as error:  # somebody put something else there
            raise ValueError(str(error)) from None

    def _settle(self, outcomes: list[Outcome]) -> None:
        settings, metrics = self._settings, self._metrics
        with metrics.timed("settle"):
            answers = settle(
                self._server,
                outcomes,
                events_kept=settings.events_kept,
                dead_kept=settings.dead_kept,
                events_age_s=settings.events_age_s,
                dead_age_s=settings.dead_age_s,
            )
        for answer in answers:
            self._account(answer)

    def _account(self, answer: Settled) -> None:
        """Count a settled frame; doubt the feed of one that is not settled as we meant it."""
        outcome, metrics = answer.outcome, self._metrics
        feed, frame_id = outcome.delivery.feed, outcome.delivery.frame_id
        if answer.status == "lost":
            self._forget(outcome.delivery.lease)
            return
        if answer.status != "settled":
            self._forget(outcome.delivery.lease)
            self._reader.rest(outcome.delivery.lease, answer.error or f"settling: {answer.status}")
            return
        if answer.kind == "published":
            age_s = (answer.published_ms - int(frame_id.partition("-")[0])) / 1000
            metrics.settled(feed, answer.kind, expressions=outcome.expressions, age_s=age_s)
        else:
            metrics.settled(feed, answer.kind)
        if answer.kind == "dead":
            reason = outcome.reason or "event-refused"
            log.warning(
                "dead letter", feed=feed, frame_id=frame_id, reason=reason, why=outcome.detail
            )
        if answer.kind != outcome.kind:
            self._forget(outcome.delivery.lease)  # its tracks were not saved

    def _let_go_of_the_rest(self) -> None:
        """Keep nothing of feeds that are not ours any more."""
        held = self._leases.held()
        self._metrics.hold({lease.feed for lease in held})
        for token in self._memories.keys() - {lease.token for lease in held}:
            del self._memories[token]

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

    def _forget(self, lease: Lease | None) -> None:
        """Doubt about one feed, or about all: read again what is pending, restore the tracks."""
        self._reader.forget(lease)
        if lease is None:
            self._memories.clear()
        else:
            self._memories.pop(lease.token, None)


def _key(delivery: Delivery) -> str:
    return f"{delivery.feed} {delivery.frame_id}"


def _dead(delivery: Delivery, error: EntryError) -> Outcome:
    return Outcome(
        delivery,
        "dead",
        body=frame_header(delivery.body),
        reason=error.reason,
        detail=str(error)[:500],
    )
