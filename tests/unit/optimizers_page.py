"""The generated parts of server/OPTIMIZERS.md: `python -m tests.unit.optimizers_page` writes them anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.oracle.settings import optimizer_of

from sheepfold_wire import rules
from sheepfold_wire.optimizer import OptimizerKeys

PAGE = Path(__file__).parents[2] / "server" / "OPTIMIZERS.md"
JOB_WIDE = ("clip_norm", "clip_place", "clip_form", "skipped_step")


def shown(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(shown, value)).replace("*", r"\*")
    return (
        f"{value:g}"
        if isinstance(value, float)
        else str(value).lower()
        if value in (True, False)
        else str(value)
    )


def table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def presets() -> Iterator[str]:
    """One column per preset, one row per setting; values that differ from paper-v5 are bold."""
    columns = [optimizer_of(preset=preset) for preset in rules.PRESETS]
    fields = [key for key in (*rules.Lamb.model_fields, *JOB_WIDE) if key not in ("rule", "preset")]
    rows = []
    for key in fields:
        values = [getattr(column, key) for column in columns]
        texts = [shown(value) if value == values[0] else f"**{shown(value)}**" for value in values]
        rows.append([f"`{key}`", *texts])
    yield from table(["setting", *(f"`{preset}`" for preset in rules.PRESETS)], rows)


def defaults() -> Iterator[str]:
    """Each rule's own settings with their defaults."""
    rows = []
    for name, rule in rules.RULES.items():
        fields = [key for key in rule.model_fields if key not in ("rule", "preset", "no_decay", "no_adapt")]
        settings = ", ".join(f"`{key}` {shown(rule.model_fields[key].default)}" for key in fields)
        rows.append([f"`{name}`", settings])
    yield from table(["rule", "settings and defaults"], rows)


def job_wide() -> Iterator[str]:
    fields = OptimizerKeys.model_fields
    yield from table(["key", "default"], [[f"`{key}`", shown(fields[key].default)] for key in JOB_WIDE])


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "presets": presets,
    "defaults": defaults,
    "job-wide": job_wide,
}


def generated(text: str) -> str:
    """The page with its generated parts as they must be."""
    for name, make in PARTS.items():
        pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end: {name} -->)"
        if not re.search(pattern, text, re.DOTALL):
            raise ValueError(f"the page has no place for {name}")
        body = "\n".join(make()).replace("\\", "\\\\")
        text = re.sub(pattern, rf"\g<1>{body}\n\g<2>", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text("utf-8")), "utf-8")
