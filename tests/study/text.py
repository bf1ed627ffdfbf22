"""Numbers, tables and paragraphs as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tests.study.intervals import Interval
from tests.study.tasks import Measure

WIDTH = 110


def number(value: float, measure: Measure) -> str:
    """In the unit people read, without it."""
    return f"{value * measure.scale:.{2 if measure.scale > 1 else 3}f}"


def mean_of(found: Interval, measure: Measure) -> str:
    """`87.12 ± 0.40 (0.16)`: mean, half the 95 % interval, standard deviation."""
    if found.half is None or found.deviation is None:
        return number(found.mean, measure)
    half, deviation = number(found.half, measure), number(found.deviation, measure)
    return f"{number(found.mean, measure)} ± {half} ({deviation})"


def difference_of(found: Interval, measure: Measure) -> str:
    """`+0.31 ± 0.40`, in bold where the interval leaves 0 out."""
    sign = "+" if found.mean >= 0 else "−"
    text = f"{sign}{_size_of(found, measure)}"
    return f"**{text}**" if found.excludes_zero else text


def compared(found: Interval, measure: Measure) -> str:
    """`better by 0.31 ± 0.40 %`, or worse."""
    return f"{'better' if found.mean >= 0 else 'worse'} by {_size_of(found, measure)} {measure.unit}"


def _size_of(found: Interval, measure: Measure) -> str:
    half = "" if found.half is None else f" ± {number(found.half, measure)}"
    return number(abs(found.mean), measure) + half


def rounded(found: Interval, places: int = 1) -> str:
    half = "" if found.half is None else f" ± {found.half:,.{places}f}"
    return f"{found.mean:,.{places}f}{half}"


def listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def paragraph(text: str) -> list[str]:
    """One paragraph of what may be written over several lines, and an empty line."""
    return [*textwrap.wrap(" ".join(text.split()), WIDTH, break_on_hyphens=False), ""]


def points(*texts: str) -> list[str]:
    """A list, one point for each text that is not empty, and an empty line."""
    lines = []
    for text in filter(None, texts):
        whole = " ".join(text.split())
        lines += textwrap.wrap(
            f"* {whole}", WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
        )
    return [*lines, ""]
