"""What a compiled kernel is made of: which programs a job needs, and each one ready for the compiler.

A program is named by what changes its code: the pass, the rule's formula, and the dtypes of parts and copies.
Numbers reach it as tensors, so one program serves every learning rate, beta and epsilon, any model and any
number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sheepfold_server.optim.passes import compiled_root, first_pass, fold, fold_last, second_pass
from sheepfold_server.optim.rules.rule import Rule
from sheepfold_wire.manifest import ROW_ELEMENTS

SCALED = torch.int8
"""The dtype of parts that come with a column of scales."""
EXAMPLE_ROWS = 4096
"""Rows of the compiler's example: many, so that it plans to share rows among threads."""

Kind = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """One contribution in `dtype`, not the last."""

    dtype: torch.dtype

    @property
    def name(self) -> str:
        return f"fold-{_short(self.dtype)}"


@dataclass(frozen=True, slots=True)
class FoldLast:
    """The last contribution of a step, in `dtype`."""

    dtype: torch.dtype

    @property
    def name(self) -> str:
        return f"fold_last-{_short(self.dtype)}"


@dataclass(frozen=True, slots=True)
class First:
    """Pass 1 of a formula."""

    kind: Kind

    @property
    def name(self) -> str:
        return "first-" + "-".join(self.kind)


@dataclass(frozen=True, slots=True)
class Second:
    """Pass 2 of a formula, with encoded copies in `copies`."""

    kind: Kind
    copies: tuple[torch.dtype, ...]

    @property
    def name(self) -> str:
        return "-".join(["second", *self.kind, *(_short(dtype) for dtype in self.copies)])


Program = Fold | FoldLast | First | Second


def programs_of(
    rules: Sequence[Rule],
    part_dtype: torch.dtype,
    copies: Sequence[tuple[torch.dtype, ...]],  # every combination that pulls may ask for
) -> dict[Program, Rule | None]:
    """All programs of a job, and the rule that each is of. A logged mean is one fp32 part, and the last."""
    folds: list[Program] = [Fold(part_dtype), FoldLast(part_dtype), FoldLast(torch.float32)]
    found: dict[Program, Rule | None] = dict.fromkeys(folds)
    for rule in rules:
        found[First(rule.kind)] = rule
        found.update({Second(rule.kind, dtypes): rule for dtypes in copies})
    return found


def exported(program: Program, rule: Rule | None, device: torch.device | str) -> torch.export.ExportedProgram:
    """The program's graph, for any number of rows from 2 on; one row runs it as well."""
    function, arguments, has_rows = _traced(program, rule, torch.device(device))
    rows = torch.export.Dim("rows", min=2, max=1 << 40)
    shapes = tuple({0: rows} if dynamic else None for dynamic in has_rows)
    return torch.export.export(_Module(function), arguments, dynamic_shapes=(shapes,), strict=False)


class _Module(nn.Module):
    """torch.export wants a module."""

    def __init__(self, function: Callable[..., None]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *arguments: Tensor) -> None:
        self._function(*arguments)


def _traced(
    program: Program, rule: Rule | None, device: torch.device
) -> tuple[Callable[..., None], tuple[Tensor, ...], list[bool]]:
    """(function of tensors alone, example arguments, which of them have rows)."""

    def buffer(dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.ones((EXAMPLE_ROWS, ROW_ELEMENTS), dtype=dtype, device=device)

    def vector(dtype: torch.dtype) -> Tensor:
        return torch.ones(EXAMPLE_ROWS, dtype=dtype, device=device)

    def scalar(value: Any = 1.0) -> Tensor:
        return torch.tensor(value, device=device)

    def columns(count: int) -> Tensor:
        return torch.ones((EXAMPLE_ROWS, count), device=device)

    def part(dtype: torch.dtype) -> list[Tensor]:
        return [buffer(dtype), columns(1)] if dtype == SCALED else [buffer(dtype)]

    match program:
        case Fold(dtype):
            arguments = [buffer(), *part(dtype), scalar(), scalar(False)]
            function: Callable[..., None] = _folding(fold, dtype)
        case FoldLast(dtype):
            arguments = [buffer(), *part(dtype), scalar(), scalar(False), scalar()]
            arguments += [vector(torch.float64), vector(torch.float32)]
            function = _folding(fold_last, dtype)
        case First():
            assert rule is not None
            arguments = [buffer(), buffer(), columns(len(rule.columns)), scalar()]
            arguments += [vector(torch.float64), vector(torch.float64), *(buffer() for _ in rule.state)]
            function = _first(rule)
        case Second(_, copies):
            assert rule is not None
            arguments = [buffer(), buffer(), columns(len(rule.apply_columns))]
            arguments += [*map(buffer, copies), *(buffer() for _ in rule.state)]
            function = _second(rule, len(copies))
    return function, tuple(arguments), [argument.dim() > 0 for argument in arguments]


def _folding(fold_pass: Callable[..., None], dtype: torch.dtype) -> Callable[..., None]:
    """The pass for parts of `dtype`; without scales there is no argument for them."""
    if dtype == SCALED:
        return fold_pass

    def run(total: Tensor, part: Tensor, *rest: Tensor) -> None:
        fold_pass(total, part, None, *rest)

    return run


def _first(rule: Rule) -> Callable[..., None]:
    def run(w: Tensor, total: Tensor, columns: Tensor, clip: Tensor, *rest: Tensor) -> None:
        first_pass(rule, compiled_root, w, total, columns, clip, rest[0], rest[1], rest[2:])

    return run


def _second(rule: Rule, copies: int) -> Callable[..., None]:
    def run(w: Tensor, total: Tensor, columns: Tensor, *rest: Tensor) -> None:
        second_pass(rule, w, total, columns, rest[:copies], rest[copies:])

    return run


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
