"""sheepfold_server.shell.fleet: jobs and links of one coordinator process."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.harness import small_job

import sheepfold_wire.messages as m
from sheepfold_server.shell.fleet import Fleet
from sheepfold_wire.errors import (
    BadConfig,
    JobUnknown,
    NotReady,
    NumericsMismatch,
    PreconditionError,
    StaleIncarnation,
)
from sheepfold_wire.manifest import Manifest, TensorSpec


def hello(shard: int, numerics: str = "eager/cpu/torch-2", **changes: Any) -> m.Hello:
    given = {
        "incarnation": 0,
        "shard": shard,
        "shard_count": 2,
        "address": f"h:{shard}",
        "staging_bytes": 1 << 20,
    }
    return m.Hello(**{**given, "numeric_fingerprint": numerics, **changes})


def create(fleet: Fleet, name: str = "small", manifest: str = "") -> Any:
    return fleet.create(m.CreateJobRequest("", small_job(name).to_json(), manifest)).result(1)


def test_shard_of_other_numerics_is_refused_at_its_link() -> None:
    fleet = Fleet(2)
    fleet.link_up(hello(0), lambda command: None)
    with pytest.raises(NumericsMismatch, match="shard 1 computes with eager/cuda"):
        fleet.link_up(hello(1, "eager/cuda/torch-2"), lambda command: None)


def test_shard_of_another_fleet_size_is_refused_with_both_numbers() -> None:
    with pytest.raises(BadConfig, match=r"shard 0 of 3 .* has 2 shards"):
        Fleet(2).link_up(hello(0, shard_count=3), lambda command: None)


def test_process_that_comes_back_keeps_its_incarnation_and_a_new_one_gets_its_own() -> None:
    fleet = Fleet(2)

    def send(command: object) -> None: ...

    first = fleet.link_up(hello(0), lambda command: None)
    assert fleet.link_up(hello(0, incarnation=first.incarnation), send) == first
    fleet.link_down(0, send)
    assert fleet.link_up(hello(0), lambda command: None).incarnation > first.incarnation


def test_second_process_for_a_shard_waits_until_the_first_is_gone() -> None:
    fleet = Fleet(2)
    fleet.link_up(hello(0), lambda command: None)
    with pytest.raises(NotReady, match="served by a process at h:0 already"):
        fleet.link_up(hello(0), lambda command: None)


def test_process_of_an_earlier_coordinator_is_refused() -> None:
    """Its jobs, terms and attempts are another history's."""
    with pytest.raises(StaleIncarnation, match=r"FENCED.*incarnation 7"):
        Fleet(2).link_up(hello(0, incarnation=7), lambda command: None)


def test_report_of_a_replaced_link_is_not_heard() -> None:
    fleet = Fleet(1)
    create(fleet)

    def old(command: object) -> None: ...

    def new(command: object) -> None: ...

    first = fleet.link_up(hello(0, shard_count=1), old)
    fleet.link_up(hello(0, shard_count=1, incarnation=first.incarnation), new)
    fleet.report(0, m.ShardFailed("small", "old news", fleet.status("small").term), old)
    assert "old news" not in fleet.status("small").why
    fleet.report(0, m.ShardFailed("small", "news", fleet.status("small").term), new)
    assert "news" in fleet.status("small").why


def test_two_coordinator_processes_have_different_terms() -> None:
    assert Fleet(1).term > 1_000_000_000_000


def test_welcome_comes_before_any_job() -> None:
    fleet = Fleet(2)
    create(fleet, manifest=Manifest((TensorSpec("w", (3,), "float32", "parameter"),)).to_json())
    heard: list[Any] = []
    fleet.link_up(hello(0), heard.append)
    assert [type(command) for command in heard] == [m.Welcome]
    fleet.link_up(hello(1), lambda command: None)
    assert [type(command) for command in heard] == [m.Welcome, m.OpenJob]


def test_refused_job_leaves_nothing_behind() -> None:
    fleet = Fleet(2)
    manifest = Manifest((TensorSpec("mean", (3,), "float32", "statistic"),))
    with pytest.raises(PreconditionError, match="mean"):
        create(fleet, manifest=manifest.to_json())
    assert fleet.jobs() == ()


def test_same_job_again_is_confirmed_and_not_new() -> None:
    fleet = Fleet(2)
    assert create(fleet) == m.CreateJobReply("small", True)
    assert create(fleet) == m.CreateJobReply("small", False)


def test_unknown_job_names_the_known_ones() -> None:
    fleet = Fleet(2)
    create(fleet, "one")
    create(fleet, "two")
    with pytest.raises(JobUnknown, match="known: one, two"):
        fleet.job("three")


def test_end_of_an_old_link_does_not_take_the_new_one_down() -> None:
    """The old stream's end may be noticed after the shard has already come back."""
    fleet = Fleet(2)
    create(fleet)

    def old(command: object) -> None: ...

    def new(command: object) -> None: ...

    first = fleet.link_up(hello(0), old)
    fleet.link_up(hello(0, incarnation=first.incarnation), new)
    fleet.link_down(0, old)
    assert fleet.status("small").shards[0].is_connected
    fleet.link_down(0, new)
    assert not fleet.status("small").shards[0].is_connected
