"""The dashboard's HTTP side: JSON under /api/v1, a page at /, the reference at /docs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from sheepfold_server.dashboard.api.charts import chart_routes
from sheepfold_server.dashboard.api.happened import event_routes
from sheepfold_server.dashboard.api.health import health_routes
from sheepfold_server.dashboard.api.jobs import job_routes
from sheepfold_server.dashboard.api.live import live_routes
from sheepfold_server.dashboard.api.metrics import metric_routes
from sheepfold_server.dashboard.api.outlook import outlook_routes
from sheepfold_server.dashboard.api.steps import step_routes
from sheepfold_server.dashboard.history.history import NotKept
from sheepfold_server.dashboard.reference import reference_page
from sheepfold_server.dashboard.store import Store

STATIC = Path(str(files("sheepfold_server.dashboard") / "static"))
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
ENCODED_HEADERS = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
ROUTES = (job_routes, step_routes, chart_routes, event_routes, outlook_routes, live_routes)

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]


def create_app(store: Store) -> FastAPI:
    """The application over a store that somebody else keeps up to date."""
    app = FastAPI(
        title="sheepfold dashboard",
        summary="Jobs, steps, trust ratios, throughput and who is waited for, as JSON.",
        version="1",
        docs_url=None,  # these pages load from other hosts; /docs below is our own
        redoc_url=None,
    )
    app.add_middleware(WithHeaders)
    app.add_exception_handler(NotKept, _not_found)
    for routes in ROUTES:
        app.include_router(routes(store), prefix="/api/v1")
    app.include_router(health_routes(store))
    app.include_router(metric_routes(store))
    _add_pages(app)
    _describe_refusals(app)
    return app


def _describe_refusals(app: FastAPI) -> None:
    """Refusals are JSON on every route; FastAPI would describe those of a CSV route or a stream as such."""
    for described in app.openapi()["paths"].values():
        for status, answer in described["get"]["responses"].items():
            if status != "200" and answer.get("content"):
                answer["content"] = {"application/json": next(iter(answer["content"].values()))}


class WithHeaders:
    """Adds our headers to every answer as it begins; a stream passes through untouched."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [pair for pair in message["headers"] if pair[0].lower() not in ENCODED_HEADERS]
                message["headers"] = [*others, *ENCODED_HEADERS.items()]
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _not_found(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, status_code=404)


def _add_pages(app: FastAPI) -> None:
    page = (STATIC / "index.html").read_text("utf-8")

    @app.get("/", include_in_schema=False, response_class=HTMLResponse)
    def index() -> str:
        return page

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    def docs() -> str:
        return reference_page(app.openapi())

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
