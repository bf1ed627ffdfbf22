"""The dashboard's HTTP side: JSON under /api/v1, a page at /, the reference at /docs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from sheepfold_server.dashboard import models
from sheepfold_server.dashboard.reference import reference_page
from sheepfold_server.dashboard.slices import SliceRange
from sheepfold_server.dashboard.store import STEPS_KEPT, NotKept, Store

STATIC = Path(str(files("sheepfold_server.dashboard") / "static"))
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
STEP_MAX = 2**53
JobName = Annotated[str, InPath(description="name of the job")]
StepNumber = Annotated[int, InPath(description="number of the step, from 0")]
NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": models.Problem, "description": "no such job or step"}
}


def create_app(store: Store) -> FastAPI:
    """The application over a store that somebody else keeps up to date."""
    app = FastAPI(
        title="sheepfold dashboard",
        summary="Jobs, steps, trust ratios, throughput and who is waited for, as JSON.",
        version="1",
        docs_url=None,  # these pages load from other hosts; /docs below is our own
        redoc_url=None,
    )
    app.middleware("http")(_with_headers)
    app.add_exception_handler(NotKept, _not_found)
    app.include_router(job_routes(store), prefix="/api/v1")
    app.include_router(step_routes(store), prefix="/api/v1")
    app.include_router(health_routes(store))
    _add_pages(app)
    return app


async def _with_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


async def _not_found(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, status_code=404)


def job_routes(store: Store) -> APIRouter:
    routes = APIRouter(tags=["jobs"], responses=NOT_FOUND)

    @routes.get("/jobs", summary="All jobs, by name.")
    def jobs() -> list[models.JobSummary]:
        return [models.JobSummary.model_validate(status) for status in store.jobs()]

    @routes.get("/jobs/{job}", summary="Everything about a job at this moment.")
    def job_status(job: JobName) -> models.Job:
        return models.Job.model_validate(store.status(job))

    @routes.get("/jobs/{job}/workers", summary="The attached workers, by name.")
    def workers(job: JobName) -> list[models.Worker]:
        return [models.Worker.model_validate(worker) for worker in store.status(job).workers]

    @routes.get("/jobs/{job}/shards", summary="The shards, by number.")
    def shards(job: JobName) -> list[models.Shard]:
        return [models.Shard.model_validate(shard) for shard in store.status(job).shards]

    @routes.get(
        "/jobs/{job}/throughput", summary="Steps, samples and bytes per second over the last 10 seconds."
    )
    def throughput(job: JobName) -> models.Throughput:
        return models.Throughput.model_validate(store.throughput(job))

    return routes


def step_routes(store: Store) -> APIRouter:
    routes = APIRouter(tags=["steps"], responses=NOT_FOUND)

    @routes.get(
        "/jobs/{job}/steps", summary=f"Step reports, oldest first; the newest {STEPS_KEPT:,} are kept."
    )
    def steps(
        job: JobName,
        first: Annotated[
            int | None,
            Query(alias="from", ge=0, le=STEP_MAX, description="first step; left out: the newest ones"),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=STEPS_KEPT, description="most reports to return")] = 200,
    ) -> list[models.Step]:
        return [models.Step.model_validate(report) for report in store.steps(job, first, limit)]

    @routes.get("/jobs/{job}/steps/{step}", summary="One step with its slices and slots.")
    def step_detail(job: JobName, step: StepNumber) -> models.StepDetail:
        return models.StepDetail.model_validate(store.step(job, step))

    @routes.get("/jobs/{job}/slices", summary="Norms and trust ratio of each slice in the newest step.")
    def slices(job: JobName) -> list[models.SliceWithRange]:
        return [_with_range(found) for found in store.slices(job)]

    return routes


def _with_range(found: SliceRange) -> models.SliceWithRange:
    facts = models.Slice.model_validate(found.facts).model_dump()
    return models.SliceWithRange.model_construct(
        **facts, trust_ratio_min=found.trust_ratio_min, trust_ratio_max=found.trust_ratio_max
    )


def health_routes(store: Store) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz", summary="Whether this process serves.")
    def healthz() -> models.Health:
        return models.Health(status="ok")

    @routes.get("/readyz", summary="Whether the coordinator answers this process; 503 and why if not.")
    def readyz(response: Response) -> models.Health:
        trouble = store.trouble()
        response.status_code = 503 if trouble else 200
        return models.Health(status=trouble or "ok")

    return routes


def _add_pages(app: FastAPI) -> None:
    page = (STATIC / "index.html").read_text("utf-8")

    @app.get("/", include_in_schema=False, response_class=HTMLResponse)
    def index() -> str:
        return page

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    def docs() -> str:
        return reference_page(app.openapi())

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
