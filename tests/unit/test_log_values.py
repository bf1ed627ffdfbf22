"""Records as text: every bit comes back, and what is not known is refused."""

from __future__ import annotations

import math

import pytest

import sheepfold_wire.messages as m
from sheepfold_server.core.records import ConfigChanged, PreparedSum, SamplesSkipped, StateSaved
from sheepfold_server.core.steps import Decided, SlotTaken
from sheepfold_server.shell.job_log import VALUES as OF_JOB
from sheepfold_server.shell.shard_log import VALUES as OF_SHARD
from sheepfold_server.storage.log.errors import LogMismatch
from sheepfold_wire.ids import AttemptId

ODD = (0.1, 1e-310, 5e-324, 1.7976931348623157e308, -0.0, 1 / 3)
COMMIT = m.Commit("j", 3, 7, "map", False, 0.1, 1 / 3, b"\x00\xff")
PREPARED = PreparedSum(m.Prepared("j", 7, "map", True, 2.5, ODD), (m.SlotEntry(0, AttemptId(3, 9)),))
FACTS = m.Facts(4, 4.0, 6, b"\x01", None, (m.Metric("accuracy", 0.5),))
DECIDED = Decided(
    COMMIT,
    (SlotTaken(AttemptId(3, 9), "w", 2, FACTS, ((0, 1, 2, 3),)),),
    None,
    "",
    8.0,
    True,
    1.5,
    b"\x01\x80",
)


@pytest.mark.parametrize("record", [COMMIT, PREPARED, StateSaved(3, (), AttemptId(1, 2))])
def test_record_of_a_shard_comes_back_equal(record: object) -> None:
    assert OF_SHARD.decode(OF_SHARD.encode(record)) == record  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "record", [DECIDED, ConfigChanged(3, "{}", "me", ""), SamplesSkipped(((0, 1, 2, 3), (4, 5, 6, 7)))]
)
def test_record_of_a_job_comes_back_equal(record: object) -> None:
    assert OF_JOB.decode(OF_JOB.encode(record)) == record  # type: ignore[arg-type]


def test_floats_keep_their_sign_and_every_bit() -> None:
    found = OF_SHARD.decode(OF_SHARD.encode(PREPARED))
    assert isinstance(found, PreparedSum)
    assert [value.hex() for value in found.prepared.sum_of_squares] == [value.hex() for value in ODD]
    broken = m.Prepared("j", 0, "map", False, math.inf, (math.nan,))
    found = OF_SHARD.decode(OF_SHARD.encode(PreparedSum(broken, ())))
    assert isinstance(found, PreparedSum)
    assert found.prepared.max_abs == math.inf
    assert math.isnan(found.prepared.sum_of_squares[0])


@pytest.mark.parametrize("text", ['["Unheard",{}]', '["StateSaved",{"version":1,"later":2}]'])
def test_record_of_a_newer_version_is_refused(text: str) -> None:
    with pytest.raises(LogMismatch, match="newer"):
        OF_SHARD.decode(text)


def test_value_that_is_no_record_of_this_log_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match="DigestRequest"):
        OF_SHARD.encode(m.DigestRequest("j"))  # type: ignore[arg-type]
