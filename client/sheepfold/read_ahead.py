"""An iterator read one item ahead in a thread, so that taking an item costs the script next to nothing."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

JOIN_SECONDS = 0.5
"""For an item that is being read when the reader is closed."""

_END = object()


class _Raised(NamedTuple):
    error: BaseException


class _Shared(NamedTuple):
    """What reader and thread have in common; the thread must not keep the reader alive."""

    source: Iterator[Any]
    room: threading.Semaphore
    items: queue.SimpleQueue[Any]
    stop: threading.Event


class ReadAhead:
    """The same items in the same order; what the source raises is raised where its item would come.

    A batch of a DataLoader's process is handed over in about 2 ms (a socket per tensor): here that is done
    while the script computes on the batch before.
    """

    def __init__(self, source: Iterator[Any]) -> None:
        shared = _Shared(source, threading.Semaphore(1), queue.SimpleQueue(), threading.Event())
        thread = threading.Thread(target=_read, args=(shared,), name="sheepfold-read-ahead", daemon=True)
        self._items, self._room = shared.items, shared.room
        self._close = weakref.finalize(self, _end, shared, thread)
        thread.start()

    def __iter__(self) -> ReadAhead:
        return self

    def __next__(self) -> Any:
        item = self._items.get()
        if item is _END:
            self._items.put(_END)
            raise StopIteration
        if isinstance(item, _Raised):
            self._items.put(_END)
            raise item.error
        self._room.release()
        return item

    def close(self) -> None:
        """End the thread. May be repeated."""
        self._close()


def _read(shared: _Shared) -> None:
    while True:
        shared.room.acquire()
        if shared.stop.is_set():
            return
        try:
            item = next(shared.source, _END)
        except BaseException as error:
            item = _Raised(error)
        shared.items.put(item)
        if item is _END or isinstance(item, _Raised):
            return


def _end(shared: _Shared, thread: threading.Thread) -> None:
    shared.stop.set()
    shared.room.release()
    shared.items.put(_END)
    if thread is not threading.current_thread():
        thread.join(JOIN_SECONDS)
