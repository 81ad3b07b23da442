"""``mien web``: what it refuses to do, that it stops, and that it serves what it says."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.worker.web.published import publish
from worker.wire.server import Server

MIEN = [sys.executable, "-m", "worker.app", "web"]


def run(*arguments: str | Path) -> tuple[int, str]:
    """Exit status and last words of a run that ends by itself."""
    done = subprocess.run([*MIEN, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip()


@contextmanager
def running(url: str, *arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running ``mien web``, and the URL at which it says that it serves."""
    words = ["--redis", url, "--port", "0", "--log-format", "logfmt", *map(str, arguments)]
    process = subprocess.Popen([*MIEN, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = ""
        while "web ready" not in line:
            line = process.stderr.readline()
            assert line, "it has ended"
        found = re.search(r'url="?(\S+?)"?(\s|$)', line)
        assert found
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "everybody who reaches 0.0.0.0 could read all feeds"),
        (["--host", "::"], "everybody who reaches :: could read all feeds"),
        (["--tokens", "nowhere.toml"], "there is no token file nowhere.toml"),
        (["--allow-origin", "*"], "--allow-origin * is no origin"),
        (["--tls-cert", "x.pem"], "--tls-cert and --tls-key belong together"),
        (["--tls-cert", "x.pem", "--tls-key", "x.pem"], "--tls-cert x.pem with --tls-key x.pem"),
        (["--session-key", "nowhere"], "cannot read --session-key nowhere"),
        (["--host", "no.such.host.invalid"], "cannot serve at no.such.host.invalid:0"),
        (["--host", "a..b"], "cannot serve at a..b:0"),
        (["--redis", "http://x"], "is not a server's URL"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], words: str) -> None:
    status, said = run("--port", "0", *arguments)
    assert status == 2
    assert words in said
    assert "\n" not in said


def test_an_address_in_use_is_said(server_url: str) -> None:
    with running(server_url) as (_, url):
        port = url.rstrip("/").rpartition(":")[2]
        status, said = run("--redis", server_url, "--port", port)
    assert status == 2
    assert f"cannot serve at 127.0.0.1:{port}: Address already in use" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_at_a_signal_though_somebody_looks_on(
    server: Server, server_url: str, number: signal.Signals
) -> None:
    publish(server, "cam1", 1)
    with (
        running(server_url) as (process, url),
        httpx.stream("GET", f"{url}api/feeds/cam1/events/live", timeout=30) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == ": mien"
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
        assert list(lines)[-1] == "", "the stream ended in order"


def test_a_token_made_by_the_command_lets_in(
    server: Server, server_url: str, tmp_path: Path
) -> None:
    publish(server, "cam1", 1)
    path = tmp_path / "tokens.toml"
    words = ["token", "wall", "--feeds", "cam*", "--expires", "90d", "--tokens", str(path)]
    made = subprocess.run([*MIEN, *words], capture_output=True, text=True, timeout=60)
    token = made.stdout.strip()
    assert re.fullmatch(r"mien_[\w-]{43}", token)
    assert token not in made.stderr
    with running(server_url, "--tokens", path, "--host", "0.0.0.0") as (_, url):
        url = url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}api/feeds").status_code == 401
        answer = httpx.get(f"{url}api/feeds", headers={"Authorization": f"Bearer {token}"})
    assert list(answer.json()["feeds"]) == ["cam1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["wall", "--feeds", "*"], "say which file"),
        (["wall", "--tokens", "x.toml"], "say for which feeds"),
        (["wall", "--feeds", "*", "--tokens", "x.toml", "--expires", "soon"], "no span of time"),
        (["a b", "--feeds", "*", "--tokens", "x.toml"], "name = 'a b' cannot be used"),
        (["wall", "--feeds", "*", "--tokens", "no/where.toml"], "cannot write the token file"),
    ],
)
def test_mistakes_with_tokens_are_one_sentence(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MIEN_TOKENS", raising=False)
    arguments = [str(tmp_path / word) if word.endswith(".toml") else word for word in arguments]
    status, said = run("token", *arguments)
    assert status == 2
    assert words in said
    assert "\n" not in said
