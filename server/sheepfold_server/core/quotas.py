"""What one job may take of a fleet that others use too. Each bound has a name, a unit and a default."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

import sheepfold_wire.messages as m
from sheepfold_wire.errors import BadConfig, Overloaded, PreconditionError

_VALUE = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[KMG]?)")
SLOTS_MIN = 2
"""Parts: one that is folded next, and one beside it."""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True, slots=True)
class Quotas:
    """Of every job of a coordinator; `jobs` of the coordinator itself."""

    jobs: int = 64
    """Jobs that exist, ended ones included until they are deleted."""
    parameters: int = 1_000_000_000_000
    """Parameters of a job's model."""
    workers: int = 4096
    """Processes attached to a job, readers included."""
    steps_per_second: float = math.inf
    """Versions a job may make; a step that would come sooner is leased at the first tick after its time."""


UNBOUND = Quotas()
"""The defaults, which no job of today reaches."""


@dataclass(slots=True)
class QuotaBook:
    """The quotas of one job, and how often each has said no."""

    of: Quotas = field(default_factory=Quotas)
    refused: Counter[str] = field(default_factory=Counter)
    sharing: int = 1
    """Jobs that share the staging memory of shards, this one included."""

    def share(self, slots: int) -> int:
        """Of so many parts that a shard has room for: an equal share, and the two no job can do without."""
        return min(slots, max(SLOTS_MIN, slots // self.sharing))

    def check_parameters(self, job: str, parameters: int) -> None:
        """Raises PreconditionError."""
        if parameters > self.of.parameters:
            self.refused["parameters"] += 1
            raise PreconditionError(
                f"the model has {parameters} parameters, quota of a job: {said('parameters', self.of)}; "
                f"raise it with --quota parameters=... of the coordinator, or make job {job} smaller"
            )

    def check_workers(self, job: str, attached: int) -> None:
        """`attached`: without the one that asks. Raises Overloaded: a place is free when one leaves."""
        if attached >= self.of.workers:
            self.refused["workers"] += 1
            raise Overloaded(
                f"job {job} has {attached} workers, quota of a job: {said('workers', self.of)}; this "
                "one waits for a place; more: --quota workers=... of the coordinator"
            )

    def status(
        self, parameters: int, workers: int, steps_per_second: float, staged: tuple[int, int]
    ) -> tuple[m.Quota, ...]:
        """Beside what the job takes of each now. `staged`: parts that may be, and that are reserved."""
        used = {"parameters": parameters, "workers": workers, "steps_per_second": steps_per_second}
        return (
            *(
                m.Quota(name, float(getattr(self.of, name)), float(value), self.refused[name])
                for name, value in used.items()
            ),
            m.Quota("staged_parts", float(staged[0]), float(staged[1]), 0),
        )

    def wait_seconds(self, since_last_commit: float) -> float:
        """Until the next step may be leased; 0: now."""
        return max(0.0, 1.0 / self.of.steps_per_second - since_last_commit)


def said(name: str, quotas: Quotas) -> str:
    return f"{name} = {getattr(quotas, name):g}"


def parse_quotas(texts: Iterable[str]) -> Quotas:
    """NAME=VALUE each, with K, M or G for thousands, millions and billions. Raises BadConfig."""
    quotas = Quotas()
    kinds = {each.name: type(getattr(quotas, each.name)) for each in fields(Quotas)}
    for text in texts:
        name, _, value = text.partition("=")
        match = _VALUE.fullmatch(value)
        number = 0.0 if match is None else float(match["number"]) * _UNITS[match["unit"]]
        if name not in kinds or number <= 0 or (kinds[name] is int and number != int(number)):
            raise BadConfig(
                f"--quota {text}: give NAME=VALUE with one of {', '.join(kinds)} and a number above 0, e.g. "
                "parameters=400M"
            )
        quotas = replace(quotas, **{name: kinds[name](number)})
    return quotas
