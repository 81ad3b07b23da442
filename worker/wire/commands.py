"""Commands on their way: each to its node, in one round trip a node, and on to where they are sent.

A command goes out again only where it was refused without an effect: its slot has moved, or the
node did not have the script. No answer is no such refusal.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib import resources
from typing import Any

import redis
from redis import exceptions

from worker.wire.nodes import Node, Nodes

SCRIPTS = {
    path.name.removesuffix(".lua"): path.read_text()
    for path in (resources.files("worker.wire") / "scripts").iterdir()
    if path.name.endswith(".lua")
}
_DIGESTS = {name: sha1(source.encode()).hexdigest() for name, source in SCRIPTS.items()}

_ROUNDS = 4
"""Moved, on the way to elsewhere, script unknown there: with the first attempt that makes four."""

Argument = str | bytes | int | float
Words = Sequence[Argument]


@dataclass(frozen=True, slots=True)
class Command:
    """A command, or a run of a script."""

    key: str | None
    """Any of its keys, by which a Cluster finds the node; None: any node will do."""
    words: Words
    """For a script: the number of its keys, the keys, the arguments."""
    script: str = ""
    then: Words = ()
    """Another command that follows on the same connection; the reply is then a pair."""


@dataclass(slots=True)
class _Errand:
    """A command under way."""

    command: Command
    node: Node | None = None
    """Where it was sent; where the Cluster says it belongs."""
    asking: bool = False
    """Its slot is moving there: we have to say that we know."""
    unknown: bool = False
    """The node did not have the script: it is brought along."""
    reply: Any = None


def send(nodes: Nodes, commands: Sequence[Command]) -> list[Any]:
    """The reply to each command, in order; an exception of redis-py's where it has none."""
    errands = [_Errand(command) for command in commands]
    left = errands
    for _ in range(_ROUNDS):
        by_node: dict[Node, list[_Errand]] = {}
        for errand in left:
            try:
                errand.node = errand.node or nodes.owner(errand.command.key)
                by_node.setdefault(errand.node, []).append(errand)
            except (redis.RedisError, exceptions.RedisClusterException) as error:
                errand.reply = error
        for node, some in by_node.items():
            _exchange(nodes, node, some)
        left = [errand for some in by_node.values() for errand in some if _again(nodes, errand)]
        if not left:
            break
    return [errand.reply for errand in errands]


def send_to(nodes: Nodes, node: Node, words: Words) -> Any:
    """The reply of one node, or redis-py's exception."""
    errand = _Errand(Command(None, words), node)
    _exchange(nodes, node, [errand])
    return errand.reply


def _exchange(nodes: Nodes, node: Node, errands: Sequence[_Errand]) -> None:
    """Send to one node and take its replies, in one round trip."""
    pipeline = node.client.pipeline(transaction=False)
    # All of them, not only ours: others come who may run a script and may not bring it.
    brought = list(SCRIPTS.values()) if any(errand.unknown for errand in errands) else []
    for source in brought:
        pipeline.execute_command("SCRIPT", "LOAD", source)  # type: ignore[no-untyped-call]
    for errand in errands:
        command = errand.command
        if errand.asking:
            pipeline.execute_command("ASKING")  # type: ignore[no-untyped-call]
        line = command.words
        if command.script:
            line = ("EVALSHA", _DIGESTS[command.script], *line)
        pipeline.execute_command(*line)  # type: ignore[no-untyped-call]
        if command.then:
            pipeline.execute_command(*command.then)  # type: ignore[no-untyped-call]
    began = time.monotonic()
    try:
        replies = iter(pipeline.execute(raise_on_error=False))
    except redis.RedisError as error:
        nodes.trouble(node, error, time.monotonic() - began)
        for errand in errands:
            errand.reply = error
        return
    for _ in brought:
        next(replies)
    for errand in errands:
        if errand.asking:
            next(replies)
        errand.reply = next(replies)
        then = next(replies) if errand.command.then else None
        if isinstance(errand.reply, exceptions.ReadOnlyError | exceptions.ClusterDownError):
            nodes.trouble(node, errand.reply, 0.0)
        elif errand.command.then and not isinstance(errand.reply, Exception):
            errand.reply = then if isinstance(then, Exception) else (errand.reply, then)


def _again(nodes: Nodes, errand: _Errand) -> bool:
    """Whether the command was refused without an effect and may pass where it goes next."""
    reply, node = errand.reply, errand.node
    if isinstance(reply, exceptions.NoScriptError):
        # A second time: our user may not bring it, and who may does so on the way to its own.
        again, errand.unknown = not errand.unknown, True
        return again
    if isinstance(reply, exceptions.AskError) and node is not None:  # MOVED is one
        target = nodes.redirect(node, reply)
        errand.asking = not isinstance(reply, exceptions.MovedError)
        errand.node = target or node
        return target is not None
    return False
