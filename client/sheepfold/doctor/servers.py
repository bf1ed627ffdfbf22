"""The way from this machine to the coordinator and to every shard of a job, check after check."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace

import sheepfold_wire.messages as m
from sheepfold.address import DEFAULT, VARIABLE, BadAddress, find_address
from sheepfold.calls import Terms
from sheepfold.doctor import network, reach
from sheepfold.doctor.agreement import check_clock, check_server_version
from sheepfold.doctor.machine import proxy_in_use
from sheepfold.doctor.measures import installed
from sheepfold.doctor.reach import Endpoint
from sheepfold.doctor.results import CheckResult, Status, failed, milliseconds, ok, skipped
from sheepfold.doctor.security import (
    WHOLE_LINE,
    check_tls,
    is_secured,
    token_accepted,
    token_refused,
)
from sheepfold.doctor.shards import Weights, shard_checks
from sheepfold.transport import TransportError
from sheepfold.transport.grpc import GrpcTransport
from sheepfold_wire.access import Access
from sheepfold_wire.connection import Connection
from sheepfold_wire.errors import JobUnknown, NotReady, SheepfoldError, TokenRefused

CHECKS = ("DNS", "TCP", "TLS", "gRPC", "token", "clock", "server version", "job", "shards")

Checks = Generator[CheckResult, None, bool]
"""Results as they come; returns whether what follows can be checked."""


def server_checks(given: str | None, job: str | None, environ: Mapping[str, str]) -> Iterator[CheckResult]:
    """`given`: an address, else the environment's; `job`: a name, else one of those there are."""
    try:
        address = find_address(given, environ)
    except BadAddress as error:
        yield failed("address", str(error), f"Write it as HOST:PORT, e.g. `export {VARIABLE}=10.0.0.5:7070`")
        yield from (skipped(check, "address") for check in CHECKS)
        return
    source = "--address" if given is not None else f"${VARIABLE}" if environ.get(VARIABLE) else "the default"
    yield ok("address", f"{address}, from {source}")
    if address.connection is None:
        yield from (skipped(check, "a server: local: has it within the script") for check in CHECKS)
        return
    endpoint = Endpoint.of(address.target)
    if not (yield from reach_checks(endpoint, environ)):
        yield from _skipped_after("TCP")
        return
    tls = check_tls(address.connection)
    yield tls
    if tls.status is Status.FAILED:
        yield from _skipped_after("TLS")
        return
    with closing(GrpcTransport(address.connection, environ)) as transport:
        yield from _coordinator_checks(transport, address.connection, job, environ)


def _skipped_after(last: str) -> Iterator[CheckResult]:
    """The checks after `last`, each for want of the one before it."""
    position = CHECKS.index(last)
    for needed, check in zip(CHECKS[position:], CHECKS[position + 1 :], strict=False):
        yield skipped(check, needed)


def reach_checks(endpoint: Endpoint, environ: Mapping[str, str]) -> Checks:
    """Name and port, as far as calls take the direct way."""
    names = endpoint.check("DNS"), endpoint.check("TCP")
    if proxy := proxy_in_use(environ):
        yield from (skipped(name, f"a direct way, and calls go through {proxy}") for name in names)
        return True
    began = time.perf_counter()
    try:
        places = network.resolve(endpoint.host, endpoint.port)
    except OSError as error:
        yield reach.name_missing(endpoint, error)
        yield skipped(names[1], names[0])
        return False
    yield reach.name_found(endpoint, [str(place) for place in places], time.perf_counter() - began)
    try:
        place, seconds = network.connect(places)
    except OSError as error:
        yield reach.not_connected(endpoint, error)
        return False
    yield reach.connected(endpoint, str(place), seconds)
    return True


def _coordinator_checks(
    transport: GrpcTransport, connection: Connection, job: str | None, environ: Mapping[str, str]
) -> Iterator[CheckResult]:
    try:
        found, seconds, between = _list_jobs(transport)
    except TokenRefused as error:
        yield ok("gRPC", "it answers")
        yield token_refused(error)
        yield from _skipped_after("token")
        return
    except (TransportError, SheepfoldError) as error:
        yield failed("gRPC", str(error), _no_coordinator(connection, proxy_in_use(environ)))
        yield from _skipped_after("gRPC")
        return
    first, second = (milliseconds(each) for each in seconds)
    yield ok("gRPC", f"ListJobs answered in {second} ({first} with a new connection)")
    yield token_accepted(connection)
    yield check_clock(found.unix_seconds, *between)
    yield check_server_version(found.server_version, installed("sheepfold"))
    jobs = found.jobs
    if job is None and not jobs:
        yield ok(
            "job", "there is none yet; `sheepfold job create -f job.toml` or a worker's config creates one"
        )
        yield skipped("shards", "a job: it names its shards' addresses")
        return
    try:
        status = _chosen(transport, [job] if job is not None else list(jobs))
    except (TransportError, SheepfoldError) as error:
        known = f", e.g. --job {jobs[0]}" if jobs and isinstance(error, JobUnknown) else ""
        yield failed("job", str(error), f"Name a job that exists{known}, or create it")
        yield skipped("shards", "job")
        return
    yield ok(
        "job", f"{status.job} is {status.state} at version {status.version}, {len(status.shards)} shards"
    )
    weights = _weights(transport, status.job, connection.network)
    access = Access(connection)
    for shard in status.shards:
        told = replace(shard, address=weights.address(shard.shard, shard.address))
        yield from shard_checks(told, weights, environ, reach_checks, access)


def _list_jobs(
    transport: GrpcTransport,
) -> tuple[m.ListJobsReply, tuple[float, float], tuple[float, float]]:
    """The second of two answers, the seconds of both calls, and Unix time before and after the second."""
    marks, clock = [time.perf_counter()], [time.time()]
    for _ in range(2):
        reply: m.ListJobsReply = transport.call(m.ListJobsRequest())
        marks.append(time.perf_counter())
        clock.append(time.time())
    return reply, (marks[1] - marks[0], marks[2] - marks[1]), (clock[1], clock[2])


def _chosen(transport: GrpcTransport, names: list[str]) -> m.JobStatus:
    """The job of the most weights, for it tells the most of the way; all jobs have the same shards."""
    found: list[m.JobStatus] = [transport.call(m.StatusRequest(name)) for name in names]
    return max(found, key=lambda s: (s.version >= 0, sum(shard.parameters for shard in s.shards)))


def _weights(transport: GrpcTransport, job: str, network: str) -> Weights:
    """What a reader must know to pull, or why there is nothing to pull."""
    host = socket.gethostname()
    worker = f"{host}-{os.getpid()}-{secrets.token_hex(3)}"
    try:
        request = m.AttachRequest(job, worker, host, os.getpid(), "", True, network=network)
        reply: m.AttachReply = transport.call(request)
        with suppress(TransportError, SheepfoldError):  # else it is forgotten after a while
            transport.call(m.ReleaseRequest(job, worker, (), True, "the doctor has seen enough"))
        if reply.version >= 0:
            return Weights(Terms.of(reply))
    except NotReady:  # no worker has brought a model
        pass
    except (TransportError, SheepfoldError) as error:
        return Weights(None, f"a reader's place in job {job} ({error})")
    return Weights(None, f"weights, and job {job} has none yet")


def _no_coordinator(connection: Connection, proxy: str) -> str:
    target = connection.target
    if proxy:
        return f"Unset SHEEPFOLD_USE_PROXY, or have the proxy in {proxy} let HTTP/2 pass to {target}"
    if is_secured(connection):
        return f"A server there speaks TLS, and the address asks for plain text. {WHOLE_LINE}"
    return (
        f"Compare {target} with the last line that `sheepfold up` prints there (the coordinator's default "
        f"is {DEFAULT}; the dashboard and the shards have other ports), and the versions of sheepfold"
    )
