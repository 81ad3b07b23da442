"""What processes take, as the system tells it."""

from __future__ import annotations

import os
import time

import pytest

from tests.children import child
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
    with child("sum(range(10**7))") as other:
        first, *others = family(os.getpid())
        assert first == os.getpid()
        assert other.pid in others
        once = cpu_s([other.pid])
        assert cpu_s([other.pid, other.pid]) >= 2 * once >= 0.02
        assert resident_bytes([other.pid, *US]) > resident_bytes([other.pid]) > 0
    assert other.pid not in family(os.getpid())
