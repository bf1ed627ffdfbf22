"""sheepfold_server.core.kernels, and how a job is opened with its choice."""

from __future__ import annotations

import json

import pytest
from tests.unit.desk import Desk, job_of

import sheepfold_wire.messages as m
from sheepfold_server.core.kernels import choose_kernel, fingerprint
from sheepfold_wire.errors import PreconditionError

BOTH = ("eager", "compiled")
LARGE = 1_000_000


def hello(shard: int, kernels: tuple[str, ...] = BOTH, note: str = "") -> m.Hello:
    return m.Hello(shard + 1, shard, 2, f"shard-{shard}", "cpu-avx2/torch-x", 100, kernels, note)


def test_auto_is_compiled_where_every_shard_offers_it() -> None:
    assert choose_kernel("auto", [hello(0), hello(1)], LARGE) == ("compiled", "")


def test_auto_is_eager_where_one_shard_lacks_a_compiler_and_says_which_and_what_to_install() -> None:
    kernel, told = choose_kernel(
        "auto", [hello(0), hello(1, ("eager",), "no C++ compiler; install g++")], LARGE
    )
    assert kernel == "eager"
    assert told == "the kernel is eager: shard 1: no C++ compiler; install g++"


def test_auto_compiles_for_no_small_model_but_compiled_does() -> None:
    kernel, told = choose_kernel("auto", [hello(0)], LARGE - 1)
    assert (kernel, told) == (
        "eager",
        "the kernel is eager: 999,999 parameters, fewer than 1,000,000, are not worth compiling for",
    )
    assert choose_kernel("compiled", [hello(0)], 1) == ("compiled", "")


def test_compiled_is_refused_where_one_shard_cannot() -> None:
    with pytest.raises(PreconditionError, match='kernel = "compiled" cannot be had: shard 1: no C'):
        choose_kernel("compiled", [hello(0), hello(1, ("eager",), "no C++ compiler")], 1)


def test_eager_is_eager_whatever_is_offered() -> None:
    assert choose_kernel("eager", [hello(0)], LARGE) == ("eager", "")


def test_the_fingerprint_names_the_kernel_first() -> None:
    assert fingerprint("compiled", hello(0)) == "compiled/cpu-avx2/torch-x"
    assert fingerprint("", hello(0)) == "cpu-avx2/torch-x"


def test_the_choice_goes_to_the_shards_and_not_into_the_job_as_created() -> None:
    desk = Desk(job_of(numerics={"kernel": "auto"})).open()
    (opened,) = desk.sent(m.OpenJob, 1)
    assert json.loads(opened.config_json)["numerics"] == {"kernel": "eager"}
    assert desk.state.config.created.numerics.kernel == "auto"


def test_a_shard_that_comes_back_without_the_jobs_kernel_pauses_the_job() -> None:
    desk = Desk(job_of()).open()
    desk.state.kernel = "compiled"
    desk.connect(0, is_resumed=True)
    assert desk.state.life.value == "paused"
    assert "without the job's kernel, compiled" in desk.state.why
