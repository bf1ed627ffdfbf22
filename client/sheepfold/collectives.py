"""What the ranks of a host group tell each other, and how they add up, by torch.distributed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from sheepfold.errors import GroupBroken
from sheepfold.rounds import Share

WAIT = timedelta(days=30)
"""For ranks that wait while their leader waits: a job may be paused. One that dies is noticed at once."""


class Ranks:
    """The ranks of one process group. Every method is called by all of them, or none."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Makes a gloo group of the same ranks, for what is said and for weights. Raises GroupBroken."""
        self._global = dist.get_process_group_ranks(group)
        self.share = Share(dist.get_rank(group), len(self._global))
        self._bulk = group
        is_nccl = torch.cuda.is_available() and "nccl" in str(dist.get_backend_config(group))
        self._device = torch.device("cuda", torch.cuda.current_device()) if is_nccl else torch.device("cpu")
        with _named():
            made = dist.new_group(self._global, WAIT, "gloo", use_local_synchronization=True)
        self._control = made

    @property
    def leads(self) -> bool:
        return self.share.rank == 0

    def told(self, value: Any) -> list[Any]:
        """What each rank says, in the order of ranks; anything that JSON holds."""
        mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
        lengths = self._gathered(torch.tensor([mine.size]))
        padded = torch.zeros(max(int(length) for length in lengths), dtype=torch.uint8)
        padded[: mine.size] = torch.from_numpy(mine.copy())
        pairs = zip(self._gathered(padded), lengths, strict=True)
        return [json.loads(each[: int(length)].numpy().tobytes()) for each, length in pairs]

    def first(self, value: Any) -> Any:
        """What rank 0 says."""
        return self.told(value)[0]

    def _gathered(self, mine: Tensor) -> list[Tensor]:
        found = [torch.empty_like(mine) for _ in self._global]
        with _named():
            dist.all_gather(found, mine, group=self._control)
        return found

    def add_up(self, floats: Tensor, integers: npt.NDArray[np.int64], owner: int) -> None:
        """The sum of all ranks' floats and the largest of their integers, in place at one rank.

        Of ranks that do not own them the values are lost. The order of additions depends on the group alone.
        """
        held = floats.to(self._device)
        largest = torch.from_numpy(integers.copy())
        with _named():
            if held.numel():
                dist.reduce(held, self._global[owner], dist.ReduceOp.SUM, self._bulk)
            if largest.numel():
                dist.reduce(largest, self._global[owner], dist.ReduceOp.MAX, self._control)
        if owner == self.share.rank:
            integers[:] = largest.numpy()
            if held is not floats:
                floats.copy_(held)

    def spread(self, part: bytearray, owner: int) -> None:
        """One rank's bytes, in place at all of them."""
        if part:
            with _named():
                dist.broadcast(torch.frombuffer(part, dtype=torch.uint8), self._global[owner], self._control)


@contextmanager
def _named() -> Iterator[None]:
    """Raises GroupBroken for what torch.distributed raises."""
    try:
        yield
    except RuntimeError as error:
        raise GroupBroken(f"{error}".splitlines()[0]) from error
