"""The server of a chaos run, with a replica if there are failovers."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress

import redis

from tests.delivery.chaos.evidence import RolledBack, frames_after, last_ids
from tests.delivery.chaos.proxy import Proxy
from tests.delivery.machines import Machine, Workshop
from worker.wire.books import Books, read_books
from worker.wire.server import Server

_DURABLE = ("appendonly yes", "appendfsync always", "repl-diskless-sync-delay 0")
_LINK = "replica"


class Servers:
    """The primary behind the proxy, and what befalls it."""

    def __init__(self, workshop: Workshop, feeds: Sequence[str], *, replica: bool) -> None:
        self._feeds = feeds
        self.primary = workshop.machine(*_DURABLE)
        self.replica = workshop.machine(*_DURABLE) if replica else None
        self.proxy = Proxy(self.primary.port)
        self.rolled_back = {feed: RolledBack() for feed in feeds}
        if self.replica:
            self._follow(self.replica)

    def close(self) -> None:
        self.proxy.close()

    def direct(self) -> Server:
        """A connection past the proxy."""
        return Server(self.primary.url)

    def kill(self) -> None:
        self.primary.kill()

    def stop(self) -> None:
        """As an operator does who restarts it."""
        self.primary.send(signal.SIGTERM)
        assert self.primary.process is not None
        self.primary.process.wait()

    def start(self) -> None:
        self.primary.start()

    def fill(self) -> None:
        """A limit below what it uses."""
        self.primary.client.config_set("maxmemory", 1)

    def make_room(self) -> None:
        self.primary.client.config_set("maxmemory", 0)

    def hold_up_replication(self) -> None:
        """From now on the replica falls behind."""
        self.proxy.door(_LINK).stall()

    def fail_over(self) -> None:
        """The primary dies, its replica takes its place, and it comes back as the other's replica.

        What the replica had not got is lost, and noted.
        """
        assert self.replica is not None
        old, new = self.primary, self.replica
        old.kill()
        new.client.replicaof("NO", "ONE")
        self.primary, self.replica = new, old
        # Nobody else may write before we have seen what is there.
        there = Server(new.url)
        last = last_ids(there, self._feeds)
        books = {feed: read_books(there, feed) for feed in self._feeds}
        there.close()
        self.proxy.switch(new.port)
        self.proxy.door(_LINK).resume()
        old.start()
        was = Server(old.url)
        for feed, undone in self.rolled_back.items():
            before = read_books(was, feed)
            undone.frames |= frames_after(was, feed, last[feed])
            undone.offered += before.offered - books[feed].offered
            undone.outcomes += _outcomes(before) - _outcomes(books[feed])
        was.close()
        self._follow(old)

    def _follow(self, replica: Machine) -> None:
        replica.client.replicaof("127.0.0.1", self.proxy.door(_LINK).port)

    def in_step(self) -> bool:
        """Whether the replica is connected with its primary, so that it may take its place."""
        with suppress(redis.RedisError):
            if self.replica is not None:
                info = self.replica.client.info("replication")
                return bool(info["master_link_status"] == "up")
        return False


def _outcomes(books: Books) -> int:
    return books.published + books.dropped + books.skipped + books.dead
