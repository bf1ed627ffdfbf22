"""sheepfold_server.shell.arenas: how many heaps the C library gives to the threads of a process."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

THREADS = 24

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


def heaps(limited: str, report: Path) -> int:
    """Of a process whose threads each allocate, by the C library's own report."""
    command = [sys.executable, __file__, limited, str(report)]
    subprocess.run(command, check=True, timeout=60)
    return report.read_text().count("<heap nr=")


def test_many_threads_share_two_heaps(tmp_path: Path) -> None:
    assert heaps("", tmp_path / "without.xml") > 2
    assert heaps("limited", tmp_path / "with.xml") == 2


def main(limited: str, report: str) -> None:
    import threading

    from sheepfold_server.shell.arenas import limit_arenas

    if limited:
        assert limit_arenas()
    all_there = threading.Barrier(THREADS)
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p

    def allocate() -> None:
        all_there.wait()
        libc.malloc(50_000)
        all_there.wait()

    threads = [threading.Thread(target=allocate) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    libc.fopen.restype = libc.fdopen.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.fopen(report.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
