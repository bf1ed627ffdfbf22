"""The coordinator's gRPC services, on grpc.aio: calls of workers, links of shards, the monitor."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc

import sheepfold_wire.messages as m
from sheepfold_server.core.events import WorkerReply, WorkerRequest
from sheepfold_server.shell.about import installed_version
from sheepfold_server.shell.batches import batches
from sheepfold_server.shell.fleet import Fleet
from sheepfold_server.shell.options import has_deadline
from sheepfold_server.shell.passes import give_pass
from sheepfold_server.shell.security import Credentials
from sheepfold_wire.convert import commands_to_proto, from_proto, report_from_proto, to_proto
from sheepfold_wire.errors import (
    BadFrame,
    InvalidError,
    JobDeleted,
    JobUnknown,
    Overloaded,
    SheepfoldError,
)
from sheepfold_wire.job import job_from_json
from sheepfold_wire.v1 import coordinator_pb2_grpc, monitor_pb2_grpc, shard_pb2

log = logging.getLogger(__name__)

WATCH_QUEUE_MAX = 1024
LINK_QUEUE_MAX = 100_000

Context: TypeAlias = Any
"""A `gate.Admitted`: grpc.aio's context, and who calls."""


async def guarded(context: Context, work: Callable[[], Awaitable[Any]], job: str = "") -> Any:
    """The result of `work`; the gate tells the caller of errors.

    `job`: the one it is about, empty for none. Jobs of others look as if they were not there.
    """
    if not has_deadline(context.time_remaining()):
        raise InvalidError("the call has no deadline; set one (e.g. 10 s)")
    context.caller.check_job(job or context.caller.job)
    try:
        return await work()
    except JobUnknown as error:
        if not context.caller.is_scoped or isinstance(error, JobDeleted):  # that is told of its own job only
            raise
        raise context.caller.absent(job) from None


class CoordinatorService(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """Every call is one value of `messages` in, one out; the fleet decides."""

    def __init__(self, fleet: Fleet, credentials: Credentials) -> None:
        self._fleet, self._credentials = fleet, credentials

    async def _call(self, kind: type[WorkerRequest], request: Any, context: Context) -> Any:
        async def work() -> Any:
            reply: WorkerReply = await asyncio.wrap_future(self._fleet.call(from_proto(kind, request)))
            return to_proto(reply)

        return await guarded(context, work, request.job)

    async def Admit(self, request: Any, context: Context) -> Any:
        async def work() -> Any:
            return to_proto(give_pass(self._credentials.current(), context.grant))

        return await guarded(context, work)

    async def CreateJob(self, request: Any, context: Context) -> Any:
        async def work() -> Any:
            asked = from_proto(m.CreateJobRequest, request)
            context.caller.check_job(job_from_json(asked.config_json).name)
            return to_proto(await asyncio.wrap_future(self._fleet.create(asked)))

        return await guarded(context, work)

    async def Attach(self, request: Any, context: Context) -> Any:
        return await self._call(m.AttachRequest, request, context)

    async def TakeLease(self, request: Any, context: Context) -> Any:
        return await self._call(m.LeaseRequest, request, context)

    async def Heartbeat(self, request: Any, context: Context) -> Any:
        return await self._call(m.HeartbeatRequest, request, context)

    async def Release(self, request: Any, context: Context) -> Any:
        return await self._call(m.ReleaseRequest, request, context)

    async def ChangeConfig(self, request: Any, context: Context) -> Any:
        return await self._call(m.ConfigChangeRequest, request, context)

    async def Control(self, request: Any, context: Context) -> Any:
        return await self._call(m.ControlRequest, request, context)

    async def Rewind(self, request: Any, context: Context) -> Any:
        return await self._call(m.RewindRequest, request, context)

    async def Checkpoint(self, request: Any, context: Context) -> Any:
        return await self._call(m.CheckpointRequest, request, context)

    async def Restore(self, request: Any, context: Context) -> Any:
        async def work() -> Any:
            asked = from_proto(m.RestoreRequest, request)
            return to_proto(await asyncio.to_thread(self._fleet.restore, asked))

        return await guarded(context, work, request.job)

    async def DeleteJob(self, request: Any, context: Context) -> Any:
        return await self._call(m.DeleteJobRequest, request, context)

    async def TakeChore(self, request: Any, context: Context) -> Any:
        return await self._call(m.ChoreRequest, request, context)

    async def Evaluated(self, request: Any, context: Context) -> Any:
        return await self._call(m.EvaluationRequest, request, context)

    async def Pin(self, request: Any, context: Context) -> Any:
        return await self._call(m.PinRequest, request, context)

    async def Link(
        self, requests: AsyncIterator[shard_pb2.ShardReports], context: Context
    ) -> AsyncIterator[shard_pb2.ShardCommands]:
        """One shard's stream: reports in, commands out, for as long as both live."""
        commands: asyncio.Queue[m.ShardCommand | None] = asyncio.Queue(LINK_QUEUE_MAX)
        loop = asyncio.get_running_loop()

        def send(command: m.ShardCommand) -> None:
            loop.call_soon_threadsafe(commands.put_nowait, command)

        try:
            hello = await _first_report(requests)
            self._fleet.link_up(hello, send)
        except SheepfoldError as error:
            log.error("a shard's link is refused: %s", error)
            raise
        reader = asyncio.create_task(self._read_reports(hello.shard, requests, commands, send))
        try:
            while (command := await commands.get()) is not None:
                waiting = [command]
                while not commands.empty() and command is not None:
                    command = commands.get_nowait()
                    waiting += [] if command is None else [command]
                for batch in batches(waiting):
                    yield commands_to_proto(batch)
                if command is None:
                    return
        finally:
            reader.cancel()
            self._fleet.link_down(hello.shard, send)

    async def _read_reports(
        self,
        shard: int,
        requests: AsyncIterator[shard_pb2.ShardReports],
        commands: asyncio.Queue[m.ShardCommand | None],
        send: Callable[[m.ShardCommand], None],
    ) -> None:
        try:
            async for message in requests:
                for wrapped in message.reports:
                    self._take(shard, report_from_proto(wrapped), send)
        except grpc.RpcError:
            pass  # the link is gone; Link ends below and says so
        except SheepfoldError as error:
            log.error("the link of shard %d ends: %s", shard, error)
        except Exception:
            log.exception("a report of shard %d could not be handled", shard)
        finally:
            commands.put_nowait(None)

    def _take(self, shard: int, report: m.ShardReport | None, send: Callable[[m.ShardCommand], None]) -> None:
        if report is None:
            log.error("shard %d sent a report this version does not know; update the coordinator", shard)
        else:
            self._fleet.report(shard, report, send)


async def _first_report(requests: AsyncIterator[shard_pb2.ShardReports]) -> m.Hello:
    first = await anext(requests, None)
    hello = report_from_proto(first.reports[0]) if first is not None and first.reports else None
    if not isinstance(hello, m.Hello):
        raise BadFrame("the first report on a link must be Hello")
    return hello


class MonitorService(monitor_pb2_grpc.MonitorServiceServicer):
    """Read-only: what dashboards and terminals show. A slow reader is dropped, never waited for."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def ListJobs(self, request: Any, context: Context) -> Any:
        async def work() -> Any:
            jobs = context.caller.visible(self._fleet.jobs())
            return to_proto(m.ListJobsReply(jobs, installed_version(), time.time()))

        return await guarded(context, work)

    async def Status(self, request: Any, context: Context) -> Any:
        async def work() -> Any:
            return to_proto(self._fleet.status(request.job))

        return await guarded(context, work, request.job)

    async def Model(self, request: Any, context: Context) -> Any:
        async def work() -> Any:
            return to_proto(self._fleet.model(request.job))

        return await guarded(context, work, request.job)

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        reports: asyncio.Queue[m.StepReport | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def take(report: m.StepReport | None) -> None:
            if reports.qsize() <= WATCH_QUEUE_MAX:  # beyond, the reader is told off below
                loop.call_soon_threadsafe(reports.put_nowait, report)

        async def work() -> Callable[[], None]:
            return self._fleet.job(request.job).watch(request.from_version, take)

        stop = await guarded(context, work, request.job)
        try:
            while (report := await reports.get()) is not None:
                yield to_proto(report)
                if reports.qsize() >= WATCH_QUEUE_MAX:
                    raise Overloaded(
                        f"{WATCH_QUEUE_MAX} step reports are waiting; read faster or watch again"
                    )
        finally:
            stop()
