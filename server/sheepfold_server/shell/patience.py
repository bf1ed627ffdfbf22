"""Ends pushes whose sender has gone silent: each holds one of the shard's threads, and memory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

log = logging.getLogger(__name__)

FRAME_SECONDS_MAX = 30.0
"""Between two frames of a push, and before its first one: 35 kB/s at frames of 1 MiB."""
LOOK_SECONDS = 1.0


class Patience:
    """Watches over pushes, by one thread until closed."""

    def __init__(self) -> None:
        self._due: dict[object, tuple[float, Any]] = {}
        """When the next frame of a push is due, and the context of its call."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="patience", daemon=True)
        self.ended = 0
        """Pushes that were ended."""

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def frames(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """The frames of a push; raises grpc.RpcError once it was ended."""
        key = object()
        try:
            while True:
                self._due[key] = (time.monotonic() + FRAME_SECONDS_MAX, context)
                frame = next(requests, None)
                self._due.pop(key, None)
                if frame is None:
                    return
                yield frame
        finally:
            self._due.pop(key, None)

    def _run(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            now = time.monotonic()
            for key, (due, context) in list(self._due.items()):
                if now > due and self._due.pop(key, None) is not None:
                    self.ended += 1
                    log.warning("a push is ended: no frame of it came for %.0f s", FRAME_SECONDS_MAX)
                    context.cancel()
