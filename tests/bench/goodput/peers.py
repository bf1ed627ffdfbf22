"""torchrun, which starts all ranks again from what was saved, and torchft, which votes on each step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench.goodput.account import Told
from tests.bench.goodput.system import (
    CLOSE_SECONDS,
    ROOT,
    Fleet,
    ProgressFile,
    children,
    environment,
    module,
)


class Torchrun:
    """One agent with all ranks. It looks after them every 0.1 s, its default; restarts are not limited.

    By its default ranks share one store with the agent over all restarts, read addresses of dead ranks there,
    and fail or wait (pytorch issue 135712): torch 2.13 did not come back within a minute. So it is told to
    give them a new store each time, as that issue advises.
    """

    def __init__(self, folder: Path, workers: int, compute_seconds: float, save_every: int) -> None:
        self._progress = ProgressFile(folder / "progress")
        elastic = ["--standalone", "--nnodes=1", f"--nproc-per-node={workers}", "--max-restarts=1000000"]
        command = [sys.executable, "-m", "torch.distributed.run", *elastic, *module("torchrun_worker")]
        with (folder / "log").open("wb") as log:
            self._agent = subprocess.Popen(
                [*command, str(folder), str(compute_seconds), str(save_every)],
                cwd=ROOT,
                env={**environment(), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
                stdout=log,
                stderr=log,
            )

    def told(self) -> list[Told]:
        assert self._agent.poll() is None, "torchrun's agent ended"
        return self._progress.told()

    def kill(self, victim: float) -> bool:
        ranks = children(self._agent.pid, "torchrun_worker")
        if ranks:
            os.kill(ranks[int(victim * len(ranks))], signal.SIGKILL)
        return bool(ranks)

    def close(self) -> None:
        self._agent.terminate()
        try:
            self._agent.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            for rank in children(self._agent.pid, "torchrun_worker"):
                os.kill(rank, signal.SIGKILL)
            self._agent.kill()
            self._agent.wait()
        self._progress.close()


@dataclass(frozen=True)
class Patience:
    """torchft's: with who is late for a quorum, with hearts that stand still, and with collectives."""

    join_seconds: float
    heartbeat_seconds: float
    collective_seconds: float


class Torchft:
    """A lighthouse, and replicas of one process each."""

    def __init__(
        self, folder: Path, python: str, workers: int, spare: int, compute_seconds: float, patience: Patience
    ) -> None:
        """`python`: an interpreter that has torchft.

        With spare replicas the batch is constant, of `workers`; without it is of those who are there.
        """
        self._progress, self._highest = ProgressFile(folder / "progress"), 0
        waits = [str(int(1e3 * each)) for each in (patience.join_seconds, patience.heartbeat_seconds)]
        with (folder / "log").open("wb") as log:
            self._lighthouse = subprocess.Popen(
                [python, *module("torchft_worker"), "lighthouse", *waits, str(workers if spare else 1)],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._lighthouse.stdout is not None
        port, self.version = self._lighthouse.stdout.readline().split()
        command = [python, *module("torchft_worker"), "replica", str(folder), str(compute_seconds)]
        command.append(str(patience.collective_seconds))
        told = [str(workers), "spares" if spare else "dynamic"]
        self._fleet = Fleet(
            lambda number: [*command, f"http://127.0.0.1:{port}", str(number), *told],
            workers + spare,
            folder / "log",
        )

    def told(self) -> list[Told]:
        """A step is complete when the first replica says so: no vote undoes it."""
        self._fleet.mend()
        found = []
        for each in self._progress.told():
            if not each.is_counted or each.step > self._highest:
                found.append(each)
            if each.is_counted:
                self._highest = max(self._highest, each.step)
        return found

    def kill(self, victim: float) -> bool:
        return self._fleet.kill(victim)

    def close(self) -> None:
        self._fleet.close()
        self._lighthouse.communicate("")
        self._progress.close()


def torchft_of(python: str) -> str | None:
    """The version that an interpreter has, if any."""
    asked = "import importlib.metadata as m, torchft; print(m.version('torchft'), m.version('torch'))"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True)
    if done.returncode:
        print(f"torchft is left out: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
    return None if done.returncode else done.stdout.strip()
