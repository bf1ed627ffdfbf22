"""What an administrator asks of a running job: other live settings, pause, resume, stop."""

from __future__ import annotations

import json

import sheepfold_wire.messages as m
from sheepfold_server.core.state import JobState, Life
from sheepfold_server.core.stepping import Stepping
from sheepfold_server.core.steps import Phase
from sheepfold_wire.errors import BadConfig, JobHasEnded, PreconditionError


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
        changes = _changes(request.changes_json)
        stop = state.job.changed(changes).stop.steps
        last_open = max(state.steps, default=state.version - 1)
        if stop < last_open + 1:
            raise BadConfig(
                f"stop.steps = {stop}: step {last_open} is already open; give {last_open + 1} or more"
            )
        state.config.change(from_step, changes)
        state.persist(("config", from_step, request.changes_json, request.author))
        state.note(f"{request.author} changed {request.changes_json} from step {from_step} on")
        self._stepping.open_steps()
        return m.ConfigChangeReply(from_step)

    def control(self, request: m.ControlRequest) -> m.ControlReply:
        """Pause, resume or stop; what is said already is no error."""
        state = self._s
        match request.action:
            case "pause" if state.life is Life.RUNNING:
                state.pause(f"by {request.author}")
            case "pause" if state.life not in (Life.PAUSED, Life.ENDED):
                raise PreconditionError(
                    f"job {state.name} is {state.life.value}; only a running job can pause"
                )
            case "stop" if state.life in (Life.DECLARED, Life.OPENING):
                state.life, state.why = Life.ENDED, f"stopped by {request.author} before it began"
                state.note(f"job {state.name} has ended: {state.why}")
            case "resume" if state.life is Life.PAUSED:
                self._wake(f"resumed by {request.author}")
            case "stop" if state.life is not Life.ENDED:
                state.stop_after = max([0, state.version, *(n + 1 for n in state.steps)])
                self._wake(f"{request.author} stops the job after {state.stop_after} steps")
            case "pause" | "resume" | "stop":
                pass
            case _:
                raise BadConfig(f"action = {request.action!r}: give pause, resume or stop")
        return m.ControlReply(state.life.value)

    def _wake(self, text: str) -> None:
        state = self._s
        state.life, state.why = state.waking_life(), ""
        state.note(text)
        self._stepping.open_steps()


def _changes(text: str) -> dict[str, object]:
    try:
        changes = json.loads(text)
    except ValueError as error:
        raise BadConfig(f"changes are not JSON: {error}") from None
    if not isinstance(changes, dict) or not changes:
        raise BadConfig('changes must be an object like {"optimizer.lr.peak": 0.01}')
    return changes
