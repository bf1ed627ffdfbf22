"""Collects what pages are to be told, in batches, and wakes those that listen. Thread-safe."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.dashboard import event_models, models
from sheepfold_server.dashboard.history.events import Event
from sheepfold_server.dashboard.live.ring import Gap, Message, Ring
from sheepfold_server.dashboard.workers import live_status

FLUSH_SECONDS = 0.1
STATUS_SECONDS = 0.5
STEPS_PENDING_MAX = 2_048


@dataclass(slots=True)
class _Status:
    """A job's newest status as JSON, and what was told last and when."""

    newest: str = ""
    told: str = ""
    told_at: float = -STATUS_SECONDS


class Feed:
    """Call `flush` every 0.1 s. `first_id` exceeds every id of an earlier process: unix milliseconds do."""

    def __init__(self, first_id: int = 1) -> None:
        self._lock = threading.Lock()
        self._ring = Ring(first_id)
        self._steps: dict[str, list[m.StepReport]] = {}
        self._statuses: dict[str, _Status] = {}
        self._listeners: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._woken = self._ring.newest
        self._is_closed = False

    # --- told by the store ------------------------------------------------------------------------

    def begin(self, job: str, newest_step: int) -> None:
        """A job is followed; up to `newest_step` an earlier process told of it (-1: nothing)."""
        with self._lock:
            self._ring.lost_before(job, newest_step)

    def step(self, report: m.StepReport) -> None:
        with self._lock:
            pending = self._steps.setdefault(report.job, [])
            pending.append(report)
            is_full = len(pending) >= STEPS_PENDING_MAX
        if is_full:
            self._put_steps()

    def status(self, status: m.JobStatus) -> None:
        data = live_status(status).model_dump_json()
        with self._lock:
            self._statuses.setdefault(status.job, _Status()).newest = data

    def forget(self, job: str) -> None:
        """Its status is nobody's any more."""
        with self._lock:
            self._statuses.pop(job, None)

    def event(self, job: str, event: Event) -> None:
        self._put("event", job, event_models.Event.model_validate(event).model_dump_json())

    def alert(self, job: str, alert: event_models.Alert) -> None:
        self._put("alert", job, alert.model_dump_json())

    def _put(self, event: str, job: str, data: str) -> None:
        with self._lock:
            self._ring.put(event, job, data)

    def flush(self, now: float) -> None:
        """Put what waits into the ring, at monotonic time `now`, and wake who listens for it."""
        self._put_steps()
        with self._lock:
            for job, status in self._statuses.items():
                if status.newest != status.told and now - status.told_at >= STATUS_SECONDS:
                    self._ring.put("status", job, status.newest)
                    status.told, status.told_at = status.newest, now
            is_news, self._woken = self._ring.newest != self._woken, self._ring.newest
        if is_news:
            self._wake()

    def _put_steps(self) -> None:
        with self._lock:
            pending, self._steps = self._steps, {}
            for job, reports in pending.items():
                steps = [models.Step.model_validate(report) for report in reports]
                data = event_models.LiveSteps(job=job, steps=steps).model_dump_json()
                self._ring.put("step", job, data, reports[-1].step)

    # --- read by pages ----------------------------------------------------------------------------

    async def messages(self, job: str | None, last_id: int | None) -> AsyncGenerator[Message, None]:
        """What is told of a job (None: of all) after `last_id`, or from now on; ends when the feed closes."""
        news, loop = asyncio.Event(), asyncio.get_running_loop()
        with self._lock:
            position = self._ring.newest if last_id is None else last_id
            self._listeners[news] = loop
            current = [] if last_id is not None else self._current(job)
        known: dict[str, int] = {}
        try:
            for message in current:
                yield message
            while True:
                news.clear()
                with self._lock:
                    gaps, found = self._ring.after(position, job, known)
                    # Where nothing came, stay: a reader of an earlier process must not miss the first gap.
                    position = self._ring.newest if gaps or found else position
                    is_closed = self._is_closed
                for gap in gaps:
                    known[gap.job] = gap.to_step
                    yield _gap_message(gap, position)
                for message in found:
                    if message.last_step >= 0:
                        known[message.job] = message.last_step
                    yield message
                if is_closed:
                    return
                await news.wait()
        finally:
            with self._lock:
                self._listeners.pop(news, None)

    def _current(self, job: str | None) -> list[Message]:
        """The status of now, for a page that has just come."""
        return [
            Message(self._ring.newest, "status", name, status.newest)
            for name, status in self._statuses.items()
            if job in (None, name)
        ]

    def close(self) -> None:
        """End every stream."""
        with self._lock:
            self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            listeners = list(self._listeners.items())
        for news, loop in listeners:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)


def _gap_message(gap: Gap, position: int) -> Message:
    data = event_models.LiveGap(job=gap.job, from_step=gap.from_step, to_step=gap.to_step).model_dump_json()
    return Message(position, "gap", gap.job, data)
