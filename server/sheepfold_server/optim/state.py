"""The tensors of one job on one shard, and the phases of a step over them.

    begin -> fold (once or more) -> finish -> directions -> apply        discard at any time before apply

Not safe for two threads at once, but for `check`, which touches none of the state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sheepfold_server.optim.bands import HandOn, finish_in_bands
from sheepfold_server.optim.export import FUSED, blank_part, download, encode_part, state_digests
from sheepfold_server.optim.fold import Contribution, StatisticSums
from sheepfold_server.optim.groups import Groups, Run
from sheepfold_server.optim.kernel import EagerKernel, Kernel
from sheepfold_server.optim.layout import Booleans, ShardLayout, cut, to_device, to_host
from sheepfold_server.optim.norms import RowPartials, row_partials
from sheepfold_server.optim.payload import Float64, PartCheck, check_part, read_part
from sheepfold_server.optim.ratios import order_of_blocks, slice_norms, slice_reports, trust_ratios
from sheepfold_server.optim.steps import (
    DirectionReport,
    OpenStep,
    Phase,
    SliceReport,
    SliceTotals,
    Snapshot,
    StepOrderError,
    SumReport,
    pieces,
)
from sheepfold_wire.codecs import Buffer, Codec
from sheepfold_wire.digest import Entry
from sheepfold_wire.manifest import ROW_ELEMENTS
from sheepfold_wire.optimizer import OptimizerKeys
from sheepfold_wire.plan import Plan
from sheepfold_wire.pooling import BufferPool


class ShardTensors:
    """Weights, optimizer state, statistics and open sums of one job on one shard, in fp32 rows of 1,024.

    `open_steps` sums are allocated at once. The kernel decides the device; bits depend on its kind alone.
    """

    def __init__(
        self,
        plan: Plan,
        shard: int,
        optimizer: OptimizerKeys,
        kernel: Kernel | None = None,
        open_steps: int = 1,
    ) -> None:
        if open_steps < 1:
            raise ValueError(f"open_steps={open_steps}: give at least 1, and one more per step of delay")
        self.layout = ShardLayout(plan, shard)
        self.kernel = EagerKernel() if kernel is None else kernel
        self.device = self.kernel.device
        self.groups = Groups(self.layout, optimizer, self.device)
        self._weights = self._zeros()
        self._state = [self._zeros() for _ in range(self.groups.state_buffers)]
        self._applied_steps = np.zeros(len(self.layout.tensors), np.int64)
        self._statistics = self._statistic_sums()
        self._free_totals = [self._zeros() for _ in range(open_steps)]
        self._copies = BufferPool(2 * (open_steps + 2) * self._weights.nbytes)  # two codecs of each version
        self._steps: dict[int, OpenStep] = {}
        self._gradient = RowPartials(1, self.layout, self.device)
        self._norms = RowPartials(2, self.layout, self.device)
        self._largest = torch.zeros(self.layout.rows, dtype=torch.float32, device=self.device)
        self._block_is_maximum = order_of_blocks(self.layout, self.groups.has_maximum)
        self._everyone = np.ones(len(self.layout.tensors), np.bool_)
        self._all_runs = self.groups.runs(self._everyone)

    def _zeros(self) -> Tensor:
        return torch.zeros((self.layout.rows, ROW_ELEMENTS), dtype=torch.float32, device=self.device)

    def _statistic_sums(self) -> StatisticSums:
        plan, shard = self.layout.plan, self.layout.shard
        return StatisticSums(plan.statistic_elements(shard, False), plan.statistic_elements(shard, True))

    # --- version 0, and the check at staging ----------------------------------------------------------

    def load(self, payload: Buffer) -> None:
        """Takes weights and statistics from an fp32 part, as version 0; all else is zero."""
        part = read_part(self.layout.plan, self.layout.shard, payload, Codec.FP32)
        self._weights.copy_(to_device(part.parameters, self.device))
        initial = np.append(self.groups.initial_state(), np.float32(0))[self.layout.tensor_of_row]
        column = to_device(torch.from_numpy(initial), self.device).unsqueeze(1)
        for buffer in self._state:
            buffer.copy_(column.expand_as(buffer))
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
        for contribution in contributions:
            is_first = open_step.pending is None
            self._fold_pending(open_step)
            open_step.pending = contribution
            open_step.statistics.fold(contribution, is_first)
            open_step.phase = Phase.FOLDING

    def _fold_pending(self, open_step: OpenStep) -> None:
        if open_step.pending is not None:
            part, factor = open_step.pending
            is_first, open_step.is_begun = not open_step.is_begun, True
            self.kernel.fold(open_step.total, part.parameters, part.scales, float(factor), is_first)

    def finish(self, step: int, divisor: float, hand_on: HandOn | None = None) -> SumReport:
        """Folds what is pending, and sum <- sum / divisor (rounded to fp32), the mean gradient: one pass.

        `hand_on` is given the mean as an fp32 part in pieces, each once it is finished: folded with factor
        and divisor 1, it is restored.
        """
        open_step = self._in_phase(step, Phase.FOLDING)
        by = float(np.float32(divisor)) if math.isfinite(divisor) else 0.0
        if not 0 < by < math.inf:
            raise ValueError(f"divisor={divisor} of step {step}: give the positive sum of the weights")
        assert open_step.pending is not None
        last, is_first, total = open_step.pending, not open_step.is_begun, open_step.total
        norms = self._gradient.rows(0, 0, self.layout.rows), self._largest
        finish_in_bands(self.kernel, total, last, is_first, by, norms, hand_on)
        open_step.pending = None
        largest = self._largest.amax() if self.layout.rows else self._largest.new_zeros(())
        sums = self._gradient.block_sums().select(0, 0)
        figures = to_host(torch.cat([sums, largest.to(torch.float64).view(1)]))
        statistics = open_step.statistics
        statistics_are_finite = statistics.divide(np.float32(by))
        if hand_on is not None:
            for piece in pieces(statistics.floats, statistics.integers):
                hand_on(piece)
        open_step.gradient_squares = figures[:-1]
        open_step.phase = Phase.MEAN
        return SumReport(
            finite=statistics_are_finite and bool(np.isfinite(figures).all()),
            max_abs=float(figures[-1]),
            sum_of_squares=figures[:-1],
        )

    def mean(self, step: int) -> Tensor:
        """The finished mean gradient, (rows, 1024), until pass 1 writes u over it."""
        return self._in_phase(step, Phase.MEAN).total

    # --- the optimizer's two passes -------------------------------------------------------------------

    def directions(
        self,
        step: int,
        learning_rate: float,
        clip_scale: float = 1.0,
        present: Booleans | None = None,
    ) -> DirectionReport:
        """Pass 1: state in place, u over the sum, for `present` tensors (manifest order; None: all).

        Every bit of weights, state and the bias counter of an absent tensor stays. Only a committed step may
        come here: from now on the logged mean is needed to repeat it.
        """
        open_step = self._in_phase(step, Phase.MEAN)
        everyone = np.ones(len(self.layout.plan.manifest.tensors), np.bool_)
        open_step.present = everyone if present is None else np.asarray(present, np.bool_)
        if open_step.present.shape != everyone.shape:
            raise ValueError(f"present has {open_step.present.size} entries for {everyone.size} tensors")
        open_step.clip_scale = float(np.float32(clip_scale))
        self._applied_steps += self._own_present(open_step)
        self._measure_absent(open_step)
        columns = self.groups.first_columns(self._applied_steps, learning_rate)
        for run in self._runs(open_step):
            rule, at = self.groups.rules[run.rule], run.span
            self.kernel.first_pass(
                rule,
                cut(self._weights, at),
                cut(open_step.total, at),
                cut(columns[run.rule], at),
                open_step.clip_scale,
                self._norms.rows(0, run.first, run.rows),
                self._norms.rows(1, run.first, run.rows),
                self._state_of(run),
            )
        open_step.partials = self._block_partials()
        open_step.phase = Phase.DIRECTIONS
        return DirectionReport(*open_step.partials)

    def _own_present(self, open_step: OpenStep) -> Booleans:
        return open_step.present[list(self.layout.tensors)]

    def _runs(self, open_step: OpenStep) -> list[Run]:
        present = self._own_present(open_step)
        return self._all_runs if present.all() else self.groups.runs(present)

    def _state_of(self, run: Run) -> list[Tensor]:
        return [cut(buffer, run.span) for buffer in self._state[: len(self.groups.rules[run.rule].state)]]

    def _absent_runs(self, open_step: OpenStep) -> list[Run]:
        present = self._own_present(open_step)
        return [] if present.all() else self.groups.runs(~present)

    def _measure_absent(self, open_step: OpenStep) -> None:
        """The weights of absent tensors are reported as well; their u is 0."""
        for run in self._absent_runs(open_step):
            order = self.groups.rules[run.rule].norm_order
            measured = self._norms.rows(0, run.first, run.rows)
            measured.copy_(row_partials(cut(self._weights, run.span), order))
            self._norms.rows(1, run.first, run.rows).zero_()

    def _block_partials(self) -> Float64:
        """(2, own blocks): partials of the weights and of u."""
        sums = to_host(self._norms.block_sums())
        if self._block_is_maximum.any():
            sums = np.where(self._block_is_maximum, to_host(self._norms.block_maxima()), sums)
        return sums

    def apply(
        self,
        step: int,
        learning_rate: float,
        totals: Mapping[int, SliceTotals] | None = None,
        codecs: Sequence[Codec] = (),
    ) -> tuple[list[SliceReport], dict[Codec, Buffer]]:
        """Pass 2: new weights, encoded in `codecs` as they are made, and statistics; the step closes.

        `totals` are the partials of slices that are split over shards, by slice index. Reports the slices
        whose first block lives here, so that each slice is reported once.
        """
        open_step = self._in_phase(step, Phase.DIRECTIONS)
        partials = np.concatenate([open_step.partials, open_step.gradient_squares[None]])
        norms = slice_norms(self.layout, self.groups, partials, totals or {})
        ratios = trust_ratios(self.groups, norms, open_step.clip_scale)
        columns = self.groups.apply_columns(self._applied_steps, learning_rate, ratios.value)
        self._replace_statistics(open_step)
        encoded = {codec: blank_part(self.layout, self._statistics, codec, self._copies) for codec in codecs}
        self._apply_runs(open_step, columns, [part.parameters for _, part in encoded.values()])
        self._close(step)
        return slice_reports(self.layout, norms, ratios), {
            codec: payload for codec, (payload, _) in encoded.items()
        }

    def _apply_runs(self, open_step: OpenStep, columns: list[Tensor], copies: list[Tensor]) -> None:
        """`copies` are on the host; all but one, and a device's, are made once all weights are new."""
        fusible = [copy for dtype in FUSED for copy in copies if copy.dtype is dtype]
        fused = fusible[:1] if self.device.type == "cpu" else []
        for run in self._runs(open_step):
            rule, at = self.groups.rules[run.rule], run.span
            self.kernel.second_pass(
                rule,
                cut(self._weights, at),
                cut(open_step.total, at),
                cut(columns[run.rule], at),
                [cut(copy, at) for copy in fused],
                self._state_of(run),
            )
        for run in self._absent_runs(open_step):
            for copy in fused:
                cut(copy, run.span).copy_(cut(self._weights, run.span))
        if later := [copy for copy in copies if not any(copy is made for made in fused)]:
            download(self._weights, later)

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

    def count_skip(self) -> None:
        """Advances every bias counter by a step that was skipped: `skipped_step = "count"`."""
        self._applied_steps += 1

    def _close(self, step: int) -> None:
        self._free_totals.append(self._steps.pop(step).total)

    def _in_phase(self, step: int, *allowed: Phase) -> OpenStep:
        open_step = self._steps.get(step)
        if open_step is None:
            raise StepOrderError(f"step {step} is not open; open steps: {sorted(self._steps)}; begin it")
        if open_step.phase not in allowed:
            raise StepOrderError(
                f"the sum of step {step} {open_step.phase.value}; this phase wants one that "
                + " or ".join(phase.value for phase in allowed)
            )
        return open_step

    # --- what leaves the shard ------------------------------------------------------------------------

    def encoded(self, codec: Codec) -> bytes:
        """The current version as a part: weights in the codec, statistics as fp32 and int64."""
        return bytes(encode_part(self.layout, self._weights, self._statistics, codec, self._copies))

    def block_digests(self) -> list[Entry]:
        """Digests of all that `snapshot` holds; see `sheepfold_wire.digest.combine_digests`."""
        buffers = (self._weights, *self._state)
        return state_digests(self.layout, buffers, self._applied_steps, self._statistics)

    def held(self) -> Snapshot:
        """The whole state but for open steps; on the CPU the buffers themselves."""
        weights, *state = (to_host(buffer) for buffer in (self._weights, *self._state))
        held = self._statistics
        return Snapshot(weights, tuple(state), self._applied_steps, held.floats, held.integers)

    def restore(self, snapshot: Snapshot) -> None:
        """Takes over a snapshot of the same plan and shard."""
        given = (snapshot.weights, *snapshot.state)
        for buffer, values in zip((self._weights, *self._state), given, strict=True):
            buffer.copy_(to_device(torch.from_numpy(values), self.device))
        self._applied_steps[:] = snapshot.applied_steps
        self._statistics.floats[:] = snapshot.floats
        self._statistics.integers[:] = snapshot.integers
