"""One optimizer step: sheepfold's kernels beside public optimizers, in one process.

    make bench-kernel      or   python -m tests.bench.kernel [--pairs 15] [--threads 2] [--shapes NAME ...]

Every contender steps once per round, in turn; gradients are there before the clock starts, and nobody clips.
Ours is pass 1 and 2 with norms, ratios and reports, of one shard that holds the whole model; without the fold
(the others get their gradients for nothing) and without encoded copies (the others have none). Prints a table
and last one JSON line of median seconds. `extra_memory_fraction` is what a compiled step allocates at its
peak, beyond the buffers that exist between steps, as a fraction of weights and moments.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from tests.oracle.public import timm_optimizer
from tests.oracle.settings import optimizer_of

from sheepfold_server.optim.kernel import EagerKernel, Kernel
from sheepfold_server.optim.programs import programs_of
from sheepfold_server.optim.rules import rule_of
from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.shell.kernels import KernelFolder
from sheepfold_wire.codecs import Codec
from sheepfold_wire.manifest import ROW_ELEMENTS, Manifest, TensorSpec
from sheepfold_wire.optimizer import rule_settings
from sheepfold_wire.plan import Plan

Shapes = Sequence[tuple[int, ...]]
RATE, DECAY, EPSILON = 1e-3, 0.01, 1e-6
ROUNDS_MIN, WARM_UP_ROUNDS = 15, 2
FLOOR = 40 / 28
"""Bytes per parameter of LAMB over AdamW: a second pass over weights and direction."""


def bert(hidden: int, layers: int, vocabulary: int, positions: int = 512) -> Shapes:
    """The parameters of BERT in the order of the public model; without the heads."""
    shapes: list[tuple[int, ...]] = [
        (vocabulary, hidden),
        (positions, hidden),
        (2, hidden),
        (hidden,),
        (hidden,),
    ]
    for _ in range(layers):
        shapes += [(hidden, hidden), (hidden,)] * 4 + [(hidden,), (hidden,)]
        shapes += [(4 * hidden, hidden), (4 * hidden,), (hidden, 4 * hidden), (hidden,), (hidden,), (hidden,)]
    return [*shapes, (hidden, hidden), (hidden,)]


MODELS: dict[str, Shapes] = {
    "bert_base_109m": bert(768, 12, 30_522),
    "bert_small_11m": bert(256, 4, 30_522),
    "tiny_1000x64": [(64,)] * 1_000,
}


@dataclass(frozen=True)
class Contender:
    """Something that makes one step. `close` gives its memory back."""

    name: str
    step: Callable[[], None]


def public(
    name: str, shapes: Shapes, make: Callable[[list[torch.Tensor]], torch.optim.Optimizer]
) -> Contender:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(shape, generator=generator).mul_(0.02).requires_grad_() for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).mul_(1e-3)
    optimizer = make(parameters)
    return Contender(name, lambda: _drop(optimizer.step()))


def _drop(_: Any) -> None:
    """torch's step returns a loss that nobody asked for."""


class Ours:
    """One shard that holds the whole model; a step's gradient is put back before each step, unclocked."""

    def __init__(self, name: str, shapes: Shapes, kernel: Kernel) -> None:
        manifest = Manifest(
            tuple(TensorSpec(f"t{i}", shape, "float32", "parameter") for i, shape in enumerate(shapes))
        )
        plan = Plan.of(manifest, 1)
        self.name = name
        self.shard = ShardTensors(plan, 0, optimizer_of(eps=EPSILON, weight_decay=DECAY), kernel)
        self.part = self._part(plan, 0.02, seed=0)
        self.shard.load(self.part)
        self.part = self._part(plan, 1e-3, seed=1)
        self.t = 0

    @staticmethod
    def _part(plan: Plan, scale: float, seed: int) -> memoryview:
        rng = np.random.default_rng(seed)
        rows = np.zeros((plan.rows(0), ROW_ELEMENTS), np.float32)
        for fragment in plan.shard_fragments(0):
            flat = rows[fragment.first_row :].reshape(-1)[: fragment.elements]
            flat[:] = rng.standard_normal(fragment.elements, np.float32) * np.float32(scale)
        return rows.reshape(-1).view(np.uint8).data

    def prepare(self) -> None:
        self.shard.begin(self.t)
        self.shard.fold(self.t, [(self.part, Codec.FP32, 1.0)])
        self.shard.finish(self.t, 1.0)

    def step(self) -> None:
        self.shard.directions(self.t, RATE)
        self.shard.apply(self.t, RATE)
        self.t += 1

    @property
    def state_bytes(self) -> int:
        return 3 * 4 * self.shard.layout.rows * ROW_ELEMENTS


def compiled_kernel() -> Kernel:
    rule = rule_of(rule_settings(optimizer_of()))
    programs = programs_of([rule], torch.float32, [()])
    return KernelFolder("cpu").kernel("compiled", programs)


def contenders(shapes: Shapes, compiled: Kernel) -> list[Contender | Ours]:
    """Everyone with the same settings: no clip, every tensor adapted and decayed, epsilon outside."""
    timm = timm_optimizer("lamb", "Lamb")
    same: dict[str, Any] = {"lr": RATE, "eps": EPSILON, "weight_decay": DECAY}
    lamb = {**same, "max_grad_norm": None, "always_adapt": True}
    return [
        public("adamw_fused", shapes, lambda p: torch.optim.AdamW(p, fused=True, **same)),
        public("timm_lamb", shapes, lambda p: timm(p, **lamb)),
        public("foreach_lamb", shapes, lambda p: timm(p, foreach=True, **lamb)),
        Ours("eager", shapes, EagerKernel()),
        Ours("compiled", shapes, compiled),
    ]


def timed(field: Sequence[Contender | Ours], pairs: int) -> dict[str, list[float]]:
    """Seconds per step, by contender; everyone steps once per round, each round in another order."""
    seconds: dict[str, list[float]] = {entry.name: [] for entry in field}
    for number in range(WARM_UP_ROUNDS + pairs):
        turn = number % len(field)
        for entry in [*field[turn:], *field[:turn]]:
            if isinstance(entry, Ours):
                entry.prepare()
            began = time.perf_counter()
            entry.step()
            if number >= WARM_UP_ROUNDS:
                seconds[entry.name].append(time.perf_counter() - began)
    return seconds


def extra_memory_fraction(shapes: Shapes, kernel: Kernel) -> float:
    """What a step allocates at its peak, as a fraction of weights and moments.

    The heap is handed back to the system first, so that nothing is allocated from what an earlier step left;
    the gauge is tried on an allocation of known size, since one that always shows 0 would be no gauge.
    """
    ours = Ours("memory", shapes, kernel)
    for _ in range(2):
        ours.prepare()
        ours.step()
    ours.prepare()
    known = ours.state_bytes // 50
    seen = growth(lambda: _drop(np.ones(known, np.uint8).sum()))
    if not 0.9 * known <= seen <= 1.3 * known + (4 << 20):
        raise SystemExit(f"the memory gauge shows {seen:,} bytes for an allocation of {known:,}")
    return growth(ours.step) / ours.state_bytes


def growth(act: Callable[[], None]) -> int:
    """Bytes by which the resident set of this process grows at its peak while `act` runs."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak begins anew at what is resident now
    before = peak_bytes()
    act()
    return peak_bytes() - before


def peak_bytes() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Median of the ratios within each round."""
    return median(a / b for a, b in zip(seconds[name], seconds[base], strict=True))


def table(model: str, shapes: Shapes, seconds: dict[str, list[float]]) -> str:
    count = sum(math.prod(shape) for shape in shapes)
    lines = [f"{model}: {count:,} parameters in {len(shapes):,} tensors, {len(seconds['eager'])} rounds"]
    lines.append(f"  {'':14} {'median ms':>10} {'min ms':>9} {'ns/param':>9} {'x adamw':>8} {'x timm':>8}")
    for name, values in seconds.items():
        middle = median(values)
        ratios = f"{ratio(seconds, name, 'adamw_fused'):>8.2f} {ratio(seconds, name, 'timm_lamb'):>8.2f}"
        per_parameter = middle / count * 1e9
        lines.append(
            f"  {name:14} {middle * 1e3:>10.2f} {min(values) * 1e3:>9.2f} {per_parameter:>9.3f} {ratios}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time one optimizer step against public optimizers.")
    parser.add_argument("--pairs", type=int, default=ROUNDS_MIN, help="rounds, at least 1 (default 15)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch, for everyone (default 2)")
    parser.add_argument("--shapes", nargs="*", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(False)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {options.threads} threads")
    compiled = compiled_kernel()
    medians: dict[str, dict[str, float]] = {}
    for model in options.shapes:
        seconds = timed(contenders(MODELS[model], compiled), options.pairs)
        print(table(model, MODELS[model], seconds), flush=True)
        medians[model] = {name: round(median(values), 6) for name, values in seconds.items()}
        gc.collect()
    fraction = extra_memory_fraction(MODELS[options.shapes[0]], compiled)
    print(f"a compiled step allocates {100 * fraction:.2f} % of weights and moments at its peak")
    print(f"floor of compiled: {FLOOR:.2f} x adamw (40 bytes per parameter against 28)")
    print(json.dumps({"bench": "kernel", "shapes": medians, "extra_memory_fraction": round(fraction, 5)}))


if __name__ == "__main__":
    main()
