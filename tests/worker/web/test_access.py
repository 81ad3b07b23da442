"""Tokens, sessions, scopes, and what the guard turns away."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from tests.feeds import wait_until
from tests.worker.web.conftest import Serve, Site
from tests.worker.web.published import publish
from worker.errors import SettingsError
from worker.web.guard import Rules, loopback_names
from worker.web.tokens import find, new_token, read_tokens
from worker.wire.keys import FeedKeys
from worker.wire.registry import register
from worker.wire.server import Server

LIVE = "/api/feeds/cam1/events/live"
HOUR = timedelta(hours=1)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    new_token(path, "someone-else", ("nothing",))
    return path


@pytest.fixture
def guarded(serve: Serve, server: Server, tokens: Path) -> Site:
    """Wants tokens; has the feeds cam1, cam2 and door."""
    for feed in ("cam1", "cam2", "door"):
        publish(server, feed, 1)
    return serve(tokens=tokens)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def taken_up(site: Site, token: str) -> None:
    """Wait until the site knows a token that is new in its file: it looks every second."""
    for _ in range(100):
        if site.get("/api/session", headers=bearer(token)).status_code == 200:
            return
        time.sleep(0.2)  # many wrong ones would be told to wait
    raise AssertionError("the token was not taken up")


@contextmanager
def connected(site: Site, said: str) -> Iterator[socket.socket]:
    """A connection on which this was sent, as it is."""
    port = int(site.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(said.encode())
        yield connection


def sign_in(site: Site, token: str) -> httpx.Response:
    taken_up(site, token)
    answer = site.client.post("/api/session", json={"token": token})
    assert answer.status_code == 200
    return answer


# Tokens.


def test_a_token_is_shown_once_and_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    until = datetime.now(UTC) + HOUR
    made = new_token(path, "wall", ("cam*", "door"), until)
    assert path.stat().st_mode & 0o777 == 0o600
    assert made not in path.read_text()
    (token,) = read_tokens(path)
    assert (token.name, token.feeds) == ("wall", ("cam*", "door"))
    assert token.expires is not None
    assert abs(token.expires - until) < timedelta(seconds=1)
    assert find((token,), made) == token
    assert find((token,), made + "x") is None
    assert new_token(path, "other", ("*",)) != made
    assert len(read_tokens(path)) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[[token]]\nname = 1", "token 1 name"),
        ('[[token]]\nname = "a"\nsha256 = "x"\nfeeds = ["*"]', "token 1 sha256"),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nfeeds = []', "token 1 feeds"),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nfeeds = ["a b"]', "token 1 feeds 1"),
        (
            f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nfeeds = ["*"]\n'
            "expires = 2027-01-01T00:00:00",
            "token 1 expires",
        ),
        (f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nfeeds = ["*"]\n' * 2, "two tokens"),
        ("secret = 1", "secret"),
        ("[[token", "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_fault(
    tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(content)
    with pytest.raises(SettingsError) as error:
        read_tokens(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)


def test_a_name_and_a_pattern_that_cannot_be_used(tokens: Path) -> None:
    with pytest.raises(SettingsError, match="name = 'a b' cannot be used"):
        new_token(tokens, "a b", ("*",))
    with pytest.raises(SettingsError, match=r"feeds = '\{x\}' cannot be used"):
        new_token(tokens, "a", ("{x}",))
    with pytest.raises(SettingsError, match="has a token of the name someone-else already"):
        new_token(tokens, "someone-else", ("*",))


# Who may see what.


def test_a_token_is_wanted_for_all_but_the_page(guarded: Site, tokens: Path) -> None:
    made = new_token(tokens, "wall", ("cam*",))
    for path in ("/api/feeds", "/api/workers", LIVE, "/metrics", "/api/session", "/api/nothing"):
        answer = guarded.get(path)
        assert (answer.status_code, answer.json()) == (401, {"error": "a valid token is wanted"})
        assert answer.headers["www-authenticate"] == "Bearer"
        assert guarded.get(path, headers=bearer("mien_wrong")).status_code == 401
        assert guarded.get(path, headers={"Authorization": f"Basic {made}"}).status_code == 401
    for path in ("/", "/healthz", "/readyz", "/api/openapi.json"):
        assert guarded.get(path).status_code == 200
    taken_up(guarded, made)


def test_feeds_outside_the_scope_do_not_exist(guarded: Site, server: Server, tokens: Path) -> None:
    made = new_token(tokens, "wall", ("cam*",))
    for feed in ("cam3", "vault"):
        register(server, feed)
        server.command("SET", FeedKeys.of(feed).stats, "no books")
    taken_up(guarded, made)
    headers = bearer(made)
    assert set(guarded.json("/api/feeds", headers=headers)["feeds"]) == {"cam1", "cam2"}
    assert guarded.json("/api/workers", headers=headers) == {"workers": []}
    assert len(guarded.json("/api/feeds/cam1/events", headers=headers)["events"]) == 1
    for path in ("events", "summary", "preview", "events/live"):
        hidden = guarded.get(f"/api/feeds/door/{path}", headers=headers)
        absent = guarded.get(f"/api/feeds/nine/{path}", headers=headers)
        assert hidden.status_code == absent.status_code == 404
        assert hidden.text.replace("door", "nine") == absent.text
    complaints = guarded.json("/api/feeds", headers=headers)["complaints"]
    assert "cam3" in complaints, "though nothing else can be said of it"
    assert set(complaints) <= {"cam1", "cam2", "cam3"}
    several = "/api/events/live?feed=cam1&feed=door"
    assert guarded.refused(several, headers=headers) == (404, "no feed door is registered")
    assert guarded.refused("/metrics", headers=headers)[0] == 403


def test_a_token_for_everything_sees_metrics(guarded: Site, tokens: Path) -> None:
    made = new_token(tokens, "prometheus", ("*",))
    taken_up(guarded, made)
    headers = bearer(made)
    assert guarded.get("/metrics", headers=headers).status_code == 200
    assert set(guarded.json("/api/feeds", headers=headers)["feeds"]) == {"cam1", "cam2", "door"}


def test_an_expired_token_is_none(guarded: Site, tokens: Path) -> None:
    old = new_token(tokens, "old", ("*",), datetime.now(UTC) - HOUR)
    new = new_token(tokens, "new", ("*",), datetime.now(UTC) + HOUR)
    taken_up(guarded, new)
    assert guarded.refused("/api/feeds", headers=bearer(old))[0] == 401


def test_a_token_taken_out_of_the_file_ends_sessions_and_streams(
    guarded: Site, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.web.viewer.BEAT_S", 0.2)
    before = tokens.read_text()
    made = new_token(tokens, "wall", ("cam*",))
    sign_in(guarded, made)
    with guarded.live(LIVE, headers=bearer(made)) as stream:
        stream.ready()
        tokens.write_text(before)
        with pytest.raises(EOFError):
            stream.next("never")
    assert guarded.refused("/api/feeds", headers=bearer(made))[0] == 401
    assert guarded.refused("/api/feeds")[0] == 401, "nor by the session's cookie"


def test_a_broken_file_leaves_the_tokens_of_before(guarded: Site, tokens: Path) -> None:
    first = new_token(tokens, "first", ("*",))
    taken_up(guarded, first)
    good = tokens.read_text()
    tokens.write_text("[[token")
    with capture_logs() as lines:
        wait_until(lambda: guarded.get("/api/feeds").status_code and bool(lines))
    assert "the tokens of before stay" in lines[0]["event"]
    taken_up(guarded, first)
    tokens.write_text(good)
    second = new_token(tokens, "second", ("*",))
    taken_up(guarded, second)


# Sessions.


def test_a_browser_gets_a_session_for_its_token(guarded: Site, tokens: Path) -> None:
    made = new_token(tokens, "wall", ("cam*",))
    answer = sign_in(guarded, made)
    assert answer.json() == {"tokens": True, "name": "wall", "feeds": ["cam*"], "expires": None}
    cookie = answer.headers["set-cookie"]
    assert made not in cookie
    for word in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"):
        assert word in cookie
    assert guarded.json("/api/session")["name"] == "wall"
    with guarded.live(LIVE) as stream:
        stream.ready()
    assert guarded.client.delete("/api/session").status_code == 204
    assert guarded.refused("/api/session")[0] == 401


@pytest.mark.parametrize("change", ["name", "time", "signature", "length"])
def test_a_forged_cookie_is_none(guarded: Site, tokens: Path, change: str) -> None:
    made = new_token(tokens, "wall", ("cam*",))
    sign_in(guarded, made)
    name, expires, signature = guarded.client.cookies["mien_session"].split("~")
    forged = {
        "name": f"someone-else~{expires}~{signature}",
        "time": f"{name}~{int(expires) + 1}~{signature}",
        "signature": f"{name}~{expires}~{'A' * len(signature)}",
        "length": f"{name}~{expires}",
    }[change]
    guarded.client.cookies.clear()
    assert guarded.refused("/api/feeds", headers={"Cookie": f"mien_session={forged}"})[0] == 401


def test_a_session_ends_with_its_time_and_is_renewed_before(
    guarded: Site, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = new_token(tokens, "wall", ("cam*",))
    sign_in(guarded, made)
    old = guarded.client.cookies["mien_session"]
    assert "set-cookie" not in guarded.get("/api/feeds").headers
    now = time.time
    monkeypatch.setattr("worker.web.access.time.time", lambda: now() + 7 * 3600)
    assert "mien_session=wall~" in guarded.get("/api/feeds").headers["set-cookie"]
    assert guarded.client.cookies["mien_session"] != old
    monkeypatch.setattr("worker.web.access.time.time", lambda: now() + 13 * 3600)
    guarded.client.cookies.clear()
    assert guarded.refused("/api/feeds", headers={"Cookie": f"mien_session={old}"})[0] == 401


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"token": "mien_wrong"}', {"Content-Type": "application/json"}, 401),
        (b'{"token": "\\ud800"}', {"Content-Type": "application/json"}, 401),
        (b'{"token": 1}', {"Content-Type": "application/json"}, 400),
        (b"[]", {"Content-Type": "application/json"}, 400),
        (b"{", {"Content-Type": "application/json"}, 400),
        (b"\xff", {"Content-Type": "application/json"}, 400),
        (b"[" * 4000, {"Content-Type": "application/json"}, 400),
        (b'{"token": "x"}', {"Content-Type": "text/plain"}, 415),
        (b"token=x", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (
            b'{"token": "x"}',
            {"Content-Type": "application/json", "Origin": "https://evil.example"},
            403,
        ),
        (b" " * 5000, {"Content-Type": "application/json"}, 413),
    ],
)
def test_what_is_no_token_gets_no_session(
    guarded: Site, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = guarded.client.post("/api/session", content=body, headers=headers)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert "set-cookie" not in answer.headers


def test_a_body_that_grows_is_cut_off(guarded: Site) -> None:
    parts = (b" " * 1000 for _ in range(100))
    headers = {"Content-Type": "application/json"}
    answer = guarded.client.post("/api/session", content=parts, headers=headers)
    assert answer.status_code == 413


def test_a_body_that_does_not_come_is_not_waited_for(
    guarded: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.web.guard._BODY_S", 0.2)
    head = "POST /api/session HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with connected(guarded, f"{head}Content-Length: 100\r\n\r\n{{") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
    with connected(guarded, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("head", ["", "GET / HTTP/1.1\r\nHos"])
def test_who_says_nothing_is_not_kept(
    site: Site, server: Server, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr("worker.web.serve._REQUEST_S", 0.3)
    publish(server, "cam1", 1)
    with site.live(LIVE) as stream, connected(site, head) as connection:
        stream.ready()
        assert connection.recv(4096) == b""
        publish(server, "cam1", 1, first=2)
        assert stream.next().event == "event", "a stream in which nothing is asked goes on"


def test_without_tokens_there_is_nothing_to_sign_in_to(site: Site) -> None:
    assert site.json("/api/session") == {
        "tokens": False, "name": None, "feeds": ["*"], "expires": None
    }  # fmt: skip
    answer = site.client.post("/api/session", json={"token": "x"})
    assert answer.status_code == 409
    assert "has no tokens" in answer.json()["error"]


# Limits, and what browsers are told.


def test_too_many_requests_are_told_to_wait(serve: Serve) -> None:
    site = serve(rules=Rules(per_s=1, burst=5))
    answers = [site.get("/healthz") for _ in range(8)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert answers[-1].headers["retry-after"] == "1"
    assert answers[-1].json() == {"error": "too many requests: wait a little"}


def test_many_wrong_tokens_are_told_to_wait_and_the_right_one_is_not(
    guarded: Site, tokens: Path
) -> None:
    made = new_token(tokens, "wall", ("*",))
    taken_up(guarded, made)
    found = [guarded.refused("/api/feeds", headers=bearer(f"mien_{n}"))[0] for n in range(30)]
    assert found[0] == 401
    assert found[-1] == 429
    assert guarded.get("/api/feeds", headers=bearer(made)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost:9999"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": ""}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)
def test_other_names_and_other_sites_are_turned_away(
    site: Site, headers: dict[str, str], status: int
) -> None:
    assert site.get("/api/feeds", headers=headers).status_code == status


def test_a_site_that_is_allowed_may_read(serve: Serve) -> None:
    there = "https://wall.example"
    site = serve(rules=Rules(hosts=loopback_names(), origins=(there,)))
    answer = site.get("/api/feeds", headers={"Origin": there, "Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == there
    assert "access-control-allow-credentials" not in answer.headers
    asks = {"Origin": there, "Access-Control-Request-Method": "GET"}
    asks["Access-Control-Request-Headers"] = "authorization"
    assert site.client.options("/api/feeds", headers=asks).status_code == 200
    other = site.get("/api/feeds", headers={"Origin": "https://evil.example"})
    assert other.status_code == 403
    assert "access-control-allow-origin" not in other.headers


def test_browsers_are_told_what_to_refuse(site: Site) -> None:
    for path in ("/", "/api/feeds", "/api/nothing", "/healthz"):
        headers = site.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


def test_a_long_url_is_refused(site: Site) -> None:
    assert site.refused("/api/feeds?" + "x" * 20_000)[0] == 414
