"""Tables 2 to 5 of the report, each with what it says in words. Pure functions of stored results."""

from __future__ import annotations

from collections.abc import Sequence

from tests.study.found import Found, better_by, by_series, found, verdict
from tests.study.intervals import Interval
from tests.study.plan import Size, repeated, tables
from tests.study.store import Store
from tests.study.tasks import MEASURES
from tests.study.text import (
    compared,
    difference_of,
    listed,
    mean_of,
    number,
    paragraph,
    points,
    rounded,
    table,
)

Lines = list[str]
BASE = "as it is"
PAPERS_NORM_DIFFERENCE = 0.001
"""Of accuracy, below which the paper's appendix puts the choice of the norm."""


def picture(name: str, what: str) -> Lines:
    return [f"![{what}](plots/{name}.png) ([SVG](plots/{name}.svg))", ""]


def repetition(size: Size, store: Store, name: str) -> Lines:
    """Whether 2 shards over gRPC gave the bits of 1 shard in this process."""
    run = repeated(tables(size, store)[name])
    here, there = store[run].digest, store[run.over_grpc()].digest
    again = f"Once more over gRPC with 2 shards (batch {run.batch}, seed {run.seed}, {run.steps} steps)"
    if here == there:
        return paragraph(f"{again}: the same digest, `{here[:16]}…`.")
    return paragraph(f"**{again}: another digest**, `{there[:16]}…`, not `{here[:16]}…`.")


# --- 2 -----------------------------------------------------------------------------------------------------


def fragility(size: Size, store: Store) -> Lines:
    cells = found(tables(size, store)["fragility"], store)
    series, measure = by_series(cells), MEASURES["lenet"]
    ats = sorted(dict.fromkeys(one.cell.at for one in cells), key=percent)
    rows = []
    for name, row in series.items():
        base = next(one for one in row if one.cell.at == BASE)
        shown = {one.cell.at: difference_of(better_by(one, base), measure) for one in row}
        shown[BASE] = mean_of(base.value, measure)
        rows.append([name, *(shown[at] for at in ats)])
    return [
        *paragraph(
            f"""LeNet at batch {size.large:,}: {measure.name} in {measure.unit} as it is, and the change
            under each factor, seed by seed. A trust ratio times f is, exactly, a learning rate times f on
            the slices that have a ratio (weights, not biases); that is how it is done: `groups =
            [{{match, lr_scale}}]`."""
        ),
        *table(["", *ats], rows),
        *_fragility_words(series),
        *picture("fragility", "change of the accuracy by factor"),
        *repetition(size, store, "fragility"),
    ]


def percent(at: str) -> float:
    return 0.0 if at == BASE else float(at.strip("%"))


def _fragility_words(series: dict[str, list[Found]]) -> Lines:
    measure = MEASURES["lenet"]
    adamw = next(one for one in series["AdamW, learning rate"] if one.cell.at == BASE)
    perturbed = [
        one
        for name in ("LAMB, learning rate", "LAMB, trust ratio")
        for one in series[name]
        if one.cell.at != BASE
    ]
    gaps = [better_by(one, adamw) for one in perturbed]
    ahead = sum(gap.mean > 0 and gap.excludes_zero for gap in gaps)
    behind = sum(gap.mean < 0 and gap.excludes_zero for gap in gaps)
    worst = compared(min(gaps, key=lambda gap: gap.mean), measure)
    widths = [f"{name} {number(_spread(row), measure)}" for name, row in series.items()]
    return points(
        f"""**{_order(gaps)}** (LeNet): of {len(gaps)} perturbed LAMBs {ahead} are better than AdamW as it is
        and {behind} worse, by intervals without 0; the least of them is {worst}.""",
        f"From the best to the worst mean of a row, in {measure.unit}: {'; '.join(widths)}.",
    )


def _order(gaps: Sequence[Interval]) -> str:
    """Whether the order of LAMB and AdamW survives every factor."""
    if all(gap.mean > 0 and gap.excludes_zero for gap in gaps):
        return "LAMB stays ahead of AdamW under every factor"
    if all(gap.mean > 0 for gap in gaps):
        return "LAMB stays ahead of AdamW under every factor, though not always told apart"
    if all(gap.mean < 0 for gap in gaps):
        return "LAMB stays behind AdamW under every factor"
    return "Whether LAMB is ahead of AdamW hangs on the factor: the claim is fragile here"


def _spread(row: Sequence[Found]) -> float:
    means = [one.value.mean for one in row]
    return max(means) - min(means)


# --- 3 -----------------------------------------------------------------------------------------------------


def variants(size: Size, store: Store) -> Lines:
    base, *others = found(tables(size, store)["variants"], store)
    measure = MEASURES["lenet"]
    gaps = {one.cell.series: better_by(one, base) for one in others}
    rows = [[base.cell.series, mean_of(base.value, measure), ""]]
    rows += [
        [one.cell.series, mean_of(one.value, measure), difference_of(gaps[one.cell.series], measure)]
        for one in others
    ]
    limit = f"{number(measure.tolerance, measure)} {measure.unit}"
    return [
        *paragraph(
            f"""LeNet at batch {size.large:,}, all at LAMB's rate: {measure.name} in {measure.unit}, and the
            difference from LAMB, seed by seed. N-LAMB and NN-LAMB have the paper's β₁ = 0.975 and ε = 10⁻⁸;
            the row with these alone tells them from Nesterov's step. The scheduled forms and NN-LAMB are
            experimental (server/OPTIMIZERS.md): no public code of them was found."""
        ),
        *table(["", measure.name, "difference"], rows),
        *points(
            f"Told apart from LAMB: {listed([name for name, gap in gaps.items() if gap.excludes_zero])}.",
            f"""By more than {limit} in the mean:
            {listed([name for name, gap in gaps.items() if abs(gap.mean) > measure.tolerance])}.""",
            _on_norms([gap for name, gap in gaps.items() if "norms" in name]),
        ),
        *picture("variants", "accuracy of each variant"),
        *repetition(size, store, "variants"),
    ]


def _on_norms(gaps: Sequence[Interval]) -> str:
    paper = "the paper's appendix puts the choice of the norm below 0.1 % of accuracy"
    if any(gap.excludes_zero and abs(gap.mean) > PAPERS_NORM_DIFFERENCE for gap in gaps):
        return f"**The norm matters more than in the paper** (LeNet): {paper}."
    if all(abs(gap.mean) + (gap.half or 1.0) <= PAPERS_NORM_DIFFERENCE for gap in gaps):
        return f"**The norm does not matter**, as in the paper (LeNet): {paper}."
    return f"**Not decided: whether the norm matters** (LeNet): {paper}, and the intervals here are wider."


# --- 4 -----------------------------------------------------------------------------------------------------


def mixed(size: Size, store: Store) -> Lines:
    cells = found(tables(size, store)["mixed"], store)
    measure, single = MEASURES["bert"], cells[0]
    rows = [
        [
            one.cell.series,
            str(one.cell.runs[0].steps),
            rounded(one.seconds),
            mean_of(one.value, measure),
            "" if one is single else difference_of(better_by(one, single), measure),
        ]
        for one in cells
    ]
    gap, faster = better_by(cells[1], single), single.seconds.mean / cells[1].seconds.mean
    return [
        *paragraph(
            f"""BERT-micro with LAMB: nine tenths of the samples at 32 tokens, one tenth at 128, the rate
            warmed up again before these; {measure.name} at 128 tokens. Seconds are this machine's, beside
            whatever else it did."""
        ),
        *table(["", "steps", "seconds", "loss", "better than the single batch by"], rows),
        *points(
            verdict(
                gap,
                f"**The mixed batch ends better** (BERT-micro): {compared(gap, measure)}.",
                f"""**The mixed batch costs loss here** (BERT-micro): it is {compared(gap, measure)}. By the
                paper's table its 64K/32K run has 0.9 of F1 less than its 32K run.""",
                f"**The mixed batch is not told apart** (BERT-micro): {compared(gap, measure)}.",
            ),
            f"""Time: the mixed batch is {faster:.2f} times as fast here. What it saves on two cores is
            overhead per step; the paper's gain is that more accelerators have work, which is not to be had
            here.""",
        ),
        *picture("mixed", "training loss over samples"),
        *repetition(size, store, "mixed"),
    ]


# --- 5 -----------------------------------------------------------------------------------------------------


def modes(size: Size, store: Store) -> Lines:
    """How old weights may be, and how gradients travel."""
    measure = MEASURES["lenet"]
    by_mode = found(tables(size, store)["modes"], store)
    by_wire = found(tables(size, store)["wires"], store)
    rows = [
        [
            one.cell.series,
            rounded(one.seconds),
            f"{one.staleness:.2f}",
            *_against(by_mode[0], one),
        ]
        for one in by_mode
    ]
    wires = [[one.cell.series, *_against(by_wire[0], one)] for one in by_wire]
    apart = [one.cell.series for one in by_wire[1:] if better_by(one, by_wire[0]).excludes_zero]
    return [
        *paragraph(
            f"""LeNet with LAMB at batch {size.middle:,}, four workers in threads of one process, all at the
            same rate: nothing is tuned for weights that are behind. An asynchronous step is one slot of the
            whole batch. Seconds are this machine's, where two cores share all of it."""
        ),
        *table(["", "seconds", "versions behind", measure.name, "better than synchronous by"], rows),
        *_modes_words(by_mode),
        *picture("modes", "accuracy by mode"),
        *repetition(size, store, "modes"),
        *paragraph("Gradients on the wire, synchronous, one worker:"),
        *table(["", measure.name, "better than fp32 by"], wires),
        *points(f"**Codecs told apart from fp32** (LeNet): {listed(apart)}."),
        *picture("wires", "accuracy by codec"),
        *repetition(size, store, "wires"),
    ]


def _against(base: Found, one: Found) -> list[str]:
    measure = one.measure
    difference = "" if one is base else difference_of(better_by(one, base), measure)
    return [mean_of(one.value, measure), difference]


def _modes_words(cells: Sequence[Found]) -> Lines:
    measure = MEASURES["lenet"]
    worse = [
        f"{one.cell.series} by {number(-gap.mean, measure)}"
        for one in cells[1:]
        if (gap := better_by(one, cells[0])).mean < -measure.tolerance
    ]
    limit = f"{number(measure.tolerance, measure)} {measure.unit}"
    return points(
        f"**Worse than synchronous by more than {limit}** in the mean (LeNet): {listed(worse)}.",
        """`delay` gives the same bits again; the modes below it depend on which thread was quick, so their
        runs do not, and versions behind are as measured.""",
        lag(cells[-1]),
    )


def lag(asynchronous: Found) -> str:
    """Says so where weights are further behind than workers that take turns explain."""
    workers, behind = asynchronous.cell.runs[0].mode.workers, asynchronous.staleness
    if behind <= workers:
        return ""
    return f"""**Asynchronous workers fall behind** (LeNet): {workers} that take turns would be {workers - 1}
    versions behind, these are {behind:.1f} in the mean: they push faster than steps are applied here, and
    nothing holds them back."""
