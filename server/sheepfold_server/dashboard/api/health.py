"""Whether this process serves, for whoever restarts it."""

from __future__ import annotations

from fastapi import APIRouter, Response

from sheepfold_server.dashboard import models
from sheepfold_server.dashboard.store import Store


def health_routes(store: Store, says_why: bool) -> APIRouter:
    """`says_why` the coordinator does not answer: only where everybody may know, for nobody is asked here."""
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
        told = trouble if says_why else "the coordinator does not answer; the log of this process says why"
        return models.Health(status=told if trouble else "ok")

    return routes
