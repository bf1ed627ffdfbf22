"""Calls of the coordinator's control and monitor services, for terminals and dashboards.

Synchronous, a deadline on every call, no proxy from the environment. A refusal is raised as the error the
coordinator named; silence as NoAnswer, which says what to start.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

import sheepfold_wire.messages as m
from sheepfold_wire.access import Access, Metadata
from sheepfold_wire.connection import Connection
from sheepfold_wire.convert import from_proto, to_proto
from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.frames import MESSAGE_BYTES_MAX
from sheepfold_wire.status import DETAILS_KEY, from_details
from sheepfold_wire.v1 import coordinator_pb2_grpc, monitor_pb2_grpc

CALL_SECONDS = 5.0
WATCH_SECONDS_MAX = 86_400.0
RETRY_SECONDS = 0.1

Reply = TypeVar("Reply")

_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


class NoAnswer(Exception):
    """Nobody of ours answers at the address; the text names it and the remedy."""


class Control:
    """One channel to a coordinator, opened by the first call. Use as a context manager, or close it."""

    def __init__(self, where: Connection | str, call_seconds: float = CALL_SECONDS) -> None:
        """`where`: as in $SHEEPFOLD."""
        self._access = Access(where)
        self.address = self._access.target
        self._call_seconds = call_seconds
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._channel is not None:
                self._channel.close()

    # --- calls ------------------------------------------------------------------------------------

    def jobs(self, wait_seconds: float = 0.0) -> tuple[str, ...]:
        """Names of all jobs; waits up to `wait_seconds` for the coordinator to come up."""
        return self._call(_monitor, "ListJobs", m.ListJobsRequest(), m.ListJobsReply, wait_seconds).jobs

    def status(self, job: str) -> m.JobStatus:
        return self._call(_monitor, "Status", m.StatusRequest(job), m.JobStatus)

    def model(self, job: str) -> str:
        """The job's manifest as JSON; empty while no worker has brought a model."""
        return self._call(_monitor, "Model", m.ModelRequest(job), m.ModelReply).manifest_json

    def create(self, request: m.CreateJobRequest, wait_seconds: float = 0.0) -> m.CreateJobReply:
        return self._call(_coordinator, "CreateJob", request, m.CreateJobReply, wait_seconds)

    def control(self, request: m.ControlRequest) -> m.ControlReply:
        return self._call(_coordinator, "Control", request, m.ControlReply)

    def rewind(self, request: m.RewindRequest) -> m.RewindReply:
        return self._call(_coordinator, "Rewind", request, m.RewindReply)

    def checkpoint(self, request: m.CheckpointRequest) -> m.CheckpointReply:
        """Returns once it is stored, which may take minutes: make the Control with time for that."""
        return self._call(_coordinator, "Checkpoint", request, m.CheckpointReply)

    def restore(self, request: m.RestoreRequest) -> m.RestoreReply:
        """Reads the whole checkpoint to verify it: make the Control with time for that."""
        return self._call(_coordinator, "Restore", request, m.RestoreReply)

    def delete(self, request: m.DeleteJobRequest) -> m.DeleteJobReply:
        """Reads the whole checkpoint to verify it: make the Control with time for that."""
        return self._call(_coordinator, "DeleteJob", request, m.DeleteJobReply)

    def change(self, request: m.ConfigChangeRequest) -> m.ConfigChangeReply:
        return self._call(_coordinator, "ChangeConfig", request, m.ConfigChangeReply)

    def watch(
        self, job: str, from_version: int, on_call: Callable[[grpc.Call], None]
    ) -> Iterator[m.StepReport]:
        """Step reports from `from_version` on, then live ones, until the job ends.

        `on_call` is given the call before the first report, so that another thread can cancel it.
        """
        call = _monitor(self._open()).Watch(
            to_proto(m.WatchRequest(job, from_version)),
            timeout=WATCH_SECONDS_MAX,
            metadata=self._metadata(),
        )
        on_call(call)
        try:
            for report in call:
                yield from_proto(m.StepReport, report)
        except grpc.RpcError as error:
            raise self._named(error) from None

    def _call(
        self,
        stub: Callable[[grpc.Channel], Any],
        name: str,
        request: object,
        reply: type[Reply],
        wait_seconds: float = 0.0,
    ) -> Reply:
        method = getattr(stub(self._open(wait_seconds)), name)
        timeout = max(self._call_seconds, wait_seconds)
        try:
            answer = method(
                to_proto(request),
                timeout=timeout,
                wait_for_ready=wait_seconds > 0,
                metadata=self._metadata(wait_seconds),
            )
        except grpc.RpcError as error:
            raise self._named(error) from None
        return from_proto(reply, answer)

    def _open(self, wait_seconds: float = 0.0) -> grpc.Channel:
        """The channel. With TLS somebody must answer first; raises NoAnswer, ServerUntrusted."""
        if self._channel is None:
            self._keep(self._patiently(lambda: self._access.channel(self.address, _OPTIONS), wait_seconds))
        assert self._channel is not None  # kept
        return self._channel

    def _patiently(self, ask: Callable[[], Reply], wait_seconds: float) -> Reply:
        """The answer of a coordinator that may still be coming up; raises NoAnswer."""
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                return ask()
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise self._no_answer(error.strerror or str(error)) from None
                time.sleep(RETRY_SECONDS)

    def _metadata(self, wait_seconds: float = 0.0) -> Metadata:
        """As `_open` raises."""
        return self._patiently(self._access.metadata, wait_seconds)

    def _keep(self, channel: grpc.Channel) -> None:
        with self._lock:
            if self._channel is None and not self._is_closed:
                self._channel = channel
                return
        channel.close()
        if self._is_closed:
            raise ValueError("this Control is closed")

    def _named(self, error: Any) -> SheepfoldError | NoAnswer:
        """The error the coordinator named, or who was expected at the address and what came instead."""
        for key, value in error.trailing_metadata() or ():
            if key == DETAILS_KEY:
                found = from_details(value)
                if found is not None:
                    return found
        code = error.code()
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return NoAnswer(
                f"{self.address} answers, but not as a sheepfold coordinator of this version; check it"
            )
        why = {
            grpc.StatusCode.UNAVAILABLE: "nothing listens there",
            grpc.StatusCode.DEADLINE_EXCEEDED: "timed out",
        }
        return self._no_answer(str(why.get(code, error.details())))

    def _no_answer(self, why: str) -> NoAnswer:
        return NoAnswer(
            f"no coordinator answers at {self.address} ({why}); "
            "start one with `sheepfold up`, or name its address with --address or SHEEPFOLD"
        )


_coordinator: Callable[[grpc.Channel], Any] = coordinator_pb2_grpc.CoordinatorServiceStub
_monitor: Callable[[grpc.Channel], Any] = monitor_pb2_grpc.MonitorServiceStub
