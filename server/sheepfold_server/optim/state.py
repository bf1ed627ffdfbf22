"""The tensors of one job on one shard, and the phases of a step over them.

    begin -> fold (once or more) -> finish -> directions -> apply        discard at any time before apply

Not safe for two threads at once, but for `check`, which touches none of the state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sheepfold_server.optim.export import encode_part, state_digests
from sheepfold_server.optim.fold import Contribution, StatisticSums, divide_rows, fold_rows
from sheepfold_server.optim.lamb import (
    Corrections,
    LambConfig,
    Moments,
    correction_table,
    lamb_apply,
    lamb_directions,
)
from sheepfold_server.optim.layout import (
    Booleans,
    ShardLayout,
    default_tile_rows,
    tiles,
    to_device,
    to_host,
)
from sheepfold_server.optim.norms import RowSums, wide_tile
from sheepfold_server.optim.payload import PartCheck, check_part, read_part
from sheepfold_server.optim.ratios import step_coefficients
from sheepfold_server.optim.steps import (
    DirectionReport,
    OpenStep,
    Phase,
    SliceReport,
    Snapshot,
    SquareTotals,
    StepOrderError,
    SumReport,
)
from sheepfold_wire.codecs import Buffer, Codec
from sheepfold_wire.digest import Entry
from sheepfold_wire.manifest import ROW_ELEMENTS, ROWS_PER_BLOCK
from sheepfold_wire.plan import Plan


class ShardTensors:
    """Weights, moments, statistics and open sums of one job on one shard, in flat fp32 rows of 1,024.

    `open_steps` sums are allocated at once. `tile_rows` (a multiple of 64; default by device) is only a
    matter of speed: no bit depends on it.
    """

    def __init__(
        self,
        plan: Plan,
        shard: int,
        config: LambConfig,
        device: torch.device | str = "cpu",
        open_steps: int = 1,
        tile_rows: int | None = None,
    ) -> None:
        self.layout = ShardLayout(plan, shard)
        self.config = config
        self.device = torch.device(device)
        self.tile_rows = default_tile_rows(self.device) if tile_rows is None else tile_rows
        if self.tile_rows <= 0 or self.tile_rows % ROWS_PER_BLOCK:
            raise ValueError(f"tile_rows={tile_rows}: give a positive multiple of {ROWS_PER_BLOCK}, e.g. 256")
        if open_steps < 1:
            raise ValueError(f"open_steps={open_steps}: give at least 1, and one more per step of delay")
        self._weights = self._zeros()
        self._moments = Moments(self._zeros(), self._zeros())
        self._applied_steps = np.zeros(len(self.layout.tensors), np.int64)
        self._statistics = self._statistic_sums()
        self._free_totals = [self._zeros() for _ in range(open_steps)]
        self._steps: dict[int, OpenStep] = {}
        self._slice_of_row = to_device(torch.from_numpy(self.layout.slice_of_row), self.device)
        self._tensor_of_row = to_device(torch.from_numpy(self.layout.tensor_of_row), self.device)
        block_rows = to_device(torch.from_numpy(self.layout.block_rows), self.device)
        self._row_sums = [RowSums(self.layout.rows, block_rows, self.device) for _ in range(2)]
        tile = min(self.tile_rows, max(self.layout.rows, ROWS_PER_BLOCK))
        self._scratch = torch.empty((tile, ROW_ELEMENTS), dtype=torch.float32, device=self.device)
        self._wide = wide_tile(tile, self.device)

    def _zeros(self) -> Tensor:
        return torch.zeros((self.layout.rows, ROW_ELEMENTS), dtype=torch.float32, device=self.device)

    def _statistic_sums(self) -> StatisticSums:
        plan, shard = self.layout.plan, self.layout.shard
        return StatisticSums(plan.statistic_elements(shard, False), plan.statistic_elements(shard, True))

    def _tiles(self) -> Iterator[tuple[int, int]]:
        return tiles(self.layout.rows, self._scratch.shape[0])

    # --- version 0, and the check at staging ----------------------------------------------------------

    def load(self, payload: Buffer) -> None:
        """Takes weights and statistics from an fp32 part, as version 0; all else is zero."""
        part = read_part(self.layout.plan, self.layout.shard, payload, Codec.FP32)
        for first, count in self._tiles():
            rows = to_device(part.parameters.narrow(0, first, count), self.device)
            self._weights.narrow(0, first, count).copy_(rows)
        for moment in self._moments:
            moment.zero_()
        self._applied_steps[:] = 0
        self._statistics.floats[:] = part.floats
        self._statistics.integers[:] = part.integers

    def check(self, payload: Buffer, codec: Codec) -> PartCheck:
        """See `check_part`; may run in any thread, whatever this object is doing."""
        return check_part(self.layout, payload, codec)

    # --- folding --------------------------------------------------------------------------------------

    def begin(self, step: int) -> None:
        """Opens a step with an empty sum."""
        if step in self._steps:
            raise StepOrderError(f"step {step} is open already; discard it before beginning again")
        if not self._free_totals:
            raise StepOrderError(
                f"step {step} finds all {len(self._steps)} sums in use by steps {sorted(self._steps)}; "
                "apply or discard one first"
            )
        self._steps[step] = OpenStep(self._free_totals.pop(), self._statistic_sums())

    def fold(self, step: int, payloads: Sequence[tuple[Buffer, Codec, float]]) -> None:
        """sum <- sum + factor * part for each (part, codec, factor), in the order given.

        Factors are rounded to fp32; one of exactly 1 costs nothing. A tensor absent from a contribution
        must be zero in its part. Raises PartLengthError before anything is added.
        """
        open_step = self._in_phase(step, Phase.EMPTY, Phase.FOLDING)
        plan, shard = self.layout.plan, self.layout.shard
        contributions = [
            Contribution(read_part(plan, shard, payload, codec), np.float32(factor))
            for payload, codec, factor in payloads
        ]
        if not contributions:
            return
        is_empty = open_step.phase is Phase.EMPTY
        fold_rows(open_step.total, contributions, is_empty, self._scratch)
        for number, contribution in enumerate(contributions):
            open_step.statistics.fold(contribution, is_first=is_empty and number == 0)
        open_step.phase = Phase.FOLDING

    def finish(self, step: int, divisor: float) -> SumReport:
        """sum <- sum / divisor (rounded to fp32), the mean gradient; the statistics likewise."""
        open_step = self._in_phase(step, Phase.FOLDING)
        if not (math.isfinite(divisor) and np.float32(divisor) > 0):
            raise ValueError(f"divisor={divisor} of step {step}: give the positive sum of the weights")
        by = torch.full((), float(np.float32(divisor)), dtype=torch.float32, device=self.device)
        # One more than the rows, at 0: the largest magnitude of no rows is 0.
        largest = torch.zeros(self.layout.rows + 1, dtype=torch.float32, device=self.device)
        squares = self._row_sums[0]
        for first, count in self._tiles():
            tile = open_step.total.narrow(0, first, count)
            divide_rows(tile, by, self._scratch.narrow(0, 0, count), largest.narrow(0, first, count))
            squares.square(first, tile, self._wide)
        figures = to_host(torch.cat([squares.blocks(), largest.amax().to(torch.float64).view(1)]))
        statistics_are_finite = open_step.statistics.divide(np.float32(divisor))
        open_step.squares = [figures[:-1]]
        open_step.phase = Phase.MEAN
        return SumReport(
            finite=statistics_are_finite and bool(np.isfinite(figures).all()),
            max_abs=float(figures[-1]),
            sum_of_squares=figures[:-1],
        )

    def mean_part(self, step: int) -> bytes:
        """The finished mean as an fp32 part: folded alone, with factor and divisor 1, it is restored."""
        open_step = self._in_phase(step, Phase.MEAN)
        part = encode_part(self.layout, open_step.total, open_step.statistics, Codec.FP32, self.tile_rows)
        return bytes(part)

    # --- the optimizer's two passes -------------------------------------------------------------------

    def directions(
        self, step: int, clip_scale: float = 1.0, present: Booleans | None = None
    ) -> DirectionReport:
        """Pass 1: moments in place, u over the sum, for `present` tensors (manifest order; None: all).

        Every bit of w, m, v and the bias counter of an absent tensor stays. Only a committed step may
        come here: from now on the logged mean is needed to repeat it.
        """
        open_step = self._in_phase(step, Phase.MEAN)
        everyone = np.ones(len(self.layout.plan.manifest.tensors), np.bool_)
        open_step.present = everyone if present is None else np.asarray(present, np.bool_)
        if open_step.present.shape != everyone.shape:
            raise ValueError(f"present has {open_step.present.size} entries for {everyone.size} tensors")
        own_present = open_step.present[list(self.layout.tensors)]
        self._applied_steps += own_present
        corrections = self._corrections()
        # The padding at the end counts as present, so that it does not slow its tile down.
        row_present = np.append(own_present, True)[self.layout.tensor_of_row]
        mask = to_device(torch.from_numpy(row_present), self.device).unsqueeze(1)
        for first, count in self._tiles():
            tile_present = row_present[first : first + count]
            self._direct_tile(open_step, (first, count), corrections, clip_scale, tile_present, mask)
        sums = to_host(torch.stack([sums.blocks() for sums in self._row_sums]))
        open_step.squares += [sums[0], sums[1]]
        open_step.phase = Phase.DIRECTIONS
        return DirectionReport(weight_squares=sums[0], update_squares=sums[1])

    def _corrections(self) -> Corrections:
        """Debiasing per row; the last entry of the table, 1, is for the padding."""
        table = correction_table(self.config, [*self._applied_steps.tolist(), 0])
        per_tensor = to_device(torch.from_numpy(table), self.device)
        per_row = torch.index_select(per_tensor, 1, self._tensor_of_row).unsqueeze(2)
        return Corrections(per_row.select(0, 0), per_row.select(0, 1))

    def _direct_tile(
        self,
        open_step: OpenStep,
        tile: tuple[int, int],
        corrections: Corrections,
        clip_scale: float,
        tile_present: Booleans,  # (tile rows,) on the host
        mask: Tensor,  # (rows, 1) bool on the device
    ) -> None:
        """One tile of pass 1; one with absent rows works on copies, so that kernels see whole blocks only."""
        first, count = tile
        weights = self._weights.narrow(0, first, count)
        gradient = open_step.total.narrow(0, first, count)
        moments = Moments(*(moment.narrow(0, first, count) for moment in self._moments))
        own = Corrections(*(correction.narrow(0, first, count) for correction in corrections))
        scratch, wide = self._scratch.narrow(0, 0, count), self._wide.narrow(0, 0, count)
        if clip_scale != 1.0:
            torch.mul(gradient, float(np.float32(clip_scale)), out=gradient)
        if tile_present.all():
            lamb_directions(weights, gradient, moments, own, self.config, scratch, wide)
        else:
            copies = Moments(moments.first.clone(), moments.second.clone())
            lamb_directions(weights, gradient, copies, own, self.config, scratch, wide)
            present = mask.narrow(0, first, count)
            for moment, copy in zip(moments, copies, strict=True):
                moment.copy_(torch.where(present, copy, moment))
            gradient.masked_fill_(torch.logical_not(present), 0.0)
        self._row_sums[0].square(first, weights, wide)
        self._row_sums[1].square(first, gradient, wide)

    def apply(
        self, step: int, learning_rate: float, totals: Mapping[int, SquareTotals] | None = None
    ) -> list[SliceReport]:
        """Pass 2: w <- w - learning_rate * ratio * u; statistics become their means; the step is closed.

        `totals` carries the sums of squares of slices that are split over shards, by slice index. Reports
        the slices whose first block lives here, so that each slice is reported once.
        """
        open_step = self._in_phase(step, Phase.DIRECTIONS)
        coefficients, reports = step_coefficients(self.layout, open_step, learning_rate, totals or {})
        per_slice = to_device(torch.from_numpy(coefficients), self.device)
        per_row = torch.index_select(per_slice, 0, self._slice_of_row).unsqueeze(1)
        for first, count in self._tiles():
            lamb_apply(
                self._weights.narrow(0, first, count),
                open_step.total.narrow(0, first, count),
                per_row.narrow(0, first, count),
            )
        self._replace_statistics(open_step)
        self._close(step)
        return reports

    def _replace_statistics(self, open_step: OpenStep) -> None:
        for place in self.layout.plan.statistics(self.layout.shard):
            if open_step.present[place.tensor]:
                span = slice(place.offset, place.offset + place.elements)
                if place.is_integer:
                    self._statistics.integers[span] = open_step.statistics.integers[span]
                else:
                    self._statistics.floats[span] = open_step.statistics.floats[span]

    def is_open(self, step: int) -> bool:
        """Whether the step has a sum here."""
        return step in self._steps

    def discard(self, step: int) -> None:
        """Drops a step's sum: for a skip or a restart. All else stays as it is, unless pass 1 has run."""
        self._in_phase(step, Phase.EMPTY, Phase.FOLDING, Phase.MEAN)
        self._close(step)

    def _close(self, step: int) -> None:
        self._free_totals.append(self._steps.pop(step).total)

    def _in_phase(self, step: int, *allowed: Phase) -> OpenStep:
        open_step = self._steps.get(step)
        if open_step is None:
            raise StepOrderError(
                f"step {step} is not open; open steps: {sorted(self._steps)}; begin it first"
            )
        if open_step.phase not in allowed:
            raise StepOrderError(
                f"the sum of step {step} {open_step.phase.value}; this phase wants one that "
                + " or ".join(phase.value for phase in allowed)
            )
        return open_step

    # --- what leaves the shard ------------------------------------------------------------------------

    def encoded(self, codec: Codec) -> bytes:
        """The current version as a part: weights in the codec, statistics as fp32 and int64."""
        return bytes(encode_part(self.layout, self._weights, self._statistics, codec, self.tile_rows))

    def block_digests(self) -> list[Entry]:
        """Digests of all that `snapshot` holds; see `sheepfold_wire.digest.combine_digests`."""
        buffers = (self._weights, *self._moments)
        return state_digests(self.layout, buffers, self._applied_steps, self._statistics)

    def snapshot(self) -> Snapshot:
        """Copies of the whole state on the host, but for open steps."""
        weights, first, second = (to_host(buffer).copy() for buffer in (self._weights, *self._moments))
        return Snapshot(
            weights,
            first,
            second,
            applied_steps=self._applied_steps.copy(),
            floats=self._statistics.floats.copy(),
            integers=self._statistics.integers.copy(),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Takes over a snapshot of the same plan and shard."""
        buffers = zip((self._weights, *self._moments), snapshot[:3], strict=True)
        for buffer, values in buffers:
            buffer.copy_(to_device(torch.from_numpy(values), self.device))
        self._applied_steps[:] = snapshot.applied_steps
        self._statistics.floats[:] = snapshot.floats
        self._statistics.integers[:] = snapshot.integers
