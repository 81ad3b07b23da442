"""A server with exactly the files of deploy/access, and what each of its users gets done there."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from typer.testing import CliRunner, Result

from tests.delivery.machines import DEBIAN, EMBEDDED, Machine, Workshop
from tests.doubles import running_worker
from tests.feeds import frame_of, push_frames, wait_until
from tests.ports import free_port
from worker.app import app
from worker.capture.writer import Writer
from worker.errors import NotPermitted
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.keys import FEEDS, GROUP, FeedKeys
from worker.wire.registry import register, registered
from worker.wire.server import Server
from worker.wire.workers import WORKERS, live_workers

ROOT = Path(__file__).resolve().parents[2]
ACCESS = ROOT / "deploy" / "access"
USERS = ("pusher", "worker", "viewer", "web", "operator")
OURS, OTHERS = "cam-1", "yard"
"""Feeds within the pusher's pattern and beyond it."""


def set_up(folder: Path, *hosts: str, port: int = 6379, access: str = "") -> None:
    """What an operator does first: deploy/access/setup."""
    subprocess.run(
        [ACCESS / "setup", *hosts], check=True, capture_output=True,
        env={**os.environ, "MIEN_SECRETS": str(folder), "MIEN_ACCESS": access or str(folder),
             "MIEN_SERVER_PORT": str(port)},
    )  # fmt: skip


class Guarded:
    """Where the users of deploy/access/users.acl have their passwords."""

    def __init__(self, machine: Machine, secrets: Path, *, tls: bool = False) -> None:
        self.machine, self.secrets, self._tls = machine, secrets, tls

    def url(self, user: str) -> str:
        given = (self.secrets / f"{user}.url").read_text().strip()
        if self._tls:
            return given
        parts = urlsplit(given)
        return f"redis://{user}:{parts.password}@127.0.0.1:{self.machine.port}"

    def server(self, user: str) -> Server:
        return Server(self.url(user))


@contextmanager
def guarded_server(folder: Path, binary: str = EMBEDDED) -> Iterator[Guarded]:
    """A server with the ACL file as setup fills it in, without TLS (the embedded one has none)."""
    secrets = folder / "secrets"
    set_up(secrets)
    with Workshop(folder) as workshop:
        lines = (f"aclfile {secrets / 'users.acl'}", "appendonly yes", "appendfsync always")
        yield Guarded(workshop.machine(*lines, binary=binary), secrets)


@contextmanager
def tls_server(folder: Path) -> Iterator[Guarded]:
    """Debian's redis-server with deploy/access/server.conf; only ports and folders are ours."""
    assert DEBIAN is not None
    secrets, port = folder / "secrets", free_port()
    set_up(secrets, "localhost", "127.0.0.1", port=port)
    with Workshop(folder) as workshop:
        machine = workshop.machine(
            f"include {ACCESS / 'server.conf'}",
            f"tls-port {port}",
            f"tls-cert-file {secrets / 'server.crt'}",
            f"tls-key-file {secrets / 'server.key'}",
            f"tls-ca-cert-file {secrets / 'ca.crt'}",
            f"aclfile {secrets / 'users.acl'}",
            binary=DEBIAN,
        )
        yield Guarded(machine, secrets, tls=True)


def prepare(guarded: Guarded) -> None:
    """Two feeds, each with a dead letter and a preview, as a worker leaves them."""
    operator = guarded.server("operator")
    operator.load_scripts()
    for feed in (OURS, OTHERS):
        register(operator, feed, policy="lossless", depth=1000, dead_pixels=True)
    worker = guarded.server("worker")
    for feed in (OURS, OTHERS):
        keys = FeedKeys.of(feed)
        letter: list[str | int] = [
            "frame_id",
            "1-1",
            "reason",
            "corrupt",
            "error",
            "e",
            "deliveries",
            1,
            "frame",
            "x",
        ]
        worker.command("XADD", keys.dead, "1-1", *letter)
        worker.command("XADD", keys.preview, "1-1", "jpeg", "x")
    operator.close()
    worker.close()


Action = Callable[[Guarded, str], object]


def command(*words: str) -> Action:
    """The command line itself, as this user."""

    def act(guarded: Guarded, user: str) -> Result:
        given = {"MIEN_REDIS": guarded.url(user)}
        result = CliRunner().invoke(app, words, env=given, catch_exceptions=True)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    return act


def plain(*words: str | int) -> Action:
    """A single command to the server, by hand."""
    return lambda guarded, user: guarded.server(user).command(*words)


def push(feed: str) -> Action:
    def act(guarded: Guarded, user: str) -> None:
        writer = Writer(guarded.server(user), feed, stop=threading.Event(), source="a label")
        assert writer.push(frame_of(writer, 0)).status == "accepted"

    return act


def analyse(guarded: Guarded, user: str) -> None:
    """What a worker does with a feed: say that it lives, take the lease, read, settle, let go."""
    server, keys = guarded.server(user), FeedKeys.of("analysed")
    server.load_scripts()
    server.run("workers", [WORKERS], ["w", 1000, "{}"])
    assert server.run("lease", [keys.lease], ["acquire", "w.1", 60_000]) == 1
    try:
        fence: list[str | int] = ["w.1", GROUP, "worker", ">", 8, "w"]
        assert server.run("read", [keys.lease, keys.frames, keys.stats], fence)[0] == b"ok"
        assert server.run("trim", [keys.events, keys.dead], [1, 1]) == 0
    finally:
        server.run("lease", [keys.lease], ["release", "w.1", 0])


def watch(feed: str) -> Action:
    return lambda guarded, user: list(
        events(feed, redis=guarded.url(user), since="start", follow=False)
    )


def on(server_call: Callable[[Server], object]) -> Action:
    return lambda guarded, user: server_call(guarded.server(user))


KEYS, THEIRS = FeedKeys.of(OURS), FeedKeys.of(OTHERS)
ENDLESS = "while true do end"

READERS = {"viewer", "web", "operator"}
WATCHERS = {"worker", "web", "operator"}

ACTIONS: dict[str, tuple[Action, set[str]]] = {
    # What each is there for.
    "push to a feed of its pattern": (push(OURS), {"pusher"}),
    "push to another feed": (push(OTHERS), set()),
    "enter a feed": (on(lambda server: register(server, "cam-new")), {"operator"}),
    "analyse: lease, read, settle": (analyse, {"worker"}),
    "mien watch": (command("watch", OURS, "--since", "start", "--no-follow"), READERS),
    "the registry": (on(registered), {"worker", "viewer", "web", "operator"}),
    "a preview": (plain("XREVRANGE", KEYS.preview, "+", "-"), READERS),
    "mien feeds (the books)": (command("feeds", "--json"), {"worker", "web", "operator"}),
    "live workers": (on(live_workers), {"worker", "web", "operator"}),
    "server health (INFO)": (plain("INFO", "memory"), {"web", "operator"}),
    "mien feeds set": (command("feeds", "set", OURS, "--depth", "1000"), {"operator"}),
    "mien feeds set --new": (command("feeds", "set", "cam-2", "--new"), {"operator"}),
    "mien feeds rm": (command("feeds", "rm", "cam-2", "--force"), {"operator"}),
    "mien dead list": (command("dead", "list", OURS), {"operator"}),
    "mien dead show": (command("dead", "show", OURS, "1-1"), {"operator"}),
    "mien dead redrive": (command("dead", "redrive", OURS, "--all"), {"operator"}),
    "mien dead purge": (command("dead", "purge", OURS, "--all"), {"worker", "operator"}),
    # What they might try.
    "read events by hand": (plain("XRANGE", KEYS.events, "-", "+"), READERS),
    "read the feed's frames": (plain("XRANGE", KEYS.frames, "-", "+"), {"pusher", "worker"}),
    "read another feed's frames": (plain("XRANGE", THEIRS.frames, "-", "+"), {"worker"}),
    "one in flight by XINFO": (plain("XINFO", "STREAM", THEIRS.frames), WATCHERS),
    "forge an event": (plain("XADD", KEYS.events, "*", "event", "x"), {"worker"}),
    "forge a preview": (plain("XADD", KEYS.preview, "*", "jpeg", "x"), {"worker"}),
    "a frame by hand": (plain("XADD", KEYS.frames, "*", "frame", "x"), {"pusher", "operator"}),
    "steal a lease": (plain("SET", KEYS.lease, "x"), {"worker"}),
    "read the tracker's state": (plain("GET", KEYS.state), {"worker"}),
    "change the books by hand": (plain("HSET", KEYS.stats, "dead", "0"), {"pusher", "worker"}),
    "change another feed's books": (plain("HSET", THEIRS.stats, "dead", "0"), {"worker"}),
    "change the registry by hand": (plain("HSET", FEEDS, OTHERS, "{}"), {"operator"}),
    "a key that is none of mien's": (plain("GET", "other"), set()),
    "a key in a key": (plain("XADD", "mien:{cam-1}:events:frames", "*", "f", "x"), set()),
    "delete a feed's events": (plain("UNLINK", THEIRS.events), {"operator"}),
    "run a script of one's own": (plain("EVAL", ENDLESS, "0"), set()),
    "bring a script": (plain("SCRIPT", "LOAD", "return 1"), {"worker", "operator"}),
    "throw scripts away": (plain("SCRIPT", "FLUSH"), set()),
    "all keys": (plain("KEYS", "*"), set()),
    "throw everything away": (plain("FLUSHALL"), set()),
    "change the server's settings": (plain("CONFIG", "SET", "maxmemory", "0"), set()),
    "change users": (plain("ACL", "SETUSER", "pusher", "+@all"), set()),
    "end the server": (plain("SHUTDOWN", "NOSAVE"), set()),
    "listen to all commands": (plain("MONITOR"), set()),
}  # fmt: skip


def allowed(guarded: Guarded, user: str, action: Action) -> bool:
    """Whether the server lets ``user`` do this; what else goes wrong is raised."""
    try:
        action(guarded, user)
    except NotPermitted:
        return False
    return True


def pipeline(guarded: Guarded, frames: int = 20) -> None:
    """Push, analyse and watch, each as the user that is there for it; the books, as the web."""
    pusher = guarded.server("pusher")
    before = read_books(guarded.server("web"), OURS).published
    with running_worker(guarded.url("worker")):
        push_frames(pusher, OURS, frames)
        books = guarded.server("web")
        wait_until(lambda: read_books(books, OURS).published == before + frames)
    found = events(OURS, redis=guarded.url("viewer"), since="start", follow=False)
    assert [event.sequence for event in found][-frames:] == list(range(frames))
    assert read_books(books, OURS).balanced
