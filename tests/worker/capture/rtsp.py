"""The smallest RTSP server that FFmpeg will talk to: one H.264 track, over TCP."""

from __future__ import annotations

import io
import socket
import struct
import threading
import time
from types import TracebackType
from typing import Any

import av

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\nc=IN IP4 0.0.0.0\r\na=rtpmap:96 H264/90000\r\n"
    "a=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
)


class Packets(io.RawIOBase):
    """Collects what FFmpeg's RTP muxer writes: one packet a call."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.packets.append(bytes(data))
        return len(data)


def packetize(images: list[Any], rate: int) -> list[bytes]:
    """RTP (and some RTCP) packets of a clip without B-frames."""
    sink = Packets()
    with av.open(sink, "w", format="rtp", options={"packetsize": "1200"}) as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"bf": "0", "g": "10", "crf": "12"}
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.packets


class RtspServer:
    """Serves ``packets`` to ``clients``, one after the other; then waits, or hangs up.

    ``requests`` keeps the method and headers of each request, for the test to look at.
    """

    def __init__(self, packets: list[bytes], *, hang_up: bool = True, clients: int = 1) -> None:
        self._packets = packets
        self._clients = clients
        self._hang_up = hang_up
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.requests: list[str] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> RtspServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        self._listener.settimeout(10)
        for _ in range(self._clients):
            self._serve_one()

    def _serve_one(self) -> None:
        client, _ = self._listener.accept()
        with client, client.makefile("rb") as lines:
            while True:
                request = self._request(lines)
                if not request:
                    return
                self.requests.append(request)
                method = request.split()[0]
                client.sendall(self._reply(method, request))
                if method == "PLAY":
                    break
            for packet in self._packets:
                channel = 1 if 192 <= packet[1] <= 223 else 0  # RTCP has a channel of its own
                client.sendall(struct.pack(">cBH", b"$", channel, len(packet)) + packet)
                time.sleep(0.001)
            if not self._hang_up:
                self._stop.wait(30)

    def _request(self, lines: Any) -> str:
        request = ""
        for line in lines:
            if line == b"\r\n":
                break
            request += line.decode()
        return request

    def _reply(self, method: str, request: str) -> bytes:
        sequence = next(x.split(":")[1] for x in request.splitlines() if x.startswith("CSeq"))
        head, body = f"RTSP/1.0 200 OK\r\nCSeq: {sequence.strip()}\r\n", ""
        if method == "OPTIONS":
            head += "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = SDP
            head += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            head += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        return f"{head}\r\n{body}".encode()
