"""Keeps a store up to date, in threads of its own. It only reads: training never waits for it."""

from __future__ import annotations

import logging
import threading
import time

import grpc

from sheepfold_server.dashboard.store import Store
from sheepfold_server.dashboard.trackers.mirror import Mirror
from sheepfold_wire.connection import Connection
from sheepfold_wire.control import Control, NoAnswer
from sheepfold_wire.errors import SheepfoldError
from sheepfold_wire.manifest import Manifest

log = logging.getLogger(__name__)

STATUS_SECONDS = 0.5
POLLS_PER_LIST = 2
BACKOFF_SECONDS_FIRST, BACKOFF_SECONDS_MAX = 0.5, 5.0
JOIN_SECONDS = 2.0


class Follower:
    """One thread that polls, and one per job that watches its step reports."""

    def __init__(self, store: Store, coordinator: Connection | str, mirror: Mirror | None = None) -> None:
        self._store, self._mirror = store, mirror or Mirror(())
        self._control = Control(coordinator)
        self._closing = threading.Event()
        self._watchers: dict[str, Watcher] = {}
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        for watcher in list(self._watchers.values()):
            watcher.close()
        self._control.close()
        self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        wait, polls = BACKOFF_SECONDS_FIRST, 0
        while not self._closing.is_set():
            try:
                self._poll(lists_jobs=polls % POLLS_PER_LIST == 0)
            except (NoAnswer, SheepfoldError, ValueError) as error:  # ValueError: the channel was closed
                self._lost(str(error))
                self._closing.wait(wait)
                wait, polls = min(wait * 2, BACKOFF_SECONDS_MAX), 0
            else:
                self._store.set_trouble("")
                wait, polls = BACKOFF_SECONDS_FIRST, polls + 1
                self._closing.wait(STATUS_SECONDS)

    def _lost(self, why: str) -> None:
        if not self._closing.is_set() and self._store.trouble() != why:
            log.warning("%s", why)
        self._store.set_trouble(why)

    def _poll(self, lists_jobs: bool) -> None:
        if lists_jobs:
            names = self._control.jobs()
            self._store.set_jobs(names)
            for gone in self._watchers.keys() - set(names):
                self._watchers.pop(gone).close()
            for name in names:
                if name not in self._watchers:
                    self._watchers[name] = Watcher(self._store, self._mirror, self._control, name)
        for name in self._watchers:
            self._store.set_status(self._control.status(name), time.monotonic())
            if self._store.lacks_manifest(name):
                self._store.set_manifest(name, Manifest.from_json(self._control.model(name)))


class Watcher:
    """Reads one job's step reports, and again from where it stood when the stream broke."""

    def __init__(self, store: Store, mirror: Mirror, control: Control, job: str) -> None:
        self._store, self._mirror = store, mirror
        self._control, self._job = control, job
        self._closing = threading.Event()
        self._call: grpc.Call | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{job}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._call is not None:
            self._call.cancel()

    def _run(self) -> None:
        wait = BACKOFF_SECONDS_FIRST
        while not self._closing.is_set():
            try:
                # Which history the coordinator is in decides where to go on: it may be another one by now.
                self._store.set_status(self._control.status(self._job), time.monotonic())
                first = self._store.newest_version(self._job) + 1
                for report in self._control.watch(self._job, first, self._set_call):
                    self._store.add(report)
                    self._mirror.offer(report)
                    wait = BACKOFF_SECONDS_FIRST
            except (NoAnswer, SheepfoldError, ValueError) as error:
                if not self._closing.is_set():
                    log.info("the step reports of job %s stopped: %s", self._job, error)
            self._closing.wait(wait)
            wait = min(wait * 2, BACKOFF_SECONDS_MAX)

    def _set_call(self, call: grpc.Call) -> None:
        self._call = call
        if self._closing.is_set():
            call.cancel()
