"""What a worker does next, as a pure state machine: attach, lease, pull, push, and what to try again.

No I/O, no clock, no threads: `handle(event, now) -> [action]`. The driver carries actions out; a call's
result comes back as an event. One contribution at a time.

The retry contract is the error's own `action` (sheepfold_wire.errors). Whatever is no answer of ours came
from the network: the outcome is unknown, so the same call with the same attempt is made again, with backoff
and full jitter. The attempt id is the idempotency key: a repeated push is answered, not counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import sheepfold_wire.messages as m
from sheepfold.events import (
    Attached,
    Call,
    CallFailed,
    Ended,
    Failed,
    Goal,
    Heard,
    LeaseAnswer,
    Make,
    Offer,
    Pulled,
    Pushed,
    Ready,
    Say,
    SessionAction,
    SessionEvent,
    WaitUntil,
    Want,
)
from sheepfold.rounds import ALONE, Progress, Retries, Share, remember_end
from sheepfold.waiting import Waiting
from sheepfold_wire.errors import Action as Remedy
from sheepfold_wire.errors import JobHasEnded, SheepfoldError
from sheepfold_wire.ids import NOTHING_LOADED, AttemptId

BACKOFF_SECONDS_FIRST = 0.05
BACKOFF_SECONDS_MAX = 5.0
LEASE_WAIT_SECONDS = 10.0
CHECKSUM_RETRIES_MAX = 3
LEASES_REMEMBERED = 16


class Session:
    """One worker's side of one job."""

    def __init__(
        self,
        jitter: Callable[[], float],
        give_up_seconds: float = 600.0,
        takes_newer_versions: bool = False,
        share: Share = ALONE,
    ) -> None:
        """`jitter` returns numbers in [0, 1). Without any answer for `give_up_seconds` the session fails."""
        self._jitter = jitter
        self._give_up_seconds = give_up_seconds
        self.takes_newer_versions, self._share = takes_newer_versions, share
        self.attached: m.AttachReply | None = None
        self.lease: m.Lease | None = None
        self.version: int = NOTHING_LOADED
        """Version the script's weights have; -1 also while a pull has replaced some of them."""
        self.round = 0
        self.ends_heard = 0
        self.outcomes: dict[AttemptId, m.AttemptEnd] = {}
        """What became of the newest attempts, as far as it is known."""
        self._heard_of: deque[AttemptId] = deque(maxlen=LEASES_REMEMBERED)
        self._lineage: str | None = None
        self._shards: tuple[m.ShardAddress, ...] = ()
        self._goal = Goal.NOTHING
        self._wanted_version: int | None = None
        self._is_exact = False
        """Whether the script asked for this very version, and no other will do."""
        self._progress = Progress()
        self._calling: set[Call] = set()
        self._retries: dict[tuple[Call, int], Retries] = {}
        self._silent_since: float | None = None
        self._waiting = Waiting()
        self._out: list[SessionAction] = []

    def forget_weights(self) -> None:
        """The script's weights are of no version: what was pulled did not get into place."""
        self.version = NOTHING_LOADED

    def handle(self, event: SessionEvent, now: float) -> list[SessionAction]:
        """Take one event; returns what to do, in order. A goal ends with Ready, Ended or Failed."""
        match event:
            case Want():
                self._begin(event.goal, event.version)
            case Offer(lease) if lease is None and self.lease is None:
                self._drop("the job went back to a checkpoint")
            case Offer(lease):
                self.lease = lease or self.lease
                self._begin(Goal.PUSH, None)
            case Attached(reply):
                self._on_attached(reply)
            case LeaseAnswer(reply):
                self._on_ends(reply.ends)
                self._on_lease(reply, now)
            case Pulled() | Pushed() if self._is_stale(event.round):
                pass
            case Pulled():
                self._on_pulled(event)
            case Pushed(shard):
                self._answered(Call.PUSH, shard)
                self._progress.asked.discard(shard)
                self._progress.done.add(shard)
            case CallFailed():
                if event.shard < 0 or not self._is_stale(event.round):
                    self._on_failed(event, now)
            case Heard(reply):
                self._on_ends(reply.ends)
        self._go_on(now)
        out, self._out = self._out, []
        return out

    # --- goals --------------------------------------------------------------------------------------

    def _begin(self, goal: Goal, version: int | None) -> None:
        self._goal, self._wanted_version = goal, version
        self._is_exact = version is not None
        self._begin_round()
        if goal is Goal.LEASE:
            self.lease = None

    def _begin_round(self) -> None:
        """Answers to calls made until now no longer matter."""
        self.round += 1
        self._progress = Progress()

    def _is_stale(self, round_of_call: int) -> bool:
        return round_of_call != self.round

    def _reach(self, action: SessionAction) -> None:
        self._goal = Goal.NOTHING
        self._begin_round()
        self._retries.clear()
        self._out.append(action)

    def _go_on(self, now: float) -> None:
        """Ask for whatever the goal still lacks."""
        if self._goal is Goal.NOTHING:
            return
        if self.attached is None:
            self._make(Call.ATTACH, now)
            return
        is_init = self.lease is not None and self.lease.is_init
        shards = (ALONE if is_init else self._share).of(len(self.attached.shards))
        if self._goal is Goal.PUSH:
            self._push(shards, now)
        elif self._goal is Goal.LEASE and self.lease is None:
            self._make(Call.LEASE, now)
        else:
            self._pull(shards, now)

    def _push(self, shards: range, now: float) -> None:
        if self._progress.done.issuperset(shards):
            lease, self.lease = self.lease, None
            self._reach(Ready(Goal.PUSH, lease, is_counted=True))
            return
        for shard in shards:
            if shard not in self._progress.done:
                self._make(Call.PUSH, now, shard)

    def _pull(self, shards: range, now: float) -> None:
        lease, wanted = self.lease if self._goal is Goal.LEASE else None, self._wanted_version
        if lease is not None and (lease.is_init or wanted == self.version):
            self._reach(Ready(Goal.LEASE, lease))
            return
        if self._progress.done.issuperset(shards):
            self._finish_pull()
            return
        for shard in shards:
            if shard not in self._progress.done:
                self._make(Call.PULL, now, shard, wanted)

    def _finish_pull(self) -> None:
        """All shards answered: one version, or again at the newest of them (a pull is never torn)."""
        versions = set(self._progress.versions.values())
        if len(versions) > 1:
            self._wanted_version = max(versions)
            stale = [
                shard for shard, version in self._progress.versions.items() if version != self._wanted_version
            ]
            self._progress.done.difference_update(stale)
            self._out.append(WaitUntil(0.0))  # a Tick at once asks the others again
            return
        self.version = versions.pop() if versions else (self._wanted_version or 0)
        self._reach(Ready(self._goal, self.lease if self._goal is Goal.LEASE else None))

    def _make(self, call: Call, now: float, shard: int = -1, version: int | None = None) -> None:
        """Make the call unless it is under way or waits for its backoff."""
        retries = self._retries.get((call, shard))
        if retries is not None and now < retries.not_before:
            self._out.append(WaitUntil(retries.not_before))
            return
        if shard >= 0:
            if shard in self._progress.asked:
                return
            self._progress.asked.add(shard)
        elif call in self._calling:
            return
        else:
            self._calling.add(call)
        attempt = self.lease.attempt if self.lease else None
        holding = tuple(self._heard_of) if call is Call.LEASE else ()
        self._out.append(Make(call, shard, version, attempt, holding, self.round, self.ends_heard))

    # --- answers ------------------------------------------------------------------------------------

    def _answered(self, call: Call, shard: int = -1) -> None:
        self._calling.discard(call)
        retries = self._retries.pop((call, shard), None)
        if retries is not None and retries.failures > 3:
            self._out.append(Say(f"{call.name.lower()} works again after {retries.failures} tries"))
            self._waiting = Waiting()
        self._silent_since = None

    def _on_attached(self, reply: m.AttachReply) -> None:
        self._answered(Call.ATTACH)
        before, self._lineage, self.attached = self._lineage, reply.lineage, reply
        self.ends_heard = 0
        self._progress.asked -= {place.shard for place in set(reply.shards).difference(self._shards)}
        self._shards = reply.shards
        if before != reply.lineage:
            self.version = NOTHING_LOADED
            if before is not None:
                self._out.append(Say(f"the job went back to version {reply.version}, which was kept"))
                self._went_back()

    def _went_back(self) -> None:
        """To a checkpoint, as another lineage: what was leased and pulled is of no use any more."""
        if self._goal is Goal.PUSH:
            self._drop("the job went back to a checkpoint")
            return
        self.lease = None
        if not self._is_exact:
            self._wanted_version = None
        self._begin_round()

    def _on_lease(self, reply: m.LeaseReply, now: float) -> None:
        self._answered(Call.LEASE)
        if self._goal is not Goal.LEASE:
            return
        if reply.state == "ended":
            self._reach(Ended(reply.why))
        elif reply.lease is not None:
            self.lease, self._wanted_version = reply.lease, reply.lease.base_version
            self._heard_of.append(reply.lease.attempt)
            self._begin_round()
            self._say(self._waiting.is_over(now))
        else:
            what = "the job is paused:" if reply.state == "paused" else "waiting for"
            self._say(self._waiting.goes_on(f"{what} {reply.why}", now))

    def _say(self, text: str | None) -> None:
        if text is not None:
            self._out.append(Say(text))

    def _on_pulled(self, event: Pulled) -> None:
        self._answered(Call.PULL, event.shard)
        self._progress.asked.discard(event.shard)
        self._progress.done.add(event.shard)
        self._progress.versions[event.shard] = event.version
        if event.version != self.version:
            self.version = NOTHING_LOADED

    def _on_ends(self, ends: tuple[m.AttemptEnd, ...]) -> None:
        """What became of our attempts; what is computed for one that ended can be dropped."""
        for end in ends:
            self.ends_heard = max(self.ends_heard, end.number)
            remember_end(self.outcomes, end)
            if end.is_committed:
                continue
            if self.lease is not None and end.attempt == self.lease.attempt and self._goal is Goal.PUSH:
                self._drop(end.reason)

    def _drop(self, why: str) -> None:
        lease, self.lease = self.lease, None
        self._reach(Ready(Goal.PUSH, lease, is_counted=False, why=why))

    # --- failures -----------------------------------------------------------------------------------

    def _on_failed(self, event: CallFailed, now: float) -> None:
        self._calling.discard(event.call)
        self._progress.asked.discard(event.shard)
        error = event.error
        if not isinstance(error, SheepfoldError):
            self._network_failed(event, now)
            return
        self._silent_since = self._silent_since if event.means_later else None
        match error.action:
            case Remedy.ATTACH:
                self.attached = None
                self._back_off(event, now)
            case Remedy.DROP | Remedy.GIVE_BACK if self._goal is Goal.PUSH:
                self._drop(str(error))
            case Remedy.PULL_NEWEST if self._goal in (Goal.LEASE, Goal.WEIGHTS) and not self._is_exact:
                self._version_gone()
            case Remedy.SEND_AGAIN | Remedy.WAIT:
                self._try_again(event, error, now)
            case _ if isinstance(error, JobHasEnded):
                self._reach(Ended(str(error)))
            case _:
                self._reach(Failed(error))

    def _try_again(self, event: CallFailed, error: SheepfoldError, now: float) -> None:
        if event.means_later:
            self._network_failed(event, now)
            return
        retries = self._back_off(event, now)
        if error.reason == "CHUNK_CHECKSUM_MISMATCH":
            retries.checksums += 1
            if retries.checksums > CHECKSUM_RETRIES_MAX:
                self._reach(Failed(error))

    def _version_gone(self) -> None:
        """The leased version is no longer served: newer weights where the job allows it, else a new lease."""
        self._wanted_version = None
        self._begin_round()
        if self._goal is Goal.LEASE and not self.takes_newer_versions and self.lease is not None:
            self._out.append(Make(Call.RELEASE, attempt=self.lease.attempt))
            self.lease = None

    def _network_failed(self, event: CallFailed, now: float) -> None:
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since > self._give_up_seconds:
            self._reach(Failed(event.error))
            return
        retries = self._back_off(event, now)
        if event.shard >= 0 and retries.failures >= 2:  # started anew, elsewhere? The coordinator knows
            self.attached = None
        if retries.failures >= 3:
            failing = f"{event.call.name.lower()} fails, trying again: {event.error}"
            self._say(self._waiting.goes_on(failing, now))

    def _back_off(self, event: CallFailed, now: float) -> Retries:
        """Exponential, full jitter: anywhere between nothing and the doubled last bound."""
        retries = self._retries.setdefault((event.call, event.shard), Retries())
        retries.failures += 1
        bound = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_FIRST * 2.0 ** min(retries.failures, 16))
        retries.not_before = now + bound * self._jitter()
        return retries
