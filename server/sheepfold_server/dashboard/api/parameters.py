"""What requests may ask for, and how a page that is too large is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError

from sheepfold_server.dashboard import models
from sheepfold_server.dashboard.access.callers import Caller, caller_of

API = "/api/v1"
STEP_MAX = 2**53
CAPPED_HEADER = "X-Limit-Capped"
STEPS_MAX = EVENTS_MAX = 2_000
POINTS_MAX, POINTS_DEFAULT = 5_000, 600
COLUMNS_MAX, COLUMNS_DEFAULT = 1_000, 300

JobName = Annotated[str, InPath(description="name of the job")]
StepNumber = Annotated[int, InPath(description="number of the step, from 0")]
SliceKey = Annotated[str, InPath(description="number of the slice in the manifest, or its name")]
NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": models.Problem, "description": "no such job, lineage, step or slice; says which there are"}
}
Looking = Annotated[Caller, Depends(caller_of)]
Points = Annotated[int, Query(ge=1, le=POINTS_MAX, description="most points to answer with")]


@dataclass(frozen=True, slots=True)
class StepRange:
    """Steps of one lineage; a bound that is None is open."""

    first: int | None
    last: int | None
    lineage: str | None


def _step_range(
    first: Annotated[
        int | None, Query(alias="from", ge=0, le=STEP_MAX, description="first step; left out: from the start")
    ] = None,
    last: Annotated[
        int | None,
        Query(alias="to", ge=0, le=STEP_MAX, description="last step, included; left out: the newest"),
    ] = None,
    lineage: Annotated[
        str | None, Query(description="history of the job to read; left out: the present one")
    ] = None,
) -> StepRange:
    if first is not None and last is not None and last < first:
        refuse("to", f"the last step must not lie before the first one, from = {first}", last)
    return StepRange(first, last, lineage)


Range = Annotated[StepRange, Depends(_step_range)]


def api_routes(tag: str) -> APIRouter:
    """Routes under /api/v1, which refuse parameters that they do not know."""
    return APIRouter(
        prefix=API, tags=[tag], responses=NOT_FOUND, dependencies=[Depends(_refuse_unknown_parameters)]
    )


def _refuse_unknown_parameters(request: Request) -> None:
    """A misspelt `form=10` would else be answered as if nothing had been asked for."""
    described = request.app.openapi()["paths"][request.scope["route"].path_format]["get"].get(
        "parameters", ()
    )
    known = [parameter["name"] for parameter in described if parameter["in"] == "query"]
    for name, value in request.query_params.items():
        if name not in known:
            refuse(name, f"there is no such parameter here (known: {', '.join(known) or 'none'})", value)


def refuse(field: str, why: str, value: object) -> None:
    """Answer 422, naming the field of the query."""
    raise RequestValidationError(
        [{"type": "value_error", "loc": ("query", field), "msg": why, "input": value}]
    )


def capped(limit: int, most: int, response: Response) -> int:
    """The page size that is answered; a header says so if it is less than asked for."""
    if limit > most:
        response.headers[CAPPED_HEADER] = str(most)
    return min(limit, most)
