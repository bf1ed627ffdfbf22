"""How a call ends that fails, on both kinds of server: by an error of ours, and any other under a number.

gRPC's own answer to an exception is Python's text.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc

from sheepfold_wire.errors import InternalError, SheepfoldError
from sheepfold_wire.status import DETAILS_KEY, to_details

log = logging.getLogger(__name__)


def incident() -> InternalError:
    """What a caller is told of the exception that is being handled; all of it goes to the log."""
    number = uuid.uuid4().hex[:12]
    log.exception("incident %s", number)
    return InternalError(f"incident {number}: see the log of the server that was called")


def status_of(error: SheepfoldError) -> grpc.StatusCode:
    return next(code for code in grpc.StatusCode if code.value[0] == int(error.status))


def end(context: Any, error: SheepfoldError) -> None:
    """End a call of the sync server with the error's status, reason and text; does not return."""
    context.set_trailing_metadata(((DETAILS_KEY, to_details(error)),))
    context.abort(status_of(error), error.message)


async def aio_end(context: Any, error: SheepfoldError) -> None:
    """The same for grpc.aio's server."""
    await context.abort(status_of(error), error.message, ((DETAILS_KEY, to_details(error)),))


@contextmanager
def answering(context: Any) -> Iterator[None]:
    """Whatever is raised inside ends the call of the sync server."""
    try:
        yield
    except SheepfoldError as error:
        end(context, error)
    except grpc.RpcError:  # the call has ended already
        raise
    except Exception:
        end(context, incident())


@asynccontextmanager
async def aio_answering(context: Any) -> AsyncIterator[None]:
    """The same for grpc.aio's server."""
    try:
        yield
    except SheepfoldError as error:
        await aio_end(context, error)
    except (grpc.RpcError, grpc.aio.AbortError):  # the call has ended already
        raise
    except Exception:
        await aio_end(context, incident())


def refuser(error: SheepfoldError) -> Any:
    """Ends calls of every shape, unread, on the sync server."""

    def refuse(requests: object, context: Any) -> None:
        end(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def aio_refuser(error: SheepfoldError) -> Any:
    """The same for grpc.aio's server."""

    async def refuse(requests: object, context: Any) -> None:
        await aio_end(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)
