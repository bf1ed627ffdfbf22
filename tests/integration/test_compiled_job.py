"""A job on compiled kernels, over real gRPC."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.harness import digest_of, running_fold, small_job, train, until
from tests.oracle import compiled
from typer.testing import CliRunner

from sheepfold_server.cli.app import app

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


def test_a_compiled_job_comes_back_from_its_logs_and_is_replayed(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A logged mean is fp32, whatever gradients travel as, and is applied without encoded copies."""
    monkeypatch.setenv("SHEEPFOLD_KERNELS", str(compiled.folder(pytestconfig).path.parent))
    job = small_job(numerics={"kernel": "compiled"}, wire={"up": "bf16"})
    with running_fold(2, directory=tmp_path) as fold:
        train(fold.address, job)
        digest = digest_of(fold.address, "small")
    ran = CliRunner().invoke(app, ["replay", "small", "--dir", str(tmp_path)])
    assert ran.output.split() == ["version", "4", digest, "log"]
    with running_fold(2, directory=tmp_path) as fold:
        until(lambda: fold.fleet.status("small").state == "ended", "the job is taken up")
        assert digest_of(fold.address, "small") == digest
