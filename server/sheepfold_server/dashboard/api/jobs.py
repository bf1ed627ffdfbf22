"""Jobs as they are at this moment."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from sheepfold_server.dashboard import models
from sheepfold_server.dashboard.api.parameters import JobName, Looking, api_routes, capped
from sheepfold_server.dashboard.kept import KeptJob
from sheepfold_server.dashboard.plan_by_bytes import model_answer
from sheepfold_server.dashboard.store import Store
from sheepfold_server.dashboard.workers import worker_answer

TENSORS_MAX = 10_000
FirstTensor = Annotated[
    int, Query(alias="from", ge=0, le=2**31, description="first tensor to return, from 0")
]
Tensors = Annotated[int, Query(ge=1, description=f"most tensors, at most {TENSORS_MAX:,}")]


def job_routes(store: Store) -> APIRouter:
    routes = api_routes("jobs")

    @routes.get("/jobs", summary="All jobs, by name, with those that only the history tells of.")
    def jobs(caller: Looking) -> list[models.JobSummary]:
        known = [models.JobSummary.model_validate(each) for each in (*store.jobs(), *store.kept_jobs())]
        return [each for each in sorted(known, key=lambda each: each.job) if caller.sees(each.job)]

    @routes.get("/jobs/{job}", summary="Everything about a job at this moment.")
    def job_status(job: JobName) -> models.Job | models.KeptJob:
        found = store.find(job)
        return (models.KeptJob if isinstance(found, KeptJob) else models.Job).model_validate(found)

    @routes.get("/jobs/{job}/config", summary="The newest configuration, every value resolved.")
    def config(job: JobName) -> dict[str, Any]:
        found = json.loads(store.status(job).config_json)
        return found if isinstance(found, dict) else {}

    @routes.get("/jobs/{job}/workers", summary="The attached workers, by name.")
    def workers(job: JobName) -> list[models.Worker]:
        return [worker_answer(worker) for worker in store.status(job).workers]

    @routes.get("/jobs/{job}/shards", summary="The shards, by number.")
    def shards(job: JobName) -> list[models.Shard]:
        return [models.Shard.model_validate(shard) for shard in store.status(job).shards]

    @routes.get(
        "/jobs/{job}/model",
        summary="The model's tensors in manifest order, and which shard holds how many bytes of each.",
    )
    def model(
        job: JobName, response: Response, first: FirstTensor = 0, limit: Tensors = 1_000
    ) -> models.Model:
        return model_answer(store.plan(job), first, capped(limit, TENSORS_MAX, response))

    @routes.get(
        "/jobs/{job}/throughput", summary="Steps, samples and bytes per second over the last 10 seconds."
    )
    def throughput(job: JobName) -> models.Throughput:
        return models.Throughput.model_validate(store.throughput(job))

    return routes
