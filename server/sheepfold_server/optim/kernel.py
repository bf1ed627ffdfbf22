"""Who runs the passes: eagerly, in tiles that stay in cache, or compiled, each pass as one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sheepfold_server.optim.layout import Rows, cut, default_tile_rows, tiles
from sheepfold_server.optim.passes import eager_root, first_pass, fold, fold_last, second_pass
from sheepfold_server.optim.programs import First, Fold, FoldLast, Program, Second
from sheepfold_server.optim.rules.rule import Rule
from sheepfold_server.optim.upload import Uploader
from sheepfold_wire.manifest import ROW_ELEMENTS, ROWS_PER_BLOCK

ROW_BYTES = 4 * ROW_ELEMENTS
"""Of a row in the widest codec."""

Function = Callable[..., object]
"""A compiled program: tensors in, results in place."""


class Kernel(Protocol):
    """The passes over any number of rows; arguments as in `passes`, all of the same rows."""

    device: torch.device

    def fold(
        self, total: Tensor, part: Tensor, scales: Tensor | None, factor: float, is_first: bool
    ) -> None: ...

    def fold_last(
        self,
        total: Tensor,
        part: Tensor,
        scales: Tensor | None,
        factor: float,
        is_first: bool,
        divisor: float,
        squares: Tensor,
        largest: Tensor,
    ) -> None: ...

    def first_pass(
        self,
        rule: Rule,
        weights: Tensor,
        total: Tensor,
        columns: Tensor,
        clip: float,
        weight_partials: Tensor,
        update_partials: Tensor,
        state: Sequence[Tensor],
    ) -> None: ...

    def second_pass(
        self,
        rule: Rule,
        weights: Tensor,
        total: Tensor,
        columns: Tensor,
        copies: Sequence[Tensor],
        state: Sequence[Tensor],
    ) -> None: ...


class EagerKernel:
    """torch operations in tiles of `tile_rows`, a multiple of 64, by default a cache's worth: only speed."""

    def __init__(self, device: torch.device | str = "cpu", tile_rows: int | None = None) -> None:
        self.device = torch.device(device)
        self.tile_rows = default_tile_rows(self.device) if tile_rows is None else tile_rows
        if self.tile_rows <= 0 or self.tile_rows % ROWS_PER_BLOCK:
            raise ValueError(f"tile_rows={tile_rows}: give a positive multiple of {ROWS_PER_BLOCK}, e.g. 256")
        self._upload = Uploader(self.device, self.tile_rows * ROW_BYTES)

    def fold(self, total: Tensor, part: Tensor, scales: Tensor | None, factor: float, is_first: bool) -> None:
        scale = self._scale(factor)
        for at in self._tiles(total):
            fold(cut(total, at), *self._uploaded(part, scales, at), scale, is_first)

    def fold_last(
        self,
        total: Tensor,
        part: Tensor,
        scales: Tensor | None,
        factor: float,
        is_first: bool,
        divisor: float,
        squares: Tensor,
        largest: Tensor,
    ) -> None:
        scale, by = self._scale(factor), self._scalar(divisor)
        for at in self._tiles(total):
            given = self._uploaded(part, scales, at)
            fold_last(cut(total, at), *given, scale, is_first, by, cut(squares, at), cut(largest, at))

    def first_pass(
        self,
        rule: Rule,
        weights: Tensor,
        total: Tensor,
        columns: Tensor,
        clip: float,
        weight_partials: Tensor,
        update_partials: Tensor,
        state: Sequence[Tensor],
    ) -> None:
        scale = self._scale(clip)
        for at in self._tiles(total):
            first_pass(
                rule,
                eager_root,
                cut(weights, at),
                cut(total, at),
                cut(columns, at),
                scale,
                cut(weight_partials, at),
                cut(update_partials, at),
                [cut(buffer, at) for buffer in state],
            )

    def second_pass(
        self,
        rule: Rule,
        weights: Tensor,
        total: Tensor,
        columns: Tensor,
        copies: Sequence[Tensor],
        state: Sequence[Tensor],
    ) -> None:
        for at in self._tiles(total):
            own = [cut(copy, at) for copy in copies]
            second_pass(
                rule,
                cut(weights, at),
                cut(total, at),
                cut(columns, at),
                own,
                [cut(buffer, at) for buffer in state],
            )

    def _uploaded(self, part: Tensor, scales: Tensor | None, at: Rows) -> tuple[Tensor, Tensor | None]:
        """In the codec's dtype: fewer bytes, and torch would convert on the host otherwise."""
        return self._upload(cut(part, at)), None if scales is None else self._upload(cut(scales, at))

    def _tiles(self, total: Tensor) -> Iterator[Rows]:
        return tiles(total.shape[0], self.tile_rows)

    def _scale(self, factor: float) -> Tensor | None:
        """None for 1, which changes no bit."""
        scale = self._scalar(factor)
        return None if factor == 1.0 else scale

    def _scalar(self, value: float) -> Tensor:
        return torch.full((), value, dtype=torch.float32, device=self.device)


class CompiledKernel:
    """Ahead-of-time compiled programs, one call per pass; raises KeyError for one that was not built."""

    def __init__(self, functions: Mapping[Program, Function], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._functions = dict(functions)
        self._tile_rows = default_tile_rows(self.device)
        self._upload = Uploader(self.device, self._tile_rows * ROW_BYTES)

    def fold(self, total: Tensor, part: Tensor, scales: Tensor | None, factor: float, is_first: bool) -> None:
        run, scale, flag = self._functions[Fold(part.dtype)], self._scalar(factor), self._flag(is_first)
        for at in self._uploads(total):
            run(cut(total, at), *self._uploaded(part, scales, at), scale, flag)

    def fold_last(
        self,
        total: Tensor,
        part: Tensor,
        scales: Tensor | None,
        factor: float,
        is_first: bool,
        divisor: float,
        squares: Tensor,
        largest: Tensor,
    ) -> None:
        run, scale, flag = self._functions[FoldLast(part.dtype)], self._scalar(factor), self._flag(is_first)
        by = self._scalar(divisor)
        for at in self._uploads(total):
            given = self._uploaded(part, scales, at)
            run(cut(total, at), *given, scale, flag, by, cut(squares, at), cut(largest, at))

    def first_pass(
        self,
        rule: Rule,
        weights: Tensor,
        total: Tensor,
        columns: Tensor,
        clip: float,
        weight_partials: Tensor,
        update_partials: Tensor,
        state: Sequence[Tensor],
    ) -> None:
        run = self._functions[First(rule.kind)]
        run(weights, total, columns, self._scalar(clip), weight_partials, update_partials, *state)

    def second_pass(
        self,
        rule: Rule,
        weights: Tensor,
        total: Tensor,
        columns: Tensor,
        copies: Sequence[Tensor],
        state: Sequence[Tensor],
    ) -> None:
        run = self._functions[Second(rule.kind, tuple(copy.dtype for copy in copies))]
        run(weights, total, columns, *copies, *state)

    def _uploaded(self, part: Tensor, scales: Tensor | None, at: Rows) -> list[Tensor]:
        """As the programs take them: scales only where parts have them."""
        return [self._upload(cut(given, at)) for given in (part, scales) if given is not None]

    def _uploads(self, total: Tensor) -> Iterator[Rows]:
        """All rows at once where the bytes are; on a device, one upload beside the fold of another."""
        rows = total.shape[0]
        return tiles(rows, max(rows, 1) if self.device.type == "cpu" else self._tile_rows)

    def _scalar(self, value: float) -> Tensor:
        return torch.full((), value, dtype=torch.float32, device=self.device)

    def _flag(self, value: bool) -> Tensor:
        return torch.full((), value, dtype=torch.bool, device=self.device)
