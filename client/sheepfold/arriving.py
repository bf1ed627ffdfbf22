"""Weights that come while forward already runs, module by module.

A slot begins once its lease is known. Its weights are pulled in a thread, in the order of the model; before
a module's forward what belongs to it is put in place, or waited for. Until then parameters are NaN: whoever
reads one past its module's forward computes nonsense that is seen, not a gradient of old weights. A slot
whose weights did not come as its lease said does not count.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import sheepfold_wire.messages as m
from sheepfold.errors import JobEnded, Refused, ServerUnavailable
from sheepfold.weights import ModelWeights
from sheepfold.worker import Worker
from sheepfold_wire.codecs import Buffer

log = logging.getLogger("sheepfold")

WAKE_SECONDS = 0.5  # Ctrl-C just before a wait is noticed after it


@dataclass(frozen=True, slots=True)
class Piece:
    """What has come of one part: its first `count` bytes."""

    part: Buffer
    count: int


class Arrival:
    """The next lease of a worker, and its weights as they come. Until it is over the worker is its own."""

    def __init__(self, worker: Worker) -> None:
        self._news = threading.Condition()
        self._lease: m.Lease | None = None
        self._pieces: dict[int, Piece] = {}
        self._outcome: m.Lease | BaseException | None = None
        threading.Thread(target=self._work, args=(worker,), name="sheepfold-arrival", daemon=True).start()

    def _work(self, worker: Worker) -> None:
        outcome: m.Lease | BaseException
        try:
            outcome = worker.next_lease(self)
        except BaseException as error:  # also SystemExit, after SIGTERM: the script's thread raises it
            outcome = error
        with self._news:
            self._outcome = outcome
            self._news.notify_all()

    # --- from the worker's threads ----------------------------------------------------------------------

    def leased(self, lease: m.Lease) -> None:
        """The first one counts: where another follows, weights of the first are no longer served."""
        with self._news:
            self._lease = self._lease or lease
            self._news.notify_all()

    def arrived(self, shard: int, version: int, part: Buffer, count: int) -> None:
        """The first `count` bytes of the part are there. Of another version than the lease's: not yet."""
        with self._news:
            if self._lease is not None and version == self._lease.base_version:
                self._pieces[shard] = Piece(part, count)
                self._news.notify_all()

    # --- from the script's ------------------------------------------------------------------------------

    def lease(self) -> m.Lease:
        """Waits until it is known. Raises what `Worker.next_lease` does."""
        self._wait(lambda: self._lease is not None)
        return self.finish() if self._lease is None else self._lease

    def part(self, shard: int, end: int) -> Buffer | None:
        """A shard's part, of which at least `end` bytes have come; None once all is over."""
        self._wait(lambda: shard in self._pieces and self._pieces[shard].count >= end)
        return None if self._outcome is not None else self._pieces[shard].part

    def finish(self) -> m.Lease:
        """The lease whose weights have come whole; raises what `Worker.next_lease` does."""
        self._wait(lambda: False)
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def is_over_in(self, seconds: float) -> bool:
        """Whether `finish` will not wait; waits so long for that."""
        with self._news:
            return self._news.wait_for(lambda: self._outcome is not None, seconds)

    def _wait(self, is_there: Callable[[], bool]) -> None:
        """Until then, or until all is over."""
        with self._news:
            while not (is_there() or self._outcome is not None):
                self._news.wait(WAKE_SECONDS)


class Hook:
    """Of a module's forward. A copy of the module, as for an average of weights, has one without effect."""

    def __init__(self, act: Callable[[], None] | None = None) -> None:
        self._act = act

    def __call__(self, module: nn.Module, given: Any) -> None:
        if self._act is not None:
            self._act()

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


class Arriving:
    """One model's weights at the beginning of each slot."""

    def __init__(self, worker: Worker, weights: ModelWeights, model: nn.Module | None) -> None:
        """`model`: None for weights that are all there before the slot begins."""
        self._worker, self._weights = worker, weights
        self._pending: dict[str, Tensor] = {}
        """Parameters that are not in place yet."""
        self._arrival: Arrival | None = None
        self._lease: m.Lease | None = None
        self._void = ""
        self._is_early = False
        """Whether this slot began before its weights were there."""
        self._hooks: list[RemovableHandle] = []
        if model is None:
            return
        if why := _against(model, worker):
            log.warning("job %s: weights come whole before each slot: %s", worker.job.name, why)
            return
        for module, names in _tensors_by_module(model, weights.tensors.all).items():
            self._hooks.append(module.register_forward_pre_hook(Hook(partial(self.before, names))))

    def next_lease(self) -> m.Lease:
        """The next lease. Unless it is an init lease, its weights are in place or will be when they are used.

        Raises JobEnded and what else `Worker.next_lease` does.
        """
        self._void, self._is_early = "", False
        if not self._hooks:
            return self._whole(self._worker.next_lease())
        version, arrival = self._worker.version, Arrival(self._worker)
        lease = arrival.lease()
        if lease.is_init or lease.base_version == version:
            return self._whole(arrival.finish())
        self._arrival, self._lease, self._is_early = arrival, lease, True
        self._pending = dict(self._weights.tensors.parameters)
        with torch.no_grad():
            for parameter in self._pending.values():
                parameter.fill_(torch.nan)
        return lease

    def _whole(self, lease: m.Lease) -> m.Lease:
        if not lease.is_init:
            self._weights.load()
            self._weights.restore_buffers()
        return lease

    @property
    def version(self) -> int:
        """Of the weights that the slot is computed at."""
        if self._arrival is None or self._lease is None:
            return self._worker.version
        return self._lease.base_version

    # --- while the slot is computed ---------------------------------------------------------------------

    def before(self, names: frozenset[str]) -> None:
        """A module is about to use these."""
        arrival = self._arrival
        if arrival is None:
            return
        if not names <= self._weights.tensors.parameters.keys():  # buffers come last
            self.finish()
            return
        for name in sorted(names & self._pending.keys()):
            if not self._weights.load_one(name, arrival.part):
                self.finish()
                return
            del self._pending[name]

    def finish(self) -> str:
        """All is in place now, or this says why the slot cannot count. May be repeated.

        Raises what `Worker.next_lease` does, but for JobEnded.
        """
        arrival, self._arrival = self._arrival, None
        if arrival is None:
            return self._void
        try:
            lease = arrival.finish()
        except JobEnded as ended:
            self._void = ended.why
            return self._void
        if self._lease is not None and lease.attempt != self._lease.attempt:
            self._void = "its version is no longer served"
            self._worker.release(self._void, (self._lease.attempt, lease.attempt))
            self._weights.load()
        else:
            self._weights.load(self._pending)
        self._pending = {}
        self._weights.restore_buffers()
        return self._void

    def check(self, loss: float | None) -> str:
        """After the slot's backward: `finish`, and whether weights were used before they had come."""
        used = self._used()
        why = self.finish()
        if self._is_early and not why and (used or (loss is not None and math.isnan(loss))):
            what = f"{used} is used past the forward of its module" if used else "the loss is NaN"
            text = "job %s: %s: from now on weights come whole before each slot"
            log.warning(text, self._worker.job.name, what)
            self.turn_off()
            why = f"it was computed before its weights had come: {what}"
        return why

    def settle(self, seconds: float) -> None:
        """The slot is given up: leave whole weights behind, if they come within that time."""
        try:
            if self._arrival is not None and self._arrival.is_over_in(seconds):
                self.finish()
        except (Refused, ServerUnavailable) as error:
            log.warning("job %s: the weights did not come whole: %s", self._worker.job.name, error)

    def _used(self) -> str:
        """One that nobody has waited for and that has a gradient nevertheless; "" for none."""
        return next((name for name, tensor in self._pending.items() if tensor.grad is not None), "")

    def turn_off(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def _tensors_by_module(model: nn.Module, kept: Mapping[str, Tensor]) -> dict[nn.Module, frozenset[str]]:
    """What to have in place before the forward of a module that has tensors of its own.

    Those of its children as well: such a module may use them itself, as nn.MultiheadAttention does.
    """
    names = {id(tensor): name for name, tensor in kept.items()}

    def of(module: nn.Module, recurse: bool) -> frozenset[str]:
        tensors = [*module.parameters(recurse), *module.buffers(recurse)]
        return frozenset(names[id(tensor)] for tensor in tensors if id(tensor) in names)

    return {module: of(module, recurse=True) for module in model.modules() if of(module, recurse=False)}


def _against(model: nn.Module, worker: Worker) -> str:
    """Why forward cannot begin before all is there; "" where it can."""
    if worker.against_overlap:
        return worker.against_overlap
    if worker.job.batch.max_staleness != 0:
        return "with batch.max_staleness newer weights than the lease's may come"
    if any(
        hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules()
    ):
        return "the model is compiled"
    return ""
