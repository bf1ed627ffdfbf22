"""Where version 0 comes from, if not from the first worker's own values: a file, or another job."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sheepfold.errors import Refused
from sheepfold_wire.job import Init

log = logging.getLogger("sheepfold")

NAMES_SHOWN = 8


def sources(names: Iterable[str], found: Collection[str], init: Init) -> dict[str, str]:
    """What each of the model's tensors is called in the source; those that stay as they are are left out.

    Raises Refused with the tensors that the source lacks, unless `init.fresh` names them. What the source has
    beyond the model's is no error: it is listed in the log.
    """
    used: dict[str, str] = {}
    missing: list[str] = []
    for name in names:
        source = renamed(name, init.names)
        if source in found:
            used[name] = source
        elif not any(fnmatchcase(name, pattern) for pattern in init.fresh):
            missing.append(name if source == name else f"{name} (there: {source})")
    if missing:
        raise Refused(
            f"init.from = {init.source}: {len(missing)} tensors of the model are not there: "
            f"{_shown(missing)}. It has {_shown(sorted(found))}",
            field="init",
            expected=missing,
            got=sorted(found),
            remedy="rename them by init.names, or let them keep the first worker's values by init.fresh",
        )
    unexpected = sorted(set(found) - set(used.values()))
    if unexpected:
        log.warning("init.from = %s: not used: %s", init.source, _shown(unexpected))
    return used


def renamed(name: str, names: Mapping[str, str]) -> str:
    """A name by the first pattern that fits; * stands for the same text on both sides."""
    for mine, theirs in names.items():
        if "*" not in mine:
            if name == mine:
                return theirs
            continue
        before, _, after = mine.partition("*")
        if name.startswith(before) and name.endswith(after) and len(name) >= len(before) + len(after):
            return theirs.replace("*", name[len(before) : len(name) - len(after)])
    return name


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def read_file(path: str, framework: str) -> dict[str, Any]:
    """All tensors of a safetensors file, as "np" arrays or "pt" tensors. Raises Refused."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise Refused("init.from = file: needs safetensors", remedy="pip install safetensors") from None
    if not Path(path).is_file():
        raise Refused(
            f"init.from = file:{path}: there is no such file on this worker",
            remedy="give a path that every worker sees, or start first a worker that has it",
        )
    try:
        with safe_open(path, framework=framework) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, OSError) as error:
        raise Refused(f"init.from = file:{path}: it cannot be read: {error}") from None


def check_shapes(
    used: Mapping[str, str], source: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises Refused for the first tensor of another shape."""
    for name, theirs in used.items():
        shape = tuple(source[theirs].shape)
        if shape != shapes[name]:
            raise Refused(
                f"init.from: {theirs} has shape {shape} there, the model's {name} has {shapes[name]}",
                field=name,
                expected=shapes[name],
                got=shape,
                remedy="name it in init.fresh if it is meant to begin anew",
            )
