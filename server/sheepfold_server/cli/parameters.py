"""What the names of a model's parameters decide: groups, decay, trust ratio, slices; needs no server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from rich.table import Table
from rich.text import Text

from sheepfold_server.cli.job_table import shown
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import Job
from sheepfold_wire.manifest import Manifest, ManifestError, TensorSpec
from sheepfold_wire.optimizer import tensor_settings, with_slices

STANDARD_INPUT = Path("-")


def names_in(file: Path) -> list[str]:
    """One name per line; raises BadConfig for a file that cannot be read, or that holds none."""
    try:
        text = sys.stdin.read() if file == STANDARD_INPUT else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"{file}: {error}") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise BadConfig(f"{file}: no names; write one per line, as in model.named_parameters()")
    return names


def parameter_table(job: Job, names: Sequence[str]) -> Table:
    """A line for each parameter; raises BadConfig where creating the job would refuse these names."""
    settings, cut = tensor_settings(job.optimizer, names), _patterns_of_slices(job, names)
    table = Table(title="parameters", title_justify="left", box=None, pad_edge=False)
    table.add_column("parameter", overflow="fold")
    for name in ("group", "rule", "weight decay", "trust ratio", "learning rate", "slices"):
        table.add_column(name)
    for name, found in zip(names, settings, strict=True):
        table.add_row(
            Text(name),
            _group(job, name),
            found.settings.rule,
            f"{found.weight_decay:g}",
            "yes" if found.adapts else "no",
            "" if found.lr_scale == 1 else f"times {found.lr_scale:g}",
            shown(job.model_dump(mode="json")["optimizer"]["slices"][cut[name]]) if name in cut else "",
        )
    return table


def _group(job: Job, name: str) -> str:
    for number, group in enumerate(job.optimizer.groups):
        if any(fnmatchcase(name, pattern) for pattern in group.match):
            return str(number)
    return "-"


def _patterns_of_slices(job: Job, names: Sequence[str]) -> dict[str, str]:
    """The pattern of [optimizer.slices] that each cut parameter matches; shapes are not known here."""
    patterns = job.optimizer.slices
    try:
        manifest = Manifest(tuple(TensorSpec(name, (1,), "float32", "parameter") for name in names))
    except ManifestError as error:
        raise BadConfig(str(error)) from None
    with_slices(manifest, dict.fromkeys(patterns, 1))
    return {name: pattern for pattern in patterns for name in names if fnmatchcase(name, pattern)}
