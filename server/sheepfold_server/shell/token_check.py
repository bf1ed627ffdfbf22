"""The one place where a token is checked: before a call's first byte is read, on both kinds of gRPC server.

Health checks stay open: whoever probes a role learns only that it runs.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from sheepfold_wire.access import TOKEN_KEY, TOKEN_SCHEME
from sheepfold_wire.errors import TokenRefused
from sheepfold_wire.status import DETAILS_KEY, to_details

OPEN_METHODS = ("/grpc.health.v1.Health/",)
_REMEDY = "take the whole line that `sheepfold up` prints, quotes included, as $SHEEPFOLD"


def refusal(method: str, metadata: Any, token: str) -> TokenRefused | None:
    """Why a call may not go on; None if it may. Takes as long for any wrong token of the right length."""
    if method.startswith(OPEN_METHODS):
        return None
    sent = [value for key, value in metadata or () if key == TOKEN_KEY]
    if not sent:
        return TokenRefused(f"the call carries no token, and this server asks for one; {_REMEDY}")
    if len(sent) == 1 and hmac.compare_digest(_bytes(sent[0]), _bytes(TOKEN_SCHEME + token)):
        return None
    return TokenRefused(f"the token is not that of this server; {_REMEDY}")


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else value


class TokenCheck(grpc.ServerInterceptor):
    """For the sync server."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        details = handler_call_details
        error = refusal(details.method, details.invocation_metadata, self._token)
        if error is None:
            return continuation(details)

        def refuse(requests: object, context: grpc.ServicerContext) -> None:
            context.set_trailing_metadata(((DETAILS_KEY, to_details(error)),))
            context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message)

        return grpc.stream_stream_rpc_method_handler(refuse)  # refuses calls of every shape, unread


class AioTokenCheck(grpc.aio.ServerInterceptor):
    """For grpc.aio's server."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        details = handler_call_details
        error = refusal(details.method, details.invocation_metadata, self._token)
        if error is None:
            return await continuation(details)

        async def refuse(requests: object, context: Any) -> None:
            trailing = ((DETAILS_KEY, to_details(error)),)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.message, trailing)

        return grpc.stream_stream_rpc_method_handler(refuse)
