"""The books: one look at many feeds, and what a look says of a feed's owner and its frames."""

from __future__ import annotations

from tests.feeds import push_frames, wait_until
from worker.errors import ServerError
from worker.wire.books import Books, read_all_books, read_books
from worker.wire.keys import FeedKeys
from worker.wire.server import Server


def test_a_feed_without_keys_has_empty_books(server: Server, feed: str) -> None:
    books = read_books(server, feed)
    assert (books.offered, books.in_flight, books.oldest_age_s, books.owner) == (0, 0, 0.0, "")
    assert books.balanced
    assert abs(books.read_ms - server.now_us() // 1000) < 60_000


def test_one_look_at_many_feeds(server: Server) -> None:
    for name, count in {"a": 3, "b": 0, "c": 5}.items():
        push_frames(server, name, count)
    server.command("SET", FeedKeys.of("c").lease, "token")
    server.command("SET", FeedKeys.of("spoilt").stats, "not a hash")
    looked = read_all_books(server, ["a", "b", "c", "spoilt"])
    assert isinstance(looked.pop("spoilt"), ServerError)
    books = {name: found for name, found in looked.items() if isinstance(found, Books)}
    assert {name: found.offered for name, found in books.items()} == {"a": 3, "b": 0, "c": 5}
    assert {name for name, found in books.items() if found.owned} == {"c"}
    assert books["c"].owner == "token"
    assert all(found.balanced for found in books.values())
    wait_until(lambda: read_books(server, "a").oldest_age_s > books["a"].oldest_age_s)
