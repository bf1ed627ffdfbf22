"""What the coordinator's core is told, and what it asks for."""

from __future__ import annotations

from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold_server.core.records import CoordinatorRecord
from sheepfold_wire.errors import SheepfoldError

# --- events ----------------------------------------------------------------------------------------------

WorkerRequest = (
    m.CreateJobRequest
    | m.AttachRequest
    | m.LeaseRequest
    | m.HeartbeatRequest
    | m.ReleaseRequest
    | m.ConfigChangeRequest
    | m.ControlRequest
    | m.RewindRequest
    | m.ChoreRequest
    | m.EvaluationRequest
    | m.PinRequest
)


@dataclass(frozen=True, slots=True)
class FromWorker:
    """A call of a worker, reader or administrator; answered by exactly one Answer or Refuse."""

    caller: int
    request: WorkerRequest


@dataclass(frozen=True, slots=True)
class ShardUp:
    """A shard's link is up. `is_resumed`: the same process as before; it still holds its buffers."""

    shard: int
    incarnation: int
    hello: m.Hello
    is_resumed: bool


@dataclass(frozen=True, slots=True)
class ShardDown:
    shard: int


@dataclass(frozen=True, slots=True)
class FromShard:
    shard: int
    report: m.ShardReport


@dataclass(frozen=True, slots=True)
class Persisted:
    """The record of that number is as durable as the job's level demands."""

    number: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


CoordinatorEvent = FromWorker | ShardUp | ShardDown | FromShard | Persisted | Tick

# --- effects ---------------------------------------------------------------------------------------------

WorkerReply = (
    m.CreateJobReply
    | m.AttachReply
    | m.LeaseReply
    | m.HeartbeatReply
    | m.ReleaseReply
    | m.ConfigChangeReply
    | m.ControlReply
    | m.RewindReply
    | m.ChoreReply
    | m.EvaluationReply
    | m.PinReply
)


@dataclass(frozen=True, slots=True)
class Answer:
    caller: int
    reply: WorkerReply


@dataclass(frozen=True, slots=True)
class Refuse:
    caller: int
    error: SheepfoldError


@dataclass(frozen=True, slots=True)
class ToShard:
    shard: int
    command: m.ShardCommand


@dataclass(frozen=True, slots=True)
class Persist:
    """Write a record of the coordinator's log; Persisted(number) follows when it is durable."""

    number: int
    record: CoordinatorRecord


@dataclass(frozen=True, slots=True)
class Publish:
    """Give a step report to dashboards; dropping it loses nothing of the job."""

    report: m.StepReport


@dataclass(frozen=True, slots=True)
class Note:
    """One line for the operator's log."""

    text: str


CoordinatorEffect = Answer | Refuse | ToShard | Persist | Publish | Note
