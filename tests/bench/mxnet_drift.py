"""What becomes of LAMB when a server computes the trust ratio of the fragment it happens to hold.

    python -m tests.bench.mxnet_drift --mxnet-python mx/bin/python    (see tests/oracle/record_mxnet.py)

MXNet's `dist_sync` cuts tensors of a million elements and more evenly over its servers and runs the optimizer
on each fragment. The halves of `cut` differ in scale, as stacked layers do; `whole` is small enough to stay
whole. Each system makes the same 50 steps; the error is the distance from a float64 oracle of whole tensors,
relative to the distance the oracle moved. `mxnet_from_per_fragment` in the last line is the same distance
between MXNet on two servers and NumPy with a ratio per half, on `cut`: two equal errors could still be two
different results. Everything runs on loopback, for a few minutes at most.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Tensors = dict[str, npt.NDArray[np.float32]]

SHAPES = {"cut": (1_500, 1_000), "whole": (500, 1_000)}
STEPS, RATE = 50, 0.01
SECONDS_MAX = 420.0


def start() -> Tensors:
    """Rows of the first half at scale 0.02, of the second at 0.1."""
    rng = np.random.default_rng(0)
    scale = {n: np.where(np.arange(s[0]) < s[0] // 2, 0.02, 0.1)[:, None] for n, s in SHAPES.items()}
    return {n: (scale[n] * rng.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


def gradients(step: int) -> Tensors:
    rng = np.random.default_rng(1_000 + step)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


# --- systems ------------------------------------------------------------------------------------------------


def float64_oracle(servers: int, _: str) -> dict[str, npt.NDArray[np.float64]]:
    """Whole tensors for `servers` = 1; else that many fragments, each with a ratio of its own."""
    from tests.oracle.family_float64 import Slice

    fragments = {
        n: [Slice(part.astype(float)) for part in np.array_split(w, servers)] for n, w in start().items()
    }
    for step in range(STEPS):
        for name, gradient in gradients(step).items():
            for one, part in zip(fragments[name], np.array_split(gradient, servers), strict=True):
                one.settings = {"weight_decay": 0.01}
                one.step(part, RATE)
    return {name: np.concatenate([one.weights for one in parts]) for name, parts in fragments.items()}


def sheepfold(shards: int, _: str) -> dict[str, npt.NDArray[np.generic]]:
    """Both tensors cut over all shards."""
    from tests.oracle.shards import Job

    from sheepfold_wire.manifest import Manifest, TensorSpec

    manifest = Manifest(tuple(TensorSpec(n, s, "float32", "parameter") for n, s in SHAPES.items()))
    job = Job.start(manifest, start(), shards, split_above_bytes=0)
    for step in range(STEPS):
        job.step(step, [gradients(step)], RATE)
    return job.values()


def mxnet(servers: int, python: str) -> dict[str, npt.NDArray[np.generic]]:
    """One scheduler, `servers` servers and a worker, all started here; killed by pid if they do not end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(port),
        "DMLC_NUM_SERVER": str(servers),
        "DMLC_NUM_WORKER": "1",
        "OMP_NUM_THREADS": "1",
        "DMLC_NODE_HOST": "127.0.0.1",
    }
    with tempfile.TemporaryDirectory() as folder:
        result = str(Path(folder, "weights.npz"))
        processes = [
            subprocess.Popen(
                [python, __file__, "--mxnet-role", result],
                env={**common, "DMLC_ROLE": role},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for role in ("scheduler", *["server"] * servers, "worker")
        ]
        try:
            code = processes[-1].wait(SECONDS_MAX)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if code:
            sys.exit(f"MXNet's worker ended with {code}: see what `{python} -c 'import mxnet'` says")
        with np.load(result) as found:
            return {name: found[name] for name in SHAPES}


def mxnet_role(result: str) -> None:
    """A process of MXNet: importing it serves, where the role says so; a worker trains."""
    import mxnet as mx

    store = mx.kv.create("dist_sync")
    store.set_optimizer(mx.optimizer.LAMB(learning_rate=RATE, wd=0.01, epsilon=1e-6))
    weights = {name: mx.nd.array(value) for name, value in start().items()}
    for key, (name, value) in enumerate(weights.items()):
        store.init(key, value)
        store.pull(key, out=weights[name])
    for step in range(STEPS):
        for key, (name, gradient) in enumerate(gradients(step).items()):
            store.push(key, mx.nd.array(gradient))
            store.pull(key, out=weights[name])
        mx.nd.waitall()
    np.savez(result, **{name: value.asnumpy() for name, value in weights.items()})


System = Callable[[int, str], Mapping[str, npt.NDArray[Any]]]
SYSTEMS: dict[str, tuple[System, tuple[int, ...]]] = {
    "mxnet": (mxnet, (1, 2)),
    "numpy_per_fragment": (float64_oracle, (2,)),
    "sheepfold": (sheepfold, (1, 2, 3)),
}


def relative(
    found: npt.NDArray[Any], expected: npt.NDArray[np.float64], begin: npt.NDArray[np.float32]
) -> float:
    """||found - expected|| over ||expected - begin||."""
    return float(np.linalg.norm(found.astype(float) - expected) / np.linalg.norm(expected - begin))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the drift of a per-fragment trust ratio.")
    parser.add_argument("--mxnet-python", default="", help="python of an environment with MXNet 1.9.1")
    parser.add_argument("--mxnet-role", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mxnet_role:
        mxnet_role(options.mxnet_role)
        return
    truth, begin = float64_oracle(1, ""), start()
    rows, cut = [], {}
    print(f"{'system':20} {'servers':>7} {'tensor':8} {'relative error':>15}")
    for name, (system, counts) in SYSTEMS.items():
        if name == "mxnet" and not options.mxnet_python:
            print(f"{name}: left out, give --mxnet-python", file=sys.stderr)
            continue
        for servers in counts:
            found = system(servers, options.mxnet_python)
            cut[name, servers] = found["cut"]
            for tensor, expected in truth.items():
                error = relative(found[tensor], expected, begin[tensor])
                rows.append({"system": name, "servers": servers, "tensor": tensor, "relative_error": error})
                print(f"{name:20} {servers:>7} {tensor:8} {error:>15.2g}", flush=True)
    result: dict[str, Any] = {"bench": "mxnet_drift", "rows": rows}
    if ("mxnet", 2) in cut:
        fragments = cut["numpy_per_fragment", 2].astype(float)
        result["mxnet_from_per_fragment"] = relative(cut["mxnet", 2], fragments, begin["cut"])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
