"""Quality against batch, and the noise scale beside it: tables 1 and 6. Pure functions of stored
results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.study.contenders import ADAMW, LAMB, UNTUNED
from tests.study.found import Found, better_by, by_series, found, scales_to, verdict
from tests.study.plan import Size, grid, tables, tuned
from tests.study.sections import Lines, picture, repetition
from tests.study.store import Store
from tests.study.tasks import MEASURES
from tests.study.text import compared, mean_of, number, paragraph, points, rounded, table

TITLES = {"lenet": "LeNet on Fashion-MNIST", "bert": "BERT-micro, masked words of the State of the Union"}
SHORT = {"lenet": "LeNet", "bert": "BERT-micro"}

Series = Mapping[str, Sequence[Found]]


def series_of(size: Size, store: Store, task: str) -> Series:
    return by_series(found(tables(size, store)[f"scaling-{task}"], store))


def scaling(size: Size, store: Store, task: str) -> Lines:
    """Table 1, of one task."""
    series, measure, scale = series_of(size, store, task), MEASURES[task], size.tasks[task]
    rows = []
    for name, row in series.items():
        by_batch = {one.batch: mean_of(one.value, measure) for one in row}
        end = _end(row) if len(row) > 1 else ""
        rows.append([name, *(by_batch.get(batch, "") for batch in scale.batches), end])
    steps = ", ".join(f"{scale.samples // batch:,}" for batch in scale.batches)
    better = "more" if measure.is_better_above else "less"
    return [
        f"### {TITLES[task]}",
        "",
        *paragraph(
            f"""{measure.name} in {measure.unit} ({better} is better) after {scale.samples:,} samples, which
            are {steps} steps. LAMB's rate is {UNTUNED[task].lr:g} at {UNTUNED[task].base_batch:,} by the
            square root of the batch, by a job file that knows nothing of the study; AdamW's is
            {_chosen(size, store, task)}, scaled alike. Warm-up is the same number of steps everywhere.
            Scales to: up to that batch no mean is worse than the best by more than
            {number(measure.tolerance, measure)} {measure.unit}."""
        ),
        *table(["", *(f"batch {batch:,}" for batch in scale.batches), "scales to"], rows),
        *_words(series, task, scale.batches[0], scale.batches[-1]),
        *picture(f"scaling-{task}", f"{measure.name} against batch"),
        *repetition(size, store, f"scaling-{task}"),
    ]


def _end(row: Sequence[Found]) -> str:
    reached, stops = scales_to(row)
    return f"{reached:,}" if stops else f"{reached:,}, the largest tried"


def _chosen(size: Size, store: Store, task: str) -> str:
    """AdamW's tuned rate, and whether it lies at the edge of the grid."""
    small = size.tasks[task].small
    tried = [lr for lr, _ in grid(size, task, ADAMW, small)]
    chosen = tuned(size, store, task, ADAMW, small).lr
    edge = " (at the edge of the grid)" if chosen in (tried[0], tried[-1]) else ""
    return f"{chosen:g} at {small}, the best of {', '.join(f'{lr:g}' for lr in tried)}{edge}"


def _words(series: Series, task: str, small: int, large: int) -> Lines:
    measure = MEASURES[task]
    lamb, adamw = ({one.batch: one for one in series[name]} for name in (LAMB.name, ADAMW.name))
    gap, start = (better_by(lamb[batch], adamw[batch]) for batch in (large, small))
    lost = [compared(better_by(row[large], row[small]), measure) for row in (lamb, adamw)]
    told = compared(gap, measure)
    return points(
        verdict(
            gap,
            f"""**The paper's claim shows at this size** ({SHORT[task]}): at {large:,} untuned LAMB is
            {told} than scaled AdamW.""",
            f"""**The paper's claim does not hold at this size** ({SHORT[task]}): at {large:,} untuned LAMB
            is {told} than scaled AdamW.""",
            f"""**The paper's claim is not decided at this size** ({SHORT[task]}): at {large:,} untuned LAMB
            is {told} than scaled AdamW.""",
        ),
        f"At {small}, where AdamW was tuned, LAMB is {compared(start, measure)}.",
        f"Between {small} and {large:,}, LAMB becomes {lost[0]}, AdamW {lost[1]}.",
        _nado(series, task, large),
    )


def _nado(series: Series, task: str, large: int) -> str:
    """What tuning at the large batch changes: the counter-position."""
    measure = MEASURES[task]
    at_large = {name: one for name, row in series.items() for one in row if one.batch == large}
    lamb = at_large.pop(LAMB.name)
    rivals = [one for name, one in at_large.items() if name != ADAMW.name and "LAMB" not in name]
    if not rivals:
        return """This size of the study tunes nothing at the large batch, so it cannot speak to Nado et
        al.; the normal size does."""
    sign = 1 if measure.is_better_above else -1
    best = max(rivals, key=lambda one: sign * one.value.mean)
    name, gap = best.cell.series, better_by(best, lamb)
    told = compared(gap, measure)
    return verdict(
        gap,
        f"""**With Nado et al.** ({SHORT[task]}): {name}, at {large:,}, is {told} than untuned LAMB. What
        LAMB saves is the tuning.""",
        f"""**Against Nado et al.** ({SHORT[task]}): even {name}, the best at {large:,}, is {told} than
        untuned LAMB.""",
        f"""**Between LAMB and Nado et al.** ({SHORT[task]}): {name}, at {large:,}, is not told apart from
        untuned LAMB ({told}).""",
    )


def noise(size: Size, store: Store) -> Lines:
    """Table 6."""
    lines = paragraph(
        """The gradient noise scale S/|G|² of LAMB's runs above (McCandlish et al. 2018, arXiv:1812.06162),
        as the dashboard tells it: averages over the newest 50 steps or so, at the end of training. It is in
        the unit of the batch: well below it, a larger batch saves steps one to one; well above, it saves
        few. Runs at a large batch end less trained, where gradients are larger beside their noise. –: fewer
        than ten steps, or no positive estimate."""
    )
    for task in size.tasks:
        row = series_of(size, store, task)[LAMB.name]
        shown = [
            [f"{one.batch:,}", "–" if (scale := one.noise_scale) is None else rounded(scale, 0)]
            for one in row
        ]
        lines += [f"### {TITLES[task]}", "", *table(["batch", "noise scale at the end, samples"], shown)]
        lines += points(_bend(row, task))
    return [*lines, *picture("noise", "noise scale against batch")]


def _bend(row: Sequence[Found], task: str) -> str:
    """Whether the estimate and the curve of table 1 name the same batch, or neighbours in the table."""
    known = [(one.batch, scale.mean) for one in row if (scale := one.noise_scale) is not None]
    if not known:
        return "There is no estimate to compare."
    above = next((batch for batch, scale in known if batch > scale), None)
    reached, stops = scales_to(row)
    batches = [one.batch for one in row]
    fits = above is None and not stops
    if above is not None and stops:
        fits = abs(batches.index(above) - batches.index(reached)) <= 1
    first = "no batch is above its own" if above is None else f"{above:,} is the first batch above its own"
    judged = "The noise scale fits the bend" if fits else "The noise scale does not fit the bend"
    return f"**{judged}** ({SHORT[task]}), to a step of the table: {first}; LAMB scales to {_end(row)}."
