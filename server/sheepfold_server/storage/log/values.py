"""Records of the core as JSON and back, by field name and type; bytes as base64.

Floats keep every bit: Python writes the shortest text that reads back as the same number. A field that this
version does not know is refused: a record must not change its meaning unsaid.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from sheepfold_server.storage.log.errors import LogMismatch

T = TypeVar("T")


class Values(Generic[T]):
    """The record classes of one log; each is known by its name."""

    def __init__(self, kinds: Iterable[type]) -> None:
        self._kinds = {kind.__name__: kind for kind in kinds}

    def encode(self, record: T) -> str:
        """One line: the class and its fields."""
        name = type(record).__name__
        if name not in self._kinds:
            raise TypeError(f"{name} is no record of this log")
        return json.dumps([name, _encoded(record)], separators=(",", ":"))

    def decode(self, text: str) -> T:
        """Raises LogMismatch for a record of another version."""
        name, given = json.loads(text)
        kind = self._kinds.get(name)
        if kind is None:
            known = ", ".join(sorted(self._kinds))
            raise LogMismatch(f"the log has a record {name!r}; this version knows {known}: use the newer one")
        decoded: T = _decoded(kind, given)
        return decoded


def _encoded(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _encoded(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, tuple):
        return [_encoded(item) for item in value]
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decoded(hint: Any, given: Any) -> Any:
    if is_dataclass(hint):
        return _dataclass(hint, given)
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        inner = [part for part in get_args(hint) if part is not type(None)]
        return None if given is None else _decoded(inner[0], given)
    if origin is tuple:
        parts = get_args(hint)
        kinds = [parts[0]] * len(given) if len(parts) == 2 and parts[1] is Ellipsis else parts
        return tuple(_decoded(kind, item) for kind, item in zip(kinds, given, strict=True))
    if hint is bytes:
        return base64.b64decode(given)
    if isinstance(hint, type) and issubclass(hint, tuple):  # a NamedTuple
        return hint(*given)
    return hint(given) if hint is float else given


def _dataclass(kind: Any, given: dict[str, Any]) -> Any:
    hints = _hints(kind)
    unknown = given.keys() - hints.keys()
    if unknown:
        raise LogMismatch(
            f"a record {kind.__name__} has fields {sorted(unknown)} that this version does not know; use the "
            "newer one"
        )
    return kind(**{name: _decoded(hints[name], value) for name, value in given.items()})
