"""What is to come: schedule, forecast, and what the open step waits for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from sheepfold_server.dashboard import event_models
from sheepfold_server.dashboard.api.parameters import POINTS_MAX, JobName, api_routes
from sheepfold_server.dashboard.forecast import forecast, schedule, stall
from sheepfold_server.dashboard.store import Store

Points = Annotated[int, Query(ge=1, le=POINTS_MAX, description="most steps to answer with")]


def outlook_routes(store: Store) -> APIRouter:
    routes = api_routes("outlook")

    @routes.get(
        "/jobs/{job}/schedule", summary="Learning rate and slots by step, by the newest configuration."
    )
    def job_schedule(job: JobName, points: Points = 300) -> event_models.Schedule:
        return event_models.Schedule.model_validate(schedule(store.status(job), points))

    @routes.get("/jobs/{job}/forecast", summary="When the job ends at its present rate, and slots in vain.")
    def job_forecast(job: JobName) -> event_models.Forecast:
        found = forecast(store.status(job), store.throughput(job).steps_per_second, store.waited_seconds(job))
        return event_models.Forecast.model_validate(found)

    @routes.get("/jobs/{job}/stall", summary="What the open step waits for, and what happens next.")
    def job_stall(job: JobName) -> event_models.Stall:
        return event_models.Stall.model_validate(stall(store.status(job), store.waited_seconds(job)))

    return routes
