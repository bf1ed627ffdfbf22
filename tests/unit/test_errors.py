"""sheepfold_wire.errors and status: one total map."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from google.rpc import error_details_pb2, status_pb2

import sheepfold_wire.errors as errors
from sheepfold_wire.errors import Action, SheepfoldError, Status, all_errors, error_for
from sheepfold_wire.status import from_details, to_details

ABSTRACT = {"SheepfoldError", "PreconditionError", "InvalidError", "AbortedError", "JobUnknown"}
NEVER_FROM_GRPC = {
    Status.INVALID_ARGUMENT,
    Status.NOT_FOUND,
    Status.ALREADY_EXISTS,
    Status.FAILED_PRECONDITION,
    Status.ABORTED,
    Status.OUT_OF_RANGE,
    Status.DATA_LOSS,
}
SHARED_WITH_GRPC = {
    "TokenRefused",
    "Forbidden",
    "ServerUntrusted",
    "Overloaded",
    "NotReady",
    "InternalError",
    "SheepfoldError",
}
"""Their status may also come from the network; the reason beside our domain tells them apart."""

KINDS = all_errors()


def test_every_reason_is_its_own() -> None:
    assert [reason for reason, count in Counter(kind.reason for kind in KINDS).items() if count > 1] == []
    assert all(re.fullmatch(r"[A-Z][A-Z_]*[A-Z]", kind.reason) for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_states_a_reason_status_and_action_of_its_own_kind(kind: type[SheepfoldError]) -> None:
    assert "reason" in vars(kind), "an inherited reason would be read as the parent's"
    assert isinstance(kind.action, Action)
    assert (kind.status in NEVER_FROM_GRPC) != (kind.__name__ in SHARED_WITH_GRPC)
    assert kind.__doc__


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_comes_back_from_the_wire_as_itself(kind: type[SheepfoldError]) -> None:
    sent = kind("slot 3 of step 7: give another, e.g. 4 → see the manual")
    back = from_details(to_details(sent))
    assert type(back) is kind
    assert str(back) == sent.message


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_tree_in_the_docstring_names_every_class_under_its_status(kind: type[SheepfoldError]) -> None:
    tree = errors.__doc__ or ""
    assert re.search(rf"\b{kind.__name__}\b", tree), f"draw {kind.__name__} into the tree"
    line = re.search(rf"[├└]── {kind.__name__} +([A-Z_]+)", tree)
    assert line is None or line[1] == kind.status.name


def test_the_tree_names_no_class_that_is_gone() -> None:
    tree = (errors.__doc__ or "").partition("gRPC's own")[0]
    drawn = set(re.findall(r"\b[A-Z][a-z]+[A-Za-z]*[A-Z][A-Za-z]*\b|\bOverloaded\b|\bForbidden\b", tree))
    assert drawn == {kind.__name__ for kind in KINDS}


def test_every_action_is_asked_for_by_some_error() -> None:
    assert {kind.action for kind in KINDS} == set(Action)


def test_a_reason_this_version_does_not_know_is_nobody() -> None:
    assert error_for("OF_A_NEWER_PEER", "text") is None


def details(reason: str, domain: str) -> bytes:
    status = status_pb2.Status(code=9, message="text")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
    return bytes(status.SerializeToString())


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\xff\xff",
        details("STEP_CLOSED", "googleapis.com"),
        details("OF_A_NEWER_PEER", "sheepfold"),
        status_pb2.Status(code=9, message="text").SerializeToString(),
    ],
    ids=["empty", "garbage", "another domain", "unknown reason", "no details"],
)
def test_details_of_others_are_nobodys_answer(garbage: bytes) -> None:
    assert from_details(garbage) is None


def test_status_numbers_are_those_of_grpc() -> None:
    import grpc

    theirs = {code.name: code.value[0] for code in grpc.StatusCode}
    assert {status.name: int(status) for status in Status} == {
        name: number for name, number in theirs.items() if name != "OK"
    }


def test_abstract_kinds_have_children() -> None:
    assert {kind.__name__ for kind in KINDS if kind.__subclasses__()} == ABSTRACT


def test_a_text_longer_than_metadata_carries_is_cut_and_still_an_answer() -> None:
    """gRPC drops trailing metadata beyond its bound, and with it the whole refusal."""
    back = from_details(to_details(errors.BadConfig("x" * 20_000)))
    assert isinstance(back, errors.BadConfig)
    assert str(back) == "x" * 997 + "..."
