"""TLS on Debian's redis-server: the whole main job, and a sentence for each thing that is wrong."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.delivery.machines import DEBIAN, Workshop, needs_redis
from tests.doubles import running_worker
from tests.feeds import push_frames, wait_until
from tests.ports import free_port
from worker.errors import ServerError, ServerUnavailable, SettingsError
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.server import Server

pytestmark = [
    needs_redis,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for certificates"),
]


def _openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def authority(folder: Path, name: str) -> Path:
    """A certificate authority of our own: its certificate, the key beside it."""
    certificate = folder / f"{name}.crt"
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate),
        "-days", "2", "-subj", f"/CN={name}",
    )  # fmt: skip
    return certificate


def certificate_of(folder: Path, name: str, signer: Path, host: str) -> Path:
    """A certificate for ``host`` (as openssl's subjectAltName has it); the key beside it."""
    certificate = folder / f"{name}.crt"
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate),
        "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={host}",
        "-addext", "basicConstraints=critical,CA:FALSE",
        "-CA", str(signer), "-CAkey", str(signer.with_suffix(".key")),
    )  # fmt: skip
    return certificate


@dataclass(frozen=True)
class Secured:
    """A server that wants TLS, our certificate, and a user's name and password."""

    port: int
    folder: Path

    def url(self, *options: str, user: str = "mien:s3cret", host: str = "127.0.0.1") -> str:
        return f"rediss://{user}@{host}:{self.port}?{'&'.join(options)}"

    @property
    def ours(self) -> tuple[str, str]:
        """The options that give our certificate."""
        return (
            f"ssl_certfile={self.folder / 'client.crt'}",
            f"ssl_keyfile={self.folder / 'client.key'}",
        )

    @property
    def trusted(self) -> str:
        return f"ssl_ca_certs={self.folder / 'ca.crt'}"

    @property
    def good(self) -> str:
        return self.url(self.trusted, *self.ours)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    assert DEBIAN is not None
    folder = tmp_path_factory.mktemp("tls")
    ca = authority(folder, "ca")
    authority(folder, "stranger")
    certificate_of(folder, "server", ca, "IP:127.0.0.1")
    certificate_of(folder, "client", ca, "DNS:client")
    port = free_port()
    with Workshop(folder) as workshop:
        workshop.machine(
            "port 0",
            f"tls-port {port}",
            f"tls-ca-cert-file {ca}",
            f"tls-cert-file {folder / 'server.crt'}",
            f"tls-key-file {folder / 'server.key'}",
            "user default off",
            "user mien on >s3cret ~mien:* +@all",
            binary=DEBIAN,
        )
        yield Secured(port, folder)


def test_the_main_job_over_tls(secured: Secured, feed: str) -> None:
    server = Server(secured.good)
    push_frames(server, feed, 20)
    with running_worker(secured.good):
        wait_until(lambda: read_books(server, feed).published == 20)
        found = events(feed, redis=secured.good, since="start", follow=False)
        assert [event.sequence for event in found] == list(range(20))
    assert read_books(server, feed).balanced


def refusal(url: str) -> str:
    """The one sentence that somebody has to act on; it keeps the password."""
    server = Server(url)
    with pytest.raises(ServerError) as error:
        server.now_us()
    assert not isinstance(error.value, ServerUnavailable), error.value
    said = str(error.value)
    assert "s3cret" not in said
    assert "\n" not in said
    assert server.name in said
    return said


def test_an_authority_that_we_do_not_trust(secured: Secured) -> None:
    strangers = f"ssl_ca_certs={secured.folder / 'stranger.crt'}"
    assert "certificate is not to be trusted" in refusal(secured.url(strangers, *secured.ours))
    assert "certificate is not to be trusted" in refusal(secured.url(*secured.ours))


def test_a_certificate_for_another_host(secured: Secured) -> None:
    assert "not valid for 'localhost'" in refusal(
        secured.url(secured.trusted, *secured.ours, host="localhost")
    )
    unchecked = secured.url(
        secured.trusted, *secured.ours, "ssl_check_hostname=false", host="localhost"
    )
    assert Server(unchecked).now_us() > 0


def test_a_server_that_wants_our_certificate(secured: Secured) -> None:
    """It says so and hangs up; whether we hear it depends on what we are doing just then."""
    with pytest.raises(ServerError, match="ssl_certfile") as error:
        Server(secured.url(secured.trusted)).now_us()
    assert "s3cret" not in str(error.value)


def test_no_tls_where_it_is_wanted(secured: Secured) -> None:
    with pytest.raises(ServerUnavailable, match=f"redis://127.0.0.1:{secured.port}"):
        Server(f"redis://mien:s3cret@127.0.0.1:{secured.port}").now_us()


def test_a_wrong_password_over_tls(secured: Secured) -> None:
    said = refusal(secured.url(secured.trusted, *secured.ours, user="mien:s3cret2"))
    assert "refused our name or password" in said


def test_files_that_cannot_be_used_are_named_before_any_connection(
    secured: Secured, tmp_path: Path
) -> None:
    missing, empty = tmp_path / "missing.crt", tmp_path / "empty.crt"
    empty.touch()
    locked = tmp_path / "locked.key"
    _openssl(
        "ec", "-in", str(secured.folder / "client.key"), "-aes128", "-passout", "pass:s3cret",
        "-out", str(locked),
    )  # fmt: skip
    for options, named in (
        ([f"ssl_ca_certs={missing}"], "No such file"),
        ([f"ssl_ca_certs={empty}"], "empty.crt"),
        ([f"ssl_certfile={missing}"], "missing.crt"),
        ([f"ssl_keyfile={missing}"], "no ssl_certfile"),
        ([secured.ours[0], f"ssl_keyfile={locked}"], "locked.key"),
        ([secured.ours[0], f"ssl_keyfile={secured.folder / 'server.key'}"], "server.key"),
    ):
        with pytest.raises(SettingsError, match=named) as error:
            Server(secured.url(*options))
        assert "s3cret" not in str(error.value)
