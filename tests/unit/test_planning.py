"""Formulas of the capacity planner against hand-worked values, brute force and properties."""

from __future__ import annotations

import math
import random
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sheepfold_server.planning import memory
from sheepfold_server.planning.network import (
    Links,
    all_reduce_s,
    best_share_duplex,
    best_share_phased,
    colocated_s,
    dedicated_s,
    mixed_s,
)
from sheepfold_server.planning.setting import CODEC_BYTES, Costs, Fleet, Machines, Setting, Work, check
from sheepfold_server.planning.step import (
    CALL_WINDOW,
    COORDINATOR,
    HOST_CPU,
    SERVER_CPU,
    SERVER_DISK,
    SERVER_LINK,
    SERVER_MEMORY,
    WORKER_CHAIN,
    WORKER_LINK,
    Phase,
    all_reduce_step_s,
    break_even_shards,
    fastest_shards,
    least_shards,
    live_workers,
    rounds,
    step_time,
    with_shards,
    worker_s,
)
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import BadConfig
from sheepfold_wire.job import Wire

FREE = Costs(*(0.0 for _ in fields(Costs)))
"""Work of processors takes no time."""
IMMEDIATE = Machines(round_trip_s=0.0, server_memory=1e30, disk=1e30)
"""Only links take time."""
GRID = 400
CASES = 300


def setting(parameters: int = 1_000_000, workers: int = 4, shards: int = 2, **work: object) -> Setting:
    values = {"slots": workers, **work}
    return Setting(Work(parameters, **values), Fleet(workers, shards))  # type: ignore[arg-type]


# --- the network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(2, 1), (8, 3), (16, 15), (64, 1), (1024, 512)])
def test_equal_links_and_codecs_give_the_theorem_of_byteps(n: int, k: int) -> None:
    """t = 2n(n-1)M / ((n^2+kn-2k)B) at x = (n-k)/(n^2+kn-2k)."""
    model, link = 1.36e9, 12.5e9
    links = Links(n, k, link, link)
    share = best_share_duplex(model, model, links)
    assert share == pytest.approx((n - k) / (n * n + k * n - 2 * k))
    expected = 2 * n * (n - 1) * model / ((n * n + k * n - 2 * k) * link)
    assert mixed_s(share, model, model, links, is_duplex=True) == pytest.approx(expected)


def test_without_machines_for_shards_alone_it_is_all_reduce() -> None:
    """8 ranks, 100 bytes both ways, 10 bytes a second: 7 * 200 / 80."""
    links = Links(8, 0, 10.0, 10.0)
    share = best_share_duplex(100.0, 100.0, links)
    assert all_reduce_s(100.0, 100.0, links) == 17.5
    assert colocated_s(100.0, 100.0, links) == 17.5
    assert mixed_s(share, 100.0, 100.0, links, is_duplex=True) == pytest.approx(17.5)
    assert mixed_s(share, 100.0, 100.0, links, is_duplex=False) == pytest.approx(17.5)


def test_as_many_shards_as_workers_take_one_model_over_one_link() -> None:
    links = Links(8, 8, 10.0, 10.0)
    assert best_share_duplex(100.0, 100.0, links) == 0.0
    assert dedicated_s(100.0, 100.0, links, is_duplex=True) == 10.0
    assert dedicated_s(100.0, 100.0, links, is_duplex=False) == 20.0


def test_shards_alone_are_bound_by_the_slower_side() -> None:
    """6 workers on 2 shards of twice the link: 6 * 400 / (2 * 20) = 60 s up; 1.1 times that if uneven."""
    links = Links(6, 2, 10.0, 20.0)
    assert dedicated_s(400.0, 200.0, links, is_duplex=True) == 60.0
    assert dedicated_s(400.0, 200.0, links, is_duplex=False) == 90.0
    assert dedicated_s(400.0, 200.0, links, is_duplex=True, imbalance=1.1) == pytest.approx(66.0)


def test_best_shares_are_those_of_brute_force() -> None:
    """Duplex: no share of a fine grid beats it. Phased: 1/n does not lose to any."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(CASES):
        links = Links(
            chance.randint(2, 200),
            chance.randint(1, 200),
            10 ** chance.uniform(8, 11),
            10 ** chance.uniform(8, 11),
        )
        up, down = (chance.choice((1.0, 2.0, 4.0)) * 1e8 for _ in range(2))
        n = links.workers
        for is_duplex, share in (
            (True, best_share_duplex(up, down, links)),
            (False, best_share_phased(n)),
        ):
            assert 0.0 <= share <= 1.0 / n
            best = mixed_s(share, up, down, links, is_duplex)
            tried = min(mixed_s(i / GRID / n, up, down, links, is_duplex) for i in range(GRID + 1))
            assert best <= tried * (1 + 1e-9), (links, up, down, is_duplex)
            near = mixed_s(min(share + 1e-4 / n, 1.0 / n), up, down, links, is_duplex)
            assert best <= near * (1 + 1e-9), (links, up, down, is_duplex)


def test_a_share_that_leaves_something_on_no_machine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.6 of the model is on no machine"):
        mixed_s(0.1, 1.0, 1.0, Links(4, 0, 1.0, 1.0), is_duplex=False)


# --- a step -----------------------------------------------------------------------------------------------


def test_terms_of_links_are_those_of_the_reference() -> None:
    """P = B = 1e9, n = 8, k = 2, bf16 up, fp32 down, uneven by 1.1: 2 and 1.1 * 8 * 2 / 2 s up."""
    machines = replace(IMMEDIATE, worker_link=1e9, server_link=1e9)
    given = Setting(Work(10**9, 8, "bf16", "fp32"), Fleet(8, 2), machines, FREE)
    time = step_time(given)
    assert time.of(Phase.UP, WORKER_LINK) == pytest.approx(2.0)
    assert time.of(Phase.UP, SERVER_LINK) == pytest.approx(8.8)
    assert time.of(Phase.DOWN, WORKER_LINK) == pytest.approx(4.0)
    assert time.of(Phase.DOWN, SERVER_LINK) == pytest.approx(17.6)
    assert time.seconds == pytest.approx(8.8 + 17.6)
    assert (time.dominant.phase, time.dominant.resource) == (Phase.DOWN, SERVER_LINK)
    behind = step_time(replace(given, work=replace(given.work, delay=1)))
    assert behind.seconds == pytest.approx(17.6)  # a link has two directions, and 26.4 / 2 is less


def test_terms_of_a_shard_are_those_of_the_reference() -> None:
    """P = 1e6, n = 4, bf16, 1 GB/s: staging 8 MB, fold 8 + 4 * 7 MB, then LAMB 40, encoding 6, log 4."""
    costs = replace(
        FREE, push_server_s_per_byte=1e-9, pull_server_s_per_byte=2e-9, optimizer_s_per_parameter=6e-9
    )
    machines = replace(Machines(), server_memory=1e9, disk=1e9, server_cores=2, round_trip_s=0.0)
    time = step_time(Setting(Work(1_000_000, 4, "bf16", "bf16"), Fleet(4, 1), machines, costs))
    assert time.of(Phase.UP, SERVER_MEMORY) == pytest.approx(0.044)
    assert time.of(Phase.UP, SERVER_CPU) == pytest.approx(0.004)
    assert time.of(Phase.OPTIMIZER, SERVER_MEMORY) == pytest.approx(0.046)
    assert time.of(Phase.OPTIMIZER, SERVER_CPU) == pytest.approx(0.006)
    assert time.of(Phase.OPTIMIZER, SERVER_DISK) == pytest.approx(0.004)
    assert time.of(Phase.DOWN, SERVER_CPU) == pytest.approx(0.008)


def test_coordinator_is_paid_by_slot_by_shard_and_by_pair() -> None:
    """3 shards and 5 slots: 10 + 2 * 2 ms a step, then 4 slots * 3 ms + 5 * 2 pairs * 1 ms."""
    costs = replace(FREE, step_s=0.010, shard_s=0.002, slot_s=0.003, message_s=0.001)
    time = step_time(replace(setting(workers=5, shards=3), costs=costs, machines=IMMEDIATE))
    assert time.of(Phase.ROUND, COORDINATOR) == pytest.approx(0.014)
    assert time.of(Phase.UP, COORDINATOR) == pytest.approx(0.022)


def test_a_call_brings_one_window_a_round_trip() -> None:
    """16 MiB to 2 shards, 1 MiB per 10 ms from each call: 80 ms."""
    machines = replace(IMMEDIATE, round_trip_s=0.01)
    given = Setting(Work(8 << 20, 1, "bf16"), Fleet(1, 2), machines, FREE)
    assert step_time(given).of(Phase.UP, CALL_WINDOW) == pytest.approx(0.080)


def test_one_host_shares_its_processors_and_has_no_links() -> None:
    """P = 1e6, n = 4, two cores, 1 ns a byte everywhere: (4 * 2 + 4 * 2) MB up, half of it a core."""
    costs = Costs(1e-9, 1e-9, 1e-9, 1e-9, 3e-9, 0.0, 0.0, 0.0, 0.0, 0.0)
    given = Setting(Work(1_000_000, 4, "bf16", "bf16"), Fleet(4, 1), replace(Machines(), host_cores=2), costs)
    time = step_time(given)
    assert {term.resource for term in time.terms}.isdisjoint({WORKER_LINK, SERVER_LINK, CALL_WINDOW})
    assert time.of(Phase.UP, HOST_CPU) == pytest.approx(0.008)
    assert time.of(Phase.UP, WORKER_CHAIN) == pytest.approx(0.004)
    assert time.of(Phase.OPTIMIZER, HOST_CPU) == pytest.approx(0.003)
    assert time.seconds == pytest.approx(0.008 + 0.003 + 0.008)


def test_too_little_staging_makes_workers_wait_for_each_other() -> None:
    """Room for 5 attempts is room for 4 leases: 8 slots take 2 rounds, twice the compute."""
    given = setting(parameters=1_000_000, workers=8, shards=1, compute_s=1.0)
    short = replace(given, fleet=replace(given.fleet, staging_bytes=10_000_000))
    assert memory.window(short.work, short.fleet) == 5
    assert (live_workers(short), rounds(short)) == (4, 2)
    assert (live_workers(given), rounds(given)) == (8, 1)
    assert step_time(short).of(Phase.COMPUTE, "the workers") == 2.0


def test_least_shards_keep_up_and_one_fewer_do_not() -> None:
    """Links alone, 40 workers, u = d: 1.1 * 40 / k <= 1, so 44."""
    given = Setting(Work(10**9, 40, "bf16", "bf16"), Fleet(40), IMMEDIATE, FREE)
    assert least_shards(given) == 44
    assert least_shards(replace(given, work=replace(given.work, slots=1), fleet=Fleet(1))) == 1
    too_slow = replace(given, machines=replace(IMMEDIATE, server_link=1e7))
    assert least_shards(too_slow) is None


def test_worker_by_itself_needs_its_link_and_its_processors() -> None:
    costs = replace(FREE, push_client_s_per_byte=2e-9, pull_client_s_per_byte=1e-9)
    machines = replace(IMMEDIATE, worker_link=1e9)
    given = Setting(Work(10**9, 4, "bf16", "fp32"), Fleet(4), machines, costs)
    assert worker_s(given) == pytest.approx(2 * 3.0 + 4 * 2.0)


def test_fastest_number_of_shards_is_nearly_so_and_no_larger_than_needed() -> None:
    given = setting(parameters=110_000_000, workers=64)
    chosen = fastest_shards(given)
    best = min(step_time(with_shards(given, shards)).seconds for shards in range(1, 200))
    assert step_time(with_shards(given, chosen)).seconds <= 1.12 * best
    for fewer in range(1, chosen * 3 // 4):
        assert step_time(with_shards(given, fewer)).seconds > 1.08 * best


def test_break_even_is_where_a_step_is_first_no_slower() -> None:
    """Ring 0.24 s and the optimizer 0.1 s on each worker; k shards take 0.32 * max(1, 1.1 * 4 / k) s."""
    given = Setting(Work(10**9, 4, "bf16", "bf16"), Fleet(4), replace(IMMEDIATE, worker_memory=4e11), FREE)
    assert all_reduce_step_s(given) == pytest.approx(3 * 4e9 / (4 * 12.5e9) + 0.1)
    assert break_even_shards(given) == 8
    assert break_even_shards(replace(given, machines=replace(IMMEDIATE, worker_memory=1e9))) == 1
    assert break_even_shards(replace(given, machines=replace(IMMEDIATE, worker_memory=1e30))) is None


sizes = st.integers(1_000, 10**10)
counts = st.integers(1, 500)


@settings(max_examples=200, deadline=None)
@given(
    parameters=sizes,
    workers=counts,
    shards=counts,
    delay=st.integers(0, 2),
    up=st.sampled_from(sorted(CODEC_BYTES)),
    down=st.sampled_from(("fp32", "bf16")),
)
def test_less_work_and_faster_machines_never_make_a_step_longer(
    parameters: int, workers: int, shards: int, delay: int, up: str, down: str
) -> None:
    fleet, machines = Fleet(workers, shards), Machines()
    given = Setting(Work(parameters, workers, up, down, delay, 0.1), fleet, machines)
    seconds = step_time(given).seconds
    assert math.isfinite(seconds)
    assert seconds > 0
    smaller = replace(given, work=replace(given.work, parameters=parameters // 2))
    quicker = replace(given, work=replace(given.work, compute_s=0.05))
    alone = replace(given, work=replace(given.work, delay=delay + 1))
    faster = [
        replace(given, machines=replace(machines, **{name: 2 * getattr(machines, name)}))
        for name in ("worker_link", "server_link", "server_memory", "disk", "server_cores", "threads")
    ]
    for other in (smaller, quicker, alone, *faster):
        assert step_time(other).seconds <= seconds * (1 + 1e-9), other


@settings(max_examples=200, deadline=None)
@given(parameters=sizes, workers=counts, shards=counts)
def test_terms_waited_for_are_the_longest_of_their_phase_and_add_up(
    parameters: int, workers: int, shards: int
) -> None:
    time = step_time(setting(parameters, workers, shards, compute_s=0.01))
    assert [term.phase for term in time.waited] == list(Phase)
    assert all(
        term.seconds <= waited.seconds
        for waited in time.waited
        for term in time.terms
        if term.phase is waited.phase
    )
    assert time.seconds == pytest.approx(sum(term.seconds for term in time.waited))


# --- memory -----------------------------------------------------------------------------------------------


def test_state_takes_what_the_product_says_and_more_with_a_delay() -> None:
    """w, m, v 12; sum 4; fp32 and 16-bit copies of two versions 12; a saved state 12."""
    assert memory.state_bytes_per_parameter(0) == 40
    assert memory.state_bytes_per_parameter(1) == 40 + 4 + 6 + 4


def test_shards_of_large_tensors_are_as_uneven_as_the_plan_makes_them() -> None:
    """Ten tensors that stay whole on four shards: three of them on some, where 2.5 is the mean."""
    assert memory.imbalance(10_000_000, 1_000_000, 4) == pytest.approx(3 / 2.5)
    assert memory.imbalance(10_000_000, 1_000_000, 1) == 1.0
    assert memory.imbalance(10_000_000, 0, 4) == 1.1


def test_staging_holds_every_worker_and_one_lease_more() -> None:
    work, fleet = Work(10**9, 100), Fleet(100, 1)
    assert memory.window(work, fleet) == 101
    assert memory.chart_staging_bytes(work, 1) == 32 * 10**9


def test_logs_hold_the_mean_gradient_or_nothing() -> None:
    work = Work(340_000_000, 1024)
    assert memory.shard_log_bytes(work) == 1_360_000_000
    assert memory.coordinator_log_bytes(work) == 11 * 5188 + 150 * 1024
    kept = replace(work, durability="checkpoint")
    assert (memory.shard_log_bytes(kept), memory.shard_disk_bytes(kept, Fleet(2, 2))) == (0, 0)


def test_worker_with_all_reduce_holds_both_moments_too() -> None:
    work = Work(1_000_000, 1, "bf16", "bf16")
    assert memory.worker_memory_bytes(work) == 12_000_000
    assert memory.all_reduce_memory_bytes(work) == 18_000_000


def test_codecs_are_those_of_the_wire() -> None:
    for codec in Codec:
        assert CODEC_BYTES[codec.value] == pytest.approx(codec.itemsize, rel=0.01)
    assert set(Wire.model_json_schema()["properties"]["up"]["enum"]) <= set(CODEC_BYTES)


# --- what cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "fleet", "words"),
    [
        ({}, {"workers": 0}, "--workers 0: give a finite number, more than 0"),
        ({"parameters": 0}, {}, "--parameters 0"),
        ({"slots": 3}, {}, "--slots 3 for 4 workers: 1 of them would have nothing to do"),
        ({}, {"spare_workers": 4}, "--spare-workers 4 of --workers 4 leaves nobody"),
        ({"tensor": 2_000_000}, {}, "--tensor 2000000 is larger than the model"),
        ({"up": "int4"}, {}, "--codec int4: give one of fp32, bf16, fp16, int8"),
        ({"down": "int8"}, {}, "--down int8: give one of fp32, bf16, fp16"),
        ({"durability": "raid"}, {}, "--durability raid"),
        ({"optimizer": "sgd"}, {}, "--optimizer sgd"),
        ({"delay": -1}, {}, "--delay -1: give a finite number, 0 or more"),
        ({"compute_s": math.nan}, {}, "--compute-seconds nan"),
        ({}, {"shards": 4097}, "--shards 4097: a job has at most 4096"),
    ],
)
def test_what_cannot_be_is_refused_with_the_option(
    work: dict[str, object], fleet: dict[str, int], words: str
) -> None:
    given = Setting(
        Work(**{"parameters": 1_000_000, "slots": 4, **work}),  # type: ignore[arg-type]
        Fleet(**{"workers": 4, **fleet}),
    )
    with pytest.raises(BadConfig) as refused:
        check(given)
    assert words in str(refused.value)


def test_fewer_slots_than_workers_are_fine_where_some_are_spare() -> None:
    check(Setting(Work(1_000_000, 3), Fleet(4, 1, spare_workers=1)))
