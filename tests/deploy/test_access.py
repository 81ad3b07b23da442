"""deploy/access on real servers: each user can do what it must, and nothing more."""

from __future__ import annotations

import shutil
import string
import subprocess
import threading
from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.delivery.machines import DEBIAN, EMBEDDED, Workshop, needs_redis
from tests.deploy.guarded import (
    ACCESS,
    ACTIONS,
    OURS,
    ROOT,
    USERS,
    Guarded,
    allowed,
    guarded_server,
    pipeline,
    prepare,
    set_up,
    tls_server,
)
from tests.feeds import frame_of, push_frames, wait_until
from worker.errors import FeedNameError, NotPermitted, ServerError, ServerUnavailable
from worker.operate.doctor import examine_server
from worker.subscribe.events import events
from worker.wire.keys import FeedKeys, check_feed_name
from worker.wire.registry import settings_of
from worker.wire.server import Server
from worker.wire.workers import live_workers

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs openssl for passwords and certificates"
)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    binary = EMBEDDED if request.param == "valkey" else DEBIAN
    if binary is None:
        pytest.skip("needs Debian's redis-server")
    with guarded_server(tmp_path_factory.mktemp("access"), binary) as found:
        prepare(found)
        yield found


def test_the_full_pipeline_each_step_as_its_user(guarded: Guarded) -> None:
    pipeline(guarded)


@pytest.mark.parametrize("name", ACTIONS)
def test_who_may_and_who_may_not(guarded: Guarded, name: str) -> None:
    action, expected = ACTIONS[name]
    assert {user for user in USERS if allowed(guarded, user, action)} == expected


def test_a_pusher_who_reads_events_is_refused_in_one_sentence(guarded: Guarded) -> None:
    with pytest.raises(NotPermitted, match="does not permit this to our user") as error:
        list(events(OURS, redis=guarded.url("pusher"), since="start", follow=False))
    assert "\n" not in str(error.value)


def test_a_pusher_goes_by_the_registry_and_does_not_change_it(guarded: Guarded) -> None:
    pusher = guarded.server("pusher")
    before = settings_of(guarded.server("operator"), OURS)
    writer = push_frames(pusher, OURS, 1, policy=None, depth=None, source="another label")
    assert writer.settings == before == settings_of(guarded.server("operator"), OURS)
    with pytest.raises(NotPermitted, match=f"feed {OURS} has policy = lossless"):
        push_frames(pusher, OURS, 1, policy="live", depth=None)
    with pytest.raises(NotPermitted, match="mien feeds set cam-unknown --new"):
        push_frames(pusher, "cam-unknown", 1)


def test_nobody_without_a_name(guarded: Guarded) -> None:
    with pytest.raises(ServerError, match="wants a user's name and password"):
        Server(guarded.machine.url).now_us()


def test_a_server_that_comes_back_without_scripts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A pusher may not bring them, and waits; the next one who may brings all of them."""
    with guarded_server(tmp_path_factory.mktemp("restart")) as guarded:
        prepare(guarded)
        writer = push_frames(guarded.server("pusher"), OURS, 1)
        said: list[str] = []
        writer._say = said.append
        guarded.machine.kill()
        guarded.machine.start()
        pushed = threading.Thread(target=lambda: writer.push(frame_of(writer, 1)))
        pushed.start()
        wait_until(lambda: any("does not have mien's scripts" in words for words in said))
        assert pushed.is_alive()
        live_workers(guarded.server("worker"))  # any script, as a worker runs one every second
        pushed.join(timeout=20)
        assert not pushed.is_alive()
        assert guarded.server("operator").command("XLEN", FeedKeys.of(OURS).frames) == 2


def test_the_file_as_it_comes_lets_nobody_in(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Workshop(tmp_path_factory.mktemp("raw")) as workshop:
        machine = workshop.machine(f"aclfile {ACCESS / 'users.acl'}")
        for user in (*USERS, "default"):
            for password in ("", "0" * 64, user, "mien"):
                server = Server(f"redis://{user}:{password}@127.0.0.1:{machine.port}")
                with pytest.raises(ServerError, match=r"refused our name or password|wants a user"):
                    server.now_us()


def test_setup_keeps_passwords_and_renews_rules(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("setup") / "secrets"
    set_up(folder)
    first = {path.name: path.read_text() for path in folder.iterdir()}
    (folder / "users.acl").write_text("of an older version")
    set_up(folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == first
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "ca.key").stat().st_mode & 0o077 == 0
    passwords = {(folder / f"{user}.url").read_text().split("@")[0] for user in USERS}
    assert len(passwords) == len(USERS)
    assert not any(password.split(":")[2] in first["users.acl"] for password in passwords)
    push = (ROOT / "worker/wire/scripts/push.lua").read_bytes()
    digest = subprocess.run(["sha1sum"], input=push, capture_output=True, check=True).stdout[:40]
    assert f"+evalsha|{digest.decode()}" in first["users.acl"]


def test_the_operators_doctor_is_told_everything(guarded: Guarded) -> None:
    findings = {finding.about: finding for finding in examine_server(guarded.server("operator"))}
    assert findings["eviction"].status == "good"
    assert findings["access"].status == findings["wake-up"].status == "good"
    assert not [finding for finding in findings.values() if finding.status in ("unknown", "bad")]


@needs_redis
def test_the_pipeline_over_tls(tmp_path_factory: pytest.TempPathFactory) -> None:
    with tls_server(tmp_path_factory.mktemp("tls")) as guarded:
        prepare(guarded)
        pipeline(guarded)
        with pytest.raises(ServerUnavailable):
            Server(f"redis://127.0.0.1:{guarded.machine.port}").now_us()
        stranger = guarded.url("operator").split("&")[0]  # no certificate of ours
        with pytest.raises(ServerError, match="ssl_certfile"):
            Server(stranger).now_us()
        config = guarded.server("operator").command("CONFIG", "GET", "maxmemory-policy")
        assert b"noeviction" in (config.values() if isinstance(config, dict) else config)


NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=100).filter(
    lambda name: name[0] not in "._-"
)


@given(NAMES, NAMES)
def test_no_feed_has_a_key_of_another(one: str, other: str) -> None:
    check_feed_name(one)
    mine, theirs = FeedKeys.of(one), FeedKeys.of(other)
    keys = {getattr(mine, name) for name in FeedKeys.__slots__}
    assert len(keys) == len(FeedKeys.__slots__)
    assert one == other or keys.isdisjoint({getattr(theirs, name) for name in FeedKeys.__slots__})
    assert fnmatchcase(mine.frames, "mien:{cam-*}:frames") == one.startswith("cam-")


@given(st.text(max_size=120))
def test_what_could_forge_a_key_is_no_name(name: str) -> None:
    try:
        check_feed_name(name)
    except FeedNameError:
        return
    assert set(name) <= set(string.ascii_letters + string.digits + "._-")
    assert 1 <= len(name) <= 100
