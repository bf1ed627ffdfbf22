"""The patches that helm sends, and the lists which Kubernetes merges entry by entry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.chart.fake_kube.kinds import Object

ENTRY_NAMES = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "topologySpreadConstraints": "topologyKey",
}
"""The field by which entries of a list are told apart. Every other list is replaced as a whole."""


def entry_name(field: str, entry: Any) -> Any:
    """None: entries of this list have no name."""
    if not isinstance(entry, dict):
        return None
    if field == "ports":  # containers have one, Services the other
        return entry.get("containerPort", entry.get("port"))
    return entry.get(ENTRY_NAMES[field]) if field in ENTRY_NAMES else None


def merge(target: Object, patch: Object) -> None:
    """RFC 7386."""
    for field, value in patch.items():
        if value is None:
            target.pop(field, None)
        elif isinstance(value, dict):
            inner = target.get(field)
            target[field] = inner if isinstance(inner, dict) else {}
            merge(target[field], value)
        else:
            target[field] = value


def merge_strategically(target: Object, patch: Object) -> None:
    """As merge, but lists whose entries have names are merged by them; `$` begins an instruction."""
    if patch.get("$patch") == "replace":
        target.clear()
    for field in [name for name in target if name not in patch.get("$retainKeys", target)]:
        del target[field]
    for field, value in patch.items():
        if field.startswith("$"):
            continue
        if value is None:
            target.pop(field, None)
        elif isinstance(value, dict):
            inner = target.get(field)
            target[field] = inner if isinstance(inner, dict) else {}
            merge_strategically(target[field], value)
        elif isinstance(value, list) and value and all(entry_name(field, each) is not None for each in value):
            target[field] = _merged_entries(field, target.get(field, []), value)
        else:
            target[field] = value


def _merged_entries(field: str, old: list[Object], patch: list[Object]) -> list[Object]:
    entries = {entry_name(field, each): each for each in old}
    for each in patch:
        name = entry_name(field, each)
        if each.get("$patch") == "delete":
            entries.pop(name, None)
        else:
            merge_strategically(entries.setdefault(name, {}), each)
    return list(entries.values())


def repeated_entries(value: Any, place: str = "") -> Iterator[str]:
    """Places of named lists with two entries of a name: server-side apply refuses them."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from repeated_entries(each, f"{place}[{number}]")
    if isinstance(value, dict):
        for field, child in value.items():
            names = [_applied_name(field, each) for each in child] if isinstance(child, list) else []
            for name in {each for each in names if each is not None and names.count(each) > 1}:
                yield f"{place}.{field}: duplicate entries for key {name}"
            yield from repeated_entries(child, f"{place}.{field}")


def _applied_name(field: str, entry: Any) -> Any:
    """Two ports of a number may differ in their protocol."""
    name = entry_name(field, entry)
    return (name, entry.get("protocol", "TCP")) if field == "ports" and name is not None else name
