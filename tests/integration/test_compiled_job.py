"""A job on compiled kernels, over real gRPC."""

from __future__ import annotations

import pytest
from tests.integration.harness import digest_of, running_fold, small_job, train
from tests.oracle import compiled

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_compiled_job_has_the_same_bits_for_any_number_of_shards(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHEEPFOLD_KERNELS", str(compiled.folder(pytestconfig).path.parent))
    job = small_job(numerics={"kernel": "compiled"}, wire={"up": "fp32"})
    digests = set()
    for shards in (1, 3):
        with running_fold(shards) as fold:
            train(fold.address, job)
            digests.add(digest_of(fold.address, "small"))
            status = fold.fleet.status("small")
        assert all(s.numeric_fingerprint.startswith("compiled/cpu-") for s in status.shards)
    assert len(digests) == 1
