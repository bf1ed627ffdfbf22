"""Whether this process serves, for whoever restarts it."""

from __future__ import annotations

from fastapi import APIRouter, Response

from sheepfold_server.dashboard import models
from sheepfold_server.dashboard.store import Store


def health_routes(store: Store) -> APIRouter:
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz", summary="Whether this process serves.")
    def healthz() -> models.Health:
        return models.Health(status="ok")

    @routes.get(
        "/readyz",
        summary="Whether the coordinator answers this process; 503 and why if not.",
        responses={503: {"model": models.Health, "description": "the coordinator does not answer"}},
    )
    def readyz(response: Response) -> models.Health:
        trouble = store.trouble()
        response.status_code = 503 if trouble else 200
        return models.Health(status=trouble or "ok")

    return routes
