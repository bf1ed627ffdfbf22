"""sheepfold_wire.messages and convert, held together with the .proto files."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

import sheepfold_wire.messages as m
from sheepfold_wire.convert import (
    command_from_proto,
    command_to_proto,
    from_proto,
    proto_class,
    report_from_proto,
    report_to_proto,
    to_proto,
)
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.v1 import coordinator_pb2, monitor_pb2, shard_pb2

VALUES = sorted(
    (kind for _, kind in inspect.getmembers(m, inspect.isclass) if is_dataclass(kind)),
    key=lambda kind: kind.__name__,
)
WIRE_ONLY = {
    "ShardCommands",
    "ShardReports",
    "AttemptId",
    "Chunk",
    "PushFrame",
    "PullFrame",
    "ShardCommand",
    "ShardReport",
}
"""Messages without a value class: an id, frames that go by position, and the two oneofs."""

SCALARS = {
    int: {FieldDescriptor.TYPE_INT64},
    float: {FieldDescriptor.TYPE_DOUBLE},
    str: {FieldDescriptor.TYPE_STRING},
    bytes: {FieldDescriptor.TYPE_BYTES},
    bool: {FieldDescriptor.TYPE_BOOL},
}
ITEMS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=8),
    bytes: st.binary(max_size=8),
    bool: st.booleans(),
    AttemptId: st.builds(AttemptId, st.integers(0, 2**40), st.integers(0, 2**40)),
}


def parts_of(hint: Any) -> tuple[Any, bool, bool]:
    """(element, is repeated, is optional), worked out apart from convert's own way."""
    if get_origin(hint) is tuple:
        element, rest = get_args(hint)
        assert rest is Ellipsis
        return element, True, False
    if get_origin(hint) in (Union, UnionType):
        element, nothing = get_args(hint)
        assert nothing is type(None)
        return element, False, True
    return hint, False, False


def strategy_of(hint: Any) -> st.SearchStrategy[Any]:
    element, is_repeated, is_optional = parts_of(hint)
    one = ITEMS[element] if element in ITEMS else value_of(element)
    if is_repeated:
        return st.lists(one, max_size=3).map(tuple)
    return st.none() | one if is_optional else one


def value_of(kind: type) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind)
    return st.builds(kind, **{field.name: strategy_of(hints[field.name]) for field in fields(kind)})


def descriptors() -> dict[str, Descriptor]:
    files = (shard_pb2.DESCRIPTOR, coordinator_pb2.DESCRIPTOR, monitor_pb2.DESCRIPTOR)
    return {name: found for file in files for name, found in file.message_types_by_name.items()}


def test_every_message_has_its_value_class_and_the_other_way_round() -> None:
    assert {kind.__name__ for kind in VALUES} | WIRE_ONLY == set(descriptors())


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_a_value_class_and_its_message_have_the_same_fields_and_types(kind: type) -> None:
    hints, descriptor = get_type_hints(kind), proto_class(kind).DESCRIPTOR
    assert [field.name for field in fields(kind)] == [field.name for field in descriptor.fields]
    for field in descriptor.fields:
        element, is_repeated, is_optional = parts_of(hints[field.name])
        assert field.is_repeated == is_repeated, field.name
        if element in SCALARS:
            assert field.type in SCALARS[element], field.name
            assert field.has_presence == is_optional, f"{field.name}: `optional` and None go together"
        else:
            assert field.message_type is not None
            assert field.message_type.name == element.__name__, field.name


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_a_value_survives_the_wire(kind: type) -> None:
    @settings(max_examples=25, deadline=None)
    @given(value_of(kind))
    def goes_round(value: Any) -> None:
        sent = to_proto(value).SerializeToString()
        assert from_proto(kind, proto_class(kind).FromString(sent)) == value

    goes_round()


def test_none_and_zero_are_different_on_the_wire() -> None:
    for version in (None, 0):
        request = m.PullRequest("toy", 0, 1, "m", "p", "fp32", version)
        assert from_proto(m.PullRequest, to_proto(request)).version == version
    for loss in (None, 0.0):
        facts = m.Facts(1, 1.0, 0, b"", loss)
        assert from_proto(m.Facts, to_proto(facts)).loss == loss


@pytest.mark.parametrize(
    ("union", "message", "write", "read"),
    [
        (m.ShardCommand, shard_pb2.ShardCommand, command_to_proto, command_from_proto),
        (m.ShardReport, shard_pb2.ShardReport, report_to_proto, report_from_proto),
    ],
    ids=["commands", "reports"],
)
def test_a_link_carries_every_kind_and_only_those(
    union: Any, message: Any, write: Callable[[Any], Any], read: Callable[[Any], Any]
) -> None:
    (oneof,) = message.DESCRIPTOR.oneofs
    kinds = {field.message_type.name for field in oneof.fields if field.message_type is not None}
    assert kinds == {kind.__name__ for kind in get_args(union)}
    assert len(message.DESCRIPTOR.fields) == len(oneof.fields)

    for kind in get_args(union):

        @settings(max_examples=5, deadline=None)
        @given(value_of(kind))
        def goes_round(value: Any) -> None:
            assert read(message.FromString(write(value).SerializeToString())) == value

        goes_round()
    assert read(message()) is None, "a kind of a newer peer is nothing that this version knows"


def test_a_class_without_message_is_named_with_the_remedy() -> None:
    class Stranger:
        pass

    with pytest.raises(TypeError, match=r"Stranger stands in no \.proto file; add it there"):
        proto_class(Stranger)
