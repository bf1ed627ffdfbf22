"""What waits on a link, in as few messages as may be: a step is a handful of small ones each way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import sheepfold_wire.messages as m

Said = TypeVar("Said", m.ShardCommand, m.ShardReport)

BATCH_MAX = 16
LARGE = (m.OpenJob, m.Prepared, m.Norms, m.Applied, m.Staged)
"""These grow with the model: each goes alone, so that a message stays within its bound."""


def batches(waiting: Iterable[Said]) -> Iterator[list[Said]]:
    """The same, in order, in groups of at most BATCH_MAX."""
    batch: list[Said] = []
    for said in waiting:
        if batch and (len(batch) == BATCH_MAX or isinstance(said, LARGE)):
            yield batch
            batch = []
        batch.append(said)
        if isinstance(said, LARGE):
            yield batch
            batch = []
    if batch:
        yield batch
