"""Every call of every service with every credential, against real servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from grpc_health.v1 import health_pb2
from tests.integration.harness import RunningFold, digest_of, running_fold, small_job, train

import sheepfold_wire.messages as m
from sheepfold.transport.grpc import GrpcTransport
from sheepfold_server.core.permissions import (
    ADMIT,
    ALL_JOBS,
    JOINING,
    OPEN_CALLS,
    ROLES_OF_CALL,
    Caller,
    Role,
    unlisted,
)
from sheepfold_server.shell.gate import check_table
from sheepfold_server.shell.security import SecurityFiles, read_security, read_signer
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.tokens import Grant, Signer, Use
from sheepfold_wire import access as wire_access
from sheepfold_wire.access import Access, Identity
from sheepfold_wire.connection import Connection
from sheepfold_wire.control import Control
from sheepfold_wire.convert import from_proto, proto_class, to_proto
from sheepfold_wire.errors import Forbidden, JobDeleted, JobUnknown, TokenRefused
from sheepfold_wire.frames import push_header_frame
from sheepfold_wire.status import DETAILS_KEY, from_details
from sheepfold_wire.tls import fingerprint
from sheepfold_wire.v1 import coordinator_pb2, monitor_pb2, shard_pb2

pytestmark = pytest.mark.slow

CALL_SECONDS = 20.0
HOUR = 3600.0
SERVICES = (
    coordinator_pb2.DESCRIPTOR.services_by_name["CoordinatorService"],
    monitor_pb2.DESCRIPTOR.services_by_name["MonitorService"],
    shard_pb2.DESCRIPTOR.services_by_name["ShardService"],
)
CHECK, *NOT_SERVED = (
    f"/grpc.health.v1.Health/{method.name}"
    for method in health_pb2.DESCRIPTOR.services_by_name["Health"].methods
)
METHODS = [CHECK, *(f"/{each.full_name}/{method.name}" for each in SERVICES for method in each.methods)]
GUARDED = [method for method in METHODS if method not in OPEN_CALLS]
REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@dataclass(frozen=True)
class World:
    """Servers with one trained job, and whoever signs for them."""

    fold: RunningFold
    signer: Signer
    tls: Path

    def token(self, role: Role, use: Use = Use.PASS, job: str = ALL_JOBS, **changes: Any) -> str:
        now = time.time()
        values = {"expires_at": now + HOUR, "certificate": ""} | changes
        return self.signer.sign(Grant(Caller(role, job, "test"), use, **values), now)

    def connection(self, token: str) -> Connection:
        return Connection(self.fold.address, self.fold.security.ca, token)

    def target(self, method: str) -> str:
        return self.fold.shards[1].address if "ShardService" in method else self.fold.address

    def identity(self, role: str) -> Identity:
        found = read_security(SecurityFiles.in_folder(self.tls, role)).identity
        assert found is not None
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from sheepfold_server.shell.certificates import make_security

    tls = tmp_path_factory.mktemp("permissions") / "tls"
    make_security(tls, ["127.0.0.1"])
    with running_fold(2, tls=tls) as fold:
        train(fold.connection.secret, small_job())
        yield World(fold, read_signer(tls / "token.key"), tls)


def answer(world: World, method: str, token: str, identity: Identity | None = None, target: str = "") -> Any:
    """The status of a call with one empty message, and the text of a refusal."""
    access = Access(world.connection(""), identity)
    shown = ((wire_access.TOKEN_KEY, wire_access.TOKEN_SCHEME + token),) if token else ()
    with access.channel(target or world.target(method), []) as channel:
        call = channel.stream_stream(method, None, None)(iter([b""]), timeout=CALL_SECONDS, metadata=shown)
        try:
            next(call, None)
            call.cancel()
        except grpc.RpcError as error:
            found: Any = error
            return found.code(), found.details()
    return grpc.StatusCode.OK, ""


def is_allowed(world: World, method: str, token: str, **how: Any) -> bool:
    return answer(world, method, token, **how)[0] not in REFUSALS


# --- the table ------------------------------------------------------------------------------------------


def test_table_has_a_row_for_every_call_and_no_other() -> None:
    assert unlisted(METHODS) == []
    assert set(METHODS) == ROLES_OF_CALL.keys() | OPEN_CALLS


def test_server_with_a_call_that_nobody_decided_about_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(ROLES_OF_CALL, "/sheepfold.v1.ShardService/Push")
    with pytest.raises(StartError, match=r"^/sheepfold.v1.ShardService/Push: nobody has decided"):
        check_table(SERVICES)


# --- the matrix -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", GUARDED)
def test_no_call_goes_without_a_credential(world: World, method: str) -> None:
    assert answer(world, method, "")[0] is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("method", GUARDED)
def test_role_may_call_what_its_row_says(world: World, method: str, role: Role) -> None:
    """Of calls of shards a token is no credential, whatever it says."""
    use = Use.JOIN if method == ADMIT else Use.PASS
    due = role in ROLES_OF_CALL[method] and role is not Role.SHARD
    assert is_allowed(world, method, world.token(role, use)) is due


@pytest.mark.parametrize("method", GUARDED)
def test_pass_that_has_ended_is_refused_everywhere(world: World, method: str) -> None:
    use = Use.JOIN if method == ADMIT else Use.PASS
    token = world.token(Role.ADMIN, use, expires_at=time.time() - 120.0)
    assert answer(world, method, token)[0] is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", GUARDED)
def test_token_of_another_signer_is_refused_everywhere(world: World, method: str) -> None:
    caller = Caller(Role.ADMIN, subject="stranger")
    for use in Use:
        token = Signer(Ed25519PrivateKey.generate()).sign(Grant(caller, use, time.time() + HOUR))
        assert answer(world, method, token)[0] is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", GUARDED)
def test_join_token_is_good_for_admit_alone(world: World, method: str) -> None:
    assert is_allowed(world, method, world.token(Role.ADMIN, Use.JOIN)) is (method == ADMIT)


@pytest.mark.parametrize("role", sorted(JOINING))
def test_pass_cannot_be_changed_for_another(world: World, role: Role) -> None:
    code, text = answer(world, ADMIT, world.token(role))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "Admit takes no other" in text


# --- certificates ---------------------------------------------------------------------------------------

LINK = "/sheepfold.v1.CoordinatorService/Link"


def test_link_is_for_certificates_of_shards(world: World) -> None:
    servers = world.fold.servers_address
    assert is_allowed(world, LINK, "", identity=world.identity("shard"), target=servers)
    assert not is_allowed(world, LINK, "", identity=world.identity("coordinator"), target=servers)
    assert not is_allowed(world, LINK, "", identity=world.identity("shard"))  # where workers call


def test_certificate_of_a_shard_opens_nothing_else(world: World) -> None:
    servers = world.fold.servers_address
    for method in GUARDED:
        if method != LINK and "ShardService" not in method:
            assert not is_allowed(world, method, "", identity=world.identity("shard"), target=servers), method


def test_port_of_servers_is_closed_without_a_certificate_of_our_ca(world: World, tmp_path: Path) -> None:
    from sheepfold_server.shell.certificates import make_security

    make_security(tmp_path, ["127.0.0.1"])
    other = read_security(SecurityFiles.in_folder(tmp_path, "shard")).identity
    servers = world.fold.servers_address
    for identity in (None, other):
        assert answer(world, LINK, "", identity=identity, target=servers)[0] is grpc.StatusCode.UNAVAILABLE


def expired_twin(world: World) -> Identity:
    """The shard's certificate, but for its dates."""
    own = world.identity("shard")
    given = x509.load_pem_x509_certificate(own.chain)
    builder = x509.CertificateBuilder().subject_name(given.subject).issuer_name(given.issuer)
    builder = builder.public_key(given.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(given.not_valid_before_utc.replace(year=2020))
    builder = builder.not_valid_after(given.not_valid_before_utc.replace(year=2021))
    for extension in given.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    ca_key: Any = load_pem_private_key((world.tls / "ca.key").read_bytes(), None)
    made = builder.sign(ca_key, SHA256())
    from cryptography.hazmat.primitives.serialization import Encoding

    return Identity(own.ca, own.key, made.public_bytes(Encoding.PEM))


def test_certificate_that_has_ended_is_refused(world: World) -> None:
    servers = world.fold.servers_address
    assert answer(world, LINK, "", identity=expired_twin(world), target=servers)[0] is (
        grpc.StatusCode.UNAVAILABLE
    )


def test_token_that_is_bound_to_a_certificate_is_of_no_use_without_it(world: World) -> None:
    shard = world.identity("shard")
    der = x509.load_pem_x509_certificate(shard.chain)
    from cryptography.hazmat.primitives.serialization import Encoding

    bound = world.token(Role.READER, certificate=fingerprint(der.public_bytes(Encoding.DER)))
    servers, method = world.fold.servers_address, "/sheepfold.v1.MonitorService/ListJobs"
    assert is_allowed(world, method, bound, identity=shard, target=servers)
    for identity, target in ((None, ""), (world.identity("coordinator"), servers)):
        code, text = answer(world, method, bound, identity=identity, target=target)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "bound to a client certificate" in text


# --- jobs -----------------------------------------------------------------------------------------------


def told(world: World, job: str, method: str, request: Any, token: str) -> str:
    """What a caller with a job of its own hears of another: status and text, with the name taken out."""
    with Access(world.connection("")).channel(world.target(method), []) as channel:
        shown = ((wire_access.TOKEN_KEY, wire_access.TOKEN_SCHEME + token),)
        call = channel.stream_stream(method, None, None)(
            iter([request]), timeout=CALL_SECONDS, metadata=shown
        )
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
    error: Any = raised.value
    details = next(from_details(value) for key, value in error.trailing_metadata() if key == DETAILS_KEY)
    assert isinstance(details, JobUnknown), details
    return f"{error.code()} {error.details()}".replace(job, "JOB")


KINDS = {
    "TakeLease": "Lease",
    "ChangeConfig": "ConfigChange",
    "TakeChore": "Chore",
    "Evaluated": "Evaluation",
}
OF_NO_JOB = ("Admit", "Link", "ListJobs", "Share")


def request_about(job: str, method: str) -> bytes:
    name = method.rpartition("/")[2]
    if name == "Push":
        return push_header_frame(from_proto(m.PushHeader, proto_class(m.PushHeader)(job=job)))  # type: ignore[call-arg]
    if name == "CreateJob":
        return bytes(to_proto(m.CreateJobRequest("", small_job(job).to_json())).SerializeToString())
    kind = proto_class(getattr(m, f"{KINDS.get(name, name)}Request"))
    return kind(job=job).SerializeToString()  # type: ignore[call-arg]


def test_job_of_others_looks_as_if_it_were_not_there(world: World) -> None:
    """Every call that names a job, by the administrator of another: `small` exists, `absent` does not."""
    token = world.token(Role.ADMIN, job="mine")
    methods = [method for method in GUARDED if method.rpartition("/")[2] not in OF_NO_JOB]
    small, absent = (
        [told(world, job, method, request_about(job, method), token) for method in methods]
        for job in ("small", "absent")
    )
    assert small == absent


def test_job_of_ones_own_that_is_missing_does_not_name_the_others(world: World) -> None:
    with Control(world.connection(world.token(Role.READER, job="mine"))) as control:
        with pytest.raises(JobUnknown) as refused:
            control.status("mine")
        assert "small" not in str(refused.value)
        assert control.jobs() == ()
    with Control(world.connection(world.token(Role.READER, job="small"))) as control:
        assert control.jobs() == ("small",)
        assert control.status("small").version == 4


def test_job_of_ones_own_that_was_deleted_is_told_of_and_that_of_others_is_not(world: World) -> None:
    with Control(world.connection(world.token(Role.ADMIN))) as control:
        control.create(m.CreateJobRequest("", small_job("gone").to_json()))
        control.control(m.ControlRequest("gone", "stop", "ann"))
        control.delete(m.DeleteJobRequest("", "gone", "ann"))
    own = world.connection(world.token(Role.READER, job="gone"))
    with Control(own) as control, pytest.raises(JobDeleted, match="job gone was deleted by ann"):
        control.status("gone")
    with Control(world.connection(world.token(Role.READER, job="mine"))) as control:
        with pytest.raises(JobUnknown) as refused:
            control.status("gone")
        assert not isinstance(refused.value, JobDeleted)
        with pytest.raises(Forbidden, match="DeleteJob is for admin"):
            control.delete(m.DeleteJobRequest("", "mine", "ann"))


# --- clients --------------------------------------------------------------------------------------------


def test_worker_of_one_job_trains_it_by_a_join_token_to_the_same_bits(world: World) -> None:
    line = world.connection(world.token(Role.WORKER, Use.JOIN, job="scoped")).secret
    train(line, small_job("scoped"))
    assert digest_of(line, "scoped") == digest_of(world.fold.connection.secret, "small")
    with Control(line) as control, pytest.raises(JobUnknown):
        control.status("small")


class Patient:
    """A clock for passes."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_pass_is_changed_at_half_of_its_time_and_kept_while_the_coordinator_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Patient()
    monkeypatch.setattr(wire_access, "time", clock)
    access = Access(world.connection(world.token(Role.WORKER, Use.JOIN)))
    first = access.metadata()
    clock.now = 449.0
    assert access.metadata() == first
    clock.now = 451.0
    second = access.metadata()
    assert second != first
    monkeypatch.setattr(access, "_admit", unreachable)
    clock.now += 809.0
    assert access.metadata() == second
    clock.now += 2.0
    with pytest.raises(ConnectionError):
        access.metadata()


def unreachable() -> None:
    raise ConnectionError("nobody there")


def test_join_token_that_is_refused_is_told_to_the_worker_at_once(world: World) -> None:
    transport = GrpcTransport(
        world.connection(world.token(Role.WORKER, Use.JOIN, expires_at=time.time() - 99))
    )
    with pytest.raises(TokenRefused, match=r"the join token ended \d+ s ago"):
        transport.call(m.ListJobsRequest())
    transport.close()
