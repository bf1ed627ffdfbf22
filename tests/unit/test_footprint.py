"""Whether a process grows, as `make soak` judges it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.faults.footprint import MEBIBYTE, Footprint, Sample, cpu_seconds, sample

LEAKS = """
import sys
held = []
for line in sys.stdin:
    held.append(bytearray(b"x" * (4 << 20)))
    print(flush=True)
"""


def of(values: list[float]) -> Footprint:
    return Footprint([Sample(float(at), rss, 10, 4) for at, rss in enumerate(values)])


def test_what_rises_steadily_grows_by_its_rise() -> None:
    assert of([100.0 + at for at in range(101)]).growth("rss_mb", 0.0) == pytest.approx(100.0)


def test_what_rises_only_at_first_does_not_grow() -> None:
    assert of([100.0 + min(at, 40) for at in range(101)]).growth("rss_mb", 0.4) == pytest.approx(0.0)


def test_noise_does_not_grow() -> None:
    assert abs(of([100.0 + at % 3 for at in range(101)]).growth("rss_mb", 0.4)) < 0.5


def test_too_few_samples_are_no_answer() -> None:
    with pytest.raises(ValueError, match="run it longer"):
        of([1.0, 2.0]).growth("rss_mb", 0.4)


def test_a_real_process_that_leaks_is_seen_to_grow() -> None:
    footprint = Footprint()
    with subprocess.Popen(
        [sys.executable, "-c", LEAKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as leaking:
        assert leaking.stdin is not None
        assert leaking.stdout is not None
        for _ in range(10):
            leaking.stdin.write(b"\n")
            leaking.stdin.flush()
            leaking.stdout.readline()
            found = sample(leaking.pid)
            assert found is not None
            footprint.samples.append(found)
        leaking.stdin.close()
    assert footprint.growth("rss_mb", 0.2) > 20.0
    assert sample(leaking.pid) is None


def test_this_process_is_seen_as_it_is() -> None:
    found = sample(os.getpid())
    assert found is not None
    assert found.rss_mb * MEBIBYTE > 10 * MEBIBYTE
    assert found.descriptors >= 3
    assert found.threads >= 1
    assert cpu_seconds(os.getpid()) > 0.0
