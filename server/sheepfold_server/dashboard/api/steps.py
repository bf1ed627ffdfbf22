"""Steps that are kept whole, and the slices of the newest one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from sheepfold_server.dashboard import models
from sheepfold_server.dashboard.api import table
from sheepfold_server.dashboard.api.parameters import (
    STEPS_MAX,
    JobName,
    Range,
    StepNumber,
    StepRange,
    api_routes,
    capped,
)
from sheepfold_server.dashboard.history.ranges import SliceRange
from sheepfold_server.dashboard.store import Store

Limit = Annotated[int, Query(ge=1, description=f"most reports to return, at most {STEPS_MAX:,}")]
Lineage = Annotated[str | None, Query(description="history of the job to read; left out: the present one")]


def step_routes(store: Store) -> APIRouter:
    routes = api_routes("steps")

    def read(job: str, steps: StepRange, limit: int) -> list[models.Step]:
        lineage = store.lineage(job, steps.lineage)
        found = store.history.reports(job, lineage, steps.first, steps.last, limit)
        return [models.Step.model_validate(report) for report in found]

    @routes.get(
        "/jobs/{job}/steps",
        summary="Step reports, oldest first: from a step on, or the newest ones. Older ones than the newest "
        "2,000 are kept if they were flagged: skipped, a clamp begun or ended, an alert.",
    )
    def steps(job: JobName, steps: Range, response: Response, limit: Limit = 200) -> list[models.Step]:
        return read(job, steps, capped(limit, STEPS_MAX, response))

    @routes.get("/jobs/{job}/steps.csv", summary="The same as CSV.", response_class=table.CsvResponse)
    def steps_csv(job: JobName, steps: Range, limit: Limit = 200) -> Response:
        rows = read(job, steps, min(limit, STEPS_MAX))
        fields = [name for name in models.Step.model_fields if name != "metrics"]
        answer = table.csv_of(fields, ([getattr(row, name) for name in fields] for row in rows))
        capped(limit, STEPS_MAX, answer)
        return answer

    @routes.get("/jobs/{job}/steps/{step}", summary="One step with its slices and slots.")
    def step_detail(job: JobName, step: StepNumber, lineage: Lineage = None) -> models.StepDetail:
        report = store.history.report(job, store.lineage(job, lineage), step)
        return models.StepDetail.model_validate(report)

    def ranges(job: str, lineage: str | None) -> list[models.SliceWithRange]:
        found = store.history.slices(job, store.lineage(job, lineage))
        return [_with_range(each, store.slice_noise_scale(job, each.facts.slice)) for each in found]

    @routes.get("/jobs/{job}/slices", summary="Norms and trust ratio of each slice in the newest step.")
    def slices(job: JobName, lineage: Lineage = None) -> list[models.SliceWithRange]:
        return ranges(job, lineage)

    @routes.get("/jobs/{job}/slices.csv", summary="The same as CSV.", response_class=table.CsvResponse)
    def slices_csv(job: JobName, lineage: Lineage = None) -> Response:
        rows, fields = ranges(job, lineage), list(models.SliceWithRange.model_fields)
        return table.csv_of(fields, ([getattr(row, name) for name in fields] for row in rows))

    return routes


def _with_range(found: SliceRange, noise_scale: float | None) -> models.SliceWithRange:
    facts = models.Slice.model_validate(found.facts).model_dump()
    return models.SliceWithRange.model_construct(
        **facts,
        trust_ratio_min=found.trust_ratio_min,
        trust_ratio_max=found.trust_ratio_max,
        trust_ratio_drift=found.trust_ratio_drift,
        steps_clamped=found.steps_clamped,
        noise_scale=noise_scale,
    )
