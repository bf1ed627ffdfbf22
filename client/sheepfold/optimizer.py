"""The job's optimizer in the place of a local one, for loops that are written already."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Tensor

from sheepfold.errors import JobEnded, Refused
from sheepfold.grad_scaler import GradScaler
from sheepfold.joining import Config, Joining
from sheepfold.model_tensors import tensors_named
from sheepfold.result import StepResult
from sheepfold.run import Run
from sheepfold.slot import why_weight_is_due
from sheepfold.transport import Transport
from sheepfold_wire.job import Job
from sheepfold_wire.rules import Adam, Lamb

STATE_KEY = "sheepfold"


class RemoteOptimizer(torch.optim.Optimizer):
    """Contributes one slot per `step()`; learning rate, betas, eps and weight decay are the server's.

    `.grad` must be the mean over the slot when `step()` is called, however many micro-batches it took;
    zeroing it is the caller's. The constructor, and the end of each `step()`, wait for a lease and put its
    weights into the parameters. After the job's last step `has_ended` is true, and another `step()` raises
    JobEnded.

    Where the lease does not say what the mean is over (`data.mode = "free"`, `batch.weight = "tokens"`), give
    `weight`, the samples or tokens behind each `step()`, or set `optimizer.weight` before one. A
    torch.amp.GradScaler may scale the loss: gradients are unscaled here, and a slot that overflows is handed
    back; in a job with a loss scale take `optimizer.grad_scaler()` in its place. A copy or a pickle of it
    holds no connection: it serves to be looked at, and cannot step.
    """

    _step_supports_amp_scaling = True
    """GradScaler then always calls `step()` and leaves its findings in `grad_scale` and `found_inf`."""

    def __init__(
        self,
        params: Iterable[Any],
        job: str | None = None,
        *,
        address: str | Transport | None = None,
        config: Config | None = None,
        buffers: Iterable[tuple[str, Tensor]] = (),
        weight: float | None = None,
        data_samples: int = 0,
        data_fingerprint: str = "",
    ) -> None:
        """`params`: best `model.named_parameters()`; tensors or groups do as well, and go by their places.

        `buffers`: the persistent ones, with names, where the job averages them (BatchNorm). The rest, and
        what is raised, is as in `attach`.
        """
        self._run: Run | None = None
        self._origin: str | None = None
        """The job, once this optimizer, or the one it is a copy of, has started."""
        super().__init__(params, {})
        tensors = tensors_named(named(self.param_groups), buffers)
        joining = Joining(job, address, config, data_samples=data_samples, data_fingerprint=data_fingerprint)
        self._run = Run.of(tensors, joining)
        self._origin = self._run.job
        self.weight = weight
        self._check_weight()
        self._is_accumulating = False
        self._has_servers_scaler = False
        self.loss: float | Tensor | None = None
        """The slot's mean loss, to be stated with the next `step()`; without it, the closure's is."""
        self.result: StepResult | None = None
        """What became of the last contribution."""
        self._owned = owned_by_server(self._run.worker.job)
        self._named_edits: set[str] = set()
        self._name_edits()
        self._take_over()
        try:
            self._run.next_slot()
        except BaseException:
            self._run.close()
            raise

    @property
    def run(self) -> Run:
        """The place in the job: `run.version`, `run.step_number`, `run.slot`. Raises Refused on a copy."""
        if self._run is None:
            raise Refused(
                f"this is a copy of the optimizer of job {self._origin} and holds no connection: construct "
                "RemoteOptimizer anew in this process"
            )
        return self._run

    @property
    def has_ended(self) -> bool:
        """Whether the job has no more work: leave the loop."""
        return self.run.has_ended

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Contribute `.grad`, then wait for the next lease and its weights; returns the closure's loss.

        Raises JobEnded, Refused, ServerUnavailable. A lost lease raises nothing: see `result.counted`.
        """
        run = self.run
        if run.has_ended:
            raise JobEnded("its last step is committed")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._is_accumulating:
            run.worker.note_progress()
            return loss
        self._name_edits()
        stated, self.loss = loss if self.loss is None else self.loss, None
        if run.slot is None:  # the last step() broke off after its push: this gradient is of no slot
            run.next_slot()
            return loss
        if self._is_unusable():
            run.give_back("its gradient overflowed at the worker's loss scale")
        else:
            self.result = run.contribute(self.weight, None if stated is None else _number(stated))
        run.next_slot()
        return loss

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within, `step()` and `zero_grad()` do nothing: `.grad` goes on adding up until a step() outside.

        For loops that step after every micro-batch. `.grad` must be the slot's mean in the end, so divide
        each loss by their number.
        """
        self._is_accumulating = True
        try:
            yield
        finally:
            self._is_accumulating = False

    def grad_scaler(self) -> GradScaler:
        """A GradScaler at the job's loss scale, for `scaler.scale(loss).backward()`; Refused without one."""
        scaler = GradScaler(self)
        self._has_servers_scaler = True
        return scaler

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As usual; nothing within `no_sync()`."""
        if not self._is_accumulating:
            super().zero_grad(set_to_none)

    def _is_unusable(self) -> bool:
        """Take back a GradScaler's scale; whether it overflowed, and the server need not know.

        At the server's own scale it must: what is pushed then is refused, and halves the scale.
        """
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if found_inf is not None and not self._has_servers_scaler:
            self._name_local_scaler()
        if found_inf is not None and bool(found_inf) and not self._has_servers_scaler:
            return True
        if scale is not None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.div_(scale.to(parameter.grad.device))
        return False

    def _check_weight(self) -> None:
        """Raises Refused where neither the lease nor the script says what a mean is over."""
        job = self.run.worker.job
        unweighed = why_weight_is_due(job) if job.batch.weight == "samples" else ""
        if unweighed and self.weight is None:
            self.run.close()
            raise Refused(
                unweighed,
                field="weight",
                remedy="give RemoteOptimizer(..., weight=...), what each step() is the mean of",
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only while constructing: the job's manifest is sealed. Raises Refused."""
        if self._origin is not None:
            raise Refused(
                f"job {self._origin} was created without this parameter group and its tensors are sealed: "
                "create another job with all parameters"
            )
        super().add_param_group(param_group)

    # --- values of the server -----------------------------------------------------------------------

    def _take_over(self) -> None:
        """Show the server's values where schedulers and loggers look for them."""
        for group in self.param_groups:
            group.update(self._owned)

    def _name_local_scaler(self) -> None:
        """Say, once, that the loss scale of this worker is not the job's."""
        scale = self.run.worker.job.loss_scale
        if scale is not None and "loss scale" not in self._named_edits:
            self._named_edits.add("loss scale")
            warnings.warn(
                f"a GradScaler of this worker scales the loss, but the job owns the loss scale (from "
                f"{scale.initial:g} on): use optimizer.grad_scaler() in its place",
                stacklevel=4,
            )

    def _name_edits(self) -> None:
        """Say, once for each key, that a local value has no effect."""
        for index, group in enumerate(self.param_groups):
            for key, value in self._owned.items():
                if key == "lr" and self.run.worker.job.optimizer.lr.schedule == "table":
                    continue  # the script's own schedule, as the job has it
                if key in group and group[key] != value and key not in self._named_edits:
                    self._named_edits.add(key)
                    warnings.warn(
                        f"param_groups[{index}][{key!r}] = {group[key]} has no effect: the server owns {key} "
                        f"({_source(key, value)}). Set it in the job, and drop local schedulers",
                        stacklevel=3,
                    )

    # --- state: the server's, so there is next to nothing to save ------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the job stands; no tensors: weights and moments are the server's."""
        run = self.run
        place = {"job": run.job, "step": run.step_number, "manifest": run.worker.manifest.digest}
        return {**super().state_dict(), STATE_KEY: place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Checks that it is of the same model; the server's state is left as it is. Raises Refused."""
        place = state_dict.get(STATE_KEY)
        mine = self.run.worker.manifest.digest
        if not isinstance(place, dict) or place.get("manifest") != mine:
            theirs = place.get("manifest") if isinstance(place, dict) else "none: it is a local optimizer's"
            raise Refused(
                f"this state is of another model (manifest {str(theirs)[:40]}, here {mine[:12]}): the server "
                "keeps weights and moments, so start without loading an optimizer state"
            )
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self._take_over()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_origin", "weight", "loss", "result", "_owned", "_named_edits", "_is_accumulating")
        return {**super().__getstate__(), "_run": None, **{key: getattr(self, key) for key in kept}}


def named(groups: list[dict[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of param groups under their own names, or under their places."""
    for number, group in enumerate(groups):
        places = [f"group{number}.param{index}" for index in range(len(group["params"]))]
        yield from zip(group.get("param_names", places), group["params"], strict=True)


def owned_by_server(job: Job) -> dict[str, Any]:
    """Values of a param group that the server decides, as far as the job's rule has them.

    `lr` is the peak: the schedule runs on the server.
    """
    optimizer = job.optimizer
    owned: dict[str, Any] = {"lr": optimizer.lr.peak, "weight_decay": optimizer.weight_decay}
    if isinstance(optimizer, Lamb | Adam):
        owned["betas"] = (optimizer.beta1, optimizer.beta2)
    owned.update(
        {key: getattr(optimizer, key) for key in ("eps", "momentum", "dampening") if hasattr(optimizer, key)}
    )
    return owned


def _source(key: str, value: object) -> str:
    return f"peak {value}, by its own schedule" if key == "lr" else f"{value}"


def _number(loss: float | Tensor) -> float:
    return float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
