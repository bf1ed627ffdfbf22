"""The compiled kernel: bits that no cut changes, agreement with the eager one, files on disk.

Eager and compiled differ in the order in which a row's squares are added (fp64) and in the root (the compiled
one is correctly rounded, the eager one within 1.1 ulp). So a weight may differ by some 2**-22 of its movement
plus its own last bit per step: `TOLERANCE` of the slice's largest weight after three steps. They never mix in
a job: the kernel is part of the numeric fingerprint.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.oracle import compiled
from tests.oracle.settings import optimizer_of
from tests.oracle.shards import Job, pack
from tests.oracle.test_family import MANIFEST, SPLIT_ABOVE, gradients, weights

from sheepfold_server.optim.payload import TORCH_DTYPES
from sheepfold_server.optim.programs import First, Fold, programs_of
from sheepfold_server.optim.rules import rule_of
from sheepfold_server.shell.kernels import KernelError, KernelFolder
from sheepfold_wire.codecs import Codec
from sheepfold_wire.optimizer import rule_settings
from sheepfold_wire.plan import Plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOLERANCE = 2e-6
JOB = """
name = "ahead"
batch = { samples = 8, slot_samples = 4 }
data = { samples = 10 }
optimizer = { lr = { peak = 1.0 }, groups = [ { match = ["*.bias"], weight_decay = 0.0, beta1 = 0.5 } ] }
wire = { up = "fp32" }
stop = { steps = 5 }
"""
RULES: dict[str, dict[str, Any]] = {
    "lamb": {},
    "lars": {"rule": "lars", "trust_coefficient": 0.1, "weight_decay": 0.01},
}


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(
    config: pytest.Config,
    rule: str,
    shards: int = 1,
    split: int = SPLIT_ABOVE,
    codec: Codec = Codec.FP32,
) -> Job:
    optimizer = optimizer_of(**RULES[rule], clip_norm=1.0)
    kernel = compiled.kernel(config, optimizer, parts=TORCH_DTYPES[codec])
    job = Job.start(MANIFEST, weights(6), shards, optimizer, split, kernel=kernel)
    for t in range(3):
        absent = frozenset({"cube"} if t == 1 else ())
        given = [gradients(6, t), gradients(7, t), gradients(8, t)]
        job.step(t, given, 0.01, [1.0, 2.0, 0.5], codec, absent)
    return job


@pytest.mark.parametrize(("rule", "codec"), [*((rule, Codec.FP32) for rule in RULES), ("lamb", Codec.INT8)])
def test_compiled_bits_depend_neither_on_shards_nor_on_threads(
    rule: str, codec: Codec, pytestconfig: pytest.Config
) -> None:
    digests = set()
    for threads, shards, split in ((1, 1, SPLIT_ABOVE), (2, 3, 100_000), (4, 5, 0), (2, 1, 0)):
        torch.set_num_threads(threads)
        digests.add(trained(pytestconfig, rule, shards, split, codec).digest())
    assert len(digests) == 1


def test_compiled_bits_of_a_row_do_not_depend_on_the_rows_computed_with_it(
    pytestconfig: pytest.Config,
) -> None:
    rule = rule_of(rule_settings(optimizer_of()))
    kernel = compiled.kernel(pytestconfig, optimizer_of())
    draw = torch.Generator().manual_seed(1)
    start = [torch.rand((200, 1024), generator=draw) for _ in range(4)]
    columns = torch.rand((200, len(rule.columns)), generator=draw) * 0.5 + 0.1
    found = set()
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        for count in (200, 1, 2, 63, 64, 100):
            w, total, *state = (tensor.clone() for tensor in start)
            partials = torch.zeros((2, 200), dtype=torch.float64)
            for first in range(0, 200, count):
                at = slice(first, min(200, first + count))
                norms = partials[0][at], partials[1][at]
                kernel.first_pass(rule, w[at], total[at], columns[at], 0.5, *norms, [s[at] for s in state])
            found.add(b"".join(tensor.numpy().tobytes() for tensor in (total, *state, partials)))
    assert len(found) == 1


@pytest.mark.parametrize(("rule", "codec"), [*((rule, Codec.FP32) for rule in RULES), ("lamb", Codec.INT8)])
def test_compiled_and_eager_agree(rule: str, codec: Codec, pytestconfig: pytest.Config) -> None:
    mine = trained(pytestconfig, rule, codec=codec)
    optimizer = optimizer_of(**RULES[rule], clip_norm=1.0)
    eager = Job.start(MANIFEST, weights(6), 1, optimizer)
    for t in range(3):
        absent = frozenset({"cube"} if t == 1 else ())
        given = [gradients(6, t), gradients(7, t), gradients(8, t)]
        eager.step(t, given, 0.01, [1.0, 2.0, 0.5], codec, absent)
    for name, expected in eager.values().items():
        error = np.abs(mine.values()[name] - expected).max(initial=0.0)
        assert error <= TOLERANCE * np.abs(expected).max(initial=0.0), f"{name}: off by {error}"


def test_encoded_copies_come_with_the_new_weights(pytestconfig: pytest.Config) -> None:
    job = trained(pytestconfig, "lamb")
    shard = job.shards[0]
    shard.begin(3)
    shard.fold(3, [(pack(job.plan, 0, gradients(6, 3)), Codec.FP32, 1.0)])
    shard.finish(3, 1.0)
    shard.directions(3, 0.01)
    _, made = shard.apply(3, 0.01, codecs=[Codec.FP32])
    assert bytes(made[Codec.FP32]) == shard.encoded(Codec.FP32)


def test_programs_are_loaded_without_a_compiler(pytestconfig: pytest.Config) -> None:
    built = compiled.folder(pytestconfig)
    compiled.kernel(pytestconfig, optimizer_of())
    folder = KernelFolder("cpu", built.path.parent, compiler="")
    assert folder.offered() == (("eager", "compiled"), "")
    rule = rule_of(rule_settings(optimizer_of()))
    assert folder.kernel("compiled", {First(rule.kind): rule}).device == torch.device("cpu")


def test_without_a_compiler_only_eager_is_offered_and_the_remedy_is_said(tmp_path: Path) -> None:
    offered, note = KernelFolder("cpu", tmp_path, compiler="").offered()
    assert offered == ("eager",)
    assert "apt-get install -y g++" in note


def test_a_program_that_is_missing_names_the_folder_and_the_remedy(tmp_path: Path) -> None:
    folder = KernelFolder("cpu", tmp_path, compiler="")
    with pytest.raises(KernelError, match=r"lacks fold-float32.*install g\+\+ or set kernel"):
        folder.kernel("compiled", {Fold(torch.float32): None})


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    folder = KernelFolder("cpu", tmp_path, compiler="/bin/false")
    with pytest.raises(KernelError, match=r'cannot be compiled.*set kernel = "eager"'):
        folder.kernel("compiled", {Fold(torch.float32): None})


def test_a_damaged_program_is_named_with_the_remedy(tmp_path: Path) -> None:
    folder = KernelFolder("cpu", tmp_path, compiler="")
    folder.path.mkdir(parents=True)
    (folder.path / "fold-float32.so").write_bytes(b"no library")
    with pytest.raises(KernelError, match=r"fold-float32\.so cannot be loaded.*remove it"):
        folder.kernel("compiled", {Fold(torch.float32): None})


def test_settings_that_differ_in_numbers_alone_need_no_other_program() -> None:
    names = [
        [p.name for p in programs_of([rule_of(rule_settings(optimizer_of(**given)))], torch.float32, [()])]
        for given in ({}, {"beta1": 0.5, "eps": 1e-3, "phi": [0.0, 1.0], "debias": "none"})
    ]
    assert names[0] == names[1]


def test_plans_of_one_row_and_of_none_run(pytestconfig: pytest.Config) -> None:
    """A shard may own a single row, or nothing at all."""
    kernel = compiled.kernel(pytestconfig, optimizer_of())
    job = Job.start(MANIFEST, weights(6), 5, None, 0, kernel=kernel)
    assert min(Plan.used_rows(job.plan, shard) for shard in range(5)) >= 0
    reports = job.step(0, [gradients(6, 0)], 0.01)
    assert all(math.isfinite(report.trust_ratio) for report in reports.values())


def test_kernels_are_compiled_ahead_by_a_command(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """What the tests above have built is found: the command needs no second minute."""
    folder = compiled.folder(pytestconfig).path.parent
    job = tmp_path / "job.toml"
    job.write_text(JOB)
    command = [sys.executable, "-m", "sheepfold_server", "kernels", "-f", str(job), "--into", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(rf"6 kernels of job ahead are in {folder}/cpu-.*\n", done.stdout)
