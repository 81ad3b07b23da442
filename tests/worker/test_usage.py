"""What processes take, as the system tells it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from worker import usage
from worker.usage import cpu_s, family, peak_bytes, resident_bytes

pytestmark = pytest.mark.skipif(not usage.TOLD, reason="only Linux tells it")
US = [os.getpid()]


def test_cpu_time_grows_with_work() -> None:
    before, began = cpu_s(US), time.process_time()
    while time.process_time() - began < 0.05:
        pass
    assert 0.03 <= cpu_s(US) - before < 5


def test_the_peak_stays_when_memory_is_given_back() -> None:
    wanted = peak_bytes(US) + 50_000_000
    held = b"x" * wanted
    assert resident_bytes(US) >= wanted
    del held
    assert peak_bytes(US) >= wanted > resident_bytes(US)


def test_a_family_is_a_process_and_those_it_has_started() -> None:
    before = family(os.getpid())
    assert before[0] == os.getpid()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert set(family(os.getpid())) - set(before) == {child.pid}
        assert cpu_s([*US, child.pid]) >= cpu_s(US)
        child.communicate(b"\n")
    assert family(os.getpid()) == before
