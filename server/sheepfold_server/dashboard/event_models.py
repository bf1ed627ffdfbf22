"""What the API answers about what happened, what is to come, and what happens now."""

from __future__ import annotations

from pydantic import Field

from sheepfold_server.dashboard.models import Answer, Job, Shard, Step, Worker


class Event(Answer):
    """Something that happened to the job."""

    id: int = Field(description="increases with each event of any job")
    step: int = Field(description="step it belongs to")
    seconds: float = Field(description="unix time, in seconds, at which it was seen")
    kind: str = Field(
        description="attach, leave, shard, restart, lineage, checkpoint, change, alert, state, refusal, skip"
    )
    text: str = Field(description="one sentence")
    author: str = Field(description="who asked for it, as they said; empty if nobody did")


class Events(Answer):
    """A page of events, oldest first."""

    events: list[Event] = Field(description="the newest ones of the range")
    limit: int = Field(description="most events of this page")
    capped: bool = Field(description="whether more were asked for than a page may have")


class Lineage(Answer):
    """One history of the job."""

    lineage: str = Field(description="identity of the history")
    first_step: int = Field(description="first step that is known of it")
    last_step: int = Field(description="last step that is known of it; -1 before one")
    is_current: bool = Field(description="whether the job goes on in it")


class Lineages(Answer):
    """All histories of the job that are kept, oldest first."""

    lineages: list[Lineage] = Field(description="the newest 32 at most")


class Schedule(Answer):
    """What the newest configuration plans, from step 0 to the stop."""

    job: str = Field(description="name of the job")
    step: list[int] = Field(description="some steps, the first and the last included")
    learning_rate: list[float] = Field(description="learning rate of each")
    slots: list[int] = Field(description="slots of each (K)")
    slot_samples: list[int] = Field(description="samples of one slot of each")


class Forecast(Answer):
    """When the job ends, and how much work was in vain."""

    eta_seconds: float | None = Field(
        description="seconds until the job ends at its present rate; null while nothing moves"
    )
    steps_left: int = Field(description="steps until it ends")
    goodput: float | None = Field(
        description="share of the decided leases that became part of an applied step; null before one"
    )
    waste: dict[str, int] = Field(
        description="slots: leased_again (had been leased before), skipped (of skipped steps), and those "
        "that ended without counting, by cause"
    )


class Stall(Answer):
    """What the job waits for."""

    text: str = Field(description="one sentence with names and numbers")
    since_seconds: float = Field(description="seconds since the open step last got a slot")
    next_seconds: float | None = Field(
        description="seconds until the slot may be leased again; null if nothing is timed"
    )


class Alert(Answer):
    """Something that somebody should look at."""

    lineage: str = Field(description="history of the job it is of")
    name: str = Field(description="name of the rule, such as SlicePinned")
    severity: str = Field(description="warning or critical")
    since_step: int = Field(description="step at which it began")
    since_seconds: float = Field(description="unix time, in seconds, at which it began")
    ended_seconds: float | None = Field(
        description="unix time, in seconds, at which it ended; null while it is active"
    )
    subject: str = Field(description="slice, worker or job it is about")
    text: str = Field(description="one sentence with numbers")
    remedy: str = Field(description="one sentence: what to do")


class Alerts(Answer):
    """Active alerts and those that ended recently, the newest first."""

    alerts: list[Alert] = Field(description="active ones before ended ones")


class LiveSteps(Answer):
    """Data of the event `step`."""

    job: str = Field(description="name of the job")
    steps: list[Step] = Field(description="reports since the event before, oldest first")


class LiveStatus(Job):
    """Data of the event `status`."""

    workers: list[Worker] = Field(description="the attached workers, by name")
    shards: list[Shard] = Field(description="the shards, by number")


class LiveGap(Answer):
    """Data of the event `gap`: steps that this stream will not tell; read them from the series."""

    job: str = Field(description="name of the job")
    from_step: int = Field(description="first step left out; 0 where it is not known what the page has")
    to_step: int = Field(description="last step left out")
