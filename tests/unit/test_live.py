"""What pages are told while it happens: batches, replay, gaps, and the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from tests.unit.monitored import STATUS, step_report

from sheepfold_server.dashboard.app import create_app
from sheepfold_server.dashboard.live.feed import Feed
from sheepfold_server.dashboard.live.ring import Gap, Message, Ring
from sheepfold_server.dashboard.store import Store


def steps_of(messages: list[Message]) -> list[int]:
    return [
        step["step"]
        for message in messages
        if message.event == "step"
        for step in json.loads(message.data)["steps"]
    ]


def store_at(seconds: float) -> Store:
    store = Store(clock=lambda: seconds)
    store.set_jobs(("lenet",))
    store.set_status(STATUS, at=0.0)
    return store


async def told(feed: Feed, job: str | None = "lenet", last_id: int | None = None) -> list[Message]:
    """Everything that a reader is told by a feed that is closed."""
    feed.close()
    return [message async for message in feed.messages(job, last_id)]


def listen(feed: Feed, job: str | None = "lenet", last_id: int | None = None) -> list[Message]:
    return asyncio.run(told(feed, job, last_id))


# --- the ring -----------------------------------------------------------------------------------------


def filled_ring(count: int, capacity: int) -> Ring:
    ring = Ring(100, capacity)
    for step in range(count):
        ring.put("step", "lenet", "{}", last_step=step)
    return ring


def test_reader_gets_what_came_after_its_position() -> None:
    gaps, found = filled_ring(5, 8).after(102, "lenet", {})
    assert (gaps, [message.id for message in found]) == ([], [103, 104])


def test_reader_that_was_too_slow_is_told_which_steps_it_lacks() -> None:
    gaps, found = filled_ring(10, 4).after(101, "lenet", {"lenet": 1})
    assert gaps == [Gap("lenet", 2, 5)]
    assert [message.last_step for message in found] == [6, 7, 8, 9]


def test_reader_that_has_all_steps_that_were_dropped_has_no_gap() -> None:
    assert filled_ring(10, 4).after(105, "lenet", {})[0] == []


def test_reader_of_an_earlier_process_lacks_what_was_told_before() -> None:
    ring = Ring(100)
    ring.lost_before("lenet", 41)
    ring.put("step", "lenet", "{}", last_step=42)
    assert ring.after(17, "lenet", {}) == ([Gap("lenet", 0, 41)], [Message(100, "step", "lenet", "{}", 42)])


def test_position_that_was_never_given_out_is_taken_as_the_newest() -> None:
    assert filled_ring(5, 8).after(10**15, "lenet", {}) == ([], [])


def test_other_jobs_are_left_out_unless_all_are_wanted() -> None:
    ring = filled_ring(2, 8)
    ring.put("event", "bert", "{}")
    assert [m.job for m in ring.after(0, "bert", {})[1]] == ["bert"]
    assert [m.job for m in ring.after(0, None, {})[1]] == ["lenet", "lenet", "bert"]


# --- the feed -----------------------------------------------------------------------------------------


def test_steps_between_two_flushes_travel_together() -> None:
    feed = Feed()
    for step in range(5):
        feed.step(step_report(step))
    feed.flush(0.0)
    feed.step(step_report(5))
    feed.flush(0.1)
    messages = listen(feed, last_id=0)
    assert [len(json.loads(message.data)["steps"]) for message in messages] == [5, 1]
    assert steps_of(messages) == list(range(6))
    assert [message.id for message in messages] == [1, 2]


def test_status_is_told_twice_a_second_at_most_and_only_if_it_changed() -> None:
    feed = Feed()
    for tenth in range(20):
        feed.status(replace(STATUS, version=tenth if tenth < 10 else 10))
        feed.flush(tenth / 10)
    versions = [json.loads(message.data)["version"] for message in listen(feed, last_id=0)]
    assert versions == [0, 5, 10]


def test_page_that_comes_now_gets_the_status_at_once_and_no_old_steps() -> None:
    store = store_at(1.0)
    store.add(step_report(0))
    store.feed.flush(0.0)
    (message,) = listen(store.feed)
    status = json.loads(message.data)
    assert (message.event, status["job"], status["waiting_for"]) == ("status", "lenet", STATUS.waiting_for)
    assert [worker["worker"] for worker in status["workers"]] == ["worker-a"]
    assert [shard["shard"] for shard in status["shards"]] == [0, 1]


def test_page_that_comes_again_gets_what_it_missed() -> None:
    store = store_at(1.0)
    store.add(step_report(0))
    store.feed.flush(0.0)
    last_id = 1_000 + 10
    store.add(step_report(1, is_skip=True))
    store.feed.flush(0.1)
    messages = listen(store.feed, last_id=last_id - 10)
    assert steps_of(messages) == [0, 1]


def test_page_that_comes_again_after_a_restart_is_told_the_gap_first() -> None:
    first = store_at(1.0)
    for step in range(3):
        first.add(step_report(step))
    second = Store(first.history, clock=lambda: 2.0)
    second.set_jobs(("lenet",))
    second.set_status(STATUS, at=0.0)
    second.add(step_report(3))
    second.feed.flush(0.0)
    gap, *rest = listen(second.feed, last_id=1_001)
    assert (gap.event, json.loads(gap.data)) == ("gap", {"job": "lenet", "from_step": 0, "to_step": 2})
    assert steps_of(rest) == [3]
    assert all(message.id >= 2_000 - 1 for message in rest)


def test_reader_that_waits_is_woken_by_the_next_flush() -> None:
    async def scenario() -> list[int]:
        feed = Feed()
        messages = feed.messages("lenet", None)
        waiting = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)  # lets it begin to listen
        feed.step(step_report(7))
        feed.flush(0.0)
        found = await waiting
        await messages.aclose()
        assert not feed._listeners
        return steps_of([found])

    assert asyncio.run(scenario()) == [7]


# --- the stream ---------------------------------------------------------------------------------------


async def stream(store: Store, query: str, headers: dict[str, str]) -> httpx.Response:
    """The whole answer: the feed is closed, so it ends once everything is told."""
    store.feed.close()
    transport = httpx.ASGITransport(create_app(store))
    async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
        return await client.get(f"/api/v1/events{query}", headers=headers)


def events_of(text: str) -> list[dict[str, Any]]:
    fields = (dict(line.split(": ", 1) for line in part.splitlines()) for part in text.split("\n\n") if part)
    return [found for found in fields if "event" in found]


def test_stream_is_server_sent_events_that_no_proxy_holds_back() -> None:
    store = store_at(1.0)
    store.add(step_report(0))
    store.feed.flush(0.0)
    response = asyncio.run(stream(store, "?job=lenet", {"Last-Event-ID": "999"}))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    events = events_of(response.text)
    assert [event["event"] for event in events] == ["event", "step", "status"]
    assert [int(event["id"]) for event in events] == [1_000, 1_001, 1_002]
    assert json.loads(events[1]["data"])["steps"][0]["step"] == 0


@pytest.mark.parametrize("last_id", ["", "x", "-1", "1e9", "9" * 40])
def test_last_event_id_that_is_none_of_ours_is_ignored(last_id: str) -> None:
    response = asyncio.run(stream(store_at(1.0), "", {"Last-Event-ID": last_id}))
    assert [event["event"] for event in events_of(response.text)] == ["status"]


def test_stream_of_an_unknown_job_is_404_before_it_begins() -> None:
    response = asyncio.run(stream(store_at(1.0), "?job=bert", {}))
    assert (response.status_code, "known: lenet" in response.json()["detail"]) == (404, True)


def test_stream_goes_on_until_the_feed_closes() -> None:
    async def scenario() -> list[str]:
        store = store_at(1.0)
        messages: AsyncIterator[Message] = store.feed.messages("lenet", 0)
        seen = asyncio.ensure_future(_collect(messages))
        for step in range(3):
            await asyncio.sleep(0)
            store.add(step_report(step))
            store.feed.flush(step / 10)
        store.feed.close()
        return [message.event for message in await seen]

    assert asyncio.run(scenario()).count("step") == 3


async def _collect(messages: AsyncIterator[Message]) -> list[Message]:
    return [message async for message in messages]
