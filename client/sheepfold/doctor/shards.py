"""The way from this machine to one shard."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass

import sheepfold_wire.messages as m
from sheepfold.calls import Terms
from sheepfold.doctor.calls import PADDING_BYTES, Sample, ShardCalls, pull_request
from sheepfold.doctor.reach import Endpoint
from sheepfold.doctor.results import CheckResult, Status, failed, milliseconds, ok, size, skipped, warning
from sheepfold.transport import TransportError
from sheepfold_wire.access import Access
from sheepfold_wire.errors import SheepfoldError

BYTES_PER_SECOND_MIN = 10e6
JUDGED_BYTES_MIN = 1 << 20
"""A shorter transfer measures the way there and back, not the width of it."""

Reach = Callable[[Endpoint, Mapping[str, str]], Generator[CheckResult, None, bool]]


@dataclass(frozen=True, slots=True)
class Weights:
    """What is needed to pull; if `terms` is None, `needed` says what is missing."""

    terms: Terms | None
    needed: str = ""

    def address(self, shard: int, otherwise: str) -> str:
        """Where a worker in this network is sent; `otherwise` as long as nobody is told."""
        known = () if self.terms is None else self.terms.reply.shards
        return next((each.address for each in known if each.shard == shard), otherwise)


def shard_checks(
    shard: m.ShardStatus,
    weights: Weights,
    environ: Mapping[str, str],
    reach: Reach,
    access: Access | None = None,
) -> Iterator[CheckResult]:
    label = f"shard {shard.shard}"
    names = [f"{label} {what}" for what in ("DNS", "TCP", "request", "weights")]
    if not shard.is_connected or not shard.address:
        yield failed(
            label,
            f"it is not connected to the coordinator{f', last at {shard.address}' if shard.address else ''}",
            f"Start it: `sheepfold shard --index {shard.shard}`, and see its log",
        )
        yield from (skipped(name, label) for name in names)
        return
    try:
        endpoint = Endpoint.of(shard.address, label)
    except ValueError as error:
        yield failed(label, f"its address {error}", "Start it with --advertise HOST:PORT")
        yield from (skipped(name, label) for name in names)
        return
    if not (yield from reach(endpoint, environ)):
        yield skipped(names[2], names[1])
        yield skipped(names[3], names[2])
        return
    try:
        opened = ShardCalls(shard.address, environ, access)
    except (OSError, SheepfoldError) as error:
        yield failed(names[2], str(error), "Serve coordinator and shards alike: with TLS, or without a token")
        yield skipped(names[3], names[2])
        return
    with opened as calls:
        answer = check_request(names[2], calls)
        yield answer
        if answer.status is Status.FAILED:
            yield skipped(names[3], names[2])
        elif weights.terms is None:
            yield skipped(names[3], weights.needed)
        else:
            yield check_weights(names[3], calls, pull_request(weights.terms, shard.shard))


def check_request(name: str, calls: ShardCalls) -> CheckResult:
    """A small call, then one that fills several packets: networks exist that lose only the full ones."""
    try:
        calls.ask()
        small = calls.ask()
    except (TransportError, SheepfoldError) as error:
        remedy = "See the log of the shard, and compare the versions of sheepfold"
        return failed(name, f"a small request fails: {error}", remedy)
    try:
        large = calls.ask(PADDING_BYTES)
    except (TransportError, SheepfoldError) as error:
        return failed(
            name,
            f"{milliseconds(small)} for a small request, but one of {PADDING_BYTES:,} bytes fails: {error}",
            "Full packets are lost on the way: lower the MTU of this machine's interface to that of the way "
            "(e.g. `ip link set eth0 mtu 1400`), or let ICMP `fragmentation needed` pass",
        )
    return ok(name, f"{milliseconds(small)}; {milliseconds(large)} with {PADDING_BYTES:,} bytes")


def check_weights(name: str, calls: ShardCalls, request: m.PullRequest) -> CheckResult:
    try:
        return judge_sample(name, calls.sample(request))
    except (TransportError, SheepfoldError) as error:
        return failed(
            name,
            f"the newest weights do not come: {error}",
            "If requests pass and weights do not, something on the way cuts long transfers: try without VPN "
            "or service mesh, and see the log of the shard",
        )


def judge_sample(name: str, sample: Sample) -> CheckResult:
    if not sample.payload_bytes:
        return ok(name, f"version {sample.version}; this shard holds none of the job's weights")
    rate = f"{sample.bytes_per_second / 1e6:,.0f} MB/s"
    text = f"version {sample.version}, {size(sample.received_bytes)} of {size(sample.payload_bytes)}"
    if sample.received_bytes < JUDGED_BYTES_MIN:
        return ok(name, f"{text} at {rate}; too little to measure the network by")
    if sample.bytes_per_second < BYTES_PER_SECOND_MIN:
        each = sample.payload_bytes / sample.bytes_per_second
        return warning(
            name,
            f"{text} at {rate}",
            f"Each version takes {each:,.1f} s to pull: bring workers nearer to the shards, or spread the "
            "shards over more machines",
        )
    return ok(name, f"{text} at {rate}")
