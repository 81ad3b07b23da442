"""Cameras over HTTP that do what a test says, connection by connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from worker.records import Image

BOUNDARY = "frame"


class Connection:
    """The server's end of one client's request."""

    def __init__(self, client: socket.socket, stop: threading.Event) -> None:
        self._client, self.stop = client, stop

    def head(self, content_type: str, *more: str, status: str = "200 OK") -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", "Connection: close", *more]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def send(self, data: bytes) -> None:
        self._client.sendall(data)

    def picture(self, image: Image) -> None:
        """One part of an MJPEG stream; call :meth:`mjpeg` first."""
        good, data = cv2.imencode(".jpg", image[..., ::-1] if image.ndim == 3 else image)
        assert good
        head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        self.send(head.encode() + np.asarray(data).tobytes() + b"\r\n")

    def mjpeg(self) -> None:
        self.head(f"multipart/x-mixed-replace; boundary={BOUNDARY}")


Script = Callable[[Connection], None]


class HttpCamera:
    """Plays one script for each connection; the last one for all that come after it.

    A script that returns cuts the connection.
    """

    def __init__(self, *scripts: Script, port: int = 0) -> None:
        self.scripts = scripts
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.settimeout(0.05)
        self._threads = [threading.Thread(target=self._serve)]
        self.connections = 0
        self.port = self._listener.getsockname()[1]
        self.url = f"http://user:secret@127.0.0.1:{self.port}/live?token=secret"
        self.name = f"http://127.0.0.1:{self.port}/live"

    def __enter__(self) -> HttpCamera:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            script = self.scripts[min(self.connections, len(self.scripts) - 1)]
            self.connections += 1
            self._threads.append(threading.Thread(target=self._play, args=(client, script)))
            self._threads[-1].start()

    def _play(self, client: socket.socket, script: Script) -> None:
        with client, contextlib.suppress(OSError):  # the client may leave at any time
            client.settimeout(5)
            client.recv(4096)
            script(Connection(client, self._stop))


def pictures(*images: Image, pause_s: float = 0.0, then_silent: bool = False) -> Script:
    """An MJPEG stream of ``images``; then the connection is cut, or nothing comes any more."""

    def script(to: Connection) -> None:
        to.mjpeg()
        for image in images:
            to.picture(image)
            if to.stop.wait(pause_s):
                return
        if then_silent:
            to.stop.wait(60)

    return script


def endless(image: Image, pause_s: float = 0.02) -> Script:
    def script(to: Connection) -> None:
        to.mjpeg()
        while not to.stop.wait(pause_s):
            to.picture(image)

    return script


def refusal(to: Connection) -> None:
    to.head("text/plain", status="503 Service Unavailable")


def file(path: Path, *, share: float = 1.0, stated: bool = True) -> Script:
    """A file of which only ``share`` arrives; ``stated``: its whole size is in the header."""
    data = path.read_bytes()

    def script(to: Connection) -> None:
        length = [f"Content-Length: {len(data)}"] if stated else []
        to.head("application/octet-stream", *length)
        to.send(data[: int(len(data) * share)])

    return script
