"""Writes REPORT.md and its plots from stored results: python -m tests.study.report [quick|normal|full]

Without a size: the largest one of which every run is stored.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.study import scaling, sections
from tests.study.found import found
from tests.study.plan import SIZES, Size, runs, tables
from tests.study.store import Store
from tests.study.text import paragraph

PAGE = Path(__file__).parent / "REPORT.md"

INTRO = """\
# Large batches: LAMB and its rivals through the sharded server

Generated from the results in `tests/study/results/` by `python -m tests.study.report`; `make study` makes
them.

**Correctness and trend at this size.** Models of 62 to 246 thousand parameters on two cores show
whether the server does what the paper's algorithms say, and in which direction things go. They do not show
what BERT-Large does at a batch of 32 thousand. The claim under test is You et al. 2020 (arXiv:1904.00962):
LAMB keeps its quality at large batches by a rule, without tuning. The counter-position is Nado et al. 2021
(arXiv:2102.06356): tuned well, ordinary optimizers do as well.
"""

LIMITS = """\
## What cannot be tested without accelerators

* BERT-Large in 76 minutes on 1,024 chips, and any time that comes from more accelerators: two cores give
  all of them the same work one after the other.
* F1 on SQuAD: it takes a pretrained BERT of full size. The loss of masked words at 246 thousand parameters
  is no stand-in.
* ResNet-50 on ImageNet; batches of 32 to 64 thousand, where by the paper's account AdamW and LARS break down.
* Whether a rule found at one size holds at another: both rates here were set at small batches of these very
  tasks.
"""


def page(size: Size, store: Store) -> str:
    """The whole report, as a function of the size's stored results."""
    bodies = {
        "1. Quality against batch": [
            line for task in size.tasks for line in scaling.scaling(size, store, task)
        ],
        "2. Learning rate and trust ratio, perturbed": sections.fragility(size, store),
        "3. Variants of the paper's appendix": sections.variants(size, store),
        "4. Mixed batch": sections.mixed(size, store),
        "5. Old weights, and small gradients": sections.modes(size, store),
        "6. The noise scale": scaling.noise(size, store),
    }
    body = [line for title, lines in bodies.items() for line in (f"## {title}", "", *lines)]
    short = ["## In short", "", *_judged(body), ""]
    return "\n".join([INTRO, *_setting(size, store), *short, *body, LIMITS])


def _judged(lines: Sequence[str]) -> list[str]:
    """The points that begin with a judgement in bold, whole."""
    found, is_within = [], False
    for line in lines:
        is_within = line.startswith("* **") or (is_within and line.startswith("  "))
        found += [line] if is_within else []
    return found


def _setting(size: Size, store: Store) -> list[str]:
    planned = [run for _, run in runs(size, store)]
    minutes = sum(store[run].seconds for run in planned) / 60
    skipped = sum(one.skipped for cells in tables(size, store).values() for one in found(cells, store))
    return paragraph(
        f"""Size `{size.name}`: {len(planned)} runs, {minutes:.0f} minutes of training in all. Each number
        is the mean over {size.seeds} seeds ± half its 95 % interval (Student's t), with the standard
        deviation of one seed in brackets. Differences are taken seed by seed; told apart, and bold in
        tables, are those whose interval leaves out 0. All runs of a table are over the same number of
        samples. Rates are tuned on a seed of their own but on the same held-out data, which favours what
        was tuned. Steps skipped as not finite: {skipped}."""
    )


def is_complete(size: Size, store: Store) -> bool:
    return not store.missing(run for _, run in runs(size, store))


def newest(store: Store) -> Size:
    """The largest size of which every run is stored."""
    complete = [size for size in SIZES.values() if is_complete(size, store)]
    if not complete:
        raise SystemExit("no size of the study is complete; run `make study QUICK=1`")
    return complete[-1]


def write(size: Size, store: Store) -> None:
    from tests.study import plots  # only what draws has to wait a second for matplotlib

    plots.draw_all(size, store)
    PAGE.write_text(page(size, store), "utf-8")


if __name__ == "__main__":
    stored = Store()
    write(SIZES[sys.argv[1]] if len(sys.argv) > 1 else newest(stored), stored)
