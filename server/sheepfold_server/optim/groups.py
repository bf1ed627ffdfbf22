"""Which rule updates which rows of a shard, and the scalars of each tensor as columns of rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sheepfold_server.optim.layout import Booleans, Integers, Rows, ShardLayout, to_device
from sheepfold_server.optim.rules import rule_of
from sheepfold_server.optim.rules.rule import Rule
from sheepfold_wire.optimizer import OptimizerKeys, TensorSettings, tensor_settings

Float32 = npt.NDArray[np.float32]
LARGEST_FP32 = float(np.finfo(np.float32).max)


class Run(NamedTuple):
    """Rows [first, first + rows) of the shard's buffers, all updated by `rules[rule]`."""

    rule: int
    first: int
    rows: int

    @property
    def span(self) -> Rows:
        return self.first, self.rows


class Groups:
    """The optimizer of one shard's tensors: rules, settings by tensor and slice, and runs of rows."""

    def __init__(
        self, layout: ShardLayout, optimizer: OptimizerKeys, device: torch.device | str = "cpu"
    ) -> None:
        manifest = layout.plan.manifest
        self._layout, self.optimizer = layout, optimizer
        self._tensor_of_row = to_device(torch.from_numpy(layout.tensor_of_row), torch.device(device))
        self._slice_of_row = to_device(torch.from_numpy(layout.slice_of_row), torch.device(device))
        names = [manifest.tensors[index].name for index in manifest.parameters]
        given = dict(zip(manifest.parameters, tensor_settings(optimizer, names), strict=True))
        own = [given[tensor] for tensor in layout.tensors]
        self.variants, self.variant_of_tensor = _distinct(own)
        """Distinct settings of own tensors, and which each has, in layout.tensors order."""
        by_kind = {rule.kind: rule for rule in (rule_of(v.settings) for v in self.variants)}
        self.rules: Sequence[Rule] = tuple(by_kind.values())
        places = {kind: place for place, kind in enumerate(by_kind)}
        kinds = [places[rule_of(v.settings).kind] for v in self.variants]
        self.rule_of_variant: Integers = np.array(kinds, np.int64)
        self.state_buffers = max((len(rule.state) for rule in self.rules), default=0)

    @cached_property
    def tensor_of_slice(self) -> Integers:
        """(own slices,): place in layout.tensors."""
        place = {tensor: i for i, tensor in enumerate(self._layout.tensors)}
        slices = self._layout.plan.manifest.slices
        return np.array([place[slices[index].tensor] for index in self._layout.slices], np.int64)

    @cached_property
    def variant_of_slice(self) -> Integers:
        """(own slices,): index into `variants`."""
        return self.variant_of_tensor[self.tensor_of_slice]

    @cached_property
    def rule_of_slice(self) -> Integers:
        """(own slices,): index into `rules`."""
        return self.rule_of_variant[self.variant_of_slice]

    @cached_property
    def has_maximum(self) -> Booleans:
        """(own slices,): whether norms are of order inf, so that partials are compared, not added."""
        is_maximum = np.array([rule.norm_order == "inf" for rule in self.rules], np.bool_)
        return is_maximum[self.rule_of_slice] if len(self.rules) else np.zeros(0, np.bool_)

    @cached_property
    def has_root(self) -> Booleans:
        """(own slices,): whether a norm is the root of its partials' sum."""
        is_square = np.array([rule.norm_order == "2" for rule in self.rules], np.bool_)
        return is_square[self.rule_of_slice] if len(self.rules) else np.zeros(0, np.bool_)

    def runs(self, present: Booleans) -> list[Run]:
        """Longest runs of rows of present tensors under one rule; `present` is in layout.tensors order."""
        found: list[Run] = []
        for place, fragment in enumerate(self._layout.fragments):
            if not present[self.tensor_of_slice[place]]:
                continue
            rule, last = int(self.rule_of_slice[place]), found[-1] if found else None
            if last is not None and (last.rule, last.first + last.rows) == (rule, fragment.first_row):
                found[-1] = Run(rule, last.first, last.rows + fragment.rows)
            else:
                found.append(Run(rule, fragment.first_row, fragment.rows))
        return found

    def first_columns(
        self, applied: Integers, learning_rate: float
    ) -> list[Tensor]:  # per rule: (rows, len(rule.columns)) fp32
        """Scalars of pass 1 by row; `applied` are the bias counters, this step included, by own tensor."""
        found: list[Tensor] = []
        for rule_index, rule in enumerate(self.rules):
            table = np.zeros((len(self.variant_of_tensor) + 1, len(rule.columns)))
            for variant, count, places in self._alike(self.variant_of_tensor, applied):
                if self.rule_of_variant[variant] == rule_index:
                    tensor = self.variants[variant]
                    rate = learning_rate * tensor.lr_scale
                    table[places] = rule.scalars(tensor, max(count, 1), rate)
            found.append(self._by_row(table.astype(np.float32), self._tensor_of_row))
        return found

    def apply_columns(
        self,
        applied: Integers,  # (own tensors,) bias counters, this step included
        learning_rate: float,
        ratios: npt.NDArray[np.float64],  # (own slices,) set to 1 where a coefficient would overflow fp32
    ) -> list[Tensor]:  # per rule: (rows, len(rule.apply_columns)) fp32
        """Scalars of pass 2 by row.

        A product beyond fp32 (norms some 1e38 apart) would turn zeros of u into NaN: there the ratio is 1.
        """
        counts = applied[self.tensor_of_slice]
        found: list[Tensor] = []
        for rule_index, rule in enumerate(self.rules):
            table = np.zeros((len(ratios) + 1, len(rule.apply_columns)))
            for variant, count, places in self._alike(self.variant_of_slice, counts):
                if self.rule_of_variant[variant] == rule_index:
                    tensor = self.variants[variant]
                    rate = learning_rate * tensor.lr_scale
                    with np.errstate(over="ignore"):
                        values = rule.coefficients(tensor, max(count, 1), rate, ratios[places])
                    if (too_large := np.abs(values[0]) > LARGEST_FP32).any():
                        ratios[places[too_large]] = 1.0
                        values = rule.coefficients(tensor, max(count, 1), rate, ratios[places])
                    for column, value in enumerate(values):
                        table[places, column] = value
            found.append(self._by_row(table.astype(np.float32), self._slice_of_row))
        return found

    def initial_state(self) -> npt.NDArray[np.float32]:
        """(own tensors,): what the state of each begins with."""
        values = [rule_of(v.settings).initial_state(v) for v in self.variants]
        return np.array(values, np.float32)[self.variant_of_tensor] if values else np.zeros(0, np.float32)

    @staticmethod
    def _alike(variants: Integers, counts: Integers) -> list[tuple[int, int, Integers]]:
        """(variant, bias counter, places) of the tensors or slices that have both in common."""
        many = int(variants.max(initial=0)) + 1
        keys, inverse = np.unique(counts * many + variants, return_inverse=True)
        return [
            (key % many, key // many, np.flatnonzero(inverse == index))
            for index, key in enumerate(keys.tolist())
        ]

    @staticmethod
    def _by_row(table: Float32, rows: Tensor) -> Tensor:
        return torch.index_select(to_device(torch.from_numpy(table), rows.device), 0, rows)


def _distinct(settings: Sequence[TensorSettings]) -> tuple[list[TensorSettings], Integers]:
    places: dict[TensorSettings, int] = {}
    of_tensor = [places.setdefault(given, len(places)) for given in settings]
    return list(places), np.array(of_tensor, np.int64)
