"""Settings are rejected early, with the field's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.config import WorkerSettings, cores, secrets_from_files
from worker.errors import SettingsError


def test_given_beats_environment_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_MIN_FACE", "60")
    monkeypatch.setenv("MIEN_BATCH_SIZE", "3")
    settings = WorkerSettings.load(batch_size=5, min_face=None)
    assert (settings.min_face, settings.batch_size, settings.threads) == (60, 5, cores())


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    control = tmp_path / "cpu.max"
    without = cores(control)
    control.write_text("100000 100000\n")
    assert cores(control) == 1
    control.write_text("max 100000\n")
    assert cores(control) == without


@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", 0), ("min_face", 5), ("provider", "abacus"), ("batch_size", "many")],
)
def test_a_bad_value_is_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"setting {name} = {value!r}") as error:
        WorkerSettings.load(**{name: value})
    assert "\n" not in str(error.value)


def test_lists_in_the_environment_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_FEEDS", "hall, door")
    monkeypatch.setenv("MIEN_FACE_THRESHOLDS", "0.5,0.6,0.9")
    settings = WorkerSettings.load()
    assert (settings.feeds, settings.face_thresholds) == (("hall", "door"), (0.5, 0.6, 0.9))
    for bad in ("x", "0.5,0.6", ""):
        monkeypatch.setenv("MIEN_FACE_THRESHOLDS", bad)
        with pytest.raises(SettingsError, match="face_thresholds"):
            WorkerSettings.load()


def test_the_environment_is_checked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_LEASE_TTL_S", "soon")
    with pytest.raises(SettingsError, match="lease_ttl_s"):
        WorkerSettings.load()


def test_the_servers_url_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = tmp_path / "url"
    url.write_text("rediss://worker:s3cret@db:6379\n")
    monkeypatch.setenv("MIEN_REDIS", "redis://elsewhere")
    monkeypatch.setenv("MIEN_REDIS_FILE", str(url))
    secrets_from_files()
    assert WorkerSettings.load().redis == "rediss://worker:s3cret@db:6379"


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), (b"\n", "is empty"), (b"\xff", "not text")]
)
def test_a_file_that_holds_no_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, why: str
) -> None:
    url = tmp_path / "url"
    if content is not None:
        url.write_bytes(content)
    monkeypatch.setenv("MIEN_REDIS_FILE", str(url))
    with pytest.raises(SettingsError, match=why):
        secrets_from_files()
