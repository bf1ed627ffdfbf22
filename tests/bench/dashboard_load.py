"""What watching costs: CPU of the servers with and without viewers, and the time to draw the heat map.

A tiny job steps at a fixed rate through a real `sheepfold up`. In turns nobody looks, or 20 readers of the
stream and one page in Chromium do; the figure is the median over pairs of the CPU-seconds per step of
coordinator and shards, with viewers over without, less 1.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import Browser, sync_playwright
from tests.browser.training import ManyLayers, Training
from tests.integration.test_cli_up import Up, eventually

import sheepfold

READERS, STEPS_PER_SECOND = 20, 50.0
HEAT_STEPS, REDRAWS = 300, 120
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Stepper:
    """A job of three small arrays and one slot per step."""

    def __init__(self, address: str) -> None:
        shapes = {"a": (64, 64), "b": (64,), "c": (16, 16)}
        config = {
            "batch": {"samples": 8, "slot_samples": 8},
            "data": {"samples": 64},
            "optimizer": {"lr": {"peak": 0.01}},
            "stop": {"steps": 1_000_000},
        }
        weights = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        self._client = sheepfold.Client("load", parameters=weights, address=address, config=config)
        self._gradient = {name: np.full(shape, 0.01, np.float32) for name, shape in shapes.items()}

    def steps(self, seconds: float) -> int:
        """Step at the fixed rate for so long; how many steps that were."""
        began, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < seconds:
            self._client.lease()
            self._client.push(self._gradient, loss=1.0)
            done += 1
            time.sleep(max(0.0, done / STEPS_PER_SECOND - elapsed))
        return done

    def close(self) -> None:
        self._client.close()


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes so far."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS_PER_SECOND


@contextmanager
def readers(address: str) -> Iterator[None]:
    """Read the stream of the job in as many connections; at the end none of them is left."""
    connections = [HTTPConnection(address) for _ in range(READERS)]
    following: list[int] = []

    def read(connection: HTTPConnection) -> None:
        try:
            connection.request("GET", "/api/v1/events?job=load", headers={"Accept": "text/event-stream"})
            response = connection.getresponse()
            following.append(response.status)
            while response.read1(65_536):
                pass
        except (OSError, HTTPException):  # it was closed
            return

    threads = [threading.Thread(target=read, args=(each,), daemon=True) for each in connections]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: following == [200] * READERS, "all readers follow the stream")
        yield
    finally:
        for connection in connections:
            if connection.sock is not None:
                # close() alone would wait for the thread that reads, and the next block would be watched too.
                connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()


def is_followed(up: Up) -> bool:
    response = up.get("/api/v1/jobs/load")
    return response is not None and response.status_code == 200


def slowdown(up: Up, browser: Browser, seconds: float, pairs: int) -> tuple[float, float]:
    """(median of with / without - 1, steps per second that were made)."""
    facts = up.facts()
    pids = [facts["coordinator"]["pid"], *(shard["pid"] for shard in facts["shards"])]
    address, each = facts["dashboard"]["address"], seconds / (2 * pairs)
    stepper, ratios, made = Stepper(up.address), [], 0
    try:
        stepper.steps(2.0)
        eventually(lambda: is_followed(up), "the job on the dashboard")

        def per_step(who: str) -> float:
            nonlocal made
            before, steps = cpu_seconds(pids), stepper.steps(each)
            made += steps
            found = (cpu_seconds(pids) - before) / steps
            print(f"{who}: {steps / each:.1f} steps/s, {1e3 * found:.2f} CPU-ms per step", file=sys.stderr)
            return found

        for number in range(pairs):
            alone = per_step("nobody watches") if number % 2 == 0 else 0.0
            with readers(address):
                page = browser.new_page()
                page.goto(f"http://{address}/#job=load&view=layers")
                page.wait_for_selector("canvas")
                watched = per_step("20 readers and a page")
                page.close()
            alone = alone or per_step("nobody watches")
            ratios.append(watched / alone)
    finally:
        stepper.close()
    return statistics.median(ratios) - 1.0, made / seconds


def redraw_ms(up: Up, browser: Browser) -> list[float]:
    """Milliseconds of script per drawing of 400 slices x 300 columns, as the page itself measures them."""
    torch.manual_seed(1)
    training = Training(up.address, "wide", ManyLayers(), 3)
    try:
        training.advance(HEAT_STEPS)
    finally:
        training.close()
    page = browser.new_page(viewport={"width": 1360, "height": 900})
    page.goto(f"http://{up.facts()['dashboard']['address']}/#job=wide&view=layers")
    page.wait_for_selector("canvas")
    count = "performance.getEntriesByName('heat map').length"
    for number in range(REDRAWS):
        page.keyboard.press("t")  # the other theme has other colours
        while page.evaluate(count) <= number + 1:
            page.wait_for_timeout(5)
    found: list[float] = page.evaluate(
        "performance.getEntriesByName('heat map').map((entry) => entry.duration)"
    )
    page.close()
    return found


def load(seconds: float, directory: Path, pairs: int = 6) -> dict[str, float]:
    """The figures; needs Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("the load needs Chromium: apt-get install chromium, or give --load-seconds 0")
    up = Up(directory / "state")
    try:
        eventually(lambda: up.get("/readyz"), "the dashboard answers")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            cost, rate = slowdown(up, browser, seconds, pairs)
            drawn = redraw_ms(up, browser)
            browser.close()
    finally:
        up.close()
    return {
        "training_slowdown": round(cost, 4),
        "load_steps_per_s": round(rate, 1),
        "redraw_p95_ms": round(sorted(drawn)[int(0.95 * len(drawn))], 1),
    }
