"""The one place where callers are told apart: before a call's first byte is read, on both kinds of server.

A shard proves itself by its certificate, everyone else by a token; `core.permissions` says who may call what.
A server without token keys is open. Health checks are open on every server.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from inspect import isasyncgenfunction
from typing import Any

import grpc

from sheepfold_server.core.permissions import (
    ADMIT,
    EVERYONE,
    OPEN_CALLS,
    ROLES_OF_CALL,
    Caller,
    Role,
    check_role,
    unlisted,
)
from sheepfold_server.shell import patience
from sheepfold_server.shell.auditing import Auditor
from sheepfold_server.shell.call_errors import (
    aio_answering,
    aio_refuser,
    answering,
    incident,
    refuser,
)
from sheepfold_server.shell.patience import Patience
from sheepfold_server.shell.security import Credentials
from sheepfold_server.shell.start import StartError
from sheepfold_server.shell.tokens import Grant, Use, is_bound
from sheepfold_wire.access import TOKEN_KEY, TOKEN_SCHEME
from sheepfold_wire.errors import BadFrame, Overloaded, SheepfoldError, TokenRefused
from sheepfold_wire.tls import fingerprint

OPEN_CALLS_MAX = 16
"""Of the calls that anybody may make, at a time: strangers must not take the places of everyone else."""
SPIFFE = "spiffe://sheepfold/"
"""What stands before the role in a certificate's URI."""
_REMEDY = "take the whole line that `sheepfold up` prints, quotes included, as $SHEEPFOLD"


class Admitted:
    """A call's context, and who calls. For everything else it is grpc's."""

    def __init__(self, context: Any, caller: Caller, grant: Grant | None) -> None:
        self._context, self.caller, self.grant = context, caller, grant

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


@dataclass(frozen=True, slots=True)
class Entry:
    """A call that may go on, as far as its headers tell."""

    method: str
    is_open: bool = False
    grant: Grant | None = None

    def admit(self, context: Any) -> Admitted:
        """The rest, once grpc gives the caller's certificate away. Raises TokenRefused, Forbidden."""
        if self.is_open:
            return Admitted(context, EVERYONE, None)
        shown = context.auth_context()
        if self.grant is None:
            role = certified_role(shown, ROLES_OF_CALL[self.method])
            return Admitted(context, Caller(role, subject=SPIFFE + role), None)
        if self.grant.certificate and not is_bound(self.grant, certificate_digest(shown)):
            raise TokenRefused(
                "the token is bound to a client certificate, and the call comes without that one; "
                "show it, or take a token that is bound to none"
            )
        return Admitted(context, self.grant.caller, self.grant)


class Gate:
    """Who may enter, by the credentials of this moment."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def entry(self, method: str, metadata: Iterable[tuple[str, str | bytes]] | None) -> Entry:
        """Raises TokenRefused, Forbidden."""
        verifier = self._credentials.current().verifier
        if verifier is None or method in OPEN_CALLS:
            return Entry(method, is_open=True)
        allowed = ROLES_OF_CALL.get(method, frozenset())
        if allowed == {Role.SHARD}:
            return Entry(method)
        sent = [value for key, value in metadata or () if key == TOKEN_KEY]
        if not sent:
            raise TokenRefused(f"the call carries no token, and this server asks for one; {_REMEDY}")
        grant = verifier.grant(_token(sent))
        check_role(method, grant.caller.role)
        if (grant.use is Use.JOIN) != (method == ADMIT):
            raise TokenRefused(
                "a join token is good for Admit alone, and Admit takes no other; clients of this version "
                "change it for a pass by themselves"
            )
        return Entry(method, grant=grant)


def _token(sent: list[str | bytes]) -> str:
    """Empty if there is more than one, or of another scheme."""
    value = sent[0] if isinstance(sent[0], str) else sent[0].decode("utf-8", "replace")
    return value.removeprefix(TOKEN_SCHEME) if len(sent) == 1 and value.startswith(TOKEN_SCHEME) else ""


def certified_role(shown: Mapping[str, Iterable[bytes]], wanted: Iterable[Role]) -> Role:
    """The first of `wanted` that the caller's certificate is for; raises TokenRefused if it is for none."""
    names = {name.decode("utf-8", "replace") for name in shown.get("x509_subject_alternative_name", ())}
    for role in wanted:
        if SPIFFE + role in names:
            return role
    known = ", ".join(sorted(name for name in names if name.startswith(SPIFFE))) or "none"
    raise TokenRefused(
        f"the caller's certificate names its role as {known}; shards link to the address of "
        f"--servers-listen, with a certificate for the URI {SPIFFE}{Role.SHARD} (`sheepfold certs` makes one)"
    )


def certificate_digest(shown: Mapping[str, Iterable[bytes]]) -> str:
    """SHA-256 of the caller's certificate; empty if it shows none."""
    pem = next(iter(shown.get("x509_pem_cert", ())), b"")
    return fingerprint(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))) if pem else ""


class Places:
    """Room for the open calls of a server, on any thread."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(OPEN_CALLS_MAX)

    def take(self, method: str, at_end: Callable[[Callable[..., None]], object]) -> None:
        """A place until the call's end, which `at_end` has something called at; raises Overloaded."""
        if method not in OPEN_CALLS:
            return
        if not self._free.acquire(blocking=False):
            raise Overloaded(
                f"{OPEN_CALLS_MAX} calls without a credential are open here; ask again in a second"
            )
        if at_end(lambda *context: self._free.release()) is False:  # it has ended meanwhile
            self._free.release()


def check_table(services: Iterable[Any]) -> None:
    """Every call of these service descriptors has its row; raises StartError."""
    missing = unlisted(f"/{each.full_name}/{call.name}" for each in services for call in each.methods)
    if missing:
        raise StartError(f"{', '.join(missing)}: nobody has decided who may call it; see core/permissions.py")


class SyncGate(grpc.ServerInterceptor):
    """For the sync server. Messages are read here, since grpc would wait for one without an end."""

    def __init__(self, gate: Gate, patience: Patience) -> None:
        self._gate, self._patience = gate, patience
        self._places = Places()

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        details = handler_call_details
        try:
            entry = self._gate.entry(details.method, details.invocation_metadata)
        except SheepfoldError as error:
            return refuser(error)
        except Exception:
            return refuser(incident())
        handler = continuation(details)
        if handler is None:
            return None
        return _wrapped(handler, lambda behaviour: self._guarded(entry, behaviour, handler))

    def _guarded(self, entry: Entry, behaviour: Callable[[Any, Any], Any], handler: Any) -> Any:
        def begin(requests: Any, context: Any) -> Any:
            self._places.take(entry.method, context.add_callback)
            admitted = entry.admit(context)
            if handler.request_streaming:
                return behaviour(requests, admitted)
            return behaviour(_readable(self._patience.message(requests, context)), admitted)

        def unary(requests: Any, context: Any) -> Any:
            with answering(context):
                return begin(requests, context)

        def streaming(requests: Any, context: Any) -> Iterator[Any]:
            with answering(context):
                yield from begin(requests, context)

        return streaming if handler.response_streaming else unary


class AioGate(grpc.aio.ServerInterceptor):
    """For grpc.aio's server, which is the coordinator's: it also writes down who calls."""

    def __init__(self, gate: Gate, auditor: Auditor) -> None:
        self._gate, self._auditor = gate, auditor
        self._places = Places()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        details = handler_call_details
        try:
            entry = self._gate.entry(details.method, details.invocation_metadata)
        except SheepfoldError as error:
            self._auditor.refused(details.method, error.message)
            return aio_refuser(error)
        except Exception:
            return aio_refuser(incident())
        handler = await continuation(details)
        if handler is None:
            return None
        is_stream = handler.request_streaming
        if isasyncgenfunction(handler.stream_stream if is_stream else handler.unary_stream):
            return _wrapped(handler, lambda behaviour: self._streaming(entry, behaviour, is_stream))
        return _wrapped(handler, lambda behaviour: self._unary(entry, behaviour))

    async def _admitted(
        self, entry: Entry, requests: Any, context: Any, is_streaming: bool
    ) -> tuple[Admitted, Any]:
        """And what the call brings: its messages as they come, or the one that it has."""
        try:
            self._places.take(entry.method, context.add_done_callback)
            admitted = entry.admit(context)
            return admitted, _each_readable(requests) if is_streaming else await _message(requests)
        except SheepfoldError as error:
            self._auditor.refused(entry.method, error.message)
            raise

    def _unary(self, entry: Entry, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        async def guarded(requests: Any, context: Any) -> Any:
            async with aio_answering(context):
                admitted, request = await self._admitted(entry, requests, context, False)
                result = "ok"
                try:
                    return await behaviour(request, admitted)
                except BaseException as error:
                    result = error.message if isinstance(error, SheepfoldError) else type(error).__name__
                    raise
                finally:
                    self._auditor.called(entry.method, admitted.caller, request, context.peer(), result)

        return guarded

    def _streaming(
        self, entry: Entry, behaviour: Callable[[Any, Any], AsyncGenerator[Any, None]], is_streaming: bool
    ) -> Any:
        async def guarded(requests: Any, context: Any) -> AsyncIterator[Any]:
            async with aio_answering(context):
                admitted, given = await self._admitted(entry, requests, context, is_streaming)
                self._auditor.called(entry.method, admitted.caller, given, context.peer(), "begun")
                async with aclosing(behaviour(given, admitted)) as replies:
                    async for reply in replies:
                        yield reply

        return guarded


def _reader(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Reads a message, or returns the refusal: raised in grpc's own hands it would tell Python's text."""
    if deserialize is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:
            return BadFrame(
                f"a message of {len(data)} bytes is not of the call's type; use this version's .proto files"
            )

    return read


def _readable(request: Any) -> Any:
    """The message; raises the refusal that stands in its place, or BadFrame if there is none."""
    if isinstance(request, SheepfoldError):
        raise request
    if request is None:
        raise BadFrame("the call ended before its message; send one")
    return request


async def _message(requests: AsyncIterator[Any]) -> Any:
    """The one message of a call; raises BadFrame if none comes."""
    try:
        async with asyncio.timeout(patience.MESSAGE_SECONDS_MAX):
            return _readable(await anext(aiter(requests), None))
    except TimeoutError:
        raise BadFrame(
            f"no message came within {patience.MESSAGE_SECONDS_MAX:g} s of the call's begin; send it with it"
        ) from None


async def _each_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


def _wrapped(handler: Any, guard: Callable[[Any], Any]) -> Any:
    """The same handler with its behaviour guarded, which is given a stream of messages in every case."""
    shapes = {
        (False, False): (grpc.stream_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.stream_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    make, behaviour = shapes[handler.request_streaming, handler.response_streaming]
    return make(guard(behaviour), _reader(handler.request_deserializer), handler.response_serializer)
