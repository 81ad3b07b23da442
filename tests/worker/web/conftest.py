"""The web application on a real server, behind a real uvicorn on a free port."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from tests.delivery.conftest import killable  # noqa: F401  (a fixture)
from tests.feeds import wait_until
from worker.web.access import Access
from worker.web.app import build
from worker.web.guard import Rules, loopback_names
from worker.web.hub import Hub
from worker.web.limits import Places
from worker.web.metrics import Metrics
from worker.web.serve import WebServer, listen, url_of
from worker.wire.server import Server


@dataclass
class Site:
    """One that serves."""

    url: str
    app: Starlette
    hub: Hub
    client: httpx.Client

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def json(self, path: str, **options: Any) -> Any:
        """The answer to a request that must go well."""
        answer = self.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path: str, **options: Any) -> tuple[int, str]:
        """Status and sentence of a request that must not."""
        answer = self.get(path, **options)
        body = answer.json()
        assert list(body) == ["error"]
        assert "\n" not in body["error"]
        return answer.status_code, body["error"]

    @contextmanager
    def live(self, path: str, **options: Any) -> Iterator[Stream]:
        """A live stream, open when this returns."""
        with self.client.stream("GET", path, **options) as answer:
            if answer.status_code != 200:
                answer.read()
                raise AssertionError(answer.text)
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield Stream(answer)


@dataclass
class Said:
    """One message of a live stream."""

    event: str
    id: str
    data: Any


@dataclass
class Stream:
    """What a browser's EventSource makes of a live stream."""

    answer: httpx.Response
    last_id: str = ""
    _lines: Iterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self._lines = self.answer.iter_lines()

    def ready(self) -> None:
        """Until the stream has said where it begins."""
        while not self.last_id:
            self._message()

    def next(self, *kinds: str) -> Said:
        """The next message of these kinds; if none is said, of any but heartbeats and previews."""
        while True:
            said = self._message()
            if said is None:
                continue
            if said.event in kinds or (not kinds and said.event not in ("beat", "preview")):
                return said

    def take(self, count: int) -> list[Said]:
        return [self.next() for _ in range(count)]

    def _message(self) -> Said | None:
        event, data = "message", list[str]()
        for line in self._lines:
            if not line:
                break
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_id = value
            elif name == "event":
                event = value
            elif name == "data":
                data.append(value)
        else:
            raise EOFError("the stream has ended")
        return Said(event, self.last_id, json.loads("\n".join(data))) if data else None


@contextmanager
def serving(
    server: Server,
    *,
    tokens: Path | None = None,
    places: Places | None = None,
    rules: Rules | None = None,
) -> Iterator[Site]:
    registry = CollectorRegistry()
    listening = listen("127.0.0.1", 0)
    web = build(
        server,
        Access(tokens),
        rules or Rules(hosts=loopback_names(), per_s=10_000, burst=10_000),
        places or Places(300, 300),
        Metrics(registry),
        registry,
    )
    web_server = WebServer(web, max_live=300)
    thread = threading.Thread(target=web_server.run, kwargs={"sockets": [listening]})
    thread.start()
    url = url_of(listening).rstrip("/")
    try:
        wait_until(lambda: web_server.started)
        with httpx.Client(base_url=url, timeout=30) as client:
            yield Site(url, web.app, web.hub, client)
    finally:
        web_server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive(), "the web server did not stop"


Serve = Callable[..., Site]


@pytest.fixture
def serve(server: Server) -> Iterator[Serve]:
    """Serves the test's server with options of ``serving``."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(serving(server, **options))


@pytest.fixture
def site(serve: Serve) -> Site:
    """Open to everybody."""
    return serve()
