"""What can go wrong, what is to come of it, and the test that shows it: one table.

A row is shown by tests that are named here, by death at failpoints (which `make chaos` goes through), by a
function of this file that is run, or, where nothing shows it yet, it says what is missing.
"""

from __future__ import annotations

import ast
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.faults.failpoints import FAILPOINTS
from tests.faults.fleet import killed_fleet
from tests.faults.proxy import Fault, Proxy
from tests.faults.test_links import JOB, fold_behind, golden, train_while
from tests.integration.harness import digest_of, running_fold, small_job, train, until

import sheepfold
import sheepfold_wire.messages as m
from sheepfold.transport.grpc import GrpcTransport
from sheepfold_wire.convert import to_proto
from sheepfold_wire.job import Job
from sheepfold_wire.manifest import Manifest
from sheepfold_wire.plan import Plan
from sheepfold_wire.v1 import coordinator_pb2, shard_pb2

TESTS = Path(__file__).parents[1]
HANDSHAKE_SECONDS_MAX = 8.0
IDLE_CONNECTIONS = 300
STALLED_PULLS, STALLED_SECONDS = 8, 6.0
STILL_SECONDS = 2.0

Run = Callable[[Path], None]


def undisturbed() -> str:
    return golden(JOB.model_dump_json())


# --- rows that are run -------------------------------------------------------------------------------------


@contextmanager
def channel(address: str, **options: Any) -> Iterator[grpc.Channel]:
    opened = grpc.insecure_channel(address, options=[*options.items()])
    try:
        yield opened
    finally:
        opened.close()


def client_that_does_not_read_its_pulls(tmp_path: Path) -> None:
    """Each call ends at its deadline, and the job does not wait for them."""
    batch, numerics = {"samples": 1, "slot_samples": 1}, {"kernel": "eager"}  # to compile takes minutes
    job = small_job("wide", batch=batch, data={"mode": "free"}, numerics=numerics)
    weights = {"wide": np.zeros((4096, 1024), np.float32)}
    with running_fold(1) as fold, channel(fold.shards[0].address) as opened:
        with sheepfold.Client(parameters=weights, address=fold.address, config=job) as worker:
            assert worker.lease() is not None
            method = opened.unary_stream(
                "/sheepfold.v1.ShardService/Pull", shard_pb2.PullRequest.SerializeToString, None
            )
            asked = to_proto(_pull_request(fold.address, job))
            pulls = [method(asked, timeout=STALLED_SECONDS) for _ in range(STALLED_PULLS)]
            for pull in pulls:
                next(pull)  # it has begun, so that it is of version 0; the rest is not read
            assert worker.push(weights)
            worker.pull(1)
            assert worker.version == 1
        for pull in pulls:
            _expect(grpc.StatusCode.DEADLINE_EXCEEDED, lambda pull=pull: _read_late(pull))  # type: ignore[misc]


def _pull_request(address: str, job: Job) -> m.PullRequest:
    transport = GrpcTransport(address)
    attached = transport.call(m.AttachRequest(job.name, "slow", "test", 1, ""))
    transport.close()
    manifest = Manifest.from_json(attached.manifest_json)
    plan = Plan.of(manifest, len(attached.shards), job.placement.split_above_bytes)
    return m.PullRequest(
        job=job.name,
        shard=0,
        incarnation=attached.shards[0].incarnation,
        manifest_digest=manifest.digest,
        plan_digest=plan.digest,
        codec="fp32",
        version=0,
        wait_seconds=0.0,
    )


def _read_late(pull: Any) -> None:
    until(lambda: (pull.time_remaining() or 0.0) <= 0.0, "the deadline of a pull")
    for _ in pull:
        pass


def _expect(code: grpc.StatusCode, call: Callable[[], object]) -> str:
    """The details of a refusal with that code."""
    with pytest.raises(grpc.RpcError) as refused:
        call()
    error: Any = refused.value
    assert error.code() is code, f"{error.code()}: {error.details()}"
    return str(error.details())


def shard_that_loses_its_coordinator(tmp_path: Path) -> None:
    """One way and both: it goes on with the same state once the link is whole."""
    faults = (Fault.STALL, Fault.HALF_CLOSE, Fault.DROP)
    with fold_behind(Proxy) as links:

        def disturb(push: int) -> None:
            if push % 12 == 4 and push // 12 < len(faults):
                links.of_shards.strike(faults[push // 12], 1.5)

        assert train_while(links, disturb) == undisturbed()
        assert all(links.of_shards.injected[fault] for fault in faults)


def storm_of_resets(tmp_path: Path) -> None:
    """Every connection is reset twenty times a second, for a while."""
    with fold_behind(Proxy) as links:
        is_over = threading.Event()

        def storm() -> None:
            end = time.monotonic() + 3.0
            while time.monotonic() < end and not is_over.wait(0.05):
                for proxy in links.all:
                    proxy.strike(Fault.DROP)

        thread = threading.Thread(target=storm)
        began = iter((thread.start,))
        assert train_while(links, lambda push: next(began, lambda: None)()) == undisturbed()
        is_over.set()
        thread.join()
        assert sum(proxy.injected[Fault.DROP] for proxy in links.all) > 5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_servers_that_stand_still_and_are_then_restarted_one_by_one_lose_nothing(tmp_path: Path) -> None:
    """SIGSTOP for 2 s each, as on a machine that swaps; then SIGTERM each: exit code 0, and it comes back."""
    with killed_fleet(tmp_path, JOB, workers=1) as fleet:
        servers = fleet.supervisor
        fleet.until(lambda: fleet.version() >= 0, "version 0")
        for child in (servers.coordinator, servers.shards[0]):
            os.kill(child.pid, signal.SIGSTOP)
            end = time.monotonic() + STILL_SECONDS
            fleet.until(lambda end=end: time.monotonic() > end, "the end of a stop")  # type: ignore[misc]
            os.kill(child.pid, signal.SIGCONT)
        for child in (servers.shards[0], servers.shards[1], servers.coordinator):
            before, pid = fleet.version(), child.pid
            child.terminate()
            fleet.until(lambda pid=pid: _ended_well(fleet.said, pid), f"the end of {child.name}")  # type: ignore[misc]
            fleet.until(lambda due=before: fleet.version() >= due, f"version {before} again")  # type: ignore[misc]
        assert fleet.finish() == undisturbed()
        status = fleet.status()
        assert status is not None
        assert status.samples_committed == JOB.stop.steps * JOB.batch.samples


def _ended_well(said: list[str], pid: int) -> bool:
    told = [text for text in said if f"(pid {pid}) died" in text]
    assert all("exit code 0" in text for text in told), told
    return bool(told)


def metadata_and_manifest_that_are_too_large(tmp_path: Path) -> None:
    with running_fold(1) as fold, channel(fold.address, **{"grpc.max_send_message_length": -1}) as opened:
        attach = opened.unary_unary(
            "/sheepfold.v1.CoordinatorService/Attach", coordinator_pb2.AttachRequest.SerializeToString, None
        )
        small = to_proto(m.AttachRequest(JOB.name, "w", "test", 1, ""))
        huge = to_proto(m.AttachRequest(JOB.name, "w", "test", 1, "x" * (9 << 20)))
        metadata = [("x-large", "y" * (64 << 10))]
        _expect(grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: attach(small, timeout=10.0, metadata=metadata))
        _expect(grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: attach(huge, timeout=10.0))
        train(fold.address, JOB, until_step=1)


def message_that_is_compressed(tmp_path: Path) -> None:
    """A bomb cannot be told from any other: none is unpacked."""
    with running_fold(1) as fold:
        calls = {
            fold.address: ("CoordinatorService/Attach", coordinator_pb2.AttachRequest(job="x" * 100_000)),
            fold.shards[0].address: ("ShardService/Digest", shard_pb2.DigestRequest(job="x" * 100_000)),
        }
        for address, (method, request) in calls.items():
            with channel(address) as opened:
                call = opened.unary_unary(f"/sheepfold.v1.{method}", type(request).SerializeToString, None)
                _expect(
                    grpc.StatusCode.UNIMPLEMENTED,
                    lambda call=call, request=request: call(  # type: ignore[misc]
                        request, timeout=10.0, compression=grpc.Compression.Gzip
                    ),
                )


def client_that_says_nothing(tmp_path: Path) -> None:
    """No hello, or the preface of HTTP/2 alone: closed within the cap of a handshake."""
    with running_fold(1) as fold, ExitStack() as stack:
        for address in (fold.address, fold.shards[0].address):
            for said in (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
                host, port = address.rsplit(":", 1)
                silent = stack.enter_context(socket.create_connection((host, int(port))))
                silent.sendall(said)
                silent.settimeout(HANDSHAKE_SECONDS_MAX)
                stack.callback(_expect_end, silent)


def _expect_end(silent: socket.socket) -> None:
    try:
        while silent.recv(4096):
            pass
    except ConnectionResetError:
        pass


def crowd_of_idle_connections(tmp_path: Path) -> None:
    with running_fold(2) as fold, ExitStack() as stack:
        for index in range(IDLE_CONNECTIONS):
            host, port = (fold.address if index % 2 else fold.shards[0].address).rsplit(":", 1)
            stack.enter_context(socket.create_connection((host, int(port))))
        train(fold.address, JOB)
        assert digest_of(fold.address, JOB.name) == undisturbed()


# --- the table ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One fault, and what is to come of it: a status and reason of the protocol, an exit code, an effect."""

    fault: str
    expected: str
    tests: tuple[str, ...] = ()
    """FILE::FUNCTION below tests/."""
    failpoints: tuple[str, ...] = ()
    run: Run | None = None
    missing: str = ""
    """What is not shown, or not there."""


def by(file: str, *functions: str) -> tuple[str, ...]:
    return tuple(f"{file}.py::test_{function}" for function in functions)


ONCE, REFUSED, DAMAGE = "faults/test_exactly_once", "faults/test_refused_pushes", "faults/test_damage"
KILL, LINKS, SYSCALLS = "faults/test_kill", "faults/test_links", "faults/test_crash_at_syscalls"
SHARD, GRANTING, FLEET = "unit/test_shard", "unit/test_granting", "unit/test_fleet"
DIRECTORIES, CHECKPOINTS = "integration/test_data_directories", "integration/test_checkpoint_life"
SECURED, HERE = "integration/test_secured", "faults/test_fault_matrix"
PERMISSIONS, MEMORY = "integration/test_permissions", "integration/test_shared_memory"
KILLED = by(KILL, "kill_9_changes_no_bit_and_costs_no_committed_step_that_is_logged")

# fmt: off
MATRIX = {
    1: Row("kill -9 of a worker in a push", "its slot is leased again; same bits",
        (*by(ONCE, "worker_killed_in_the_middle_of_a_push_costs_nothing"),
         *by("faults/test_preemption", "slot_of_a_killed_worker_is_another_workers_at_once")),
        ("worker.push", "worker.pushing", "worker.pushed")),
    2: Row("a stream half sent, its peer silent", "its lease ends; same bits",
        by(ONCE, "worker_stopped_past_its_lease_cannot_count_twice")
        + by("integration/test_modes", "push_that_is_broken_off_is_never_offered_again_with_other_bytes"),
        missing="that the silent connection itself is closed, after 20 s by keep-alive"),
    3: Row("a client stops reading its pull", "DEADLINE_EXCEEDED; the job goes on",
        run=client_that_does_not_read_its_pulls),
    4: Row("a push again after its answer was lost", "OK, duplicate; counted once",
        by(ONCE, "duplicate_push_is_answered_but_not_counted",
           "duplicate_after_the_commit_is_still_answered")),
    5: Row("a push again while the first one arrives", "ABORTED PUSH_IN_PROGRESS",
        by(SHARD, "push_while_the_same_attempt_is_received_waits")),
    6: Row("the same attempt with other bytes", "ALREADY_EXISTS CONTRIBUTION_CONFLICT",
        by(ONCE, "same_attempt_with_other_bytes_is_a_conflict")),
    7: Row("a push that comes late", "FAILED_PRECONDITION STEP_CLOSED or LEASE_ENDED",
        by(ONCE, "late_push_is_refused_and_its_slot_is_leased_again")),
    8: Row("a push nobody leased", "ABORTED ATTEMPT_NOT_ANNOUNCED",
        by(REFUSED, "unknown_attempt_is_refused")),
    9: Row("a straggler", "its slot is leased a second time, the first one staged wins",
        by(GRANTING, "late_slot_is_leased_to_another_worker", "slot_is_leased_at_most_twice_at_a_time")),
    10: Row("a wall clock off by a day", "no effect",
        missing="a machine with such a clock; what decides has no clock at all, as import-linter checks"),
    11: Row("kill -9 of a shard before its prepare record", "its slots are computed anew; same bits", KILLED,
        ("shard.folded", "shard.summed", "shard.append")),
    12: Row("the same after the record, before the answer", "PREPARED from its log; same bits",
        by("faults/test_failpoints",
           "death_at_the_most_delicate_moments_changes_no_bit_and_a_kill_that_kills_nobody_is_noticed"),
        ("shard.appended", "shard.prepared")),
    13: Row("kill -9 of a shard between commit and apply", "it replays to the same version", KILLED,
        ("shard.commit", "shard.commit.note", "shard.commit.noted", "shard.pass1.done", "shard.pass2")),
    14: Row("kill -9 of the coordinator around its record", "closed again, or sent again", KILLED,
        ("coordinator.decide", "coordinator.decided", "coordinator.commit.halfway")),
    15: Row("a shard is cut off from its coordinator", "workers wait; same version when it heals",
        run=shard_that_loses_its_coordinator,
        missing="a shard that fences itself: it serves pulls of versions it has, and takes pushes of leases"),
    16: Row("a worker is cut off from one shard", "UNAVAILABLE; no partial use",
        by(LINKS, "links_that_are_slow_stalled_or_cut_change_no_bit")),
    17: Row("delay, then nothing at all, on each link", "slower, same bits",
        by(LINKS, "links_that_are_slow_stalled_or_cut_change_no_bit"),
        missing="loss of packets below TCP"),
    18: Row("a storm of connection resets", "reconnects; same bits", run=storm_of_resets),
    19: Row("a chunk altered on its way", "DATA_LOSS CHUNK_CHECKSUM_MISMATCH; sent again",
        by(LINKS, "flipped_bit_of_a_pushed_part_is_refused_and_the_same_attempt_counts_when_sent_again",
           "under_tls_any_flipped_bit_breaks_its_connection_and_changes_nothing")),
    20: Row("a gradient with NaN", "INVALID_ARGUMENT NON_FINITE; three times: the step is skipped",
        by(REFUSED, "non_finite_gradient_is_refused_with_tensor_and_count")
        + by("integration/test_modes", "slot_that_is_refused_three_times_skips_its_step_on_all_shards")),
    21: Row("a gradient over a norm bound", "refused", missing="a norm bound: there is none"),
    22: Row("wrong shape, codec or length", "refused before a byte is staged",
        by(REFUSED, "wrong_header_is_refused_before_a_byte_is_staged", "truncated_part_is_refused",
           "gap_between_chunks_is_refused")),
    23: Row("another model, configuration or data", "FAILED_PRECONDITION with the first difference",
        by(REFUSED, "another_model_is_refused_with_the_first_difference",
           "another_config_is_refused_with_the_first_difference")
        + by("unit/test_coordinator", "another_data_set_is_refused")),
    24: Row("an incarnation that is over", "ABORTED STALE_INCARNATION; attach again",
        by(REFUSED, "wrong_header_is_refused_before_a_byte_is_staged")
        + by("unit/test_driver", "a_restarted_shard_is_found_by_attaching_again_and_gets_the_part_again")),
    25: Row("a shard whose place was taken", "FENCED; exit code 3",
        by(FLEET, "process_of_an_earlier_coordinator_is_refused", "report_of_a_replaced_link_is_not_heard")),
    26: Row("two processes on one data directory", "DATA_DIR_LOCKED with the pid",
        by(DIRECTORIES, "directory_in_use_is_refused_with_the_pid")),
    27: Row("two coordinators", "DATA_DIR_LOCKED; a term of its own for each",
        by(DIRECTORIES, "directory_in_use_is_refused_with_the_pid")
        + by(FLEET, "two_coordinator_processes_have_different_terms",
             "process_of_an_earlier_coordinator_is_refused")),
    28: Row("a full disk under a log", "the shard waits; no half record",
        by(DIRECTORIES, "full_disk_holds_the_job_up_and_loses_nothing")
        + by(DAMAGE, "disk_that_stays_full_keeps_every_record_that_was_acknowledged")),
    29: Row("a full or broken disk under a checkpoint", "CHECKPOINT_FAILED; older ones stay",
        by(DAMAGE, "save_that_any_system_call_refuses_is_told_and_the_next_try_succeeds",
           "disk_that_stays_full_keeps_the_older_checkpoint")
        + by(CHECKPOINTS, "store_that_cannot_be_written_fails_the_checkpoint_and_not_the_job")),
    30: Row("kill -9 at each system call of a save", "the older or the newer checkpoint",
        by(SYSCALLS, "save_killed_at_any_system_call_leaves_the_older_or_the_newer_checkpoint",
           "log_killed_at_any_system_call_has_every_record_that_was_acknowledged"),
        ("shard.part.write", "shard.part.written", "coordinator.index", "coordinator.indexed")),
    31: Row("flipped bits on a disk", "found; a log stops, a checkpoint is passed over loudly",
        by(DAMAGE, "any_flipped_bit_of_a_log_is_an_error_or_ends_the_log_loudly_at_its_last_record",
           "any_flipped_bit_of_the_newest_checkpoint_is_found_and_the_older_one_taken_loudly")),
    32: Row("a checkpoint with a missing file, of another job, format or numerics", "refused by name",
        by("unit/test_checkpoints", "a_missing_file_is_found", "an_index_of_another_job_is_refused",
           "an_index_of_another_format_is_named_as_such")
        + by(CHECKPOINTS, "checkpoint_of_other_numerics_is_refused_unless_that_is_accepted")),
    33: Row("servers restarted one by one under load", "exit code 0; no step lost",
        by(HERE, "servers_that_stand_still_and_are_then_restarted_one_by_one_lose_nothing"),
        missing="a bound on the pause"),
    34: Row("an oversized message, or metadata", "RESOURCE_EXHAUSTED",
        by(REFUSED, "oversized_message_is_refused_by_the_transport"),
        run=metadata_and_manifest_that_are_too_large),
    35: Row("a compressed message", "UNIMPLEMENTED", run=message_that_is_compressed),
    36: Row("a client that says nothing", "closed within the handshake's cap", run=client_that_says_nothing,
        tests=(*by(REFUSED, "call_without_a_deadline_is_refused"),
               *by("security/test_silent_calls",
                   "crowd_that_pushes_nothing_is_sent_away_and_training_goes_on",
                   "crowd_that_asks_for_health_and_says_nothing_leaves_room_for_calls"))),
    37: Row("many idle connections", "real clients unharmed; above the cap, closed",
        run=crowd_of_idle_connections,
        tests=by("security/test_floods",
                 "idle_connections_take_no_more_than_the_bound_and_give_their_files_back",
                 "connections_above_the_cap_are_closed_and_earlier_ones_served"),
        missing="a cap on the connections of one peer: one may hold all that there are"),
    38: Row("rapid resets of HTTP/2, floods of pings", "memory within a bound; GOAWAY for pings",
        by("security/test_floods", "streams_that_are_opened_and_reset_take_no_more_than_the_bound",
           "pings_without_a_pause_end_their_connection"),
        missing="a bound on the time of a processor that one peer takes"),
    39: Row("a wrong token, or none", "UNAUTHENTICATED",
        (*by(SECURED, "worker_with_a_wrong_token_is_refused_at_once"),
         *by(PERMISSIONS, "no_call_goes_without_a_credential"))),
    40: Row("a certificate of another CA or address", "the handshake fails, with both named",
        by(SECURED, "worker_that_trusts_another_ca_is_refused_with_both",
           "certificate_of_another_address_is_refused_by_us_and_by_grpc")),
    41: Row("odd requests to the dashboard", "an error of the client, never ours",
        by("integration/test_api_schema",
           "no_input_is_an_error_of_ours_or_answered_otherwise_than_described",
           "a_huge_page_is_capped_and_says_so")),
    42: Row("a server stands still for 2 s", "the same bits",
        by(HERE, "servers_that_stand_still_and_are_then_restarted_one_by_one_lose_nothing"),
        missing="memory pressure; `make overload` pushes more than a shard takes"),
    43: Row("all processes killed at once", "recovered to the last commit; same bits", KILLED
        + by(KILL, "everything_stopped_and_started_again_goes_on_where_it_was")),
    44: Row("a message of another version", "unknown kinds are told, unknown reasons are nobody's",
        by("unit/test_errors", "a_reason_this_version_does_not_know_is_nobody")
        + by("unit/test_grpc_transport", "a_call_the_server_does_not_know_is_refused_and_not_repeated"),
        missing="the servers of an earlier release beside those of this one"),
    45: Row("shared memory refused, or lost", "frames, said once; same bits",
        by(MEMORY, "another_host_is_told_of_once_and_trains_to_the_same_bits",
           "memory_lost_in_the_middle_costs_nothing_but_speed",
           "worker_goes_on_with_the_next_process_of_a_killed_shard")),
    46: Row("shared memory that its worker still writes to", "CHUNK_CHECKSUM_MISMATCH, or the shard's copy",
        by(MEMORY, "bytes_that_change_all_the_time_are_staged_whole_or_refused",
           "bytes_changed_after_the_header_are_refused_and_those_staged_are_the_shards_own")),
    47: Row("kill -9 of a worker that shares memory", "the shard lets go of memory and files",
        by(MEMORY, "killed_worker_leaves_the_shard_neither_memory_nor_files")),
}
# fmt: on


def test_every_row_is_shown_or_says_what_is_missing() -> None:
    assert list(MATRIX) == list(range(1, 48))
    for number, row in MATRIX.items():
        assert row.tests or row.failpoints or row.run or row.missing, number


@pytest.mark.parametrize("number", [number for number, row in MATRIX.items() if row.tests])
def test_tests_of_a_row_are_there(number: int) -> None:
    for named in MATRIX[number].tests:
        file, _, function = named.partition("::")
        tree = ast.parse((TESTS / file).read_text("utf-8"))
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, named


def test_failpoints_of_rows_are_in_their_table() -> None:
    named = {name for row in MATRIX.values() for name in row.failpoints}
    assert named <= {point.name for point in FAILPOINTS}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [number for number, row in MATRIX.items() if row.run is not None])
def test_row_that_is_run(number: int, tmp_path: Path) -> None:
    row = MATRIX[number]
    assert row.run is not None
    row.run(tmp_path)
