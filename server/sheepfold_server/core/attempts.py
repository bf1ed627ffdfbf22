"""Attempts: who holds a lease of what, until when, and how each of them ended."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from sheepfold_wire.ids import AttemptId
from sheepfold_wire.messages import Facts, SlotCounts

DURATIONS_KEPT = 64


@dataclass(slots=True)
class Attempt:
    """One lease. `step` is None until admission in asynchronous mode; `slot` then is the sequence number."""

    id: AttemptId
    worker: str
    is_init: bool
    step: int | None
    slot: int
    base_version: int
    leased_at: float
    deadline: float
    is_first_of_worker: bool
    done: int = 0
    staged_on: set[int] = field(default_factory=set)
    squares: dict[int, tuple[float, ...]] = field(default_factory=dict)
    """Sums of squares of the part's blocks by shard."""
    facts: Facts | None = None
    is_staged: bool = False
    """On every shard: the worker has nothing left to do for it."""
    is_admitted: bool = False


@dataclass(slots=True)
class _Places:
    """The slots of one step that have live attempts."""

    taken: dict[int, list[Attempt]] = field(default_factory=dict)
    free_from: int = 0
    """Every slot below is taken."""


class Attempts:
    """Every live attempt of a job, and the count of all that ended (invariant I17).

    leased = committed + skipped + dropped + live, at every moment; init leases are not counted. What is asked
    after every event is kept in indices, so that the work of a step grows with its slots and not with their
    square: `stage`, `admit`, `withdraw` and `move` are the only ways to change an attempt that is live.
    """

    def __init__(self, term: int) -> None:
        self._term = term
        self._counter = 0
        self._live: dict[AttemptId, Attempt] = {}
        self._unstaged: dict[AttemptId, Attempt] = {}
        self._unadmitted = 0
        self._places: dict[int, _Places] = {}
        """By step; an attempt without a step has no place yet."""
        self._durations: deque[float] = deque(maxlen=DURATIONS_KEPT)
        self.leased = self.committed = self.skipped = self.leased_again = 0
        self.dropped = 0
        self.drops: Counter[str] = Counter()
        """By cause; they add up to `dropped`."""

    def grant(
        self,
        worker: str,
        step: int | None,
        slot: int,
        base_version: int,
        now: float,
        seconds: float,
        is_first: bool,
    ) -> Attempt:
        """A new attempt of (step, slot); the caller has checked the lease window."""
        return self._add(worker, False, step, slot, base_version, now, seconds, is_first)

    def grant_init(self, worker: str, now: float, seconds: float) -> Attempt:
        """The lease to upload w0."""
        return self._add(worker, True, None, 0, -1, now, seconds, True)

    def _add(
        self,
        worker: str,
        is_init: bool,
        step: int | None,
        slot: int,
        base_version: int,
        now: float,
        seconds: float,
        is_first: bool,
    ) -> Attempt:
        self._counter += 1
        self.leased += not is_init
        key = AttemptId(self._term, self._counter)
        attempt = Attempt(key, worker, is_init, step, slot, base_version, now, now + seconds, is_first)
        self._enter(attempt)
        return attempt

    def adopt(self, attempt: Attempt) -> None:
        """An attempt of an earlier term that the log names: leased and staged then."""
        self.leased += not attempt.is_init
        self._enter(attempt)

    def _enter(self, attempt: Attempt) -> None:
        self._live[attempt.id] = attempt
        self._unadmitted += not attempt.is_admitted
        if not attempt.is_staged:
            self._unstaged[attempt.id] = attempt
        self._take_place(attempt)

    def _leave(self, attempt: Attempt) -> None:
        del self._live[attempt.id]
        self._unadmitted -= not attempt.is_admitted
        self._unstaged.pop(attempt.id, None)
        self._give_place(attempt)

    def _take_place(self, attempt: Attempt) -> None:
        if attempt.step is not None:
            places = self._places.setdefault(attempt.step, _Places())
            places.taken.setdefault(attempt.slot, []).append(attempt)

    def _give_place(self, attempt: Attempt) -> None:
        if attempt.step is None:
            return
        places = self._places[attempt.step]
        places.taken[attempt.slot].remove(attempt)
        if not places.taken[attempt.slot]:
            del places.taken[attempt.slot]
            places.free_from = min(places.free_from, attempt.slot)
        if not places.taken:
            del self._places[attempt.step]

    def stage(self, attempt: Attempt) -> None:
        """It is on every shard."""
        attempt.is_staged = True
        del self._unstaged[attempt.id]

    def admit(self, attempt: Attempt) -> None:
        """It is to be folded."""
        self._unadmitted -= not attempt.is_admitted
        attempt.is_admitted = True

    def withdraw(self, attempt: Attempt) -> None:
        """It was admitted and has to wait again."""
        self._unadmitted += attempt.is_admitted
        attempt.is_admitted = False

    def move(self, attempt: Attempt, step: int | None) -> None:
        """Asynchronous: its step is known now, or no longer."""
        self._give_place(attempt)
        attempt.step = step
        self._take_place(attempt)

    def newest(self) -> AttemptId:
        """The attempt leased last; its counter is 0 before the first."""
        return AttemptId(self._term, self._counter)

    def get(self, key: AttemptId) -> Attempt | None:
        return self._live.get(key)

    def __iter__(self) -> Iterator[Attempt]:
        """Live attempts, oldest first; the caller may end some while iterating."""
        return iter(list(self._live.values()))

    def of_worker(self, worker: str) -> list[Attempt]:
        """Live attempts the worker still has to push, oldest first."""
        return [attempt for attempt in self._unstaged.values() if attempt.worker == worker]

    def unstaged(self) -> Iterator[Attempt]:
        """Live attempts that some worker still has to push, oldest first."""
        return iter(self._unstaged.values())

    def of_slot(self, step: int, slot: int) -> list[Attempt]:
        """Live attempts of the slot, oldest first."""
        places = self._places.get(step)
        return [] if places is None else list(places.taken.get(slot, ()))

    def free_slots(self, step: int, slots: int) -> Iterator[int]:
        """Which of the step's slots have no live attempt, lowest first."""
        places = self._places.get(step)
        if places is None:
            yield from range(slots)
            return
        while places.free_from in places.taken:
            places.free_from += 1
        yield from (slot for slot in range(places.free_from, slots) if slot not in places.taken)

    def unadmitted(self) -> int:
        """Attempts that hold reserved room and are not admitted."""
        return self._unadmitted

    def end(self, attempt: Attempt, cause: str) -> None:
        """The attempt will never count. `cause` is one of few words."""
        self._leave(attempt)
        if not attempt.is_init:
            self.dropped += 1
            self.drops[cause] += 1

    def commit(self, attempt: Attempt, is_skip: bool) -> None:
        """The attempt is part of a step that is decided."""
        self._leave(attempt)
        if not attempt.is_init:
            self.skipped += is_skip
            self.committed += not is_skip

    def note_duration(self, seconds: float) -> None:
        """From lease to staged on every shard, of one attempt."""
        self._durations.append(seconds)

    def duration_p95(self) -> float | None:
        """95th percentile of recent slot durations, seconds; None before eight are known."""
        if len(self._durations) < 8:
            return None
        ordered = sorted(self._durations)
        return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]

    def counts(self) -> SlotCounts:
        return SlotCounts(
            leased=self.leased,
            committed=self.committed,
            leased_again=self.leased_again,
            dropped=self.dropped,
            skipped=self.skipped,
            outstanding=sum(not a.is_init for a in self._live.values()),
        )
