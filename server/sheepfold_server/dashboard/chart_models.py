"""What the API answers about ranges of steps."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sheepfold_server.dashboard.models import Answer

Values = Annotated[list[float | None], Field(description="one per point; null where a step has none")]


class Band(Answer):
    """A series: per point the smallest, mean and largest of its steps; all equal where that is one step."""

    min: Values
    mean: Values
    max: Values


class Series(Answer):
    """Series of a range of steps on one axis."""

    job: str = Field(description="name of the job")
    lineage: str = Field(description="history of the job they are of")
    steps_per_point: int = Field(description="steps that a point stands for; 1 means none was merged")
    step: list[int] = Field(description="first step of each point")
    seconds: list[float] = Field(description="unix time, in seconds, at which that step was seen committed")
    samples: list[int] = Field(description="samples committed up to that step")
    series: dict[str, Band] = Field(description="by name, in the order asked for")
    available: list[str] = Field(description="all names that may be asked for")


class SliceSeries(Series):
    """Trust ratio, norms and share of clamped steps of one slice."""

    slice: int = Field(description="number of the slice in the manifest, from 0")
    name: str = Field(description="name of the slice, as in the model")


class Heatmap(Answer):
    """One value of every slice over a range of steps."""

    job: str = Field(description="name of the job")
    lineage: str = Field(description="history of the job it is of")
    steps_per_column: int = Field(description="steps that a column stands for")
    step: list[int] = Field(description="first step of each column")
    slices: list[str] = Field(description="name of each row")
    value: str = Field(description="what is drawn")
    data: str = Field(
        description="base64 of float32, little-endian, row by row: mean over a column's steps; NaN for none"
    )
    clamped: str = Field(
        description="base64 of uint8 in the same order: 1 if the ratio met a bound in any of the steps"
    )
