"""sheepfold_server.shell.made_again: how far back a shard's log leads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.test_kernel_work import MANIFEST, begun, bytes_of, update
from tests.unit.test_shard import JOB

from sheepfold_server.core.events import StoreEarlier
from sheepfold_server.core.records import StateSaved
from sheepfold_server.shell.kernel_work import KernelWork
from sheepfold_server.shell.made_again import made_again
from sheepfold_server.shell.shard_log import ShardLog
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import VersionGone
from sheepfold_wire.ids import NO_ATTEMPT
from sheepfold_wire.plan import Plan


@pytest.fixture
def work(tmp_path: Path) -> Iterator[KernelWork]:
    """Its log was cut at version 3, and its state is another one by now."""
    log = ShardLog(tmp_path, "a shard", Plan.of(MANIFEST, 1).part_bytes(0, Codec.FP32), is_synced=False)
    assert list(log.read()) == []
    made = begun()
    log.append(StateSaved(3, (), NO_ATTEMPT), made.tensors.held().pieces())
    made.log = log
    yield made
    log.close()


def test_state_is_that_of_the_log_and_the_present_one_is_left_alone(work: KernelWork) -> None:
    saved = bytes_of(work.tensors.held())
    update(work)
    present = bytes_of(work.tensors.held())
    made = made_again(work, JOB, StoreEarlier(3, ())).result()
    assert bytes_of(made.snapshot) == saved != present
    assert (made.version, made.older) == (3, ())
    assert bytes_of(work.tensors.held()) == present


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (StoreEarlier(2, ()), "leads to version 3 and later ones"),
        (StoreEarlier(4, ()), "leads to version 3, and to none after it"),
        (StoreEarlier(3, (2,)), "leads to version 3, and not to 2, .* has all of is 4"),
    ],
)
def test_what_the_log_does_not_lead_to_is_refused_with_what_it_does(
    work: KernelWork, wanted: StoreEarlier, told: str
) -> None:
    with pytest.raises(VersionGone, match=told):
        made_again(work, JOB, wanted).result()
