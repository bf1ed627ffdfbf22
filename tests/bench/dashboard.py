"""How fast the dashboard's history takes in steps and answers charts, and how large it gets.

    python -m tests.bench.dashboard                      1,000,000 steps x 400 slices, some minutes
    python -m tests.bench.dashboard --steps 20000        for a quick look

The last line of the output is JSON. `ingest_steps_per_s` is of whole reports through the store, as the
follower gives them; the bulk of the history is then filled with ready-made records, which is faster. Queries
go through the HTTP application, JSON included.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
from tests.bench.dashboard_load import load
from tests.unit.monitored import STATUS, step_report

import sheepfold_wire.messages as m
from sheepfold_server.dashboard.app import STATIC, create_app
from sheepfold_server.dashboard.history.history import History
from sheepfold_server.dashboard.history.record import CLAMP, SLICE_VALUES, Record, record_of
from sheepfold_server.dashboard.store import Store

INGEST_STEPS = 2_000
QUERIES = 200
COMMIT_EVERY = 200
API = "/api/v1/jobs/lenet"


def reports(rng: np.random.Generator, first: int, steps: int, slices: int) -> list[m.StepReport]:
    """Steps of 8 slots; one slice in 100 begins or ends to be clamped now and then."""
    slot = step_report(0).slots[0]
    slots = tuple(replace(slot, slot=i, worker=f"worker-{i}") for i in range(8))
    found = []
    for step in range(first, first + steps):
        values = np.exp(rng.normal(size=(slices, 4))).tolist()
        facts = tuple(
            m.SliceFacts(
                i, f"encoder.layer.{i}.weight", w, u, g, r, "ratio" if i % 100 == step // 500 % 7 else ""
            )
            for i, (r, w, u, g) in enumerate(values)
        )
        found.append(replace(step_report(step), slices=facts, slots=slots, loss=float(rng.normal(2.0))))
    return found


def ingest(store: Store, given: list[m.StepReport]) -> float:
    """Steps per second, commits included."""
    began = time.perf_counter()
    for i, report in enumerate(given):
        store.add(report)
        if i % COMMIT_EVERY == 0:
            store.history.commit()
    store.history.commit()
    return len(given) / (time.perf_counter() - began)


def fill(history: History, template: m.StepReport, first: int, last: int) -> None:
    """Records in place of reports: the same bytes without the objects they are made from."""
    rng = np.random.default_rng(1)
    (lineage,) = (found for found in history._lineages.of(template.job) if found.name == template.lineage)
    known = record_of(template, lineage.metrics)
    pool = np.exp(rng.normal(size=(16, len(template.slices), len(SLICE_VALUES))))
    pool[:, :, CLAMP] = 0
    began = time.perf_counter()
    for step in range(first, last):
        scalars = known.scalars.copy()
        scalars[0] = 2.0 + 1.0 / (1 + step)
        history.append(lineage, Record(step, False, 256, scalars, known.report, pool[step % 16]), 1e9 + step)
        if step % COMMIT_EVERY == 0:
            history.commit()
        if step % 100_000 == 0:
            rate = (step - first + 1) / (time.perf_counter() - began)
            print(f"step {step:,} of {last:,}, {rate:,.0f} per second", file=sys.stderr)
    history.commit()


def queries(rng: np.random.Generator, steps: int, slices: int) -> Iterator[tuple[str, str]]:
    """(kind, path) of charts over ranges of every length, from the whole history to the newest steps."""
    for _ in range(QUERIES):
        length = int(steps ** rng.uniform(0.3, 1.0))
        first = int(rng.integers(0, steps - length + 1))
        span = f"from={first}&to={first + length}"
        yield "series", f"{API}/series?names=loss,gradient_norm,learning_rate,step_seconds&{span}"
        yield "slice", f"{API}/slices/{rng.integers(slices)}/series?{span}"
        yield "heatmap", f"{API}/heatmap?{span}"


async def measure(store: Store, steps: int, slices: int) -> dict[str, list[float]]:
    """Milliseconds of each query, by kind."""
    transport = httpx.ASGITransport(create_app(store))
    found: dict[str, list[float]] = {}
    async with httpx.AsyncClient(transport=transport, base_url="http://dashboard", timeout=60.0) as client:
        for kind, path in queries(np.random.default_rng(2), steps, slices):
            began = time.perf_counter()
            response = await client.get(path)
            found.setdefault(kind, []).append((time.perf_counter() - began) * 1e3)
            assert response.status_code == 200, response.text
    return found


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def bundle_bytes() -> int:
    """Scripts and styles of the page, gzipped one by one, as a server would send them."""
    parts = [path for path in STATIC.rglob("*") if path.suffix in (".js", ".css")]
    return sum(len(gzip.compress(path.read_bytes(), 9)) for path in parts)


def run(steps: int, slices: int, directory: Path) -> dict[str, float | str]:
    store = Store(History(directory / "history.sqlite"))
    store.set_jobs(("lenet",))
    store.set_status(replace(STATUS, version=0), at=0.0)
    rng = np.random.default_rng(0)
    given = reports(rng, 0, min(INGEST_STEPS, steps // 2), slices)
    rate = ingest(store, given)
    print(f"ingest {rate:,.0f} steps per second", file=sys.stderr)
    fill(store.history, given[-1], len(given), steps)
    milliseconds = asyncio.run(measure(store, steps, slices))
    for kind, values in milliseconds.items():
        print(
            f"{kind}: median {statistics.median(values):.1f} ms, p95 {p95(values):.1f} ms, "
            f"most {max(values):.1f} ms",
            file=sys.stderr,
        )
    store.history.close()
    began = time.perf_counter()
    History(directory / "history.sqlite").close()
    print(f"opened again in {time.perf_counter() - began:.1f} s", file=sys.stderr)
    return {
        "bench": "dashboard",
        "query_p95_ms": round(max(p95(values) for values in milliseconds.values()), 1),
        "ingest_steps_per_s": round(rate, 1),
        "history_bytes": sum(path.stat().st_size for path in directory.iterdir()),
        "bundle_gzip_bytes": bundle_bytes(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps of the history, at least 100")
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument(
        "--load-seconds", type=float, default=120.0, help="of stepping; 0 leaves the load out"
    )
    parser.add_argument("--load-only", action="store_true", help="no history")
    chosen = parser.parse_args()
    found: dict[str, float | str] = {"bench": "dashboard"}
    with tempfile.TemporaryDirectory() as directory:
        if not chosen.load_only:
            found |= run(max(100, chosen.steps), chosen.slices, Path(directory))
        if chosen.load_seconds > 0:
            found |= load(chosen.load_seconds, Path(directory))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
