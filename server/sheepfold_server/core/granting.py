"""Leases: which slot a worker gets next, and which attempts have lived too long."""

from __future__ import annotations

from collections.abc import Iterator

import sheepfold_wire.messages as m
from sheepfold_server.core.attempts import Attempt
from sheepfold_server.core.loss_scale import UNSCALED
from sheepfold_server.core.state import JobState, Life
from sheepfold_wire.samples import slot_seed

FIRST_SLOT_LEASES = 20
"""A worker's first slot needs no progress for that many lease times: 10 minutes at the default of 30 s."""

LOST = ("expired", "worker gone")
"""Why attempts end that nobody handed back."""

_Place = tuple[int, int]
"""(step, number of the slot in it)."""


class Granting:
    """Gives leases out and takes them back.

    A lease is a reservation of staging room on every shard: at most W unfolded attempts live. Ordinary
    leases use W - 1 places; the last is kept for leasing the lowest unadmitted slot again, so the fold
    always advances (`test_window_of_two_cannot_deadlock`).
    """

    def __init__(self, state: JobState) -> None:
        self._s = state
        self._sequence = 0
        self._returned: list[int] = []
        self._abandoned: set[int] = set()
        """Places that are given up by a step that is not decided yet."""

    def recover(self, settled: set[int]) -> None:
        """Asynchronous, after a restart: these places in the sample stream are committed or given up."""
        self._sequence = max(settled, default=-1) + 1
        self._returned = [number for number in range(self._sequence) if number not in settled]

    def begin_at(self, sequences: int, returned: tuple[int, ...]) -> None:
        """Asynchronous: places in the sample stream below `sequences` are settled, but for those returned."""
        self._sequence, self._returned = sequences, list(returned)

    def accounts(self) -> tuple[int, tuple[int, ...]]:
        """For `begin_at`, as if every attempt that is not settled were given back."""
        if not self._s.job.batch.is_asynchronous:
            return 0, ()
        live = [attempt.slot for attempt in self._s.attempts if not attempt.is_init]
        return self._sequence, tuple(sorted({*self._returned, *live, *self._abandoned}))

    # --- giving out ---------------------------------------------------------------------------------

    def grant(self, worker: str) -> Attempt | None:
        """A new attempt for this worker, announced to the shards; None if there is no work for it now.

        While a shard is away nothing is leased: what it cannot be told of would end when it is back.
        """
        state = self._s
        if not self.has_work():
            return None
        if state.life is Life.INITIALISING:
            return self._announce(state.attempts.grant_init(worker, state.now, state.job.leases.seconds))
        if state.job.batch.is_asynchronous:
            return self._grant_sequence(worker)
        place = self._free_slot(worker) or min(self._late_slots(worker), default=None)
        if place is None:
            return None
        number, index = place
        slot = state.steps[number].slots[index]
        self._plan_ahead(worker, number, index)
        state.attempts.leased_again += slot.attempts > 0
        slot.attempts += 1
        return self._announce(self._lease(worker, number, index, self._base_version(number)))

    def has_work(self) -> bool:
        """Whether there is work for anyone: one question for all workers that wait."""
        state = self._s
        if not state.all_ready():
            return False
        if state.life is Life.INITIALISING:
            return not any(attempt.is_init for attempt in state.attempts)
        if state.life is not Life.RUNNING or state.awaits_checkpoint() or state.paced_seconds > 0:
            return False
        if state.job.batch.is_asynchronous:
            is_left = bool(self._returned) or self._sequence < state.stop_steps
            return is_left and state.attempts.unadmitted() < state.window() - 1
        lowest = next(self._free_slots(), None)
        return (lowest is not None and self._has_room(lowest)) or any(True for _ in self._late_slots())

    def _grant_sequence(self, worker: str) -> Attempt | None:
        """Asynchronous: the lease names a place in the sample stream; the step is given at admission.

        None while what this worker contributed is not committed: else, where workers are faster than shards,
        contributions would queue up, and weights fall behind further and further.
        """
        if any(attempt.worker == worker and attempt.is_staged for attempt in self._s.attempts):
            return None
        if self._returned:
            number = self._returned.pop(0)
            self._s.attempts.leased_again += 1
        else:
            number, self._sequence = self._sequence, self._sequence + 1
        return self._announce(self._lease(worker, None, number, self._s.version))

    def _lease(self, worker: str, step: int | None, slot: int, base_version: int) -> Attempt:
        state = self._s
        known = state.workers.get(worker)
        is_first = known is None or known.slots_staged == 0
        attempt = state.attempts.grant(
            worker, step, slot, base_version, state.now, state.job.leases.seconds, is_first
        )
        if state.files is not None:
            state.files.lease(attempt.id, worker, state.batch.slot_samples(slot if step is None else step))
        return attempt

    def _announce(self, attempt: Attempt) -> Attempt:
        self._s.tell_all(m.Expect(self._s.name, attempt.id, attempt.is_init, attempt.step))
        return attempt

    def _base_version(self, step: int) -> int:
        """`delay: s` computes step t at exactly version max(0, t - s); otherwise at the newest."""
        delay = self._s.job.batch.delay
        return max(0, step - delay) if delay else self._s.version

    def _free_slots(self) -> Iterator[_Place]:
        """Slots that nobody computes or has computed, lowest first."""
        for number in sorted(self._s.steps):
            step = self._s.steps[number]
            if step.is_wanted():
                free = self._s.attempts.free_slots(number, len(step.slots))
                yield from ((number, index) for index in free)

    def _has_room(self, place: _Place) -> bool:
        """Whether every shard has room to stage it: the last room is for the lowest slot not admitted.

        That one is leased also where another job has come, and this one holds more than its share of late.
        """
        if place == self._lowest():
            return self._s.unfolded() < self._s.room()
        return self._s.window() - self._s.unfolded() > 1

    def _lowest(self) -> _Place | None:
        """The slot that admission waits for."""
        unadmitted = ((n, step.admitted) for n, step in self._s.steps.items() if not step.is_full())
        return min(unadmitted, default=None)

    def _free_slot(self, worker: str) -> _Place | None:
        """The slot the worker expects, else the lowest that no other expects, else the lowest of all.

        Without workers that load samples ahead nobody expects anything, and it is the lowest.
        """
        lowest = next(self._free_slots(), None)
        if lowest is None or not self._has_room(lowest):
            return None
        if self._s.window() - self._s.unfolded() <= 1:
            return lowest
        known = self._s.workers.get(worker)
        mine = None if known is None else known.expects
        if mine is not None and self._is_wanted(mine[0]) and not self._s.attempts.of_slot(*mine):
            return mine
        others = (place for place in self._free_slots() if not self._s.workers.is_expected(place, worker))
        return next(others, lowest)

    def _is_wanted(self, number: int) -> bool:
        step = self._s.steps.get(number)
        return step is not None and step.is_wanted()

    def _plan_ahead(self, worker: str, step: int, slot: int) -> None:
        """Which slot a worker that loads ahead will probably get next: as many on as there are workers."""
        known = self._s.workers.get(worker)
        if known is None or not known.plans_ahead:
            return
        workers, batch = self._s.workers, self._s.batch
        slot += len(workers)
        while True:
            while slot >= batch.slots(step):
                step, slot = step + 1, slot - batch.slots(step)
            if not workers.is_expected((step, slot), worker):
                break
            slot += 1
        workers.expect(worker, (step, slot) if step < self._s.stop_steps else None)

    def _late_slots(self, worker: str | None = None) -> Iterator[_Place]:
        """Slots with room whose only attempt is late, or a lost worker's; but not `worker`'s own."""
        for attempt in self._late():
            if attempt.step is None or attempt.worker == worker:
                continue
            place = attempt.step, attempt.slot
            is_only = len(self._s.attempts.of_slot(*place)) == 1
            if is_only and self._is_wanted(attempt.step) and self._has_room(place):
                yield place

    def _late(self) -> Iterator[Attempt]:
        """Attempts that another worker should begin too: of a worker that may be dead, or far too slow."""
        limit, lost = self.late_after(), self._s.workers.lost
        for attempt in self._s.attempts.unstaged():
            is_old = limit is not None and self._s.now - attempt.leased_at > limit
            if attempt.worker in lost or (is_old and not self._is_compiling(attempt)):
                yield attempt
            elif not is_old and not lost:
                return  # those that follow are younger

    def late_after(self) -> float | None:
        """Seconds after which a slot is leased a second time; None while durations are not known."""
        p95 = self._s.attempts.duration_p95()
        leases = self._s.job.leases
        return None if p95 is None else max(leases.straggler_seconds_min, leases.straggler_factor * p95)

    def message(self, attempt: Attempt) -> m.Lease:
        """The attempt as the worker is told of it."""
        state, job = self._s, self._s.job
        if attempt.is_init:
            return m.Lease(attempt.id, True, -1, 0, 0, job.seed, job.leases.seconds)
        place = (attempt.slot, 0) if attempt.step is None else (attempt.step, attempt.slot)
        start, count = state.batch.slot_range(*place)
        return m.Lease(
            attempt=attempt.id,
            is_init=False,
            base_version=attempt.base_version,
            sample_start=start if state.files is None else 0,
            sample_count=count,
            seed=slot_seed(job.seed, *place),
            lease_seconds=job.leases.seconds,
            step=attempt.step,
            slot=None if attempt.step is None else attempt.slot,
            sequence=state.batch.sequence(place[0]),
            stride=self._stride(attempt, start),
            files=() if state.files is None else state.files.ranges(attempt.id),
            loss_scale=UNSCALED if attempt.step is None else state.steps[attempt.step].loss_scale,
        )

    def _stride(self, attempt: Attempt, start: int) -> int:
        """Samples from this lease's to those its worker probably gets next; 0 if it does not plan ahead."""
        worker = self._s.workers.get(attempt.worker)
        if worker is not None and worker.plans_ahead and attempt.step is None:
            return len(self._s.workers) * self._s.batch.slot_samples(attempt.slot)
        if worker is None or worker.expects is None:
            return 0
        return max(0, self._s.batch.slot_range(*worker.expects)[0] - start)

    # --- taking back --------------------------------------------------------------------------------

    def end(self, attempt: Attempt, why: str, cause: str = "") -> None:
        """End an attempt that is not admitted; its place is free again. `cause`: else `why` up to a colon."""
        self._s.end_attempt(attempt, why, cause or why.partition(":")[0])
        if attempt.step is None and not attempt.is_init:
            self._returned.append(attempt.slot)
            self._returned.sort()

    def abandon(self, sequence: int) -> None:
        """Asynchronous: these samples are not leased again."""
        self._returned.remove(sequence)
        self._abandoned.add(sequence)

    def settled(self, sequence: int | None) -> None:
        """The step that gave it up is decided."""
        if sequence is not None:
            self._abandoned.discard(sequence)

    def renew(self, worker: str, progress: tuple[m.AttemptProgress, ...]) -> None:
        """Move deadlines of attempts that got on; a worker's first slot (it compiles) needs no progress.

        An attempt the worker does not name is one it does not know or has given up: it expires.
        """
        done = {item.attempt: item.done for item in progress}
        for attempt in self._s.attempts.of_worker(worker):
            if attempt.id not in done:
                continue
            if done[attempt.id] > attempt.done or self._is_compiling(attempt):
                attempt.done = max(attempt.done, done[attempt.id])
                attempt.deadline = self._s.now + self._patience()

    def _is_compiling(self, attempt: Attempt) -> bool:
        """Whether it is a worker's first slot, which may take long: but not for ever, it may also hang."""
        age = self._s.now - attempt.leased_at
        return attempt.is_first_of_worker and age < FIRST_SLOT_LEASES * self._s.job.leases.seconds

    def _patience(self) -> float:
        """How long an attempt may show no progress: the lease, or thrice a slot's usual time if longer."""
        p95 = self._s.attempts.duration_p95() or 0.0
        return max(self._s.job.leases.seconds, 3.0 * p95)

    def expire(self) -> None:
        """End attempts past their deadline."""
        for attempt in self._s.attempts:
            if not attempt.is_staged and attempt.deadline <= self._s.now:
                self.end(attempt, "expired")

    def release(
        self, worker: str, keys: tuple[object, ...], why: str, staged: tuple[object, ...] = ()
    ) -> int:
        """End the worker's unstaged attempts (those of `keys`, or all); returns how many.

        `staged`: those that the worker knows to be on every shard, whose reports come another way.
        """
        held = (a for a in self._s.attempts.of_worker(worker) if a.id not in staged)
        given = [attempt for attempt in held if not keys or attempt.id in keys]
        for attempt in given:
            self.end(attempt, why, why if why in LOST else "handed back")
        return len(given)
