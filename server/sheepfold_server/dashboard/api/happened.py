"""What happened to a job, its alerts, and its lineages."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from sheepfold_server.dashboard import event_models
from sheepfold_server.dashboard.api import table
from sheepfold_server.dashboard.api.parameters import (
    EVENTS_MAX,
    JobName,
    Range,
    StepRange,
    api_routes,
    capped,
)
from sheepfold_server.dashboard.history.events import Event
from sheepfold_server.dashboard.store import Store

Kind = Literal[
    "attach",
    "leave",
    "shard",
    "restart",
    "lineage",
    "checkpoint",
    "change",
    "alert",
    "state",
    "refusal",
    "skip",
]
Kinds = Annotated[list[Kind], Query(description="only events of this kind; may be repeated")]
Limit = Annotated[int, Query(ge=1, description=f"most events to return, at most {EVENTS_MAX:,}")]


def event_routes(store: Store) -> APIRouter:
    routes = api_routes("events")

    def read(job: str, steps: StepRange, kinds: list[Kind], limit: int) -> list[Event]:
        lineage = store.lineage(job, steps.lineage)
        return store.history.events(job, lineage, steps.first, steps.last, tuple(kinds), limit)

    @routes.get("/jobs/{job}/events", summary="The newest events of a range of steps, oldest first.")
    def events(job: JobName, steps: Range, limit: Limit = 200, kind: Kinds = []) -> event_models.Events:  # noqa: B006
        most = min(limit, EVENTS_MAX)
        found = [event_models.Event.model_validate(event) for event in read(job, steps, kind, most)]
        return event_models.Events(events=found, limit=most, capped=limit > most)

    @routes.get("/jobs/{job}/events.csv", summary="The same as CSV.", response_class=table.CsvResponse)
    def events_csv(job: JobName, steps: Range, limit: Limit = 200, kind: Kinds = []) -> Response:  # noqa: B006
        fields = list(event_models.Event.model_fields)
        found = read(job, steps, kind, min(limit, EVENTS_MAX))
        answer = table.csv_of(fields, ([getattr(event, name) for name in fields] for event in found))
        capped(limit, EVENTS_MAX, answer)
        return answer

    @routes.get("/jobs/{job}/alerts", summary="What somebody should look at, active and recently ended.")
    def alerts(job: JobName) -> event_models.Alerts:
        return event_models.Alerts(
            alerts=[event_models.Alert.model_validate(alert) for alert in store.alerts(job)]
        )

    @routes.get("/jobs/{job}/lineages", summary="The job's histories, oldest first.")
    def lineages(job: JobName) -> event_models.Lineages:
        present = store.lineage(job)
        return event_models.Lineages(
            lineages=[
                event_models.Lineage(
                    lineage=found.name,
                    first_step=max(0, found.first),
                    last_step=found.newest,
                    is_current=found.name == present,
                )
                for found in store.history.lineages(job)
            ]
        )

    return routes
