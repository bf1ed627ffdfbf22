"""The real core in one process, without sockets: notebooks, tests, studies (`SHEEPFOLD=local:`).

Satisfies the client's transport by shape; the client finds it by the entry point `sheepfold.transports`, so
that neither package imports the other. Links are queues with a thread each, as a stream would be.
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, cast
from urllib.parse import parse_qs

import sheepfold_wire.messages as m
from sheepfold_server.core import events as e
from sheepfold_server.core.headers import check_pull
from sheepfold_server.shell.fleet import Fleet
from sheepfold_server.shell.shard_process import ShardConfig, ShardProcess
from sheepfold_server.shell.shard_service import check_part, entries
from sheepfold_server.shell.transfers import Served
from sheepfold_wire.codecs import Codec
from sheepfold_wire.digest import Entry
from sheepfold_wire.errors import InternalError, NotReady
from sheepfold_wire.frames import Buffer

log = logging.getLogger(__name__)

TICK_SECONDS = 0.05
ANSWER_SECONDS = 60.0


class _Lane:
    """Delivers messages one by one, in order, in a thread of its own."""

    def __init__(
        self, name: str, deliver: Callable[[Any], None], on_failure: Callable[[Exception], None]
    ) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._deliver, self._on_failure = deliver, on_failure
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, message: Any) -> None:
        self._queue.put(message)

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            try:
                self._deliver(message)
            except Exception as error:
                self._on_failure(error)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(5.0)


class LocalFold:
    """Coordinator and shards of one process; any number of workers in threads may use it."""

    def __init__(self, shards: int = 1, device: str = "cpu") -> None:
        self.fleet = Fleet(shards)
        self.processes: list[ShardProcess] = []
        self._lanes: list[_Lane] = []
        self._stopped = threading.Event()
        self.failure = ""
        for index in range(shards):
            self._add_shard(ShardConfig(index, shards, device=device))
        self._clock = threading.Thread(target=self._tick, name="clock", daemon=True)
        self._clock.start()

    def _add_shard(self, config: ShardConfig) -> None:
        index = config.shard
        up = _Lane(f"reports-{index}", lambda report: self.fleet.report(index, report, send), self._fail)
        process = ShardProcess(config, up.put, self._on_halt)
        down = _Lane(f"commands-{index}", process.command, self._fail)
        send = down.put
        self.processes.append(process)
        self._lanes += [up, down]
        self.fleet.link_up(process.hello(f"local:{index}"), send)

    def _on_halt(self, why: str) -> None:
        self.failure = why

    def _fail(self, error: Exception) -> None:
        log.error("the fold of this process failed", exc_info=error)
        self.failure = repr(error)

    def check(self) -> None:
        """Raises InternalError once something has failed: nobody should wait for what will not come."""
        if self.failure:
            raise InternalError(f"coordinator and shards of this process have stopped: {self.failure}")

    def _tick(self) -> None:
        while not self._stopped.wait(TICK_SECONDS):
            self.fleet.tick()

    def close(self) -> None:
        self._stopped.set()
        self._clock.join(5.0)
        for lane in self._lanes:
            lane.close()
        for process in self.processes:
            process.close()


class LocalTransport:
    """The client's side of a LocalFold; any number of them share one."""

    def __init__(self, fold: LocalFold) -> None:
        self._fold = fold

    def call(self, request: Any) -> Any:
        """A call of a worker, administrator or reader; returns its reply, raises its refusal."""
        self._fold.check()
        match request:
            case m.StatusRequest():
                return self._fold.fleet.status(request.job)
            case m.ListJobsRequest():
                return m.ListJobsReply(self._fold.fleet.jobs())
        return _result(self._fold.fleet.call(request))

    def push_ahead(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, ranges: tuple[range, ...]
    ) -> bool:
        """There is no way here on which time could be lost."""
        return False

    def push(
        self, address: m.ShardAddress, header: m.PushHeader, payload: Buffer, brought: tuple[range, ...] = ()
    ) -> m.PushReply:
        """Stage a copy of the part: the caller may reuse its buffer at once."""
        actor = self._fold.processes[address.shard].actor(header.job)
        token, future = actor.open_push(header)
        if isinstance(_result(future), e.AnswerPush):
            return m.PushReply(duplicate=True)
        kept, codec = bytearray(payload), Codec(header.codec)
        try:
            check = check_part(actor, kept, codec, header.facts.present)
        except BaseException:
            actor.push_broken(token)
            raise
        _result(actor.received(token, header.attempt, kept, codec, check))
        return m.PushReply(duplicate=False)

    def room(self, address: m.ShardAddress, size: int) -> memoryview | None:
        return None

    def way(self, address: m.ShardAddress) -> str:
        return "this process"

    def pull(self, address: m.ShardAddress, request: m.PullRequest) -> tuple[int, Buffer]:
        """(version, payload); the payload is shared and must not be written to."""
        actor = self._fold.processes[address.shard].actor(request.job)
        check_pull(actor.job, request)
        token, future = actor.pull(request.version, Codec(request.codec))
        try:
            served = cast(Served, future.result(request.wait_seconds))
        except FutureTimeout:
            actor.pull_gone(token)
            raise NotReady(
                f"version {request.version} was not applied within {request.wait_seconds:.1f} s"
            ) from None
        return served.version, served.payload

    def digest(self, address: m.ShardAddress, job: str) -> m.DigestReply:
        version, found = cast(
            tuple[int, list[Entry]], _result(self._fold.processes[address.shard].actor(job).digest())
        )
        return m.DigestReply(version, entries(found))

    def close(self) -> None:
        """The fold goes on: another client of this process may be using it."""


def _result(future: Future[Any]) -> Any:
    try:
        return future.result(ANSWER_SECONDS)
    except FutureTimeout:
        raise NotReady(f"no answer within {ANSWER_SECONDS:.0f} s; try again") from None


_folds: dict[int, LocalFold] = {}
"""By number of shards: all that an address can say."""
_folds_lock = threading.Lock()


def _close_folds() -> None:
    """At the script's end: a kernel thread that outlives the interpreter may abort the process."""
    with _folds_lock:
        folds = list(_folds.values())
        _folds.clear()
    for fold in folds:
        fold.close()


def connect(address: object) -> LocalTransport:
    """The transport of `local:?shards=2`; the client has checked the address.

    Equal addresses share one fold for the life of the process, so a script that attaches again finds its job.
    """
    shards = int(parse_qs(str(address).partition("?")[2]).get("shards", ["1"])[0])
    with _folds_lock:
        if not _folds:
            atexit.register(_close_folds)
        if shards not in _folds:
            _folds[shards] = LocalFold(shards)
        return LocalTransport(_folds[shards])
