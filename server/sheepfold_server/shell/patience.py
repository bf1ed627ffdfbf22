"""Ends calls whose sender has gone silent: each holds one of the shard's threads, and memory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

log = logging.getLogger(__name__)

FRAME_SECONDS_MAX = 30.0
"""Between two frames of a push, and before its first one: 35 kB/s at frames of 1 MiB."""
MESSAGE_SECONDS_MAX = 5.0
"""Between the headers of any other call and its one message."""
LOOK_SECONDS = 1.0


class Patience:
    """Watches over calls, by one thread until closed."""

    def __init__(self) -> None:
        self._due: dict[object, tuple[float, Any]] = {}
        """When the next message of a call is due, and its context."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="patience", daemon=True)
        self.ended = 0
        """Calls that were ended."""

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def frames(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """The frames of a push; raises grpc.RpcError once it was ended."""
        while (frame := self._next(requests, context, FRAME_SECONDS_MAX)) is not None:
            yield frame

    def message(self, requests: Iterator[Any], context: Any) -> Any:
        """The one message of a call, None if it ended without; raises grpc.RpcError once it was ended."""
        return self._next(requests, context, MESSAGE_SECONDS_MAX)

    def _next(self, requests: Iterator[Any], context: Any, seconds: float) -> Any:
        key = object()
        self._due[key] = (time.monotonic() + seconds, context)
        try:
            return next(requests, None)
        finally:
            self._due.pop(key, None)

    def _run(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            now = time.monotonic()
            for key, (due, context) in list(self._due.items()):
                if now > due and self._due.pop(key, None) is not None:
                    self.ended += 1
                    log.warning("a call is ended: its sender has gone silent")
                    context.cancel()
