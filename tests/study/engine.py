"""Performs one run of the study: the real client, the real coordinator and shards, in this process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial

import torch
from tests.integration.harness import running_fold
from tests.study.runs import NAME, Result, Run
from tests.study.tasks import Task, task

import sheepfold
import sheepfold_wire.messages as m
from sheepfold.transport import Transport
from sheepfold_server.dashboard.noise_scale import NoiseScale
from sheepfold_server.shell.fleet import Fleet
from sheepfold_server.shell.local import LocalFold, LocalTransport

POINTS = 24
"""Of a stored loss curve, at most."""
LOCAL, GRPC = "local, 1 shard", "gRPC, 2 shards"


@dataclass(frozen=True, slots=True)
class Place:
    """Servers of this process."""

    address: Callable[[], str | Transport]
    fleet: Fleet


@contextmanager
def servers(run: Run) -> Iterator[Place]:
    """Those the run asks for, its own: they end with it, and so does all they hold."""
    if run.servers == GRPC:
        with running_fold(2) as remote:
            yield Place(lambda: remote.address, remote.fleet)
        return
    fold = LocalFold(1)  # what SHEEPFOLD=local: attaches to, but that one lives as long as the process
    try:
        yield Place(lambda: LocalTransport(fold), fold.fleet)
    finally:
        fold.close()


class Watcher:
    """Adds up the step reports of a run as they come."""

    def __init__(self) -> None:
        self.noise = NoiseScale()
        self.steps: list[tuple[int, float | None]] = []
        """(samples, loss) of each committed step."""
        self.skipped = self._slots = self._behind = 0
        self.has_ended = threading.Event()

    def take(self, report: m.StepReport | None) -> None:
        if report is None:
            self.has_ended.set()
            return
        self.noise.step(report)
        self.skipped += report.is_skip
        self.steps.append((report.samples, None if report.is_skip else report.loss))
        for slot in report.slots:
            self._slots += 1
            self._behind += max(0, report.step - slot.base_version)

    @property
    def staleness(self) -> float:
        return self._behind / max(1, self._slots)

    def losses(self) -> tuple[tuple[int, float], ...]:
        """The curve, in at most POINTS stretches of equally many steps."""
        length = -(-len(self.steps) // POINTS)
        points, samples = [], 0
        for first in range(0, len(self.steps), length):
            part = self.steps[first : first + length]
            samples += sum(count for count, _ in part)
            if (mean := _mean_loss(part)) is not None:
                points.append((samples, round(mean, 5)))
        return tuple(points)

    def last_loss(self) -> float | None:
        return _mean_loss(self.steps[-max(1, len(self.steps) // 10) :])


def _mean_loss(steps: list[tuple[int, float | None]]) -> float | None:
    found = [loss for _, loss in steps if loss is not None]
    return sum(found) / len(found) if found else None


def be_quiet() -> None:
    """Errors alone, of this process."""
    logging.getLogger("sheepfold").setLevel(logging.ERROR)


def perform(run: Run) -> Result:
    """Train to the end of the job, then evaluate the final weights."""
    torch.set_num_threads(1)
    what, watcher = task(run.task), Watcher()
    models = [what.model(run.seed) for _ in range(run.mode.workers)]
    job = run.job(what.samples, what.weight)
    with servers(run) as place:
        began = time.perf_counter()
        with ExitStack() as attached:
            runs = [
                attached.enter_context(sheepfold.attach(model, address=place.address(), config=job))
                for model in models
            ]
            place.fleet.job(NAME).watch(0, watcher.take)
            _train([partial(_work, what, *one) for one in zip(models, runs, strict=True)])
        seconds = time.perf_counter() - began
        assert watcher.has_ended.wait(60.0), "the job has not ended"
        with sheepfold.Client(NAME, address=place.address()) as client:
            version, digest = client.digest()
    assert version == run.steps, f"the job ended at version {version} of {run.steps}"
    return Result(
        key=run.key,
        run=asdict(run),
        value=what.evaluate(models[0], run.stretches[-1].length),
        train_loss=watcher.last_loss(),
        losses=watcher.losses(),
        seconds=round(seconds, 3),
        steps=len(watcher.steps),
        skipped=watcher.skipped,
        digest=digest,
        noise_scale=watcher.noise.samples(),
        staleness=watcher.staleness,
        data=what.fingerprint,
    )


def _work(what: Task, model: torch.nn.Module, run: sheepfold.Run) -> None:
    for slot in run.slots():
        what.backward(model, slot)
        run.step()


def _train(workers: list[Callable[[], None]]) -> None:
    """All workers to the end of the job; raises what any of them raised."""
    if len(workers) == 1:
        workers[0]()
        return
    errors: list[BaseException] = []

    def work(one: Callable[[], None]) -> None:
        torch.set_num_threads(1)  # it belongs to the thread that asks for it
        try:
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
