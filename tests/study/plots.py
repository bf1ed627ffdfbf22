"""The report's pictures, as PNG and SVG. Pure functions of stored results, but for the files they write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from tests.plot_style import STYLE
from tests.study.contenders import LAMB
from tests.study.found import Found, better_by, by_series, found
from tests.study.plan import Size, tables
from tests.study.sections import BASE, percent
from tests.study.store import Store
from tests.study.tasks import MEASURES

FOLDER = Path(__file__).parent / "plots"

Axes = Any


def draw_all(size: Size, store: Store, folder: Path = FOLDER) -> None:
    """One PNG and one SVG for each picture that the report shows."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in size.tasks:
        _save(folder / f"scaling-{task}", partial(_scaling, size=size, store=store, task=task))
    for name in ("variants", "modes", "wires"):
        _save(folder / name, partial(_dots, points=found(tables(size, store)[name], store)))
    for name, draw in {"fragility": _fragility, "mixed": _mixed, "noise": _noise}.items():
        _save(folder / name, partial(draw, size=size, store=store))


def _save(path: Path, draw: Callable[[Axes], None]) -> None:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(layout="constrained")
        draw(axes)
        figure.savefig(path.with_suffix(".png"), metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
        plt.close(figure)


def _errors(points: Sequence[Found]) -> tuple[list[float], list[float]]:
    scale = points[0].measure.scale
    return [p.value.mean * scale for p in points], [(p.value.half or 0.0) * scale for p in points]


def _batches(axes: Axes, batches: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
    axes.set_xlabel("batch, samples")


def _scaling(axes: Axes, size: Size, store: Store, task: str) -> None:
    for name, points in by_series(found(tables(size, store)[f"scaling-{task}"], store)).items():
        means, halves = _errors(points)
        axes.errorbar([p.batch for p in points], means, halves, marker="o", capsize=3, label=name)
    _batches(axes, size.tasks[task].batches)
    measure = MEASURES[task]
    axes.set_ylabel(f"{measure.name}, {measure.unit}")
    axes.legend()


def _fragility(axes: Axes, size: Size, store: Store) -> None:
    measure = MEASURES["lenet"]
    for name, points in by_series(found(tables(size, store)["fragility"], store)).items():
        base = next(one for one in points if one.cell.at == BASE)
        at = sorted((percent(one.cell.at), better_by(one, base)) for one in points)
        halves = [(gap.half or 0.0) * measure.scale for _, gap in at]
        axes.errorbar(
            [x for x, _ in at],
            [gap.mean * measure.scale for _, gap in at],
            halves,
            marker="o",
            capsize=3,
            label=name,
        )
    axes.set_xlabel("perturbed by, %")
    axes.set_ylabel(f"change of {measure.name}, {measure.unit}")
    axes.legend()


def _dots(axes: Axes, points: Sequence[Found]) -> None:
    means, halves = _errors(points)
    places = list(range(len(points)))
    axes.errorbar(means, places, xerr=halves, fmt="o", capsize=3)
    axes.set_yticks(places, [one.cell.series for one in points])
    axes.invert_yaxis()
    axes.set_xlabel(f"{points[0].measure.name}, {points[0].measure.unit}")


def _mixed(axes: Axes, size: Size, store: Store) -> None:
    for one in found(tables(size, store)["mixed"], store):
        for number, result in enumerate(one.results):
            at, losses = zip(*result.losses, strict=True)
            label = one.cell.series if number == 0 else None
            color = {"mixed": "C1", "single": "C0"}[one.cell.series.split()[0].strip(",")]
            style = ":" if "without" in one.cell.series else "-"
            axes.plot(at, losses, style, color=color, label=label, linewidth=1)
    axes.set_xlabel("samples")
    axes.set_ylabel("training loss, nats")
    axes.legend()


def _noise(axes: Axes, size: Size, store: Store) -> None:
    batches: list[int] = []
    for task in size.tasks:
        points = by_series(found(tables(size, store)[f"scaling-{task}"], store))[LAMB.name]
        known = [(one.batch, scale.mean) for one in points if (scale := one.noise_scale) is not None]
        batches += [one.batch for one in points]
        if known:
            axes.plot(*zip(*known, strict=True), marker="o", label=task)
    batches = sorted(set(batches))
    axes.plot(batches, batches, "--", color="gray", label="as large as the batch")
    _batches(axes, batches)
    axes.set_yscale("log")
    axes.set_ylabel("noise scale, samples")
    axes.legend()
