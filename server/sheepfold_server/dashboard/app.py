"""The dashboard's HTTP side: JSON under /api/v1, a page at /, the reference at /docs, a login at /login."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from sheepfold_server.dashboard.access.callers import Access, caller_of
from sheepfold_server.dashboard.access.front import Incidents, KnownHosts
from sheepfold_server.dashboard.access.gate import NOTHING_HERE, Gate, Keeper
from sheepfold_server.dashboard.access.headers import WithHeaders
from sheepfold_server.dashboard.access.login import login_routes
from sheepfold_server.dashboard.access.sessions import Sessions
from sheepfold_server.dashboard.access.table import Table
from sheepfold_server.dashboard.api.charts import chart_routes
from sheepfold_server.dashboard.api.happened import event_routes
from sheepfold_server.dashboard.api.health import health_routes
from sheepfold_server.dashboard.api.jobs import job_routes
from sheepfold_server.dashboard.api.live import live_routes
from sheepfold_server.dashboard.api.metrics import metric_routes
from sheepfold_server.dashboard.api.outlook import outlook_routes
from sheepfold_server.dashboard.api.steps import step_routes
from sheepfold_server.dashboard.history.history import NotKept
from sheepfold_server.dashboard.limits import LIMITS, Limits
from sheepfold_server.dashboard.reference import reference_page
from sheepfold_server.dashboard.store import JobNotKept, Store

STATIC = Path(str(files("sheepfold_server.dashboard") / "static"))
SERVED = ("page.css", "page.js", "icon.svg", "THIRD_PARTY_LICENSES")
ROUTES = (job_routes, step_routes, chart_routes, event_routes, outlook_routes, live_routes)


def create_app(store: Store, access: Access | None = None, limits: Limits = LIMITS) -> FastAPI:
    """The application over a store that somebody else keeps up to date.

    Raises RouteUndecided if there is a route of which the table does not say who may ask for it.
    """
    access = access or Access()
    keeper = None if access.verify is None else Keeper(access.verify, Sessions())
    readers = [
        *(routes(store) for routes in ROUTES),
        health_routes(store, keeper is None),
        metric_routes(store),
    ]
    app = FastAPI(
        title="sheepfold dashboard",
        summary="Jobs, steps, trust ratios, throughput and who is waited for, as JSON.",
        version="1",
        docs_url=None,  # these pages load from other hosts; /docs below is our own
        redoc_url=None,
        redirect_slashes=False,
        # Not by include_router, which hides them: the table is compared with what stands here.
        routes=[route for reader in readers for route in reader.routes],
    )
    app.router.routes.extend(login_routes(keeper, limits).routes)
    _add_pages(app, has_login=keeper is not None)
    table = Table()
    table.check(app.routes)
    app.add_middleware(Gate, keeper=keeper, table=table, answer_seconds=limits.answer_seconds)
    app.add_middleware(KnownHosts, hosts=access.hosts)
    app.add_middleware(Incidents)
    app.add_middleware(WithHeaders)  # the outermost one is added last
    app.add_exception_handler(NotKept, _not_found)
    app.add_exception_handler(404, _nothing_here)
    _describe_refusals(app)
    return app


def _describe_refusals(app: FastAPI) -> None:
    """Refusals are JSON on every route; FastAPI would describe those of a CSV route or a stream as such."""
    for described in app.openapi()["paths"].values():
        for status, answer in described["get"]["responses"].items():
            if status != "200" and answer.get("content"):
                answer["content"] = {"application/json": next(iter(answer["content"].values()))}


async def _not_found(request: Request, error: Exception) -> Response:
    """Who has one job is told the same of it as of others: whose names are none of its business."""
    caller = caller_of(request)
    told = caller.absent(error.job) if isinstance(error, JobNotKept) and caller.is_scoped else error
    return JSONResponse({"detail": str(told)}, status_code=404)


async def _nothing_here(request: Request, error: Exception) -> Response:
    """No route has the address: whatever a route does not find is a `NotKept`."""
    return JSONResponse({"detail": NOTHING_HERE}, status_code=404)


def _add_pages(app: FastAPI, has_login: bool) -> None:
    page = (STATIC / "index.html").read_text("utf-8")
    if has_login:
        page = page.replace("<body>", "<body data-login>")  # it then shows how to log out

    @app.get("/", include_in_schema=False, response_class=HTMLResponse)
    def index() -> str:
        return page

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    def docs() -> str:
        return reference_page(app.openapi())

    def add_file(name: str) -> None:
        @app.get(f"/static/{name}", include_in_schema=False, response_class=FileResponse)
        def file() -> FileResponse:
            return FileResponse(STATIC / name)

    for name in SERVED:
        add_file(name)
