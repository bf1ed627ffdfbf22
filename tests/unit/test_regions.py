"""sheepfold_wire.regions: memory of a fixed length, read and written by calls of the system."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sheepfold_wire import regions
from sheepfold_wire.regions import PIECE_BYTES, boot_id, is_sealed, make_region, read_region, write_region

ALL = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def memory(seals: int) -> int:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 100)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


@pytest.fixture
def region() -> Iterator[int]:
    descriptor = make_region(2 * PIECE_BYTES + 5)
    yield descriptor
    os.close(descriptor)


def test_payload_comes_out_as_it_went_in_and_is_seen_in_order(region: int) -> None:
    payload = os.urandom(2 * PIECE_BYTES + 5)
    written, read, copy = bytearray(), bytearray(), bytearray(len(payload))
    write_region(region, payload, written.extend)
    read_region(region, copy, read.extend)
    assert payload == copy == written == read


def test_length_of_a_region_is_fixed(region: int) -> None:
    assert is_sealed(region)
    for size in (0, 3 * PIECE_BYTES):
        with pytest.raises(PermissionError):
            os.ftruncate(region, size)


def test_nothing_is_read_or_written_beyond_the_end() -> None:
    descriptor = memory(ALL)
    with pytest.raises(EOFError, match="no 101 bytes at 0"):
        read_region(descriptor, bytearray(101))
    with pytest.raises((EOFError, OSError)):
        write_region(descriptor, bytes(101))
    os.close(descriptor)


OTHERS: dict[str, Callable[[Path], int]] = {
    "not sealed": lambda _: memory(0),
    "may shrink": lambda _: memory(fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL),
    "may grow": lambda _: memory(fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL),
    "may be sealed further": lambda _: memory(fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW),
    "may not be written": lambda _: memory(ALL | fcntl.F_SEAL_WRITE),
    "a file": lambda folder: os.open(folder / "file", os.O_RDWR | os.O_CREAT),
    "a pipe": lambda _: os.pipe()[0],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_memory_and_files_are_no_regions(kind: str, tmp_path: Path) -> None:
    descriptor = OTHERS[kind](tmp_path)
    assert not is_sealed(descriptor)
    os.close(descriptor)


def test_host_without_a_boot_id_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(boot_id()) == 36
    monkeypatch.setattr(regions, "_BOOT_ID", tmp_path / "missing")
    assert boot_id() == ""
