"""What `sheepfold plan` says of memory and disks is what the chart asks for."""

from __future__ import annotations

import pytest
from tests.chart.rendering import named, render, shard_container

from sheepfold_server.planning.memory import shard_disk_bytes, shard_memory_bytes
from sheepfold_server.planning.setting import Fleet, Work

GIBIBYTE = 1 << 30
FEW_WORKERS = 2
"""So that staging is what the chart gives it by itself."""


def gibibytes(value: int) -> str:
    return f"{-(-value // GIBIBYTE)}Gi"


@pytest.mark.parametrize("parameters", [1_000, 110_000_000, 2_000_000_000])
@pytest.mark.parametrize("shards", [1, 2, 8, 33])
def test_memory_and_disk_of_a_shard_are_those_of_the_chart(parameters: int, shards: int) -> None:
    work, fleet = Work(parameters, FEW_WORKERS), Fleet(FEW_WORKERS, shards)
    values = f"{{model: {{parameters: {parameters}}}, shards: {{count: {shards}}}}}"
    shard = named(render(values), "StatefulSet", "fold-sheepfold-shard")["spec"]
    claim = shard["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
    asked = shard_container(values)["resources"]["requests"]["memory"]
    assert (asked, claim) == (
        gibibytes(shard_memory_bytes(work, fleet)),
        gibibytes(shard_disk_bytes(work, fleet)),
    )


def test_staging_bytes_mean_the_same_to_both() -> None:
    work, fleet = Work(110_000_000, 64), Fleet(64, 4, staging_bytes=5_000_000_000)
    values = "{model: {parameters: 110000000}, shards: {count: 4, stagingBytes: 5000000000}}"
    assert shard_container(values)["resources"]["requests"]["memory"] == gibibytes(
        shard_memory_bytes(work, fleet)
    )
