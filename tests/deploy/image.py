"""deploy/Dockerfile carried out without an engine: each stage is a folder, each RUN a chroot of it.

The base image's Python is the one that runs this, hard-linked to where the image has it; the rest
of its system is this machine's /usr, read-only. Needs root and Linux (mount namespaces).
"""

from __future__ import annotations

import fnmatch
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import dockerfile

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OF_THE_HOST = (
    "resolv.conf",
    "hosts",
    "ssl",
    "pip.conf",
    "ld.so.conf",
    "ld.so.conf.d",
    "nsswitch.conf",
)


def can_run() -> bool:
    """Whether this machine lets us make mount namespaces, and has a Python of its own to link."""
    if os.geteuid() != 0 or sys.base_prefix == "/usr" or not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction, as the official parser reads it."""

    instruction: str
    words: tuple[str, ...]
    flags: tuple[str, ...]
    json: bool


@dataclass(slots=True)
class Stage:
    """One FROM and what follows it."""

    base: str
    steps: list[Step] = field(default_factory=list)


def stages(path: Path = DOCKERFILE) -> dict[str, Stage]:
    """The stages by name, in order. A base that is no stage is an image's name, ARGs filled in."""
    found: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    for command in dockerfile.parse_file(str(path)):
        instruction = command.cmd.upper()
        if instruction == "FROM":
            base, _, name = command.value
            found[name] = Stage(Template(base).substitute(arguments))
        elif found:
            step = Step(instruction, command.value, command.flags, command.json)
            next(reversed(found.values())).steps.append(step)
        else:
            arguments |= [word.split("=", 1) for word in command.value]  # ARGs before any FROM
    return found


@dataclass(slots=True)
class Image:
    """A stage that is built: a tree, and how a process in it begins."""

    tree: Path
    environment: dict[str, str]
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()
    stopsignal: str = "SIGTERM"
    labels: dict[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()


class Builder:
    """Builds stages into a folder, each once."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self._folder, self._cache = folder, cache
        self._stages = stages()
        self._built: dict[str, Image] = {}

    def build(self, name: str) -> Image:
        """The image of stage ``name``; CalledProcessError with its output where a step fails."""
        if name not in self._built:
            stage = self._stages[name]
            tree = self._folder / name
            if stage.base in self._stages:
                under = self.build(stage.base)
                image = Image(tree, dict(under.environment), under.workdir, under.user)
                image.entrypoint, image.labels = under.entrypoint, dict(under.labels)
                image.stopsignal = under.stopsignal
                _link(under.tree, tree)
            else:
                base = self._folder / "base"
                if not base.exists():
                    _base(base)
                _link(base, tree)
                image = Image(tree, {"PATH": _PATH, "HOME": "/root"})
            for step in stage.steps:
                self._do(image, step)
            self._built[name] = image
        return self._built[name]

    def _do(self, image: Image, step: Step) -> None:
        words = step.words
        match step.instruction:
            case "ARG":
                name, _, value = words[0].partition("=")
                image.environment.setdefault(name, value)
            case "ENV":
                for name, value in zip(words[::2], words[1::2], strict=True):
                    image.environment[name] = _filled(value, image.environment)
            case "LABEL":
                image.labels |= {
                    n: v.strip('"') for n, v in zip(words[::2], words[1::2], strict=True)
                }
            case "WORKDIR":
                image.workdir = words[0]
                (image.tree / words[0].lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                image.user = words[0]
            case "STOPSIGNAL":
                image.stopsignal = words[0]
            case "EXPOSE":
                image.ports = words
            case "ENTRYPOINT":
                image.entrypoint = words
            case "CMD":
                image.command = words
            case "HEALTHCHECK":
                image.healthcheck = words[1:] if words[0] == "CMD" else ()
            case "COPY":
                self._copy(image, step)
            case "RUN":
                mounts = {
                    part.removeprefix("target="): self._cache
                    for flag in step.flags if flag.startswith("--mount=type=cache")
                    for part in flag.split(",") if part.startswith("target=")
                }  # fmt: skip
                shell = ["/bin/sh", "-c", words[0]]
                # Modules compiled beforehand are quicker to start, and take the longest to make.
                quicker = {"PIP_NO_COMPILE": "1"}
                process = started(image, shell, mounts=mounts, environment=quicker)
                done = subprocess.run(process, capture_output=True, text=True)
                if done.returncode:
                    raise AssertionError(f"RUN {words[0]}\n{done.stdout}\n{done.stderr}")
            case other:
                raise AssertionError(f"{other} is not known here")

    def _copy(self, image: Image, step: Step) -> None:
        *sources, target = step.words
        to = image.tree / str(Path(image.workdir) / target).lstrip("/")
        stage = [flag.removeprefix("--from=") for flag in step.flags if flag.startswith("--from=")]
        for source in sources:
            if stage:
                there = self.build(stage[0]).tree / source.lstrip("/")
                _link(there, to)
                continue
            for path in context(source):
                into = to / path.relative_to(source) if Path(source) != path else to
                into = into / path.name if target.endswith("/") and Path(source) == path else into
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, into)


def context(source: str = ".") -> list[Path]:
    """The files below ``source`` that the build is given: those that Dockerfile.dockerignore lets
    through, by the rules that this one uses (*, !name, **/name)."""
    rules = (DOCKERFILE.with_name("Dockerfile.dockerignore")).read_text().splitlines()
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", source],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    found = []
    for name in filter(None, tracked):
        taken = True
        for rule in rules:
            pattern = rule.lstrip("!")
            parts = Path(name).parts
            if pattern.startswith("**/"):
                hit = any(fnmatch.fnmatch(part, pattern[3:]) for part in parts)
            else:
                hit = pattern == "*" or parts[: len(Path(pattern).parts)] == Path(pattern).parts
            taken = rule.startswith("!") if hit else taken
        if taken and (ROOT / name).is_file():
            found.append(Path(name))
    return sorted(found)


def started(
    image: Image,
    words: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    mounts: Mapping[str, Path] | None = None,
    read_only: bool = False,
) -> list[str]:
    """The command that runs ``words`` in ``image`` as its user.

    ``read_only``: as ``docker run --read-only --cap-drop ALL --security-opt no-new-privileges
    --tmpfs /tmp`` does it.
    """
    tree = shlex.quote(str(image.tree))
    lines = ["set -e", f"mount --bind {tree} {tree}", f"cd {tree}"]
    for name in ("usr", "usr/local"):
        source = "/usr" if name == "usr" else f"{tree}/local"
        lines.append(f"mount --bind {source} {name}")
    lines.append("mount -o remount,bind,ro usr")
    lines += [
        "mount -t proc proc proc",
        "mount --rbind /dev dev",
        "mount -t tmpfs -o mode=1777 tmpfs tmp",
    ]
    for target, there in (mounts or {}).items():
        at = f"{tree}{target}"
        kind = "mkdir -p" if there.is_dir() else "touch"
        lines += [f"mkdir -p {Path(at).parent}", f"{kind} {at}", f"mount --bind {there} {at}"]
    if read_only:
        lines += ["mount -o remount,bind,ro usr/local", f"mount -o remount,bind,ro {tree}"]
    uid, _, gid = image.user.partition(":")
    who = ["--reuid", uid, "--regid", gid, "--clear-groups"] if uid != "0" else []
    locked = ["--no-new-privs", "--bounding-set", "-all", "--inh-caps", "-all"] if read_only else []
    given = {**image.environment, **(environment or {})}
    inner = ["setpriv", *who, *locked, "env", "-i", *[f"{n}={v}" for n, v in given.items()], *words]
    begin = f"cd {image.workdir} && exec {shlex.join(inner)}"
    lines.append(f"exec chroot . /bin/sh -c {shlex.quote(begin)}")
    return [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "/bin/sh",
        "-c",
        "\n".join(lines),
    ]


def _base(tree: Path) -> None:
    """What stands for python:3.11-slim."""
    for name in ("usr", "proc", "dev", "tmp", "etc", "root", "opt"):
        (tree / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    for name in _OF_THE_HOST:
        there = Path("/etc") / name
        if there.is_dir():
            shutil.copytree(there, tree / "etc" / name, symlinks=True)
        elif there.exists():
            shutil.copy2(there, tree / "etc" / name)
    # Its site-packages are this machine's own; the image's has pip and no more, and no tests.
    library = f"python{sys.version_info.major}.{sys.version_info.minor}"
    home = Path(sys.base_prefix)
    for part in ("bin", "lib"):
        (tree / "local" / part).mkdir(parents=True)
    for there in (*home.glob("bin/python3*"), *home.glob("lib/libpython*")):
        copy = tree / "local" / there.relative_to(home)
        shutil.copy2(there, copy, follow_symlinks=False)
    unwanted = shutil.ignore_patterns("site-packages", "test", "idlelib", "__pycache__", "config-*")
    shutil.copytree(home / "lib" / library, tree / "local/lib" / library, True, unwanted)
    (tree / "local/lib" / library / "site-packages").mkdir()
    python = tree / "local" / "bin" / "python"
    if not python.exists():
        python.symlink_to("python3")
    for words in (["ldconfig"], ["python", "-m", "ensurepip"]):
        process = started(Image(tree, {"PATH": _PATH}), words)
        subprocess.run(process, check=True, capture_output=True)


def _link(source: Path, target: Path) -> None:
    """A copy that shares the files' bytes; pip replaces files and does not write into them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-al", source, target], check=True)


def _filled(value: str, known: Mapping[str, str]) -> str:
    return Template(value.strip('"')).substitute(known)
