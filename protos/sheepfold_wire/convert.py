"""Values of `messages` to protobuf messages and back, by field name.

One rule for all: a class and its message share name and fields. Optional scalars use explicit presence,
tuples are repeated fields, `AttemptId` is a message. `test_messages.py` holds both sides together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from google.protobuf.message import Message

from sheepfold_wire import messages
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.v1 import coordinator_pb2, monitor_pb2, shard_pb2

T = TypeVar("T")

_MODULES = (shard_pb2, coordinator_pb2, monitor_pb2)


@cache
def proto_class(kind: type) -> type[Message]:
    """The generated class of a value class."""
    for module in _MODULES:
        found = getattr(module, kind.__name__, None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    raise TypeError(f"{kind.__name__} stands in no .proto file; add it there and run `make protos`")


def _inner(hint: Any) -> tuple[Any, bool, bool]:
    """(element type, is repeated, is optional) of a field's type hint."""
    origin = get_origin(hint)
    if origin is tuple:
        return get_args(hint)[0], True, False
    if origin in (Union, UnionType):
        return next(part for part in get_args(hint) if part is not type(None)), False, True
    return hint, False, False


@cache
def _layout(kind: type) -> tuple[tuple[str, Any, bool, bool], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, *_inner(hints[field.name])) for field in fields(kind))


def _is_message(kind: Any) -> bool:
    return kind is AttemptId or is_dataclass(kind)


def to_proto(value: Any) -> Any:
    """The protobuf message of a value."""
    if isinstance(value, AttemptId):
        return shard_pb2.AttemptId(term=value.term, counter=value.counter)
    given: dict[str, Any] = {}
    cls: Any = type(value)
    for name, kind, is_repeated, _ in _layout(cls):
        field = getattr(value, name)
        if field is None:
            continue
        if not _is_message(kind):
            given[name] = field
        else:
            given[name] = [to_proto(item) for item in field] if is_repeated else to_proto(field)
    return proto_class(cls)(**given)


def from_proto(kind: type[T], message: Any) -> T:
    """The value of class `kind` that a protobuf message carries."""
    if kind is AttemptId:
        return AttemptId(message.term, message.counter)  # type: ignore[return-value]
    given: dict[str, Any] = {}
    cls: Any = kind
    for name, element, is_repeated, is_optional in _layout(cls):
        if is_optional and not message.HasField(name):
            given[name] = None
            continue
        field = getattr(message, name)
        read = _reader(element)
        given[name] = tuple(read(item) for item in field) if is_repeated else read(field)
    return kind(**given)


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    if _is_message(kind):
        return lambda field: from_proto(kind, field)
    return kind  # type: ignore[no-any-return]


def _field_name(kind: type) -> str:
    """`JobOpened` -> `job_opened`, the field of the oneof."""
    return "".join("_" + c.lower() if c.isupper() else c for c in kind.__name__).lstrip("_")


_COMMANDS = {_field_name(kind): kind for kind in get_args(messages.ShardCommand)}
_REPORTS = {_field_name(kind): kind for kind in get_args(messages.ShardReport)}


def command_to_proto(command: messages.ShardCommand) -> shard_pb2.ShardCommand:
    return shard_pb2.ShardCommand(**{_field_name(type(command)): to_proto(command)})


def command_from_proto(message: shard_pb2.ShardCommand) -> messages.ShardCommand | None:
    """None for a command of a newer peer; the caller refuses it by name."""
    name = message.WhichOneof("command")
    return None if name is None else from_proto(_COMMANDS[name], getattr(message, name))


def report_to_proto(report: messages.ShardReport) -> shard_pb2.ShardReport:
    return shard_pb2.ShardReport(**{_field_name(type(report)): to_proto(report)})


def report_from_proto(message: shard_pb2.ShardReport) -> messages.ShardReport | None:
    name = message.WhichOneof("report")
    return None if name is None else from_proto(_REPORTS[name], getattr(message, name))


def commands_to_proto(commands: Iterable[messages.ShardCommand]) -> shard_pb2.ShardCommands:
    """One message of a link, for all commands that wait."""
    return shard_pb2.ShardCommands(commands=[command_to_proto(command) for command in commands])


def reports_to_proto(reports: Iterable[messages.ShardReport]) -> shard_pb2.ShardReports:
    return shard_pb2.ShardReports(reports=[report_to_proto(report) for report in reports])
