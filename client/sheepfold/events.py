"""What a Session is told, and what it asks its driver to do.

A call of a shard belongs to a round: one goal, one lease, one version. The driver gives the round of a Make
back with its result. A result of an earlier round is stale: the driver drops its bytes, the session its news.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import sheepfold_wire.messages as m
from sheepfold_wire.errors import NotReady, Overloaded
from sheepfold_wire.ids import AttemptId


class Call(Enum):
    ATTACH = auto()
    LEASE = auto()
    PULL = auto()
    PUSH = auto()
    RELEASE = auto()


class Goal(Enum):
    """What the script waits for."""

    NOTHING = auto()
    LEASE = auto()
    WEIGHTS = auto()
    PUSH = auto()


# --- actions ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Make:
    """Make this call. `shard`: of a pull or push. `version`: of a pull, None for the newest.

    `attempt`: of a push or release. `holding`: of a lease call, the attempts this worker has heard of, so
    that the coordinator knows a lost reply from a push it has not seen staged yet. `ends_heard`: of the same,
    the newest end of an attempt that it need not tell again.
    """

    call: Call
    shard: int = -1
    version: int | None = None
    attempt: AttemptId | None = None
    holding: tuple[AttemptId, ...] = ()
    round: int = 0
    ends_heard: int = 0


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing to do before this time; then handle a Tick."""

    at: float


@dataclass(frozen=True, slots=True)
class Ready:
    """The goal is reached: a lease with its weights in place, weights, or a push."""

    goal: Goal
    lease: m.Lease | None = None
    is_counted: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The job has no more work."""

    why: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The script must know: this does not get better by trying again."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Say:
    """One log line for a change of state."""

    text: str


SessionAction = Make | WaitUntil | Ready | Ended | Failed | Say

# --- events -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Want:
    """The script asks for its next lease, or for newest weights (`version` None)."""

    goal: Goal
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """The contribution of the current lease is ready to be pushed to this session's shards.

    `lease`: one that another session was given, where several push for it.
    """

    lease: m.Lease | None = None


@dataclass(frozen=True, slots=True)
class Attached:
    reply: m.AttachReply


@dataclass(frozen=True, slots=True)
class LeaseAnswer:
    reply: m.LeaseReply


@dataclass(frozen=True, slots=True)
class Pulled:
    shard: int
    version: int
    round: int


@dataclass(frozen=True, slots=True)
class Pushed:
    shard: int
    round: int


@dataclass(frozen=True, slots=True)
class CallFailed:
    """`error` no SheepfoldError: the network failed, the outcome is unknown. `shard` -1: no shard's call."""

    call: Call
    shard: int
    error: Exception
    round: int

    @property
    def means_later(self) -> bool:
        """Not ready, or no place for this worker yet: given up after a while, as silence is."""
        if self.call is Call.ATTACH and isinstance(self.error, Overloaded):
            return True
        return isinstance(self.error, NotReady)


@dataclass(frozen=True, slots=True)
class Heard:
    """A heartbeat's answer."""

    reply: m.HeartbeatReply


@dataclass(frozen=True, slots=True)
class Tick:
    pass


SessionEvent = Want | Offer | Attached | LeaseAnswer | Pulled | Pushed | CallFailed | Heard | Tick
