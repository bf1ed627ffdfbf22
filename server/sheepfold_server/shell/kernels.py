"""Compiled kernels on disk: built once per machine by a child process, loaded by every later one.

A program depends on no job, so the second job of a kind finds all it needs. Loading needs no compiler: an
image may bring the folder along ($SHEEPFOLD_KERNELS), filled by `sheepfold kernels`.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from sheepfold_server import optim
from sheepfold_server.optim.export import FUSED
from sheepfold_server.optim.kernel import CompiledKernel, EagerKernel, Function, Kernel
from sheepfold_server.optim.payload import TORCH_DTYPES
from sheepfold_server.optim.programs import Program, programs_of
from sheepfold_server.optim.rules.rule import Rule
from sheepfold_server.shell.kernel_build import NATIVE, Order, suffix
from sheepfold_server.shell.native import NativeError, NativeProgram
from sheepfold_wire.codecs import Codec
from sheepfold_wire.job import Job

log = logging.getLogger(__name__)

BUILD_SECONDS_MAX = 600.0
BUILDERS = 2


class KernelError(Exception):
    """A kernel that cannot be had here: says what failed and what to do."""


def numeric_fingerprint(device: str) -> str:
    """What bits depend on besides the kernel: device type, instruction set, torch version (DESIGN 5)."""
    return f"{_processor(device)}/torch-{torch.__version__}"


def _processor(device: str) -> str:
    kind = torch.device(device).type
    return f"{kind}-{torch.backends.cpu.get_cpu_capability().lower()}" if kind == "cpu" else kind


class KernelFolder:
    """The compiled programs of one device type, this torch and these sources."""

    def __init__(self, device: str, root: Path | None = None, compiler: str | None = None) -> None:
        self.device = device
        self._root = kernel_root() if root is None else root
        self.path = self._root / f"{_processor(device)}-torch-{torch.__version__}-{source_digest()}"
        self._compiler = found_compiler() if compiler is None else compiler
        self._suffix = suffix(device)

    def offered(self) -> tuple[tuple[str, ...], str]:
        """(kernels a job may ask for here, why compiled is not among them and what to do)."""
        if self._compiler or any(self.path.glob(f"*{self._suffix}")):
            return ("eager", "compiled"), ""
        return ("eager",), (
            "no C++ compiler: steps take about 4 times as long; install one (apt-get install -y g++, or name "
            "it in $CXX) and start the shard again"
        )

    def kernel(self, wanted: str, programs: Mapping[Program, Rule | None]) -> Kernel:
        """The kernel of a job, compiled first where that is needed. Raises KernelError."""
        if wanted != "compiled":
            return EagerKernel(self.device)
        missing = [program for program in programs if not self._file(program).exists()]
        if missing:
            self.build({program: programs[program] for program in missing})
        return CompiledKernel({program: self._load(program) for program in programs}, self.device)

    def build(self, programs: Mapping[Program, Rule | None]) -> None:
        """Compiles programs that are not there yet. Raises KernelError."""
        if not self._compiler:
            names = ", ".join(program.name for program in programs)
            raise KernelError(
                f'{self.path} lacks {names} and there is no C++ compiler: install g++ or set kernel = "eager"'
            )
        began = time.monotonic()
        log.info("compiling %d kernels into %s: about a minute, once per machine", len(programs), self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path) as scratch, ThreadPoolExecutor(BUILDERS) as builders:
            list(builders.map(lambda item: self._build(item[0], item[1], Path(scratch)), programs.items()))
        log.info("compiled %d kernels in %.0f s", len(programs), time.monotonic() - began)

    def _file(self, program: Program) -> Path:
        return self.path / f"{program.name}{self._suffix}"

    def _build(self, program: Program, rule: Rule | None, scratch: Path) -> None:
        """In a child process: the compiler's memory and threads end with it. One builder per file."""
        target = self._file(program)
        with _locked(target.with_suffix(".lock")):
            if target.exists():
                return
            made = scratch / target.name
            order = Order.of(program, rule, self.device, made)
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(scratch), "CXX": self._compiler}
            command = [sys.executable, "-m", "sheepfold_server.shell.kernel_build", order.to_json()]
            try:
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX
                )
            except subprocess.TimeoutExpired:
                raise KernelError(
                    f'compiling {program.name} took more than {BUILD_SECONDS_MAX:.0f} s: set kernel = "eager"'
                ) from None
            if done.returncode != 0 or not made.exists():
                log.error("compiling %s failed:\n%s", program.name, done.stderr[-4000:])
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise KernelError(f'{program.name} cannot be compiled ({last}): set kernel = "eager"')
            os.replace(made, target)

    def _load(self, program: Program) -> Function:
        path = self._file(program)
        try:
            return NativeProgram(path) if self._suffix == NATIVE else _package(path)
        except (NativeError, RuntimeError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise KernelError(f"{path} cannot be loaded ({why}): remove it, and it is built anew") from error


def _package(path: Path) -> Function:
    """torch's own loader; on a device a call only queues work, so the GIL is held for microseconds."""
    import torch._inductor

    logging.getLogger("torch._inductor.package.package").setLevel(logging.ERROR)
    function: Function = torch._inductor.aoti_load_package(str(path))
    return function


def job_programs(job: Job, rules: Sequence[Rule]) -> dict[Program, Rule | None]:
    """What a job's shards run: parts in its codec; an encoded copy in fp32 or bf16.

    Without a copy, too: from a log, and on a device, where they are made once all weights are new.
    """
    return programs_of(rules, TORCH_DTYPES[Codec(job.wire.up)], [(), *((dtype,) for dtype in FUSED)])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def kernel_root() -> Path:
    """$SHEEPFOLD_KERNELS, else the user's cache folder."""
    given = os.environ.get("SHEEPFOLD_KERNELS", "")
    if given:
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if cache else Path.home() / ".cache") / "sheepfold" / "kernels"


def found_compiler() -> str:
    """Path of $CXX or g++; empty if there is none."""
    return shutil.which(os.environ.get("CXX", "") or "g++") or ""


def source_digest() -> str:
    """Of all sources under optim: another source is another kernel."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _sources() -> Sequence[Path]:
    root = Path(str(optim.__file__)).parent
    return sorted(root.rglob("*.py"))
