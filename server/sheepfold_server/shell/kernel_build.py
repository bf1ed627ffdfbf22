"""Compiles one program to a file: the child process of `kernels.KernelFolder`."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sheepfold_server.optim.payload import TORCH_DTYPES
from sheepfold_server.optim.programs import First, Fold, FoldLast, Program, Second, exported
from sheepfold_server.optim.rules import rule_of
from sheepfold_server.optim.rules.rule import Rule
from sheepfold_wire.codecs import Codec
from sheepfold_wire.rules import RULES

PLANNED_THREADS = 8
"""The compiler plans for this many whatever the machine, so that equal sources give equal code."""
PORTABLE = {"AVX2": "x86-64-v3", "AVX512": "x86-64-v4"}
"""One instruction set per numeric fingerprint, not that of the building machine."""

NATIVE, PACKAGE = ".so", ".pt2"


def suffix(device: str) -> str:
    """Of a program's file: a plain library for the CPU, torch's package for a device."""
    return NATIVE if torch.device(device).type == "cpu" else PACKAGE


@dataclass(frozen=True, slots=True)
class Order:
    """What to compile, as plain values."""

    program: str
    dtypes: tuple[str, ...]
    settings: str
    """JSON of a rule's settings; empty for the folds."""
    device: str
    target: str

    @classmethod
    def of(cls, program: Program, rule: Rule | None, device: str, target: Path) -> Order:
        match program:
            case Fold(dtype) | FoldLast(dtype):
                dtypes: tuple[torch.dtype, ...] = (dtype,)
            case First():
                dtypes = ()
            case Second(_, copies):
                dtypes = copies
        settings = "" if rule is None else rule.settings.model_dump_json()
        names = tuple(codec.value for dtype in dtypes for codec, of in TORCH_DTYPES.items() if of == dtype)
        return cls(type(program).__name__, names, settings, device, str(target))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        values = json.loads(text)
        return cls(**{**values, "dtypes": tuple(values["dtypes"])})

    def meant(self) -> tuple[Program, Rule | None]:
        dtypes = tuple(TORCH_DTYPES[Codec(name)] for name in self.dtypes)
        if self.program in ("Fold", "FoldLast"):
            return (Fold if self.program == "Fold" else FoldLast)(dtypes[0]), None
        given = json.loads(self.settings)
        rule = rule_of(RULES[given["rule"]].model_validate(given))
        return (First(rule.kind) if self.program == "First" else Second(rule.kind, dtypes)), rule


def build(order: Order) -> None:
    """Writes the program's package to `order.target`."""
    import torch._inductor
    from torch._inductor import config

    torch.set_num_threads(PLANNED_THREADS)
    program, rule = order.meant()
    # On a device, nothing is chosen by timing: another choice could add in another order.
    untimed = ("max_autotune", "coordinate_descent_tuning", "triton.autotune_pointwise")
    configs: dict[str, object] = {"cpp.dynamic_threads": True, **dict.fromkeys(untimed, False)}
    march = PORTABLE.get(torch.backends.cpu.get_cpu_capability())
    if march and hasattr(config.cpp, "march"):
        configs["cpp.march"] = march
    graph = exported(program, rule, order.device)
    target = Path(order.target)
    package = target.with_suffix(PACKAGE)
    torch._inductor.aoti_compile_and_package(graph, package_path=str(package), inductor_configs=configs)
    if target.suffix == NATIVE:
        target.write_bytes(_library(package))


def _library(package: Path) -> bytes:
    """The shared library inside a package: all that a program for the CPU is."""
    with zipfile.ZipFile(package) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".so")]
        return archive.read(name)


if __name__ == "__main__":
    build(Order.from_json(sys.argv[1]))
