"""The stream of everything that happens, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from sheepfold_server.dashboard.api.parameters import Looking, api_routes
from sheepfold_server.dashboard.store import JobNotKept, Store

Job = Annotated[str | None, Query(description="only what concerns this job; left out: all")]
RECONNECT_MS = 1_000
DESCRIPTION = """Ids increase, over a restart of the dashboard too. Events and their data:

- `step`: LiveSteps, at most ten times a second
- `status`: LiveStatus, at most twice a second and only if something changed
- `event`: Event; `alert`: Alert
- `gap`: LiveGap, where steps can no longer be replayed

A comment every 15 seconds keeps proxies from closing the stream."""


def live_routes(store: Store) -> APIRouter:
    routes = api_routes("live")

    def shown(caller: Looking, job: Job = None) -> str | None:
        """Of which job; None: of all. Before the stream begins: later, its status could not be 404."""
        if job is not None and not caller.sees(job):
            raise JobNotKept(job, ())
        found = caller.job if caller.is_scoped else job
        if found is not None:
            store.find(found)
        return found

    @routes.get(
        "/events",
        summary="What happens, as it happens (server-sent events).",
        description=DESCRIPTION,
        response_class=EventSourceResponse,
    )
    async def events(
        job: str | None = Depends(shown),
        last_event_id: Annotated[
            str | None, Header(description="id of the last event received: what came after it is replayed")
        ] = None,
    ) -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(retry=RECONNECT_MS, comment="sheepfold")
        async for message in store.feed.messages(job, _number(last_event_id)):
            yield ServerSentEvent(event=message.event, id=str(message.id), raw_data=message.data)

    return routes


def _number(text: str | None) -> int | None:
    """An id that we gave out; None for anything else."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None
