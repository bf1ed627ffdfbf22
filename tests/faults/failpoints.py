"""Named moments at which a process of ours can be made to die, stop or be late: the table, and how one fires.

Nothing of this is in the product. A failpoint is the moment before or after a call of a function there; a
process that tests/faults/failing.py starts has these functions wrapped, every other one runs the code as it
is. To arm one is to write a file: FOLDER/NAME holds what to do, `kill`, `stop` or `delay SECONDS`. The first
process to get there takes the file, by renaming it, so that one arming fires once, wherever that is; what it
leaves, FOLDER/NAME.hit, holds its pid.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

VARIABLE = "SHEEPFOLD_FAILPOINTS"
"""Names the folder, in the environment of a process that was started to fail."""

Moment = Literal["before", "after"]
Needs = Literal[
    "",
    "start",
    "restart",
    "relink",
    "change",
    "checkpoint",
    "rewind",
    "earlier",
    "restore",
    "delete",
    "leave",
    "long log",
]
"""What leads to it, beside steps that are made."""


@dataclass(frozen=True, slots=True)
class Failpoint:
    """The moment before or after a call of `place`, MODULE:FUNCTION."""

    name: str
    """ROLE.WHAT."""
    moment: Moment
    place: str
    is_then: str
    """What stands and what does not at this moment."""
    of: str = ""
    """Name of a class: only calls with a value of it count, be it in an effect, a batch or an argument."""
    nth: int = 1
    """Of the calls that count, from the arming on."""
    needs: Needs = ""

    @property
    def role(self) -> str:
        return self.name.split(".")[0]

    def matches(self, values: Iterable[object]) -> bool:
        return not self.of or any(type(value).__name__ == self.of for value in _all_of(values))


def _all_of(values: Iterable[object]) -> Iterator[object]:
    for value in values:
        yield value
        if isinstance(value, list | tuple):
            yield from value
        for inner in ("command", "report", "request"):
            if (found := getattr(value, inner, None)) is not None:
                yield found


_TRANSPORT = "sheepfold.transport.grpc:GrpcTransport"
_SHELL = "sheepfold_server.shell"
_WORK, _LOG = f"{_SHELL}.kernel_work:KernelWork", f"{_SHELL}.shard_log:ShardLog"
_SHARD, _PROCESS = f"{_SHELL}.shard_actor:ShardActor", f"{_SHELL}.shard_process:ShardProcess"
_JOB, _FLEET, _BOOKS = f"{_SHELL}.job_actor:JobActor", f"{_SHELL}.fleet:Fleet", f"{_SHELL}.job_log:JobLog"
_DESK, _PARTS = f"{_SHELL}.checkpoint_desk:CheckpointDesk", f"{_SHELL}.part_store:PartStore"
_STORE = "sheepfold_server.storage.checkpoints.store:CheckpointStore"
_SENT = f"{_SHELL}.coordinator_service:commands_to_proto"
_NUMBERS = f"{_SHELL}.data_dir:DataDir.save"
_DELETED = f"{_SHELL}.tombstones:Tombstones.add"

Point = Failpoint
# fmt: off
START = (
    Point("coordinator.create", "before", f"{_BOOKS}.append", "the job is in no log", "JobCreated",
          needs="start"),
    Point("coordinator.created", "after", f"{_BOOKS}.append", "it is, and nobody was told", "JobCreated",
          needs="start"),
    Point("coordinator.model", "after", f"{_BOOKS}.append", "the model is known, no shard has opened it",
          "ModelGiven", needs="start"),
    Point("shard.init.log", "before", f"{_WORK}.log_init", "the initial weights are staged in memory",
          needs="start"),
    Point("shard.init.logged", "after", f"{_WORK}.log_init", "they are in its log, and nobody was told",
          needs="start"),
    Point("coordinator.init", "before", f"{_BOOKS}.append", "initial weights are staged, none are chosen",
          "InitChosen", needs="start"),
    Point("coordinator.init.chosen", "after", f"{_BOOKS}.append", "they are chosen, no shard knows",
          "InitChosen", needs="start"),
    Point("shard.init.note", "before", f"{_LOG}.append", "they are chosen, and it has no note of that",
          "LoadInit", needs="start"),
    Point("shard.init.load", "before", f"{_WORK}.load", "they are chosen and noted", needs="start"),
    Point("shard.init.loaded", "after", f"{_WORK}.load", "version 0 is there, and not served", needs="start"),
)
"""In the order in which a job comes into being."""
WORKER = (
    Point("worker.attach", "before", f"{_TRANSPORT}.call", "nothing was said", "AttachRequest",
          needs="restart"),
    Point("worker.attached", "after", f"{_TRANSPORT}.call", "it is known, and has no lease", "AttachRequest",
          needs="restart"),
    Point("worker.leased", "after", f"{_TRANSPORT}.call", "it holds a lease, no more", "LeaseRequest"),
    Point("worker.pull", "before", f"{_TRANSPORT}.pull", "its weights are older than its lease"),
    Point("worker.pulled", "after", f"{_TRANSPORT}.pull", "it has one shard's part of a version"),
    Point("worker.push", "before", f"{_TRANSPORT}.push", "its gradient is computed, and nowhere else"),
    Point("worker.pushing", "after", "sheepfold.transport.grpc:push_header_frame", "no payload was sent"),
    Point("worker.pushed", "after", f"{_TRANSPORT}.push", "one shard has its part, another may not"),
    Point("worker.leaving", "before", f"{_TRANSPORT}.call", "it is done", "ReleaseRequest", needs="leave"),
)
SHARD = (
    Point("shard.hello", "after", f"{_PROCESS}.hello", "it has no incarnation", needs="restart"),
    Point("shard.welcome", "before", f"{_PROCESS}.command", "its number is stored, it does not know it",
          "Welcome", needs="restart"),
    Point("shard.open", "before", f"{_PROCESS}.command", "it is linked, and its job is not open",
          "OpenJob", needs="restart"),
    Point("shard.recover", "before", f"{_WORK}.recover", "its log is not read", needs="restart"),
    Point("shard.recovered", "after", f"{_WORK}.recover", "it has its state, and nobody was told",
          needs="restart"),
    Point("shard.opened", "before", f"{_SHARD}._tell", "it would say where it stands", "JobOpened",
          needs="restart"),
    Point("shard.push.opened", "before", f"{_SHARD}.open_push", "a header has come, and no payload"),
    Point("shard.push.received", "before", f"{_SHARD}.received", "a part is whole, and not staged"),
    Point("shard.staged", "before", f"{_SHARD}._tell", "a part is staged, the coordinator does not know",
          "Staged"),
    Point("shard.push.answer", "before", f"{_SHARD}._perform", "a part is staged, its worker does not know",
          "AnswerPush"),
    Point("shard.admitted", "before", f"{_SHARD}.command", "a slot is admitted, and not folded", "Admit"),
    Point("shard.fold", "before", f"{_WORK}.fold", "parts are about to be added to the sum"),
    Point("shard.folded", "after", f"{_WORK}.fold", "they are in the sum, which is in no log"),
    Point("shard.close", "before", f"{_SHARD}.command", "the slots of the step are fixed", "Close"),
    Point("shard.summed", "after", f"{_WORK}.finish", "the mean is whole, and not in the log"),
    Point("shard.append", "before", f"{_WORK}.append", "the prepare record is not begun"),
    Point("shard.appended", "after", f"{_WORK}.append", "it is complete, and nobody was told"),
    Point("shard.prepared", "before", f"{_SHARD}._tell", "PREPARED is not sent", "Prepared"),
    Point("shard.prepared.sent", "after", f"{_SHARD}._tell", "PREPARED is on its way", "Prepared"),
    Point("shard.commit", "before", f"{_SHARD}.command", "the decision has come", "Commit"),
    Point("shard.commit.note", "before", f"{_LOG}.append", "it has no note of the decision", "Commit"),
    Point("shard.commit.noted", "after", f"{_LOG}.append", "it has a note, and has done nothing", "Commit"),
    Point("shard.pass1", "before", f"{_WORK}.directions", "moments are those of the version before"),
    Point("shard.pass1.done", "after", f"{_WORK}.directions", "moments are new, weights old, no sum"),
    Point("shard.norms", "before", f"{_SHARD}._tell", "others wait for its norms", "Norms"),
    Point("shard.totals", "before", f"{_SHARD}.command", "totals of split slices have come", "Totals"),
    Point("shard.totals.note", "before", f"{_LOG}.append", "it has no note of the totals", "Totals"),
    Point("shard.totals.noted", "after", f"{_LOG}.append", "it has a note, and old weights", "Totals"),
    Point("shard.pass2", "before", f"{_WORK}.apply", "it knows all that makes the weights"),
    Point("shard.pass2.done", "after", f"{_WORK}.apply", "weights are new, and not served"),
    Point("shard.applied", "before", f"{_SHARD}._tell", "the version is served, nobody was told", "Applied"),
    Point("shard.pull", "before", f"{_SHARD}._serve", "a worker waits for weights"),
    Point("shard.save", "before", f"{_LOG}.append", "its log is long, its state is not saved in it",
          "StateSaved", needs="long log"),
    Point("shard.saved", "after", f"{_LOG}.append", "its state is saved in its log, nothing is forgotten",
          "StateSaved", needs="long log"),
    Point("shard.forgot", "after", f"{_LOG}.forget", "what stood before is forgotten", needs="long log"),
    Point("shard.part", "before", f"{_PARTS}.store", "its state is copied for a checkpoint",
          needs="checkpoint"),
    Point("shard.part.write", "before", f"{_STORE}.save_part", "nothing of its part is written",
          needs="checkpoint"),
    Point("shard.part.written", "after", f"{_STORE}.save_part", "its part is durable, nobody was told",
          needs="checkpoint"),
    Point("shard.part.told", "before", f"{_SHARD}._tell", "its part is durable", "PartSaved",
          needs="checkpoint"),
    Point("shard.restore", "before", f"{_PARTS}.first_state", "its part of a checkpoint is not read",
          needs="rewind"),
    Point("shard.restored", "after", f"{_PARTS}.first_state", "it is read, and not in the new log",
          needs="rewind"),
    Point("shard.earlier", "before", f"{_SHELL}.shard_actor:made_again", "a version that no checkpoint holds "
          "is to be made again", needs="earlier"),
    Point("shard.earlier.made", "after", f"{_SHELL}.shard_actor:made_again", "it is made, and not stored",
          needs="earlier"),
    Point("shard.delete", "before", f"{_PROCESS}.command", "a job is deleted, and open here", "RemoveJob",
          needs="delete"),
    Point("shard.delete.closed", "before", f"{_SHELL}.shard_process:remove_logs", "it is closed, its logs "
          "are there", needs="delete"),
    Point("shard.deleted", "after", f"{_SHELL}.shard_process:remove_logs", "they are removed, and nobody was "
          "told", needs="delete"),
)
COORDINATOR = (
    Point("coordinator.term", "before", _NUMBERS, "its next term is not stored", needs="restart"),
    Point("coordinator.term.stored", "after", _NUMBERS, "its term is stored, and was never used",
          needs="restart"),
    Point("coordinator.take_up", "before", f"{_FLEET}._take_up", "its books are not read", needs="restart"),
    Point("coordinator.taken_up", "after", f"{_FLEET}._take_up", "no shard is linked", needs="restart"),
    Point("coordinator.link", "before", f"{_FLEET}.link_up", "a shard has said Hello", needs="relink"),
    Point("coordinator.linked", "after", f"{_FLEET}.link_up", "its incarnation is stored", needs="relink"),
    Point("coordinator.attach", "before", f"{_JOB}.call", "a worker asks for the job", "AttachRequest",
          needs="relink"),
    Point("coordinator.lease", "before", _SENT, "a slot is leased, no shard expects it", "Expect"),
    Point("coordinator.lease.halfway", "before", _SENT, "one shard expects it", "Expect", nth=2),
    Point("coordinator.staged", "before", f"{_FLEET}.report", "a part is staged", "Staged"),
    Point("coordinator.admit", "before", _SENT, "a slot is admitted, no shard knows", "Admit"),
    Point("coordinator.admit.halfway", "before", _SENT, "one shard knows", "Admit", nth=2),
    Point("coordinator.close", "before", _SENT, "the step is closed, no shard knows", "Close"),
    Point("coordinator.close.halfway", "before", _SENT, "one shard knows", "Close", nth=2),
    Point("coordinator.prepared", "before", f"{_FLEET}.report", "a shard is prepared", "Prepared"),
    Point("coordinator.prepared.all", "before", f"{_FLEET}.report", "the other is, too", "Prepared", nth=2),
    Point("coordinator.decide", "before", f"{_BOOKS}.append", "the step is decided in memory", "Decided"),
    Point("coordinator.decided", "after", f"{_BOOKS}.append", "it is committed, no shard knows", "Decided"),
    Point("coordinator.commit", "before", _SENT, "it is committed, the first word is about to go", "Commit"),
    Point("coordinator.commit.halfway", "before", _SENT, "one shard knows", "Commit", nth=2),
    Point("coordinator.norms", "before", f"{_FLEET}.report", "norms of split slices have come", "Norms"),
    Point("coordinator.totals", "before", f"{_BOOKS}.append", "totals are in memory", "TotalsKnown"),
    Point("coordinator.totals.known", "after", f"{_BOOKS}.append", "they are in its log", "TotalsKnown"),
    Point("coordinator.totals.halfway", "before", _SENT, "one shard may make its weights", "Totals", nth=2),
    Point("coordinator.applied", "before", f"{_FLEET}.report", "a shard has the new version", "Applied"),
    Point("coordinator.publish", "before", f"{_JOB}._perform", "all have it, no one was shown it", "Publish"),
    Point("coordinator.change", "before", f"{_BOOKS}.append", "a change of the job is in no log",
          "ConfigChanged", needs="change"),
    Point("coordinator.changed", "after", f"{_BOOKS}.append", "it is, its author does not know",
          "ConfigChanged", needs="change"),
    Point("coordinator.save", "before", _SENT, "a checkpoint is due, no shard knows", "SaveCheckpoint",
          needs="checkpoint"),
    Point("coordinator.index", "before", f"{_DESK}.store_index", "all parts are durable, no index is",
          needs="checkpoint"),
    Point("coordinator.indexed", "after", f"{_DESK}.store_index", "the checkpoint exists, the log lacks it",
          needs="checkpoint"),
    Point("coordinator.kept", "before", f"{_BOOKS}.append", "the log is about to say so", "CheckpointKept",
          needs="checkpoint"),
    Point("coordinator.clean", "before", f"{_DESK}.clean", "older checkpoints are still there",
          needs="checkpoint"),
    Point("coordinator.find", "before", f"{_DESK}.find", "the job is to go back, nothing is changed",
          needs="rewind"),
    Point("coordinator.books", "before", f"{_SHELL}.job_actor:books_at", "no checkpoint holds that version, "
          "its log is not read", needs="earlier"),
    Point("coordinator.rewind", "before", f"{_BOOKS}.append", "books of the new lineage are in no log",
          "Books", needs="rewind"),
    Point("coordinator.rewound", "before", f"{_FLEET}._begin_again", "they are, the old core still stands",
          needs="rewind"),
    Point("coordinator.replaced", "after", f"{_JOB}.replace", "a new core stands, no shard knows",
          needs="rewind"),
    Point("coordinator.restore", "before", f"{_FLEET}.restore", "a job is to come from its checkpoint",
          needs="restore"),
    Point("coordinator.restored", "after", f"{_FLEET}.restore", "its books are in the log, nobody was told",
          needs="restore"),
    Point("coordinator.delete", "before", _DELETED, "a job may be deleted, and that is written nowhere",
          needs="delete"),
    Point("coordinator.deleted", "after", _DELETED, "it is, its log is there, nobody was told",
          needs="delete"),
    Point("coordinator.delete.log", "after", f"{_BOOKS}.bury", "its log is gone, no shard knows",
          needs="delete"),
    Point("coordinator.delete.halfway", "before", _SENT, "one shard knows", "RemoveJob", nth=2,
          needs="delete"),
    Point("coordinator.delete.removed", "before", f"{_FLEET}.report", "one shard holds nothing of it",
          "JobRemoved", needs="delete"),
)
# fmt: on
FAILPOINTS = (*START, *WORKER, *SHARD, *COORDINATOR)


def named(name: str) -> Failpoint:
    """Raises KeyError."""
    return {point.name: point for point in FAILPOINTS}[name]


# --- in the process that is to fail -----------------------------------------------------------------------


def found(place: str) -> tuple[Any, str, Callable[..., Any]]:
    """(what holds it, its name there, the function); raises ImportError, AttributeError."""
    module, _, path = place.partition(":")
    holder: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        holder = getattr(holder, part)
    return holder, name, getattr(holder, name)


def install(role: str, folder: Path) -> None:
    """Wrap every place of the role, before anything there is called."""
    for point in FAILPOINTS:
        if point.role == role:
            holder, name, function = found(point.place)
            setattr(holder, name, _wrapped(function, point, folder))


def _wrapped(function: Callable[..., Any], point: Failpoint, folder: Path) -> Callable[..., Any]:
    reached = _Reached(point, folder)

    @functools.wraps(function)
    def wrapper(*args: Any, **named_args: Any) -> Any:
        if point.moment == "before":
            reached(args)
        result = function(*args, **named_args)
        if point.moment == "after":
            reached(args)
        return result

    return wrapper


class _Reached:
    """One failpoint of this process."""

    def __init__(self, point: Failpoint, folder: Path) -> None:
        self._point, self._file = point, folder / point.name
        self._calls = 0

    def __call__(self, args: tuple[object, ...]) -> None:
        if not self._file.exists() or not self._point.matches(args):
            return
        self._calls += 1
        if self._calls < self._point.nth:
            return
        try:
            action, _, seconds = self._file.read_text("ascii").partition(" ")
            hit = self._file.with_name(f"{self._point.name}.hit")
            self._file.rename(hit)
        except FileNotFoundError:  # another process was first
            return
        hit.write_text(str(os.getpid()), "ascii")
        self._calls = 0
        if action == "delay":
            time.sleep(float(seconds))
        else:
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[action])


# --- in the test ------------------------------------------------------------------------------------------


class Armed:
    """The folder, as the test sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def arm(self, point: Failpoint, action: str = "kill") -> None:
        (self.folder / f"{point.name}.hit").unlink(missing_ok=True)
        fresh = self.folder / f"{point.name}.new"
        fresh.write_text(action, "ascii")
        fresh.rename(self.folder / point.name)

    def disarm(self, point: Failpoint) -> bool:
        """Whether it was still armed."""
        try:
            (self.folder / point.name).unlink()
        except FileNotFoundError:
            return False
        return True

    def hit_by(self, point: Failpoint) -> int | None:
        """Pid of the process that was there."""
        try:
            text = (self.folder / f"{point.name}.hit").read_text("ascii")
        except FileNotFoundError:
            return None
        return int(text) if text.isdecimal() else None

    def hit_at(self, point: Failpoint) -> float:
        """When it was, by the monotonic clock; raises FileNotFoundError."""
        return time.monotonic() - (time.time() - (self.folder / f"{point.name}.hit").stat().st_mtime)
