"""A state that a shard had before, made again from its log beside the one it has, to go back to.

It takes the room of one more state and one sum, and the kernel thread for as long as the steps take that the
log has before that version.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future

from sheepfold_server.core.events import StoreEarlier
from sheepfold_server.core.headers import ShardJob
from sheepfold_server.core.replay import Replay, VersionDone, replayed
from sheepfold_server.optim.state import ShardTensors
from sheepfold_server.shell.kernel_work import FirstState, KernelWork, Redone
from sheepfold_server.shell.shard_log import NoLog
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import VersionGone
from sheepfold_wire.frames import Buffer

log = logging.getLogger(__name__)


def made_again(present: KernelWork, job: ShardJob, wanted: StoreEarlier) -> Future[FirstState]:
    """An earlier state of what `present` works on; done when this returns.

    In the kernel thread, between two effects: nothing is appended to the log meanwhile. The future raises
    VersionGone, LogError, OSError; LookupError for a log that contradicts itself.
    """
    made: Future[FirstState] = Future()
    began = time.perf_counter()
    try:
        made.set_result(_made_again(present, job, wanted.version, wanted.older))
        seconds = time.perf_counter() - began
        log.info("version %d was made again from the log in %.2f s", wanted.version, seconds)
    except Exception as error:
        made.set_exception(error)
    present.log.end_of_reading()
    return made


def _made_again(present: KernelWork, job: ShardJob, version: int, older: tuple[int, ...]) -> FirstState:
    encoded: dict[int, Buffer] = {}

    def keep(done: int, copies: dict[Codec, Buffer]) -> None:
        encoded[done] = copies[Codec.FP32]

    layout, groups, kernel = present.tensors.layout, present.tensors.groups, present.tensors.kernel
    tensors = ShardTensors(layout.plan, layout.shard, groups.optimizer, kernel)
    redone = Redone(KernelWork(tensors, NoLog(), keep), present.log.payload, min(older, default=version))
    replay = Replay(job.holds_split, job.counts_skips)
    for effect in replayed(replay, present.log.read_back(), ()):
        if isinstance(effect, VersionDone) and effect.version > version:
            raise VersionGone(f"its log leads to version {effect.version} and later ones")
        redone.take(effect)
        if effect == VersionDone(version):
            break
    else:
        raise VersionGone(f"its log leads to version {replay.version}, and to none after it")
    if not all(before in encoded for before in older):
        raise VersionGone(
            f"its log leads to version {version}, and not to {min(older)}, whose weights the gradients after "
            f"it are computed at; the first version it has all of is {min(encoded) + len(older)}"
        )
    return FirstState(version, tensors.held(), tuple(encoded[before] for before in older))
