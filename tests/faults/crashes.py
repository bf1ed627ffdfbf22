"""kill -9 of a process, or an error for it, at every system call of some kinds, by strace."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

ROOT = Path(__file__).parents[2]

CHANGES = (
    *(
        "write",
        "writev",
        "pwrite64",
        "pwritev",
        "ftruncate",
        "fallocate",
        "open",
        "openat",
        "mkdir",
        "mkdirat",
    ),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir"),
    *("fsync", "fdatasync", "sync_file_range", "msync"),
)
"""What makes files, changes them, or makes them durable. Between two of them all files are the same."""

EVERY = ("all",)

KILL_AT_ONCE = "inject=all:signal=KILL:when=1"
WAITS_TO_BE_TRACED = """
from tests.faults.tracing import let_be_traced
let_be_traced()
print(flush=True)
input()
"""


@dataclass(frozen=True)
class Crash:
    """One try: the system call that was its last or that failed, "" for none, and what it told until then."""

    system_call: str
    acknowledged: tuple[int, ...]
    errors: tuple[str, ...]
    directory: Path


class Crashing:
    """A process of tests.faults.crash_scenarios; a context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._trace = folder / "trace"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.crash_scenarios"],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def each_crash(self, scenario: str, before: Path, kinds: tuple[str, ...]) -> Iterator[Crash]:
        """Killed before its first system call of these kinds, before the second, ...; last of all not killed.

        `before` is the directory as it was before, of which each try has a copy.
        """
        yield from self._each(scenario, before, kinds, "signal=KILL")

    def each_error(self, scenario: str, before: Path, kinds: tuple[str, ...], error: str) -> Iterator[Crash]:
        """As `each_crash`, but the system call fails with an error such as ENOSPC."""
        yield from self._each(scenario, before, kinds, f"error={error}")

    def _each(self, scenario: str, before: Path, kinds: tuple[str, ...], fault: str) -> Iterator[Crash]:
        with self.tried(scenario, before, kinds):
            calls = calls_of(self._trace.read_text())
        for number, call in enumerate(calls):
            if call != "exit_group" or "signal" in fault:
                nth = calls[: number + 1].count(call)
                with self.tried(scenario, before, (call,), f"inject={call}:{fault}:when={nth}") as crash:
                    yield crash
        with self.tried(scenario, before, kinds) as crash:
            yield crash

    @contextmanager
    def tried(
        self, scenario: str, before: Path, kinds: tuple[str, ...], inject: str = "", only: str = ""
    ) -> Iterator[Crash]:
        """One try; where `only` names a file of the directory, of system calls on that file alone."""
        with TemporaryDirectory(dir=self.folder) as folder:
            directory = shutil.copytree(before, Path(folder) / "tried")
            child = int(self._answer(f"{scenario} {directory}"))
            files = ["-P", str(directory / only)] if only else []
            with strace(child, self._trace, kinds, inject, files) as tracer:
                ended = json.loads(self._answer("begin"))
                tracer.wait()
            is_killed = ended["status"] == signal.SIGKILL
            assert is_killed or ended["status"] == 0, f"{scenario} failed by itself: {ended}"
            trace = self._trace.read_text()
            is_struck = is_killed or "(INJECTED)" in trace
            numbers = tuple(value for value in ended["told"] if isinstance(value, int))
            texts = tuple(value for value in ended["told"] if isinstance(value, str))
            yield Crash(calls_of(trace)[-1] if is_struck else "", numbers, texts, directory)

    def _answer(self, line: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        return self._process.stdout.readline()


def strace(
    process: int, trace: Path, kinds: tuple[str, ...], inject: str, files: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """It traces system calls of these kinds, and may kill at one; attached when this returns. Raises OSError.

    The number in `inject` counts the calls of each kind apart.
    """
    # A question mark lets pass what this kind of machine has no such call for.
    calls = ",".join(kind if kind == "all" else f"?{kind}" for kind in kinds)
    options = [*files, "-e", f"trace={calls}", *(["-e", inject] if inject else [])]
    tracer = subprocess.Popen(
        ["strace", "-f", "-o", trace, "-p", str(process), *options], stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        tracer.communicate()
        raise OSError(said.strip() or "strace said nothing")
    return tracer


def calls_of(trace: str) -> list[str]:
    """Names of the system calls of a trace, in their order; those that return only."""
    return re.findall(r"^\d+ +(\w+)\(", trace, flags=re.M)


def why_not(folder: Path) -> str:
    """Why no process can be traced here, or "" where one can."""
    if shutil.which("strace") is None:
        return "strace is not installed; apt-get install strace"
    command = [sys.executable, "-c", WAITS_TO_BE_TRACED]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            with strace(process.pid, folder / "tried.trace", EVERY, KILL_AT_ONCE) as tracer:
                process.communicate(b"\n")
                tracer.wait()
        except OSError as error:
            process.kill()
            return f"ptrace is not permitted: {error}"
    is_killed = process.returncode == -signal.SIGKILL
    return "" if is_killed else "strace cannot inject signals; it takes 4.16 or newer"
