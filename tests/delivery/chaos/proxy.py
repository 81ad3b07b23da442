"""A small TCP proxy before the server, with a door for each client, that can be cut and held up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class Door:
    """One client's way to the server. All methods may be called from any thread."""

    def __init__(self, proxy: Proxy, name: str) -> None:
        self.name = name
        self.port = 0
        self.cuts = 0
        self.cuts_at_reply = 0
        """Connections cut when the server had done the command, before its reply came through."""
        self._proxy = proxy
        self._ways: set[asyncio.Task[Any]] = set()
        self._free = asyncio.Event()
        self._free.set()
        self._swallow = False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break all connections."""
        self._proxy.do(self._cut)

    def cut_at_reply(self) -> None:
        """Break the next connection on which a reply comes, and swallow that."""
        self._proxy.do(lambda: setattr(self, "_swallow", True))

    def stall(self) -> None:
        """Let nothing through, and refuse nothing, until :meth:`resume`."""
        self._proxy.do(self._free.clear)

    def resume(self) -> None:
        self._proxy.do(self._free.set)

    def _cut(self) -> None:
        self.cuts += len(self._ways)
        for way in self._ways:
            way.cancel()

    async def pass_through(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        way = asyncio.current_task()
        assert way is not None
        self._ways.add(way)
        forth: asyncio.StreamWriter | None = None
        try:
            await self._free.wait()
            far, forth = await asyncio.open_connection("127.0.0.1", self._proxy.target)
            both = (self._carry(near, forth), self._carry(far, back, replies=True))
            ends = [asyncio.ensure_future(end) for end in both]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._ways.discard(way)
            for end_ in (back, forth):
                if end_ is not None:
                    end_.transport.abort()

    async def _carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool = False
    ) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                await self._free.wait()
                if replies and self._swallow:
                    self._swallow = False
                    self.cuts_at_reply += 1
                    return
                sink.write(data)
                await sink.drain()


class Proxy:
    """All doors lead to the server at ``target``, a port of this machine."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.doors: dict[str, Door] = {}
        self._listening: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def door(self, name: str) -> Door:
        """The door of that name; opened at the first call."""
        if name not in self.doors:
            self.doors[name] = self._run(self._open(name))
        return self.doors[name]

    def switch(self, target: int) -> None:
        """Lead to another server from now on; nobody stays connected with the old one."""
        self.target = target
        for door in self.doors.values():
            door.cut()

    def do(self, step: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(step)

    def close(self) -> None:
        async def end() -> None:
            for listening in self._listening:
                listening.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self, name: str) -> Door:
        door = Door(self, name)
        listening = await asyncio.start_server(door.pass_through, "127.0.0.1", 0)
        door.port = listening.sockets[0].getsockname()[1]
        self._listening.append(listening)
        return door

    def _run(self, step: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(timeout=20)
