"""A Cluster of three: feeds on different shards, one shard lost, slots that move, a failover."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
from redis.crc import key_slot

from tests.delivery.machines import Machine, Workshop, agrees, cluster_of, meet
from tests.doubles import running_worker
from tests.feeds import frame_of, push_frames, wait_until
from tests.ports import free_port
from worker.errors import ServerError, ServerUnavailable
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.keys import FEEDS, GROUP, FeedKeys
from worker.wire.registry import registered
from worker.wire.server import Call, Server
from worker.wire.workers import WORKERS, live_workers


def member(workshop: Workshop) -> Machine:
    return workshop.machine(
        "cluster-enabled yes",
        f"cluster-port {free_port()}",
        "cluster-node-timeout 1000",
        # Without this a Cluster refuses everything when one shard is gone.
        "cluster-require-full-coverage no",
        "cluster-replica-validity-factor 0",
        "appendonly yes",
        "appendfsync always",
    )


class Cluster:
    """Three machines, or more."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.machines = [member(workshop) for _ in range(3)]
        self.url = cluster_of(self.machines)
        self.server = Server(self.url)

    def owner(self, key: str) -> Machine:
        """Who owns a key as things stand, asked afresh."""
        for machine in self.machines:
            if machine.alive:
                slots = machine.client.execute_command("CLUSTER", "SLOTS")
                break
        (port,) = (
            nodes[0][1] for first, last, *nodes in slots if first <= key_slot(key.encode()) <= last
        )
        return next(machine for machine in self.machines if machine.port == port)

    def feed_on(self, machine: Machine) -> str:
        """The name of a new feed whose keys lie on ``machine``."""
        return next(name for name in _names if self.owner(FeedKeys.of(name).frames) is machine)

    def spread(self) -> list[str]:
        """A new feed on each machine; the last on the one that has neither registry nor workers."""
        first, second = self.owner(FEEDS), self.owner(WORKERS)
        (third,) = (machine for machine in self.machines[:3] if machine not in (first, second))
        return [self.feed_on(machine) for machine in (first, second, third)]


_names = (f"cam-{i}" for i in count())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Workshop(tmp_path_factory.mktemp("cluster")) as workshop:
        yield Cluster(workshop)


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A Cluster for a test that breaks it."""
    with Workshop(tmp_path) as workshop:
        yield Cluster(workshop)


def in_balance(server: Server, feeds: Sequence[str], published: int) -> bool:
    books = [read_books(server, feed) for feed in feeds]
    return all(one.balanced and one.published == published for one in books)


def test_the_whole_pipeline_over_three_shards(cluster: Cluster) -> None:
    feeds = cluster.spread()
    for feed in feeds:
        push_frames(cluster.server, feed, 30)
    with running_worker(cluster.url):
        wait_until(lambda: in_balance(cluster.server, feeds, 30))
    for feed, machine in zip(feeds, map(cluster.owner, feeds), strict=True):
        assert machine.client.xlen(FeedKeys.of(feed).events) == 30
        found = events(feed, redis=cluster.url, since="start", follow=False)
        assert [event.sequence for event in found] == list(range(30))
    assert set(registered(cluster.server)[0]) >= set(feeds)


def books_of(feed: str) -> Call:
    keys = FeedKeys.of(feed)
    return [keys.frames, keys.stats, keys.lease], [GROUP]


def test_the_replies_of_many_nodes_stand_in_the_order_of_the_calls(cluster: Cluster) -> None:
    feeds = [feed for _ in range(3) for feed in cluster.spread()]
    for i, feed in enumerate(feeds):
        push_frames(cluster.server, feed, i)
    replies = cluster.server.run_many("books", [books_of(feed) for feed in feeds])
    assert [reply[0] for reply in replies] == list(range(9))


def test_each_node_learns_the_scripts_by_itself(cluster: Cluster) -> None:
    calls = [books_of(feed) for feed in cluster.spread()]
    cluster.server.run_many("books", calls)
    cluster.machines[1].client.script_flush()
    assert [reply[0] for reply in cluster.server.run_many("books", calls)] == [0] * 3
    cluster.server.command("SCRIPT", "FLUSH")
    assert [reply[0] for reply in cluster.server.run_many("books", calls * 3)] == [0] * 9


def test_streams_of_all_shards_are_read_together(cluster: Cluster) -> None:
    feeds = cluster.spread()
    after = {FeedKeys.of(feed).events: "0" for feed in feeds}
    assert cluster.server.read_streams(after, count=5) == []
    for i, key in enumerate(after):
        for _ in range(i):
            cluster.server.command("XADD", key, "*", "n", 1)
    found = dict(cluster.server.read_streams(after, count=5))
    assert [len(found.get(key, ())) for key in after] == [0, 1, 2]
    first = next(iter(after))
    newest = {key: "0" if key == first else "9999999999999" for key in after}
    late = threading.Timer(0.1, lambda: cluster.server.command("XADD", first, "*", "n", 1))
    late.start()
    found = dict(cluster.server.read_streams(newest, count=5, block_ms=5000))
    late.join()
    assert list(found) == [first]


def test_a_slot_that_moves_while_frames_come(cluster: Cluster) -> None:
    """A Cluster runs no script on keys that are half here, half there: the feed waits for it."""
    feed = cluster.spread()[1]
    keys = FeedKeys.of(feed)
    old = cluster.owner(keys.frames)
    new = next(machine for machine in cluster.machines if machine is not old)
    writer = push_frames(cluster.server, feed, 5)
    slot = key_slot(keys.frames.encode())
    names = {m.port: m.client.execute_command("CLUSTER", "MYID").decode() for m in (old, new)}
    statuses: list[str] = []
    rest = threading.Thread(
        target=lambda: statuses.extend(
            writer.push(frame_of(writer, i)).status for i in range(5, 9)
        ),
        daemon=True,
    )
    with running_worker(cluster.url):
        wait_until(lambda: in_balance(cluster.server, [feed], 5))
        new.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[old.port])
        old.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[new.port])
        while moving := old.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            old.client.execute_command(
                "MIGRATE", "127.0.0.1", new.port, "", 0, 5000, "KEYS", *moving
            )
        # No key is left there and the slot is still the old node's: it sends us on with ASK.
        assert cluster.server.command("HGET", keys.stats, "published") == b"5"
        rest.start()
        for machine in (new, old):
            machine.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[new.port])
        wait_until(lambda: in_balance(cluster.server, [feed], 9))
    rest.join()
    assert statuses == ["accepted"] * 4
    assert new.client.xlen(keys.events) == 9


def test_a_node_of_a_cluster_named_as_one_server_and_the_reverse(
    cluster: Cluster, server_url: str
) -> None:
    foreign = cluster.spread()[1]
    single = Server(cluster.owner(FEEDS).url)
    with pytest.raises(ServerError, match=r"redis\+cluster://"):
        read_books(single, foreign)
    if server_url.startswith("redis://"):
        wrong = Server(server_url.replace("redis://", "redis+cluster://"))
        with pytest.raises(ServerError, match="is no Cluster"):
            wrong.now_us()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_one_shard_gone_the_others_go_on(own_cluster: Cluster, blow: int) -> None:
    """Killed, so that connections are refused; or stopped, so that nothing comes back."""
    server = own_cluster.server
    feeds = own_cluster.spread()
    lost = own_cluster.owner(feeds[2])
    writers = [push_frames(server, feed, 10) for feed in feeds]
    with running_worker(own_cluster.url, lease_ttl_s=4.0) as worker:
        wait_until(lambda: in_balance(server, feeds, 10))
        lost.send(blow)
        for writer in writers[:2]:
            for sequence in range(10, 60):
                assert writer.push(frame_of(writer, sequence)).status == "accepted"
        wait_until(lambda: in_balance(server, feeds[:2], 60), timeout_s=60)
        replies = server.run_many("books", [books_of(feed) for feed in feeds])
        assert [reply[0] for reply in replies[:2]] == [60, 60]
        assert isinstance(replies[2], ServerUnavailable)
        with pytest.raises(ServerUnavailable):
            read_books(server, feeds[2])
        assert worker.thread.is_alive()
        held = {lease.feed for lease in worker.pipeline._leases.held()}
        assert held == set(feeds), "no answer is no refusal"
        if blow == signal.SIGKILL:
            lost.close()
            lost.start()
        else:
            lost.send(signal.SIGCONT)
        for sequence in range(10, 60):
            assert writers[2].push(frame_of(writers[2], sequence)).status == "accepted"
        wait_until(lambda: in_balance(server, feeds, 60), timeout_s=60)
    for feed in feeds:
        found = events(feed, redis=own_cluster.url, since="start", follow=False)
        assert [event.sequence for event in found] == list(range(60)), "each once, in order"


def test_the_registrys_shard_gone_the_others_go_on(own_cluster: Cluster) -> None:
    """Writer and worker know the feed, and its own shard is well."""
    server = own_cluster.server
    feed = own_cluster.spread()[2]
    lost = own_cluster.owner(FEEDS)
    writer = push_frames(server, feed, 10)
    with running_worker(own_cluster.url, lease_ttl_s=2.0) as worker:
        wait_until(lambda: in_balance(server, [feed], 10))
        (before,) = worker.pipeline._leases.held()
        lost.kill()
        outage = time.monotonic()
        sequence = 10
        while time.monotonic() < outage + 6:  # three times to live
            assert writer.push(frame_of(writer, sequence)).status == "accepted"
            sequence += 1
            time.sleep(0.05)
        wait_until(lambda: in_balance(server, [feed], sequence), timeout_s=30)
        (after,) = worker.pipeline._leases.held()
        assert after.token == before.token
        assert worker.pipeline._leases.me in live_workers(server), "its heart beats on"
        lost.close()
        lost.start()
        wait_until(lambda: agrees(lost, 3))
        late = own_cluster.feed_on(lost)
        push_frames(server, late, 5)
        wait_until(lambda: in_balance(server, [late], 5), timeout_s=30)


def test_a_replica_takes_a_lost_shards_place(own_cluster: Cluster) -> None:
    server = own_cluster.server
    feed = own_cluster.spread()[1]
    lost = own_cluster.owner(feed)
    replica = member(own_cluster.workshop)
    own_cluster.machines.append(replica)
    meet(lost, [replica])
    name = lost.client.execute_command("CLUSTER", "MYID")
    wait_until(lambda: agrees(replica, 3))
    replica.client.execute_command("CLUSTER", "REPLICATE", name)
    wait_until(lambda: replica.client.info("replication").get("master_link_status") == "up")
    writer = push_frames(server, feed, 20)
    with running_worker(own_cluster.url, lease_ttl_s=1.0):
        wait_until(lambda: in_balance(server, [feed], 20))
        wait_until(
            lambda: (
                replica.client.info("replication")["slave_repl_offset"]
                == lost.client.info("replication")["master_repl_offset"]
            )
        )
        lost.kill()
        for sequence in range(20, 30):
            assert writer.push(frame_of(writer, sequence)).status == "accepted"
        wait_until(lambda: in_balance(server, [feed], 30), timeout_s=60)
    assert own_cluster.owner(feed) is replica
    found = events(feed, redis=own_cluster.url, since="start", follow=False)
    assert [event.sequence for event in found] == list(range(30))
