"""The demo from start to end: start everything, train, kill a worker, evaluate, account for every sample."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from pathlib import Path

from sheepfold_server.cli.demo.fleet import DemoFailed, Evaluation, Fleet, describe_data
from sheepfold_server.cli.demo.observer import Observer
from sheepfold_server.cli.demo.plan import JOB, DataFacts, DemoPlan, demo_job
from sheepfold_server.cli.demo.progress import ProgressView
from sheepfold_server.cli.demo.summary import Summary
from sheepfold_server.shell.child import Interrupted
from sheepfold_server.shell.supervisor import HOST, Supervisor, UpConfig
from sheepfold_wire import messages as m
from sheepfold_wire.control import Control

DASHBOARD_PORT = 8070
POLL_SECONDS = 0.2
STALLED_SECONDS = 60.0
FINISH_SECONDS = 60.0


class Show:
    """Call `run`, perhaps `keep`, then `close`; all from the main thread."""

    def __init__(
        self, plan: DemoPlan, directory: Path, stopped: threading.Event, progress: ProgressView
    ) -> None:
        self._plan, self._stopped, self._progress = plan, stopped, progress
        config = UpConfig(directory, plan.shards, port=0, dashboard_port=free_or_any(DASHBOARD_PORT))
        self._supervisor = Supervisor(config, stopped, progress.say)
        self._fleet: Fleet | None = None
        self._closing = contextlib.ExitStack()
        self._evaluation: Evaluation | None = None

    def run(self) -> Summary:
        """Raises DemoFailed, StartError, PartLost or Interrupted."""
        began = time.monotonic()
        data = describe_data(self._plan)
        self._progress.say(
            f"{data.name}; {self._plan.shards} shards, {self._plan.workers} workers on this machine"
        )
        self._supervisor.start()
        address = self._supervisor.coordinator.address
        self._progress.say(f"dashboard: http://{self._supervisor.dashboard.address}")
        control = self._closing.enter_context(Control(address))
        control.create(
            m.CreateJobRequest(uuid.uuid4().hex, demo_job(self._plan, data).to_json()), wait_seconds=10.0
        )
        observer = Observer(control)
        observer.start()
        fleet = self._fleet = Fleet(self._plan, address, self._supervisor.directory.logs)
        for _ in range(self._plan.workers):
            fleet.start_worker()
        fleet.start_evaluator()
        self._train(control, observer, fleet)
        self._finish(fleet)
        observer.join(FINISH_SECONDS)
        self._progress.close()
        return self._summary(data, control.status(JOB), observer, time.monotonic() - began)

    def _train(self, control: Control, observer: Observer, fleet: Fleet) -> None:
        """Until the job has ended; half-way, a worker dies."""
        has_killed = False
        moved_at, version = time.monotonic(), -2
        while (status := control.status(JOB)).state != "ended":
            self._watch_over(fleet)
            self._progress.show(status.version, self._facts(status, observer))
            if status.version != version:
                moved_at, version = time.monotonic(), status.version
            elif time.monotonic() - moved_at > STALLED_SECONDS:
                raise DemoFailed(f"no step for {STALLED_SECONDS:.0f} s, waiting for {status.waiting_for}")
            if not has_killed and status.version >= self._plan.steps // 2:
                has_killed = self._replace_one(status, fleet)
        self._progress.show(status.version, self._facts(status, observer))

    def _watch_over(self, fleet: Fleet) -> None:
        """Wait a little; notice whoever died, and what the evaluator says."""
        if self._stopped.wait(POLL_SECONDS):
            raise Interrupted
        self._supervisor.check()
        fleet.check()
        for evaluation in fleet.evaluations():
            self._evaluation = evaluation

    def _replace_one(self, status: m.JobStatus, fleet: Fleet) -> bool:
        """Kill a worker, if possible one that holds a lease, and start another."""
        running = fleet.pids()
        busy = [w.pid for w in status.workers if w.holding and w.pid in running]
        if not running:
            return False
        victim = (busy or running)[0]
        fleet.kill(victim)
        fresh = fleet.start_worker()
        self._progress.say(
            f"version {status.version:,}: worker {victim} killed (SIGKILL), worker {fresh} started; "
            "a slot that it held is leased again"
        )
        return True

    def _facts(self, status: m.JobStatus, observer: Observer) -> str:
        loss = "-" if observer.loss is None else f"{observer.loss:.3f}"
        accuracy = "-" if self._evaluation is None else f"{self._evaluation.accuracy:.3f}"
        return f"loss {loss}, accuracy {accuracy}, {status.steps_per_second:.1f} steps/s"

    def _finish(self, fleet: Fleet) -> None:
        """Workers leave by themselves; the evaluator measures the final version."""
        deadline = time.monotonic() + FINISH_SECONDS
        while not fleet.has_finished():
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"workers {fleet.pids()} or the evaluation did not end within {FINISH_SECONDS:.0f} s"
                )
            self._watch_over(fleet)
        self._watch_over(fleet)

    def _summary(self, data: DataFacts, status: m.JobStatus, observer: Observer, seconds: float) -> Summary:
        final = self._evaluation
        if final is None or final.version != status.version or not final.digest:
            raise DemoFailed(f"the final version {status.version} was not evaluated, but {final}")
        summary = Summary(
            data=data.name,
            accuracy=final.accuracy,
            version=status.version,
            steps=self._plan.steps,
            seconds=seconds,
            training_seconds=observer.training_seconds(),
            step_seconds_p50=observer.step_seconds(0.5),
            step_seconds_p95=observer.step_seconds(0.95),
            counts=status.counts,
            samples_committed=status.samples_committed,
            samples_skipped=status.samples_skipped,
            trust_ratio_min=observer.trust_ratio_min,
            trust_ratio_max=observer.trust_ratio_max,
            digest=final.digest,
        )
        if lost := summary.lost_samples():
            raise DemoFailed(f"{lost:,} samples are not accounted for (negative: counted twice)")
        return summary

    def keep(self) -> None:
        """Leave everything up until the user stops it."""
        self._progress.say(f"dashboard stays at http://{self._supervisor.dashboard.address} until ctrl-C")
        while not self._stopped.wait(POLL_SECONDS):
            self._supervisor.check()

    def close(self) -> None:
        self._progress.close()
        if self._fleet is not None:
            self._fleet.stop()
        self._closing.close()
        self._supervisor.stop()


def free_or_any(port: int) -> int:
    """The port if nobody has it on loopback, else 0."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return 0
    return port
