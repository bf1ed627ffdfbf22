"""A shard's link to its coordinator: one stream, reports up, commands down, opened again when it breaks."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator

import grpc

import sheepfold_wire.messages as m
from sheepfold_server.shell.batches import batches
from sheepfold_server.shell.options import channel_options
from sheepfold_wire.access import Access
from sheepfold_wire.convert import command_from_proto, reports_to_proto
from sheepfold_wire.errors import ServerUntrusted
from sheepfold_wire.v1 import coordinator_pb2_grpc, shard_pb2

log = logging.getLogger(__name__)

RECONNECT_SECONDS = 0.5


class Link:
    """Runs in one thread of its own until closed. Reports of a broken stream are dropped: the coordinator
    asks again (OpenJob), and the cores say where they stand."""

    def __init__(
        self,
        access: Access,
        hello: Callable[[], m.Hello],
        on_command: Callable[[m.ShardCommand], None],
        on_failure: Callable[[str], None],
    ) -> None:
        """`on_failure`: a command cannot be carried out, or the coordinator refuses this shard for good."""
        self._access, self._hello = access, hello
        self._on_command, self._on_failure = on_command, on_failure
        self._reports: queue.SimpleQueue[m.ShardReport | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._call: grpc.Call | None = None
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self.is_up = False

    def start(self) -> None:
        self._thread.start()

    def send(self, report: m.ShardReport) -> None:
        self._reports.put(report)

    def close(self) -> None:
        self._closing.set()
        self._reports.put(None)
        if self._call is not None:
            self._call.cancel()
        self._thread.join(5.0)

    def _run(self) -> None:
        was_up = True
        while not self._closing.is_set():
            try:
                lost = self._hold()
            except Exception as error:
                log.exception("a command of the coordinator could not be carried out")
                self._on_failure(f"a command could not be carried out: {error!r}")
                return
            if lost is None:
                return
            if lost and was_up and not self._closing.is_set():
                log.warning("no link to the coordinator at %s: %s", self._access.target, lost)
            was_up, self.is_up = self.is_up, False
            self._closing.wait(RECONNECT_SECONDS)

    def _hold(self) -> str | None:
        """Until the link is lost: why, empty if the coordinator ended it. None: it is refused for good."""
        try:
            channel = self._access.channel(self._access.target, channel_options())
        except ServerUntrusted as error:
            self._on_failure(f"it does not trust the coordinator: {error}")
            return None
        except OSError as error:
            return error.strerror or str(error)
        with channel:
            try:
                self._talk(coordinator_pb2_grpc.CoordinatorServiceStub(channel))
            except grpc.RpcError as error:
                if not _is_final(error):
                    return _details(error)
                target = self._access.target
                self._on_failure(f"the coordinator at {target} refuses it: {_details(error)}")
                return None
        return ""

    def _talk(self, stub: coordinator_pb2_grpc.CoordinatorServiceStub) -> None:
        reports: queue.SimpleQueue[m.ShardReport | None] = queue.SimpleQueue()
        reports.put(self._hello())
        self._reports = reports
        call = stub.Link(_stream(reports))
        self._call = call
        try:
            for message in call:
                self.is_up = True
                for wrapped in message.commands:
                    self._take(command_from_proto(wrapped))
        finally:
            reports.put(None)

    def _take(self, command: m.ShardCommand | None) -> None:
        if command is None:
            log.error("the coordinator sent a command this version does not know; update the shard")
        else:
            self._on_command(command)


def _stream(reports: queue.SimpleQueue[m.ShardReport | None]) -> Iterator[shard_pb2.ShardReports]:
    while (report := reports.get()) is not None:
        waiting = [report]
        while not reports.empty() and report is not None:
            report = reports.get()
            waiting += [] if report is None else [report]
        for batch in batches(waiting):
            yield reports_to_proto(batch)
        if report is None:
            return


def _is_final(error: grpc.RpcError) -> bool:
    """Whether a role answered, with a refusal that does not change by trying again."""
    code = getattr(error, "code", lambda: None)()
    return code in (
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    )


def _details(error: grpc.RpcError) -> str:
    return str(getattr(error, "details", lambda: error)())
