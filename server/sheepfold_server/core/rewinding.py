"""Back to an earlier version, as a new lineage: what may be asked, and what has been kept to go back to."""

from __future__ import annotations

from typing import NoReturn

import sheepfold_wire.messages as m
from sheepfold_server.core.state import JobState
from sheepfold_wire.errors import BadConfig, NoCheckpoint


def rewind(state: JobState, request: m.RewindRequest) -> NoReturn:
    """Raises BadConfig for what cannot be meant, NoCheckpoint where the version is in none."""
    version = request.to_version
    if not 0 <= version <= state.version:
        has = f"versions 0 to {state.version}" if state.version >= 0 else "no version yet"
        raise BadConfig(f"to_version = {version}: job {state.name} has {has}")
    if request.skip and state.job.data.mode != "indexed":
        raise BadConfig(f'skip: data.mode = "{state.job.data.mode}" has no sample stream; leave it out')
    first = state.batch.offset(version)
    for samples in request.skip:
        if samples.count < 1 or samples.start < first:
            raise BadConfig(
                f"skip: {samples.count} samples from {samples.start} on; give 1 or more, from {first} on, "
                f"the first that version {version} does not have"
            )
    raise NoCheckpoint(
        f"version {version} of job {state.name} is in no checkpoint, since jobs keep none yet: it cannot go "
        'back; begin another job from an export (init.from = "file:PATH")'
    )
