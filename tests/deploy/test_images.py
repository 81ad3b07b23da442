"""deploy/Dockerfile: linted, its steps carried out in a chroot, and what comes of them run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.deploy.image import DOCKERFILE, ROOT, Builder, Image, can_run, context, stages, started
from tests.feeds import push_frames, wait_until
from worker.subscribe.events import events
from worker.wire.books import read_books
from worker.wire.server import Server

TARGETS = ("worker-cpu", "worker-gpu", "web", "training")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_hadolint_has_nothing_to_say() -> None:
    lint = Path(sys.executable).with_name("hadolint")
    if not lint.exists():
        pytest.skip("needs hadolint (in the extra dev)")
    done = subprocess.run([lint, DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_one_base_pinned_by_its_exact_version() -> None:
    bases = {stage.base for stage in stages().values()} - stages().keys()
    (base,) = bases
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base)


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_is_locked_and_watched(target: str) -> None:
    last = {step.instruction: step for step in stages()[target].steps}
    shared = {step.instruction: step for step in stages()["runtime"].steps}
    assert stages()[target].base == "runtime"
    assert shared["USER"].words == ("10001:10001",)
    assert shared["STOPSIGNAL"].words == ("SIGTERM",)
    assert shared["ENTRYPOINT"].words == ("mien",)
    assert "USER" not in last
    assert "RUN" not in last  # what builds stays behind
    if target == "training":
        assert last["HEALTHCHECK"].words == ("NONE",)
    else:
        assert f":{last['EXPOSE'].words[0]}/healthz" in " ".join(last["HEALTHCHECK"].words)


def test_the_build_is_given_what_it_needs_and_no_more() -> None:
    given = {str(path) for path in context()}
    assert {"pyproject.toml", "constraints.txt", "LICENSE", "worker/app.py"} <= given
    assert "worker/wire/scripts/push.lua" in given
    assert not [name for name in given if name.startswith(("tests", "deploy", ".git"))]


def test_what_each_target_installs_is_pinned() -> None:
    """gpu and training are too large to install here: their direct requirements have a version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)
    extras = PROJECT["optional-dependencies"]
    for text in (*PROJECT["dependencies"], *extras["cpu"], *extras["gpu"], *extras["training"]):
        wanted = Requirement(text)
        name = wanted.name.lower().replace("_", "-")
        assert wanted.specifier.contains(pinned[name]), text


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    if not can_run():
        pytest.skip("needs root, unshare and a Python that is not the system's own")
    cache = Path.home() / ".cache" / "pip"
    cache.mkdir(parents=True, exist_ok=True)
    # In memory where there is some: hundreds of megabytes in small files, and gone again at once.
    memory = Path("/dev/shm")
    spacious = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    with tempfile.TemporaryDirectory(dir=memory if spacious else None) as folder:
        yield Builder(Path(folder), cache)


def inside(image: Image, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        started(image, words, read_only=True), capture_output=True, text=True, timeout=60
    )


@dataclass(frozen=True)
class Container:
    """A process in an image."""

    image: Image
    process: subprocess.Popen[str]
    log: Path

    def check(self) -> bool:
        """That it runs."""
        assert self.process.poll() is None, self.log.read_text()
        return True

    def healthy(self) -> bool:
        """What the image's own health check says."""
        return self.check() and inside(self.image, self.image.healthcheck).returncode == 0


@contextmanager
def running(
    image: Image, folder: Path, *, mounts: dict[str, Path] | None = None, **environment: str
) -> Iterator[Container]:
    """A container as its entry point starts it; at the end it is stopped as an engine does it,
    and must end by itself."""
    words = [*image.entrypoint, *image.command]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            started(image, words, environment=environment, mounts=mounts, read_only=True),
            stdout=log, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    container = Container(image, process, folder / "log")
    try:
        yield container
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), getattr(signal, image.stopsignal))
        assert process.wait(timeout=30) in (0, 128 + signal.SIGTERM), container.log.read_text()
    finally:
        process.kill()
        process.wait()


def test_the_worker_image_works(
    builder: Builder, server: Server, server_url: str, feed: str, tmp_path: Path
) -> None:
    image = builder.build("worker-cpu")
    assert image.labels["org.opencontainers.image.version"] == PROJECT["version"]
    for wanted, words in (
        ("10001", ["id", "-u"]),
        ("0000000000000000", ["sh", "-c", "grep CapEff /proc/self/status | cut -f2"]),
    ):
        assert inside(image, words).stdout.strip() == wanted
    assert "Read-only" in inside(image, ["touch", "/opt/mien/x"]).stderr
    assert inside(image, ["python", "-c", "import pip"]).returncode != 0
    assert inside(image, ["python", "-c", "import torch"]).returncode != 0

    settings = {"MIEN_REDIS": server_url, "MIEN_FEEDS": feed, "MIEN_METRICS_PORT": "9100"}
    with running(image, tmp_path, **settings) as container:
        push_frames(server, feed, 5)
        wait_until(lambda: container.check() and read_books(server, feed).published == 5, 60)
        assert container.healthy()
    found = list(events(feed, redis=server_url, since="start", follow=False))
    assert [event.sequence for event in found] == list(range(5))
    assert server.command("EXISTS", f"mien:{{{feed}}}:lease") == 0, "its feeds were released"


def test_the_web_image_answers(builder: Builder, server_url: str, tmp_path: Path) -> None:
    image = builder.build("web")
    assert inside(image, ["python", "-c", "import onnxruntime"]).returncode != 0
    tokens, url = tmp_path / "tokens", tmp_path / "url"
    tokens.touch(mode=0o644)
    url.write_text(server_url + "\n")
    for path in (tmp_path, *tmp_path.parents):
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o001)  # another user is to read what is mounted
            break
    token = inside_token(image, tokens)
    mounts = {"/run/secrets/tokens": tokens, "/run/secrets/url": url}
    files = {"MIEN_REDIS_FILE": "/run/secrets/url"}
    with running(image, tmp_path, mounts=mounts, **files) as container:
        wait_until(container.healthy, 60)
        at = "http://127.0.0.1:8080/api/feeds"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(at, timeout=10)
        assert refused.value.code == 401
        refused.value.close()
        request = urllib.request.Request(at, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200


def inside_token(image: Image, tokens: Path) -> str:
    """A token made by the image's own command, as root in front of a folder that it may write."""
    words = ["mien", "web", "token", "test", "--feeds", "*", "--tokens", "/tmp-tokens"]
    maker = Image(image.tree, image.environment)
    done = subprocess.run(
        started(maker, words, mounts={"/tmp-tokens": tokens}), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
