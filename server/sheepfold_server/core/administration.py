"""What an administrator asks of a running job: other live settings, pause, resume, stop."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase

import sheepfold_wire.messages as m
from sheepfold_server.core.records import ConfigChanged, Evaluated, StopAsked, Woken
from sheepfold_server.core.state import JobState, Life
from sheepfold_server.core.stepping import Stepping
from sheepfold_server.core.steps import Phase
from sheepfold_wire.errors import BadConfig, JobHasEnded, PreconditionError
from sheepfold_wire.ids import NOTHING_LOADED
from sheepfold_wire.job import Job


class Administration:
    """Changes what is not decided yet; steps already decided stay as they are."""

    def __init__(self, state: JobState, stepping: Stepping) -> None:
        self._s = state
        self._stepping = stepping

    def change_config(self, request: m.ConfigChangeRequest) -> m.ConfigChangeReply:
        """Replace live keys from a step on; raises BadConfig and changes nothing if that is refused."""
        state = self._s
        if state.life is Life.ENDED:
            raise JobHasEnded(f"job {state.name} has ended: {state.why}")
        busy = [n for n, step in state.steps.items() if step.phase is not Phase.OPEN]
        first = max([0, state.version, *(n + 1 for n in busy)])
        from_step = first if request.from_step < 0 else request.from_step
        if from_step < first:
            raise BadConfig(
                f"from_step = {request.from_step}: step {first} is the first that is not decided yet"
            )
        changes = changes_of(request.changes_json)
        stop = state.job.changed(changes).stop.steps
        last_open = max(state.steps, default=state.version - 1)
        if stop < last_open + 1:
            raise BadConfig(
                f"stop.steps = {stop}: step {last_open} is already open; give {last_open + 1} or more"
            )
        self._check_patterns(changes)
        before = state.job
        state.config.change(from_step, changes)
        changed = ConfigChanged(from_step, request.changes_json, request.author, request.request_id)
        state.config_changes.append(changed)
        state.persist(changed)
        for key in changes:
            told = f"{key}: {_shown(before, key)} -> {_shown(state.job, key)}"
            state.change(from_step, request.author, told)
        self._stepping.open_steps()
        return m.ConfigChangeReply(from_step)

    def _check_patterns(self, changes: dict[str, object]) -> None:
        """A pattern that names no parameter would freeze nothing, unsaid."""
        geometry = self._s.geometry
        if geometry is None or "frozen" not in changes:
            return
        names = [geometry.manifest.tensors[index].name for index in geometry.manifest.parameters]
        for pattern in self._s.job.changed(changes).frozen:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise BadConfig(
                    f"frozen: {pattern!r} matches no parameter of {len(names)}, e.g. {', '.join(names[:3])}"
                )

    def evaluated(self, request: m.EvaluationRequest) -> m.EvaluationReply:
        """Note what a version is worth; the job stops after the open step if its rule says so."""
        state = self._s
        rule = state.job.stop
        reply = state.evaluations.take(request, rule, state.version)
        state.persist(Evaluated(request))
        values = ", ".join(f"{metric.name} {metric.value:g}" for metric in request.metrics)
        best = ", the best so far" if reply.is_best else ""
        state.note(f"{request.author} evaluated version {request.version}: {values}{best}")
        why = state.evaluations.why_stop(rule)
        if why and state.stop_after is None and state.life is not Life.ENDED:
            self.control(m.ControlRequest(state.name, "stop", f"the stop rule ({why})"))
        return reply

    def control(self, request: m.ControlRequest) -> m.ControlReply:
        """Pause, resume or stop; what is said already is no error."""
        state = self._s
        match request.action:
            case "pause" if state.life is Life.RUNNING:
                state.pause(f"by {request.author}")
                state.change(state.version, request.author, "running -> paused")
            case "pause" if state.life not in (Life.PAUSED, Life.ENDED):
                raise PreconditionError(
                    f"job {state.name} is {state.life.value}; only a running job can pause"
                )
            case "stop" if state.version == NOTHING_LOADED and state.life is not Life.ENDED:
                state.life, state.why = Life.ENDED, f"stopped by {request.author} before it began"
                state.persist(StopAsked(0, state.why))
                state.event("state", f"ended: {state.why}")
            case "resume" if state.life is Life.PAUSED:
                self._wake(f"resumed by {request.author}")
                state.change(state.version, request.author, f"paused -> {state.life.value}")
            case "stop" if state.life is not Life.ENDED:
                before = state.stop_steps
                state.stop_after = max([0, state.version, *(n + 1 for n in state.steps)])
                state.persist(StopAsked(state.stop_after))
                state.change(
                    state.stop_after, request.author, f"ends at version {before} -> {state.stop_steps}"
                )
                self._wake(f"{request.author} stops the job after {state.stop_after} steps")
            case "pause" | "resume" | "stop":
                pass
            case _:
                raise BadConfig(f"action = {request.action!r}: give pause, resume or stop")
        return m.ControlReply(state.life.value)

    def _wake(self, text: str) -> None:
        state = self._s
        state.life, state.why = state.waking_life(), ""
        state.persist(Woken())
        state.event("state", text)
        self._stepping.open_steps()


def changes_of(text: str) -> dict[str, object]:
    """Values by dotted key; raises BadConfig."""
    try:
        changes = json.loads(text)
    except ValueError as error:
        raise BadConfig(f"changes are not JSON: {error}") from None
    if not isinstance(changes, dict) or not changes:
        raise BadConfig('changes must be an object like {"optimizer.lr.peak": 0.01}')
    return changes


def _shown(job: Job, key: str) -> str:
    """The value of a dotted key as JSON."""
    value = job.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return json.dumps(value)
