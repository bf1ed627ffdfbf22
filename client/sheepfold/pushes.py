"""How a run's contributions leave: at once, or in a job with `delay` beside what the worker does next."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

import sheepfold_wire.messages as m
from sheepfold.events import Ended, Ready
from sheepfold.slot import Slot
from sheepfold.transport import Brought
from sheepfold.worker import Worker
from sheepfold_wire.codecs import Buffer

log = logging.getLogger("sheepfold")

BROKEN_OFF = "its push was broken off"
"""It may be staged in part: its attempt is never offered again, with other bytes."""

Answer = Callable[[], Ready | Ended]
"""What became of a push; waits for it. Raises Refused, ServerUnavailable."""


class Pushes:
    """The pushes of one run, one at a time: the parts of the last are free once `wait` has returned.

    With `delay` the weights of the next slot do not wait for this push: they are leased and pulled while it
    goes on, and the next slot is computed. A second session pushes for the same lease, in a thread.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._pusher: Worker | None = None
        self._last: Future[Ready | Ended] | None = None

    def push(self, parts: tuple[Buffer, ...], facts: m.Facts, slot: Slot, brought: Brought = ()) -> Answer:
        """Raises Refused, ServerUnavailable where it is at once."""
        if self._worker.pushes_beside:
            return self._begin(parts, facts, slot)
        try:
            answer = self._worker.push(parts, facts, brought)
        except BaseException:
            self._worker.release(BROKEN_OFF)
            raise
        self._name(answer, slot)
        return lambda: answer

    def _begin(self, parts: tuple[Buffer, ...], facts: m.Facts, slot: Slot) -> Answer:
        self._worker.slot_is_over()
        pusher = self._pusher = self._pusher or self._worker.second()
        last = self._last = Future[Ready | Ended]()

        def work() -> None:
            try:
                answer = pusher.push_for(slot.lease, parts, facts)
            except Exception as error:
                self._worker.hand_back(slot.lease.attempt, BROKEN_OFF)
                last.set_exception(error)
            else:
                self._name(answer, slot)
                last.set_result(answer)

        threading.Thread(target=work, name="sheepfold-push", daemon=True).start()
        return last.result

    def _name(self, answer: Ready | Ended, slot: Slot) -> None:
        if not (isinstance(answer, Ready) and answer.is_counted):
            place = f"slot {slot.lease.slot} of step {slot.step}"
            log.info("job %s: %s does not count: %s", self._worker.job.name, place, answer.why)

    def wait(self) -> None:
        """Until none is under way. Raises what the last one raised, once."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def check(self) -> None:
        """Raises what a push that is over has raised, once."""
        if self._last is not None and self._last.done():
            self.wait()

    def close(self) -> None:
        """One that is under way has as long to end as a slot has after SIGTERM. May be repeated."""
        if self._last is not None:
            with suppress(TimeoutError):
                self._last.exception(self._worker.notice_seconds)
        if self._pusher is not None:
            self._pusher.close()
