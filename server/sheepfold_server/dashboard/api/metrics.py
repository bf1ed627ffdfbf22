"""Metrics for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sheepfold_server.dashboard.metrics.collector import registry
from sheepfold_server.dashboard.store import Store


class MetricsResponse(Response):
    media_type = CONTENT_TYPE_LATEST


def metric_routes(store: Store) -> APIRouter:
    routes = APIRouter(tags=["health"])
    collected = registry(store)

    @routes.get("/metrics", summary="Everything as metrics for Prometheus.", response_class=MetricsResponse)
    def metrics() -> Response:
        return MetricsResponse(generate_latest(collected))

    return routes
