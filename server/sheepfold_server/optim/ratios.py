"""From the block sums of a step to each slice's trust ratio and the factor of its update."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sheepfold_server.optim.lamb import step_coefficient, trust_ratio
from sheepfold_server.optim.layout import ShardLayout
from sheepfold_server.optim.steps import OpenStep, SliceReport, SquareTotals
from sheepfold_wire.sums import add_in_order


def step_coefficients(
    layout: ShardLayout,
    open_step: OpenStep,
    learning_rate: float,
    totals: Mapping[int, SquareTotals],
) -> tuple[npt.NDArray[np.float32], list[SliceReport]]:
    """(own slices + 1,) factors of u, the last one for the padding; and the reports of the slices begun here.

    Slices that lie here as a whole use their own block sums, split ones need their `totals`. Slices of
    absent tensors get the factor 0. Raises ValueError if totals are missing.
    """
    plan = layout.plan
    coefficients = np.zeros(len(layout.slices) + 1, np.float32)
    reports: list[SliceReport] = []
    for place, fragment in enumerate(layout.fragments):
        index = fragment.slice
        if index not in plan.split_slices:
            squares = own_totals(layout, open_step, index)
        elif index in totals:
            squares = totals[index]
        else:
            name = plan.manifest.slices[index].name
            raise ValueError(f"slice {index} ({name}) is split over shards: give its totals over all blocks")
        weight, update, gradient = (math.sqrt(value) for value in squares)
        coefficient, ratio = step_coefficient(learning_rate, trust_ratio(weight, update))
        if open_step.present[plan.manifest.slices[index].tensor]:
            coefficients[place] = coefficient
        if fragment.first_element == 0:
            reports.append(SliceReport(index, weight, update, gradient, ratio))
    return coefficients, reports


def own_totals(layout: ShardLayout, open_step: OpenStep, index: int) -> SquareTotals:
    """Totals of a slice that lies on this shard as a whole: its block sums added in block order."""
    first, end = layout.block_ranges[index]
    gradient, weight, update = (add_in_order(s[first:end].tolist()) for s in open_step.squares)
    return SquareTotals(weight, update, gradient)
