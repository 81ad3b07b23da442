"""The scripts as the tests of this folder call them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from worker.wire.books import read_books
from worker.wire.keys import CONSUMER, GROUP, FeedKeys
from worker.wire.server import Server, text

TOKEN = "token-a"


class Feed:
    """The scripts of one feed, called with their raw arguments."""

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name, self.keys = server, name, FeedKeys.of(name)

    def push(
        self, sequence: int, session: str = "s1", policy: str = "lossless", depth: int = 4
    ) -> list[Any]:
        arguments = [GROUP, session, sequence, policy, depth, b"frame %d" % sequence]
        reply = self.server.run("push", [self.keys.frames, self.keys.stats], arguments)
        return [text(reply[0]), text(reply[1]), reply[2]]

    def own(self, token: str = TOKEN, verb: str = "acquire") -> int:
        reply: int = self.server.run("lease", [self.keys.lease], [verb, token, 60_000])
        return reply

    def read(self, after: str = ">", count: int = 10, token: str = TOKEN) -> list[str] | None:
        """Ids read, or None if the lease is not ours."""
        reply = self.server.run(
            "read",
            [self.keys.lease, self.keys.frames, self.keys.stats],
            [token, GROUP, CONSUMER, after, count, "worker-1"],
        )
        return None if reply[0] == b"lost" else [text(entry[0]) for entry in reply[2]]

    def settle(
        self,
        frame_id: str,
        outcome: str = "published",
        token: str = TOKEN,
        state: bytes = b"",
        *,
        events_kept: int = 1000,
        events_age_ms: int = 0,
        dead_kept: int = 1000,
        dead_age_ms: int = 0,
        pixels: bool = False,
    ) -> str:
        keys = self.keys
        kept = [events_kept, "reason", "detail", events_age_ms, dead_kept, dead_age_ms, int(pixels)]
        reply = self.server.run(
            "settle",
            [keys.lease, keys.frames, keys.events, keys.dead, keys.stats, keys.state],
            [token, GROUP, frame_id, outcome, b"", state, *kept],
        )
        return text(reply[0])

    def done(self, count: int, outcome: str = "published", **kept: Any) -> list[str]:
        """Push, read and settle ``count`` frames; their ids."""
        for sequence in range(count):
            assert self.push(sequence, session=f"s{uuid.uuid1().time:020}")[0] == "accepted"
            ids = self.read()
            assert ids is not None
            assert [self.settle(frame_id, outcome, **kept) for frame_id in ids] == ["settled"]
        return [text(entry) for entry in self.entries("dead" if outcome == "dead" else "events")]

    def entries(self, stream: str) -> dict[bytes, dict[bytes, bytes]]:
        return dict(self.server.command("XRANGE", getattr(self.keys, stream), "-", "+"))

    def balanced(self) -> bool:
        return read_books(self.server, self.name).balanced


@pytest.fixture
def own(server: Server, feed: str) -> Feed:
    made = Feed(server, feed)
    assert made.own() == 1
    return made
