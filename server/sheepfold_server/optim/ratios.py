"""From the block partials of a step to each slice's norms and trust ratio."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sheepfold_server.optim.groups import Groups
from sheepfold_server.optim.layout import Booleans, Integers, ShardLayout
from sheepfold_server.optim.payload import Float64
from sheepfold_server.optim.rules.rule import CLAMP_NAMES, Norms, Ratios, SliceSettings
from sheepfold_server.optim.steps import SliceReport, SliceTotals

FEW_BLOCKS = 8


def slice_norms(
    layout: ShardLayout,
    groups: Groups,
    partials: Float64,  # (3, own blocks): weights, u, and squares of the gradient before clipping
    totals: Mapping[int, SliceTotals],
) -> Norms:  # of the own slices; the gradient's before clipping
    """Norms of own slices: those that lie here as a whole from `partials`, split ones from `totals`.

    Raises ValueError if totals are missing.
    """
    starts, counts = layout.block_spans
    sums = in_order(partials, starts, counts)
    if groups.has_maximum.any():
        ends = starts + counts
        for place in np.flatnonzero(groups.has_maximum).tolist():
            sums[:2, place] = partials[:2, starts[place] : ends[place]].max(axis=1)
    for place in layout.split_places:
        index = layout.slices[place]
        if index not in totals:
            name = layout.plan.manifest.slices[index].name
            raise ValueError(f"slice {index} ({name}) is split over shards: give its totals over all blocks")
        sums[:, place] = totals[index]
    weight, update = (np.where(groups.has_root, np.sqrt(row), row) for row in sums[:2])
    return Norms(weight, update, np.sqrt(sums[2]))


def trust_ratios(groups: Groups, norms: Norms, clip_scale: float) -> Ratios:
    """Ratios of the own slices, each by its rule."""
    ratios = Ratios(np.ones(len(norms.weight)), np.zeros(len(norms.weight), np.int8))
    for index, rule in enumerate(groups.rules):
        places = np.flatnonzero(groups.rule_of_slice == index)
        own = Norms(norms.weight[places], norms.update[places], clip_scale * norms.gradient[places])
        variants, of_slice = np.unique(groups.variant_of_slice[places], return_inverse=True)
        given = SliceSettings([groups.variants[variant] for variant in variants.tolist()], of_slice)
        found = rule.ratios(given, own)
        ratios.value[places], ratios.clamp[places] = found
    return ratios


def slice_reports(layout: ShardLayout, norms: Norms, ratios: Ratios) -> list[SliceReport]:
    """Figures of the slices whose first block lives here, so that each slice is reported once."""
    figures = (row.tolist() for row in (*norms, ratios.value))
    clamps = [CLAMP_NAMES[code] for code in ratios.clamp.tolist()]
    reports = map(SliceReport, layout.slices, *figures, clamps)
    return [
        report
        for report, fragment in zip(reports, layout.fragments, strict=True)
        if fragment.first_element == 0
    ]


def in_order(
    partials: Float64,  # (k, blocks)
    starts: Integers,  # (slices,)
    counts: Integers,  # (slices,) at least 1 each
) -> Float64:  # (k, slices)
    """Sums over consecutive blocks, added one after the other from the first, as `sums.add_in_order` does."""
    sums = np.zeros((partials.shape[0], len(starts)))
    few = counts <= FEW_BLOCKS
    for step in range(int(counts[few].max(initial=0))):
        places = np.flatnonzero(few & (counts > step))
        sums[:, places] += partials[:, starts[places] + step]
    for place in np.flatnonzero(~few).tolist():
        first, end = starts[place], starts[place] + counts[place]
        sums[:, place] = np.add.accumulate(partials[:, first:end], axis=1)[:, -1]
    return sums


def order_of_blocks(layout: ShardLayout, per_slice: Booleans) -> Booleans:
    """A flag of each own slice, by own block."""
    return np.repeat(per_slice, [fragment.blocks for fragment in layout.fragments])
