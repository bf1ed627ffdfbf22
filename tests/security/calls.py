"""Calls of any bytes with any credential, and what is wrong with their answers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import grpc

from sheepfold_wire import access
from sheepfold_wire.status import DETAILS_KEY, from_details

REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
TELLTALE = re.compile(
    r"Traceback|File \"|\w\.py\b|\bline \d+|0x[0-9a-f]{6}|/(?:opt|usr|home|tmp|root|work|var|etc)/"
    r"|\w(?:Error|Exception)\b|<class|<built-in| object at |NoneType|Exception (?:calling|iterating)"
)
"""Paths, tracebacks and text of Python's."""


def answer(channel: grpc.Channel, method: str, messages: Iterable[bytes], token: str, seconds: float) -> Any:
    """None for a reply, the error of a call that ended with one. `token`: empty for none."""
    shown = ((access.TOKEN_KEY, access.TOKEN_SCHEME + token),) if token else ()
    call: Any = channel.stream_stream(method, None, None)(iter(messages), timeout=seconds, metadata=shown)
    try:
        next(call, None)
        call.cancel()
    except grpc.RpcError as error:
        return error
    return None


def is_ours(error: Any) -> bool:
    """Of one of our errors, or of the end of the time that the caller gave."""
    found = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    if found is not None:
        return from_details(found) is not None and error.code() is not grpc.StatusCode.INTERNAL
    return error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def told(error: Any) -> str:
    """All that a caller can read of an error."""
    metadata = (str(value) for _, value in error.trailing_metadata() or ())
    return " ".join((str(error.details()), *metadata))
