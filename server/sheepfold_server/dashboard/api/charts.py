"""Series and the heat map: any range of steps, in a number of points that fits the screen."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Response

from sheepfold_server.dashboard import chart_models
from sheepfold_server.dashboard.api import table
from sheepfold_server.dashboard.api.parameters import (
    COLUMNS_DEFAULT,
    COLUMNS_MAX,
    POINTS_DEFAULT,
    JobName,
    Points,
    Range,
    SliceKey,
    StepRange,
    api_routes,
    refuse,
)
from sheepfold_server.dashboard.history.charts import Chart, Window, heat
from sheepfold_server.dashboard.history.history import NotKept
from sheepfold_server.dashboard.history.record import METRIC_PREFIX, SLICE_VALUES
from sheepfold_server.dashboard.store import Store

ROWS_PER_COLUMN = 2
"""Rows of all slices are large: rather fewer columns than reading more of them."""
Names = Annotated[
    str,
    Query(description="series, separated by commas; `available` in the answer names all", max_length=8192),
]
Columns = Annotated[int, Query(ge=1, le=COLUMNS_MAX, description="most columns to answer with")]
HeatValue = Literal["trust_ratio", "weight_norm", "update_norm", "gradient_norm"]
Value = Annotated[HeatValue, Query(description="what is drawn")]


class ChartReader:
    """Reads charts of a store's history as answers."""

    def __init__(self, store: Store) -> None:
        self._store, self._history = store, store.history

    def series(self, job: str, names: str, steps: StepRange, points: int) -> chart_models.Series:
        lineage = self._store.lineage(job, steps.lineage)
        available = self._history.series_names(job, lineage)
        wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
        for name in wanted:
            if name not in available and not name.startswith(METRIC_PREFIX):
                refuse("names", f"no series named {name!r} (known: {', '.join(available)})", name)
        found = self._history.series(job, lineage, steps.first, steps.last, points)
        columns = {name: available.index(name) if name in available else None for name in wanted}
        return chart_models.Series.model_construct(
            **_fields(job, lineage, found, columns), available=available
        )

    def slice_series(self, job: str, key: str, steps: StepRange, points: int) -> chart_models.SliceSeries:
        lineage = self._store.lineage(job, steps.lineage)
        names = self._history.slice_names(job, lineage)
        number = slice_number(key, names)
        found = self._history.slice_series(job, lineage, number, steps.first, steps.last, points)
        columns: dict[str, int | None] = {name: i for i, name in enumerate(SLICE_VALUES)}
        return chart_models.SliceSeries.model_construct(
            **_fields(job, lineage, found, columns),
            slice=number,
            name=names[number],
            available=list(SLICE_VALUES),
        )

    def heatmap(self, job: str, steps: StepRange, columns: int, value: HeatValue) -> chart_models.Heatmap:
        lineage = self._store.lineage(job, steps.lineage)
        names = self._history.slice_names(job, lineage)
        window = Window(steps.first, steps.last, columns, ROWS_PER_COLUMN)
        found = self._history.heat(job, lineage, window, SLICE_VALUES.index(value))
        data, clamped = heat(found.rows.mean, 0), heat(found.rows.high, 1) > 0
        return chart_models.Heatmap.model_construct(
            job=job,
            lineage=lineage,
            steps_per_column=found.steps_per_point,
            step=found.rows.step.tolist(),
            slices=names,
            value=value,
            data=base64.b64encode(data.astype("<f4").tobytes()).decode("ascii"),
            clamped=base64.b64encode(clamped.astype(np.uint8).tobytes()).decode("ascii"),
        )


def slice_number(key: str, names: Sequence[str]) -> int:
    """The number of the slice that a path names, by number or by name."""
    if key in names:
        return names.index(key)
    if key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(names):
        return int(key)
    known = f"0 to {len(names) - 1}, or {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
    raise NotKept(f"no slice {key!r} here (known: {known if names else 'none yet'})")


def _fields(job: str, lineage: str, found: Chart, columns: dict[str, int | None]) -> dict[str, Any]:
    """What all answers with series have; a series without a column is null throughout."""
    rows = found.rows
    none = [float("nan")] * len(rows)
    bands = {
        name: chart_models.Band.model_construct(
            min=none if column is None else rows.low[:, column].tolist(),
            mean=none if column is None else rows.mean[:, column].tolist(),
            max=none if column is None else rows.high[:, column].tolist(),
        )
        for name, column in columns.items()
    }
    return {
        "job": job,
        "lineage": lineage,
        "steps_per_point": found.steps_per_point,
        "step": rows.step.tolist(),
        "seconds": rows.seconds.tolist(),
        "samples": rows.samples.astype(np.int64).tolist(),
        "series": bands,
    }


def _csv(answer: chart_models.Series) -> table.CsvResponse:
    fields = ["step", "seconds", "samples"]
    columns: list[Sequence[float | None]] = [answer.step, answer.seconds, answer.samples]
    for name, band in answer.series.items():
        fields += [name, f"{name}_min", f"{name}_max"]
        columns += [band.mean, band.min, band.max]
    return table.csv_of(fields, zip(*columns, strict=True))


def chart_routes(store: Store) -> APIRouter:
    routes = api_routes("charts")
    reader = ChartReader(store)

    @routes.get("/jobs/{job}/series", summary="Series of a job: smallest, mean and largest per point.")
    def series(
        job: JobName, steps: Range, names: Names = "loss", points: Points = POINTS_DEFAULT
    ) -> chart_models.Series:
        return reader.series(job, names, steps, points)

    @routes.get(
        "/jobs/{job}/series.csv",
        summary="The same as CSV; a series' column is its mean.",
        response_class=table.CsvResponse,
    )
    def series_csv(
        job: JobName, steps: Range, names: Names = "loss", points: Points = POINTS_DEFAULT
    ) -> Response:
        return _csv(reader.series(job, names, steps, points))

    @routes.get("/jobs/{job}/slices/{slice:path}/series", summary="Ratio and norms of one slice.")
    def slice_series(
        job: JobName, slice: SliceKey, steps: Range, points: Points = POINTS_DEFAULT
    ) -> chart_models.SliceSeries:
        return reader.slice_series(job, slice, steps, points)

    @routes.get(
        "/jobs/{job}/slices/{slice:path}/series.csv",
        summary="The same as CSV; a series' column is its mean.",
        response_class=table.CsvResponse,
    )
    def slice_series_csv(
        job: JobName, slice: SliceKey, steps: Range, points: Points = POINTS_DEFAULT
    ) -> Response:
        return _csv(reader.slice_series(job, slice, steps, points))

    @routes.get("/jobs/{job}/heatmap", summary="One value of every slice over steps, as packed arrays.")
    def heatmap(
        job: JobName, steps: Range, columns: Columns = COLUMNS_DEFAULT, value: Value = "trust_ratio"
    ) -> chart_models.Heatmap:
        return reader.heatmap(job, steps, columns, value)

    return routes
