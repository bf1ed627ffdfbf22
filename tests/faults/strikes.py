"""What is done to a fleet at work, one thing at a time, and the account of what was really done."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults.failpoints import FAILPOINTS, Failpoint
from tests.faults.fleet import KilledFleet
from tests.faults.proxy import WHILE, Fault

import sheepfold_wire.messages as m
from sheepfold_server.core.state import Life
from sheepfold_server.shell.child import Child
from sheepfold_wire.control import Control, NoAnswer
from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.manifest import Manifest, TensorSpec

STOP_SECONDS_MAX = 4.0
HIT_SECONDS, START_SECONDS = 20.0, 60.0
"""After which a failpoint that was not reached is given up for now; workers that start import torch first."""
KILLS = ("shard", "coordinator", "worker", "everything")
STOPS = ("stopped worker", "stopped shard", "stopped coordinator")
SPARE = "spare"
"""A job that nobody trains: it is there to be deleted."""
SPARE_MODEL = Manifest((TensorSpec("w", (3, 5), "float32", "parameter"),)).to_json()


@dataclass(slots=True)
class Tally:
    """What happened, over all runs."""

    kills: Counter[str] = field(default_factory=Counter)
    """Processes that were seen to die by SIGKILL, by what was meant."""
    stops: Counter[str] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    """Strikes at a link that did something to it."""
    forwarded_bytes: Counter[str] = field(default_factory=Counter)
    """Through the proxy of each link."""
    hit: set[str] = field(default_factory=set)
    """Names of failpoints."""
    runs: int = 0
    mismatches: int = 0
    lost_steps: int = 0
    went_back: int = 0
    """Runs that gave up committed steps for a checkpoint, unasked."""
    recovery_seconds: list[float] = field(default_factory=list)
    """From the death of a server to a version that it must have been back for."""

    def missing(self) -> list[Failpoint]:
        return [point for point in FAILPOINTS if point.name not in self.hit]


class Striker:
    """Disturbs one fleet."""

    def __init__(self, fleet: KilledFleet, tally: Tally, chance: random.Random) -> None:
        self.fleet, self.tally, self._chance = fleet, tally, chance
        self._deletion = m.DeleteJobRequest("", SPARE)

    # --- signals --------------------------------------------------------------------------------------

    def kill(self, what: str) -> None:
        """Returns once all that it killed was seen dead, and is started again."""
        servers = self.fleet.supervisor
        if what == "worker":
            self._kill_worker()
            return
        meant: dict[str, list[Child]] = {
            "shard": [self._chance.choice(servers.shards)],
            "coordinator": [servers.coordinator],
            "everything": [*servers.shards, servers.coordinator],
        }
        self._await_all()
        killed = [(child, child.pid) for child in meant[what]]
        for child, _ in killed:
            self.fleet.kill(child)
        for child, pid in killed:
            self.await_death_of(child, pid)
        self.tally.kills[what] += len(killed)

    def _await_all(self) -> None:
        """One may have died at a failpoint that was armed long before: a pid that is buried is nobody's."""
        servers = self.fleet.supervisor
        children = [*servers.shards, servers.coordinator]
        self.fleet.until(lambda: all(child.exit_code() is None for child in children), "all servers")

    def await_death_of(self, child: Child, pid: int) -> None:
        """By SIGKILL, as the supervisor saw it, and another in its place; fails if it lives on."""
        self.fleet.until(lambda: self._was_killed(pid), f"the death of {child.name}, pid {pid}")
        self.fleet.until(lambda: child.pid != pid, f"a new {child.name}")

    def _was_killed(self, pid: int) -> bool:
        return any(f"(pid {pid}) died with exit code -9" in text for text in self.fleet.said)

    def _kill_worker(self) -> None:
        alive = [worker for worker in self.fleet.workers if worker.poll() is None]
        if alive:
            victim = self._chance.choice(alive)
            victim.kill()
            self.bury(victim)
            self.tally.kills["worker"] += 1

    def bury(self, worker: subprocess.Popen[str]) -> None:
        """It was killed: another takes its place."""
        assert worker.wait(HIT_SECONDS) == -signal.SIGKILL, f"a worker that was killed ended with {worker}"
        self.fleet.add_worker()

    def stop(self, what: str) -> None:
        """It goes on a moment later."""
        self._await_all()
        servers, workers = self.fleet.supervisor, [w for w in self.fleet.workers if w.poll() is None]
        pids = {
            "stopped worker": [worker.pid for worker in workers],
            "stopped shard": [shard.pid for shard in servers.shards],
            "stopped coordinator": [servers.coordinator.pid],
        }[what]
        if pids:
            pid = self._chance.choice(pids)
            os.kill(pid, signal.SIGSTOP)
            self._let_pass(self._chance.uniform(0.2, STOP_SECONDS_MAX))
            os.kill(pid, signal.SIGCONT)
            self.tally.stops[what] += 1

    def _let_pass(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.fleet.until(lambda: time.monotonic() > end, "the end of a wait")

    # --- proxies --------------------------------------------------------------------------------------

    def disturb(self, fault: Fault) -> None:
        """One link, until something was really done to it."""
        assert self.fleet.links is not None
        link = self._chance.choice(sorted(self.fleet.links.all))
        proxy = self.fleet.links.all[link]
        before = proxy.injected[fault]
        proxy.strike(fault, self._chance.uniform(0.2, STOP_SECONDS_MAX) if fault in WHILE else 0.0)
        end = time.monotonic() + STOP_SECONDS_MAX
        self.fleet.until(
            lambda: proxy.injected[fault] > before or time.monotonic() > end, f"{fault} of {link}"
        )
        self.tally.faults[fault] += proxy.injected[fault] > before

    # --- failpoints -----------------------------------------------------------------------------------

    def fire(self, point: Failpoint) -> bool:
        """Have a process die there; False if none came by in time. Returns as `kill`."""
        self.fleet.armed.arm(point)
        end = time.monotonic() + (START_SECONDS if point.needs == "start" else HIT_SECONDS)
        self._lead_to(point)

        def is_over() -> bool:
            is_late = point.needs == "start" and self.fleet.version() > 0
            is_over = self.has_ended() and point.needs != "delete"
            return self.took(point) or time.monotonic() > end or is_over or is_late

        self.fleet.until(is_over, point.name)
        is_hit = not self.fleet.armed.disarm(point)
        if is_hit:
            self.fleet.until(lambda: self.took(point), f"the pid at {point.name}")
            self.count(point)
        if point.needs == "delete":
            self._see_deleted()
        return is_hit

    def took(self, point: Failpoint) -> bool:
        return self.fleet.armed.hit_by(point) is not None

    def count(self, point: Failpoint) -> None:
        """It was hit: see the process dead, and in its place another."""
        pid = self.fleet.armed.hit_by(point)
        assert pid is not None
        if point.role == "worker":
            self.bury(next(worker for worker in self.fleet.workers if worker.pid == pid))
        else:
            self.fleet.until(lambda: self._was_killed(pid), f"the death at {point.name}")
        self.tally.hit.add(point.name)
        self.tally.kills["failpoint"] += 1

    def _lead_to(self, point: Failpoint) -> None:
        lead: dict[str, Callable[[], None]] = {
            "restart": lambda: self._begin_to_restart(point.role),
            "relink": lambda: self._begin_to_restart("shard"),
            "change": self._change,
            "rewind": self._rewind,
            "earlier": self._rewind_earlier,
            "delete": self._delete_spare,
        }
        lead.get(point.needs, lambda: None)()

    def _begin_to_restart(self, what: str) -> None:
        """As `kill`, but what comes in its place is to die as well."""
        if what == "worker":
            self._kill_worker()
            return
        self._await_all()
        servers = self.fleet.supervisor
        self.fleet.kill(servers.coordinator if what == "coordinator" else self._chance.choice(servers.shards))
        self.tally.kills[what] += 1

    def _change(self) -> None:
        """A change that changes no bit."""
        changes = json.dumps({"optimizer.clip_norm": self.fleet.job.optimizer.clip_norm})
        request = m.ConfigChangeRequest(uuid.uuid4().hex, self.fleet.job.name, -1, changes, "chaos")
        self._ask(lambda control: control.change(request))

    def _rewind(self) -> None:
        """To the newest version that is kept: it computes the same steps again."""
        self.fleet.until(lambda: self.fleet.kept() >= 0 or self.has_ended(), "a checkpoint")
        self._rewind_to(self.fleet.kept())

    def _rewind_earlier(self) -> None:
        """To the version after the newest that is kept, which only the logs lead to."""
        self.fleet.until(lambda: self.fleet.version() > self.fleet.kept() + 1 or self.has_ended(), "steps")
        self._rewind_to(self.fleet.kept() + 1)

    def _rewind_to(self, version: int) -> None:
        request = m.RewindRequest(uuid.uuid4().hex, self.fleet.job.name, version, (), "chaos")
        self._ask(lambda control: control.rewind(request))

    def _delete_spare(self) -> None:
        """It is created, opened by the shards, ended, and deleted."""
        job = self.fleet.job.model_copy(update={"name": SPARE})
        create = m.CreateJobRequest("", job.to_json(), SPARE_MODEL)
        stop = m.ControlRequest(SPARE, "stop", "chaos")
        self.fleet.until(lambda: self._ask(lambda control: control.create(create)) is not None, "another job")
        opened = Life.INITIALISING.value
        self.fleet.until(lambda: self._ask(lambda control: control.status(SPARE).state) == opened, opened)
        self.fleet.until(lambda: self._ask(lambda control: control.control(stop)) is not None, "its end")
        self._deletion = m.DeleteJobRequest(uuid.uuid4().hex, SPARE, "chaos")
        self._ask(lambda control: control.delete(self._deletion))

    def _see_deleted(self) -> None:
        """Whoever asked is answered when he asks again, and nothing is left of it anywhere."""
        again = self._deletion
        self.fleet.until(lambda: self._ask(lambda control: control.delete(again)) is not None, "an answer")
        assert self._ask(lambda control: control.status(SPARE)) is None
        logs = self.fleet.directory
        self.fleet.until(lambda: not any(logs.glob(f"*/jobs/{SPARE}")), "the end of its logs")

    def _ask(self, ask: Callable[[Control], object]) -> object:
        """Whoever answers may be the one that dies of it: None."""
        try:
            with Control(self.fleet.admin) as control:
                return ask(control)
        except (NoAnswer, SheepfoldError) as error:
            self.fleet.last_refusal = f"{type(error).__name__}: {error}"
            return None

    def has_ended(self) -> bool:
        return self.fleet.version() == self.fleet.job.stop.steps
