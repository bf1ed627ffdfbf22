"""Whatever a worker sends: a named refusal, nothing staged, and the connection usable afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tests.faults.raw import MANIFEST, RawWorker
from tests.integration.harness import RunningFold, small_job, until

import sheepfold_wire.messages as m
from sheepfold_wire import errors
from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.frames import (
    chunk_frame,
    chunk_frames,
    payload_digest,
    push_header_frame,
    push_region_frame,
)
from sheepfold_wire.ids import AttemptId
from sheepfold_wire.manifest import Manifest, TensorSpec

SHARDS = 2


@pytest.fixture(scope="module")
def fold() -> Iterator[RunningFold]:
    running = RunningFold(SHARDS)
    yield running
    running.close()


@pytest.fixture
def worker(fold: RunningFold, request: pytest.FixtureRequest) -> Iterator[RawWorker]:
    """A worker of a fresh job whose version 0 is loaded."""
    name = "job-" + str(abs(hash(request.node.name)))[:12]
    raw = RawWorker(fold.address, small_job(name))
    init = raw.lease()
    assert init is not None
    assert init.is_init
    raw.push(init)
    yield raw
    raw.close()


def slot(worker: RawWorker) -> m.Lease:
    lease = worker.lease()
    assert lease is not None
    return lease


def staged(fold: RunningFold, worker: RawWorker) -> int:
    """Attempts of the job whose bytes shard 0 holds."""
    return len(fold.shards[0].process.actor(worker.job.name)._parts)


def check_usable(fold: RunningFold, worker: RawWorker, lease: m.Lease) -> None:
    """Nothing was staged by what went before; the right part is taken on the same connection."""
    assert staged(fold, worker) == 0
    assert worker.push_part(lease, 0).duplicate is False
    assert staged(fold, worker) == 1


HEADERS: list[tuple[str, dict[str, Any], type[SheepfoldError], str]] = [
    ("manifest", {"manifest_digest": "0" * 64}, errors.ManifestMismatch, "manifest is 000000000000"),
    ("plan", {"plan_digest": "0" * 64}, errors.PlanMismatch, "plan is 000000000000"),
    ("incarnation", {"incarnation": 99}, errors.StaleIncarnation, "incarnation 99"),
    ("term", {"term": 99}, errors.StaleTerm, "term 99"),
    ("codec", {"codec": "fp32"}, errors.ShapeMismatch, "takes 'bf16'"),
    ("length", {"payload_bytes": 12}, errors.ShapeMismatch, "has 12 bytes"),
    ("huge length", {"payload_bytes": 1 << 50}, errors.ShapeMismatch, "1125899906842624 bytes"),
    ("presence", {"facts": m.Facts(4, 4.0, 0, b"\x03\x00")}, errors.ShapeMismatch, "bitmap has 2 bytes"),
    ("job", {"job": "another"}, errors.NotReady, "another is not open"),
    ("name", {"job": "No Job"}, errors.JobUnknown, "No Job"),
    ("shard", {"shard": 1}, errors.JobUnknown, "the part is for shard 1"),
]


@pytest.mark.parametrize(("changes", "kind", "text"), [h[1:] for h in HEADERS], ids=[h[0] for h in HEADERS])
def test_wrong_header_is_refused_before_a_byte_is_staged(
    fold: RunningFold, worker: RawWorker, changes: dict[str, Any], kind: type[SheepfoldError], text: str
) -> None:
    lease = slot(worker)
    with pytest.raises(kind, match=text):
        worker.push_part(lease, 0, **changes)
    check_usable(fold, worker, lease)


def test_unknown_attempt_is_refused(fold: RunningFold, worker: RawWorker) -> None:
    lease = slot(worker)
    with pytest.raises(errors.AttemptNotAnnounced, match=r"\.999 was not announced"):
        worker.push_part(lease, 0, attempt=AttemptId(lease.attempt.term, 999))
    check_usable(fold, worker, lease)


def test_truncated_part_is_refused(fold: RunningFold, worker: RawWorker) -> None:
    lease = slot(worker)
    payload = worker.payload(lease, 0)
    frames = [push_header_frame(worker.header(lease, 0, payload)), *chunk_frames(payload[:-2048], 4096)]
    with pytest.raises(errors.BadFrame, match=r"ended after \d+ of \d+ bytes"):
        worker.send(0, frames)
    check_usable(fold, worker, lease)


def test_gap_between_chunks_is_refused(fold: RunningFold, worker: RawWorker) -> None:
    lease = slot(worker)
    payload = worker.payload(lease, 0)
    frames = [push_header_frame(worker.header(lease, 0, payload)), chunk_frame(4096, payload[4096:8192])]
    with pytest.raises(errors.BadFrame, match="ended after 4096 of 262144 bytes"):
        worker.send(0, frames)
    check_usable(fold, worker, lease)


def ahead(worker: RawWorker, lease: m.Lease, payload: bytes, *frames: bytes, **changes: Any) -> m.PushReply:
    facts = m.Facts(0, 0.0, -1, b"")
    header = worker.header(lease, 0, payload, is_ahead=True, payload_digest=b"", facts=facts, **changes)
    return worker.send(0, [push_header_frame(header), *frames])


def test_part_comes_in_pieces_of_which_most_are_ahead(fold: RunningFold, worker: RawWorker) -> None:
    lease = slot(worker)
    payload = worker.payload(lease, 0)
    pieces = [chunk_frame(at, payload[at : at + 4096]) for at in range(0, len(payload), 4096)]
    assert not ahead(worker, lease, payload, *reversed(pieces[40:])).duplicate
    assert not ahead(worker, lease, payload, *pieces[7:40]).duplicate
    header = worker.header(lease, 0, payload, ahead_bytes=len(payload) - 7 * 4096)
    assert not worker.send(0, [push_header_frame(header), *pieces[:7]]).duplicate
    assert worker.send(0, [push_header_frame(header)]).duplicate
    held, _ = fold.shards[0].process.actor(worker.job.name)._parts[lease.attempt]
    assert held == payload


@pytest.mark.parametrize("claimed", [4096, 12_288], ids=["fewer than there are", "more"])
def test_bytes_ahead_that_are_not_held_are_asked_for_again(
    fold: RunningFold, worker: RawWorker, claimed: int
) -> None:
    lease = slot(worker)
    payload = worker.payload(lease, 0)
    ahead(worker, lease, payload, chunk_frame(0, payload[:8192]))
    header = worker.header(lease, 0, payload, ahead_bytes=claimed)
    with pytest.raises(errors.AheadGone, match=f"{claimed} bytes were pushed ahead of the part, 8192 of"):
        worker.send(0, [push_header_frame(header), *chunk_frames(payload[claimed:])])
    check_usable(fold, worker, lease)


def test_altered_bytes_ahead_are_found_by_the_digest(fold: RunningFold, worker: RawWorker) -> None:
    lease = slot(worker)
    payload = worker.payload(lease, 0)
    ahead(worker, lease, payload, chunk_frame(0, b"x" * 4096))
    header, rest = worker.header(lease, 0, payload, ahead_bytes=4096), range(4096, len(payload))
    with pytest.raises(errors.ChunkChecksumMismatch, match="digest"):
        worker.send(0, [push_header_frame(header), *chunk_frames(payload, ranges=[rest])])
    check_usable(fold, worker, lease)


def test_whole_part_is_taken_whatever_came_ahead_of_it(fold: RunningFold, worker: RawWorker) -> None:
    lease = slot(worker)
    payload = worker.payload(lease, 0)
    ahead(worker, lease, payload, chunk_frame(0, b"x" * 4096))
    with pytest.raises(errors.BadFrame, match="covers bytes 0 to 4096"):
        ahead(worker, lease, payload, chunk_frame(0, b"x" * 4096))
    with pytest.raises(errors.BadFrame, match="comes in chunks"):
        ahead(worker, lease, payload, push_region_frame(1))
    check_usable(fold, worker, lease)


def test_corrupt_chunk_is_refused_as_data_loss(fold: RunningFold, worker: RawWorker) -> None:
    """One flipped bit in the payload of a frame, as a bad wire would leave it."""
    lease = slot(worker)
    payload = worker.payload(lease, 0)
    frames = [bytearray(frame) for frame in chunk_frames(payload)]
    frames[0][-100] ^= 4
    with pytest.raises(errors.ChunkChecksumMismatch, match="offset 0"):
        worker.send(0, [push_header_frame(worker.header(lease, 0, payload)), *map(bytes, frames)])
    check_usable(fold, worker, lease)


def test_part_that_does_not_match_its_header_is_refused(fold: RunningFold, worker: RawWorker) -> None:
    """Every chunk is whole, but together they are not what the header announced."""
    lease = slot(worker)
    payload = worker.payload(lease, 0)
    header = worker.header(lease, 0, payload, payload_digest=payload_digest(b"other"))
    with pytest.raises(errors.ChunkChecksumMismatch, match="digest"):
        worker.send(0, [push_header_frame(header), *chunk_frames(payload)])
    check_usable(fold, worker, lease)


@pytest.mark.parametrize(
    "frames", [[], [b""], [b"\x00\xff garbage"], [b"\x12\x7f"]], ids=["none", "empty", "garbage", "cut"]
)
def test_stream_without_header_is_refused(fold: RunningFold, worker: RawWorker, frames: list[bytes]) -> None:
    lease = slot(worker)
    with pytest.raises(errors.BadFrame):
        worker.send(0, frames)
    check_usable(fold, worker, lease)


def test_oversized_message_is_refused_by_the_transport(fold: RunningFold, worker: RawWorker) -> None:
    lease = slot(worker)
    with pytest.raises(Exception, match=r"RESOURCE_EXHAUSTED|larger than max"):
        worker.send(0, [bytes((8 << 20) + 1)])
    check_usable(fold, worker, lease)


def test_values_in_the_padding_are_refused(fold: RunningFold, worker: RawWorker) -> None:
    """They belong to no tensor, but would enter the norms of the slice before them."""
    lease = slot(worker)
    shard = next(
        s
        for s in range(SHARDS)
        for f in worker.plan.shard_fragments(s)
        if MANIFEST.slices[f.slice].name == "bias"
    )
    place = next(f for f in worker.plan.shard_fragments(shard) if MANIFEST.slices[f.slice].name == "bias")
    payload = bytearray(worker.payload(lease, shard))
    payload[(place.first_row * 1024 + 5) * 2 + 1] = 0x3F
    with pytest.raises(errors.ShapeMismatch, match="padding"):
        worker.send(shard, [push_header_frame(worker.header(lease, shard, payload)), *chunk_frames(payload)])
    assert worker.push_part(lease, shard).duplicate is False


def test_values_of_a_tensor_marked_absent_are_refused(fold: RunningFold, worker: RawWorker) -> None:
    """Another slot's gradient of that tensor would otherwise be folded together with them."""
    lease = slot(worker)
    with pytest.raises(errors.ShapeMismatch, match="tensor wide is marked absent"):
        worker.push_part(lease, 0, facts=m.Facts(4, 4.0, 0, b"\x02"))
    check_usable(fold, worker, lease)


@pytest.mark.parametrize(("weight", "loss"), [(np.nan, None), (np.inf, None), (4.0, np.nan)])
def test_facts_that_are_not_finite_are_refused(
    fold: RunningFold, worker: RawWorker, weight: float, loss: float | None
) -> None:
    lease = slot(worker)
    with pytest.raises(errors.InvalidError, match="must be finite"):
        worker.push_part(lease, 0, facts=m.Facts(4, weight, 0, b"\x03", loss))
    check_usable(fold, worker, lease)


def test_reader_gets_no_lease(fold: RunningFold, worker: RawWorker) -> None:
    name = worker.job.name
    worker.transport.call(m.AttachRequest(name, "reader", "test", 1, "", is_reader=True))
    with pytest.raises(errors.PreconditionError, match="readers take no leases"):
        worker.transport.call(m.LeaseRequest(name, "reader"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_gradient_is_refused_with_tensor_and_count(
    fold: RunningFold, worker: RawWorker, bad: float
) -> None:
    lease = slot(worker)
    values = worker.values(lease)
    values[0][2, :3] = bad
    payload = worker.payload(lease, 0, values)
    with pytest.raises(errors.NonFinite, match=r"3 elements of tensor wide are NaN or infinite"):
        worker.send(0, [push_header_frame(worker.header(lease, 0, payload)), *chunk_frames(payload)])
    until(lambda: fold.fleet.status(worker.job.name).counts.dropped == 1, "the attempt is ended")
    again = slot(worker)
    assert (again.step, again.slot) == (lease.step, lease.slot)


def test_call_without_a_deadline_is_refused(fold: RunningFold, worker: RawWorker) -> None:
    with grpc.insecure_channel(fold.shards[0].address) as channel:
        call = channel.stream_unary("/sheepfold.v1.ShardService/Push", None, None)
        with pytest.raises(grpc.RpcError, match="no deadline") as caught:
            call(iter([b""]))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


def test_another_model_is_refused_with_the_first_difference(fold: RunningFold, worker: RawWorker) -> None:
    other = Manifest((TensorSpec("wide", (300, 701), "float32", "parameter"), MANIFEST.tensors[1]))
    with pytest.raises(errors.ManifestMismatch, match=r"wide.*(300, 70)"):
        worker.transport.call(m.AttachRequest(worker.job.name, "w2", "test", 1, other.to_json()))


def test_another_config_is_refused_with_the_first_difference(worker: RawWorker) -> None:
    other = small_job(worker.job.name, stop={"steps": 5})
    with pytest.raises(errors.ConfigMismatch, match=r"stop\.steps is 4 in the job and 5 in the request"):
        worker.transport.call(m.CreateJobRequest("x", other.to_json()))


def test_model_with_buffers_and_no_policy_is_refused_by_name(fold: RunningFold) -> None:
    raw = RawWorker(fold.address, small_job("plain"))
    fold.fleet.create(m.CreateJobRequest("", small_job("buffers").to_json())).result(5)
    manifest = Manifest((*MANIFEST.tensors, TensorSpec("bn.running_mean", (3,), "float32", "statistic")))
    with pytest.raises(errors.PreconditionError, match=r"bn\.running_mean.*statistics\.policy"):
        raw.transport.call(m.AttachRequest("buffers", "w", "test", 1, manifest.to_json()))
    raw.close()


def test_unknown_job_names_the_known_ones(worker: RawWorker) -> None:
    with pytest.raises(errors.JobUnknown, match=worker.job.name):
        worker.transport.call(m.AttachRequest("nobody", "w", "test", 1, MANIFEST.to_json()))
