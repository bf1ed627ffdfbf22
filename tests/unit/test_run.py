"""sheepfold.run and sheepfold.slot: the plain training loop, over a fake server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.fake_server import RATE, FakeServer, job_of
from torch import Tensor, nn

import sheepfold.run
from sheepfold.attaching import attach
from sheepfold.contract import contract
from sheepfold.errors import Refused
from sheepfold.run import Run
from sheepfold_wire.codecs import Codec
from sheepfold_wire.errors import NonFinite, NotReady
from sheepfold_wire.samples import stream_indices

SAMPLES = 32
X = torch.randn(SAMPLES, 3, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]])


@pytest.fixture(autouse=True)
def _unannounced() -> None:
    sheepfold.run._announced.clear()


def linear(seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, 1)


def loss_of(model: nn.Module, indices: Any) -> Tensor:
    return nn.functional.mse_loss(model(X[indices]), Y[indices])


def joined(server: FakeServer, model: nn.Module | None = None) -> Run:
    return attach(model or linear(), "toy", address=server.connect())


def trained_locally(steps: int, seed: int = 0) -> nn.Linear:
    """Plain gradient descent over the same samples."""
    model = linear(seed)
    for step in range(steps):
        indices = stream_indices(SAMPLES, 5, step * 8, 8)
        gradients = torch.autograd.grad(loss_of(model, indices), list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.sub_(RATE * gradient)
    return model


def test_a_plain_loop_trains_as_local_descent_does_and_ends_with_the_job() -> None:
    server, model = FakeServer(job_of()), linear()
    with joined(server, model) as run:
        results = []
        for slot in run.slots():
            slot.backward(loss_of(model, slot.indices))
            results.append(run.step())
    assert [(r.step, r.version, r.counted) for r in results] == [(t, t, True) for t in (0, 0, 1, 1, 2, 2)]
    assert server.version == 3
    expected = trained_locally(3)
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_after_the_loop_the_model_has_the_final_weights() -> None:
    server, model = FakeServer(job_of()), linear()
    with joined(server, model) as run:
        for slot in run.slots():
            slot.backward(loss_of(model, slot.indices))
            run.step()
        assert run.has_ended
        assert run.version == 3
        assert run.next_slot() is None


def test_if_the_final_weights_do_not_come_the_loop_still_ends(caplog: pytest.LogCaptureFixture) -> None:
    server, model = FakeServer(job_of(stop={"steps": 1})), linear()
    with joined(server, model) as run:
        for slot in run.slots():
            slot.backward(loss_of(model, slot.indices))
            run.step()
            if server.version == 1:
                server.failures["pull"].append(Refused("the shard is gone"))
    assert "the final weights did not come" in caplog.text


def test_two_workers_share_the_slots_and_the_second_ones_weights_are_discarded() -> None:
    server = FakeServer(job_of())
    first, second = linear(0), linear(1)
    with joined(server, first) as one:
        slot = one.next_slot()
        assert slot is not None
        with joined(server, second) as two:
            assert torch.equal(second.weight, first.weight)
            other = two.next_slot()
            assert other is not None
            assert not set(slot.indices.tolist()) & set(other.indices.tolist())


def test_torch_is_seeded_by_the_lease_whoever_computes_the_slot() -> None:
    draws = []
    for _ in range(2):
        server = FakeServer(job_of())
        torch.manual_seed(99)
        with joined(server) as run:
            slot = run.next_slot()
            assert slot is not None
            draws.append(torch.rand(3))
            assert torch.initial_seed() == slot.lease.seed
    assert torch.equal(draws[0], draws[1])


def gradient_of(*micro_batches: tuple[slice, float | None], **sections: Any) -> tuple[Tensor, Any]:
    """The gradient and facts that arrive when slot 0 is computed in these pieces."""
    server, model = FakeServer(job_of(**sections)), linear()
    with joined(server, model) as run:
        slot = run.next_slot()
        assert slot is not None
        for piece, weight in micro_batches:
            slot.backward(loss_of(model, slot.indices[piece]), weight=weight)
        result = run.step()
        assert result.counted
        assert model.weight.grad is None
    attempt = server.pushed[-1]
    shard = next(
        i for i, layout in enumerate(server.layouts) for move in layout.parameters if move.tensor == 0
    )
    view = server.layouts[shard].stretches(attempt.parts[shard], Codec.FP32)
    move = next(move for move in server.layouts[shard].parameters if move.tensor == 0)
    return torch.from_numpy(view.parameters[move.at : move.at + 3].copy()), attempt.facts


def test_one_micro_batch_has_exactly_the_gradient_of_a_plain_backward() -> None:
    model = linear()
    loss = loss_of(model, stream_indices(SAMPLES, 5, 0, 4))
    loss.backward()  # type: ignore[no-untyped-call]
    gradient, facts = gradient_of((slice(0, 4), None))
    assert model.weight.grad is not None
    assert torch.equal(gradient, model.weight.grad.view(-1))
    assert (facts.samples, facts.weight, facts.base_version) == (4, 4.0, 0)
    assert facts.loss == pytest.approx(loss.item())


@pytest.mark.parametrize(
    "pieces",
    [
        ((slice(0, 2), None), (slice(2, 4), None)),
        ((slice(0, 1), 1), (slice(1, 4), 3)),
        ((slice(0, 3), torch.tensor(3)), (slice(3, 4), torch.tensor(1.0))),
    ],
)
def test_micro_batches_add_up_to_the_weighted_mean_of_the_slot(pieces: Any) -> None:
    whole, facts = gradient_of((slice(0, 4), None))
    parts, facts_of_parts = gradient_of(*pieces)
    torch.testing.assert_close(parts, whole)
    assert facts_of_parts.loss == pytest.approx(facts.loss, rel=1e-5)
    assert facts_of_parts.weight == facts.weight == 4.0


TOKENS = {"batch": {"samples": 8, "slot_samples": 4, "weight": "tokens"}}


def test_tokens_are_stated_as_the_weight_and_a_micro_batch_without_any_adds_nothing() -> None:
    nothing = slice(0, 0)  # the mean over no element is NaN
    gradient, facts = gradient_of((nothing, 0), (slice(0, 4), 17), **TOKENS)
    whole, _ = gradient_of((slice(0, 4), None))
    torch.testing.assert_close(gradient, whole)
    assert (facts.samples, facts.weight) == (4, 17.0)


def test_a_slot_without_any_token_counts_as_nothing_but_is_answered() -> None:
    gradient, facts = gradient_of((slice(0, 0), 0), **TOKENS)
    assert not gradient.any()
    assert 0 < facts.weight < 1e-20
    assert facts.present == bytes([0])
    assert facts.loss is None


def slot_of(**sections: Any) -> tuple[Run, Any, nn.Module]:
    model = linear()
    run = joined(FakeServer(job_of(**sections)), model)
    return run, run.next_slot(), model


def test_tokens_without_a_weight_are_refused_by_the_arguments_name() -> None:
    run, slot, model = slot_of(**TOKENS)
    with run, pytest.raises(Refused, match=r"slot\.backward\(loss, weight=\.\.\.\)"):
        slot.backward(loss_of(model, slot.indices))


def test_weights_that_do_not_add_up_to_the_samples_are_refused_with_both_numbers() -> None:
    run, slot, model = slot_of()
    slot.backward(loss_of(model, slot.indices[:3]), weight=3)
    with run, pytest.raises(Refused, match="add up to 3, but it covers 4 samples"):
        run.step()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_count_is_refused(weight: float) -> None:
    run, slot, model = slot_of()
    with run, pytest.raises(Refused, match="give the number of samples or tokens"):
        slot.backward(loss_of(model, slot.indices), weight=weight)


def test_weights_in_some_calls_only_are_refused() -> None:
    run, slot, model = slot_of()
    slot.backward(loss_of(model, slot.indices[:2]))
    with run, pytest.raises(Refused, match="give it in all calls"):
        slot.backward(loss_of(model, slot.indices[2:]), weight=2)


def test_gradients_made_by_hand_are_the_mean_of_the_slot() -> None:
    run, slot, model = slot_of()
    loss = loss_of(model, slot.indices)
    loss.backward()  # type: ignore[no-untyped-call]
    with run:
        result = run.step(loss=loss.item())
    assert result.counted
    assert result.loss == pytest.approx(loss.item())


def test_a_lost_lease_is_no_exception_and_says_why() -> None:
    server, model = FakeServer(job_of()), linear()
    with joined(server, model) as run:
        slot = run.next_slot()
        assert slot is not None
        slot.backward(loss_of(model, slot.indices))
        server.end_leases()
        result = run.step()
    assert not result.counted
    assert "has ended" in result.why


def test_a_gradient_that_is_not_finite_does_not_count_and_the_loop_goes_on() -> None:
    server, model = FakeServer(job_of()), linear()
    with joined(server, model) as run:
        slot = run.next_slot()
        assert slot is not None
        server.failures["push"].append(NonFinite("1 elements of tensor weight are NaN or infinite"))
        slot.backward(loss_of(model, slot.indices))
        assert not run.step().counted
        assert run.next_slot() is not None


def test_backward_runs_at_the_servers_loss_scale_and_what_is_pushed_does_not_show_it() -> None:
    server, model, plain = FakeServer(job_of(loss_scale={})), linear(), linear()
    server.loss_scale = 4096.0
    with joined(server, model) as run:
        slot = run.next_slot()
        assert slot is not None
        loss_of(plain, slot.indices).backward()  # type: ignore[no-untyped-call]
        slot.backward(loss_of(model, slot.indices))
        assert plain.weight.grad is not None
        assert model.weight.grad is not None
        assert torch.equal(model.weight.grad, plain.weight.grad * 4096)  # a power of two is exact
        result = run.contribute()
        assert torch.equal(model.weight.grad, plain.weight.grad)
        assert result.loss == pytest.approx(loss_of(plain, slot.indices).item())
        assert "loss scale: the server's, from 65536 on" in contract(run.worker)


def test_float16_parameters_are_refused_where_their_gradients_are_divided_by_a_scale() -> None:
    server = FakeServer(job_of(loss_scale={}))
    with pytest.raises(Refused, match=r"weight is float16, and the job has a loss scale.*float32"):
        joined(server, linear().half())
    assert not server.named("LeaseRequest")


def test_a_slot_that_is_left_is_handed_back() -> None:
    server, model = FakeServer(job_of()), linear()
    with joined(server, model) as run:
        for number, _slot in enumerate(run.slots()):
            if number == 1:
                break
    reasons = [call.reason for call in server.named("ReleaseRequest")]
    assert reasons == ["left without run.step()", "left without run.step()", "closed"]


def test_a_step_without_a_slot_is_refused_with_the_remedy() -> None:
    with joined(FakeServer(job_of())) as run, pytest.raises(Refused, match=r"run\.slots\(\)"):
        run.step()


def test_the_initial_upload_states_no_samples_and_fp32() -> None:
    server = FakeServer(job_of(wire={"up": "bf16"}))
    with joined(server) as run:
        run.next_slot()
    init = server.named("PushHeader")[0]
    assert (init.codec, init.facts.samples, init.facts.weight) == ("fp32", 0, 1.0)


def test_statistics_go_up_as_they_are_and_come_down_as_the_servers() -> None:
    server = FakeServer(job_of(statistics={"policy": "mean"}, batch={"samples": 4, "slot_samples": 4}))
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    norm = model[0]
    assert isinstance(norm, nn.BatchNorm1d)
    with joined(server, model) as run:
        slot = run.next_slot()
        assert slot is not None
        slot.backward(loss_of(model, slot.indices))
        assert norm.running_mean is not None
        assert norm.num_batches_tracked is not None
        sent = norm.running_mean.clone()
        run.step()
        norm.running_mean.zero_()
        norm.num_batches_tracked.zero_()
        run.next_slot()
    assert torch.equal(norm.running_mean, sent)
    assert norm.num_batches_tracked.item() == 1


def test_statistics_of_a_slot_do_not_depend_on_the_slots_the_worker_did_before() -> None:
    """Else the state of a job would depend on who computed what."""
    sent = []
    for skipped in (0, 1):
        server = FakeServer(job_of(statistics={"policy": "mean"}))
        model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
        norm = model[0]
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        with joined(server, model) as run:
            for slot in run.slots():
                if slot.lease.slot == 1:
                    loss_of(model, slot.indices)
                    sent.append(norm.running_mean.clone())
                    break
                if not skipped:
                    slot.backward(loss_of(model, slot.indices))
                else:
                    slot.backward(loss_of(model.eval(), slot.indices))
                    model.train()
                run.step()
    assert torch.equal(*sent)


def test_indices_are_refused_where_the_job_has_its_own_loader() -> None:
    run, slot, _ = slot_of(data={"mode": "free"})
    with run, pytest.raises(Refused, match=r'data\.mode = "free"'):
        _ = slot.indices


def test_indices_are_those_of_the_jobs_stream() -> None:
    run, slot, _ = slot_of()
    with run:
        assert slot.indices.dtype == np.int64
        assert np.array_equal(slot.indices, stream_indices(SAMPLES, 5, 0, 4))


def test_a_config_creates_the_job_and_the_same_one_again_is_taken() -> None:
    server = FakeServer()
    for _ in range(2):
        attach(linear(), address=server.connect(), config=job_of()).close()
    assert len({call.request_id for call in server.named("CreateJobRequest")}) == 2


def test_a_config_without_a_name_takes_the_one_given() -> None:
    server, values = FakeServer(), job_of().model_dump(mode="json")
    del values["name"]
    with attach(linear(), "toy", address=server.connect(), config=values) as run:
        assert run.job == "toy"


def test_a_config_with_another_name_is_refused_with_both() -> None:
    with pytest.raises(Refused, match=r"job='tow', but config\.name is 'toy'"):
        attach(linear(), "tow", address=FakeServer().connect(), config=job_of())


def test_a_bad_config_is_refused_before_anything_is_sent() -> None:
    server = FakeServer()
    with pytest.raises(Refused, match="BAD_CONFIG"):
        attach(linear(), "toy", address=server.connect(), config={"batch": {"samples": 8, "slot_samples": 3}})
    assert server.calls == []


def test_an_unknown_job_without_a_config_is_refused_with_the_remedy() -> None:
    with pytest.raises(Refused, match=r"no job bert here .*config=Job"):
        attach(linear(), "bert", address=FakeServer(job_of()).connect())


def test_without_a_name_the_only_job_is_taken_and_none_is_refused() -> None:
    with attach(linear(), address=FakeServer(job_of()).connect()) as run:
        assert run.job == "toy"
    with pytest.raises(Refused, match="the server has none"):
        attach(linear(), address=FakeServer().connect())


def test_creating_waits_for_a_server_that_is_starting() -> None:
    server = FakeServer()
    server.failures["CreateJobRequest"].append(NotReady("shards are missing"))
    attach(linear(), address=server.connect(), config=job_of()).close()


def test_the_contract_is_short_and_names_what_was_agreed() -> None:
    with joined(FakeServer(job_of())) as run:
        lines = contract(run.worker).splitlines()
    assert len(lines) <= 15
    assert lines[0] == "job toy: 4 parameters on 2 shards, version -1"
    text = "\n".join(lines)
    for said in (
        "fp32 on the server",
        "up fp32",
        "down fp32",
        "peak 0.5",
        "clip (off)",
        "K = 2",
        "indexed",
        "beta2=0.999",
    ):
        assert said in text
    assert "durability: none: survives any worker; the loss of a shard or the coordinator" in text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"samples": 32, "seed": 5}, "data: indexed: leases name samples of 32, seed 5"),
        (
            {"mode": "shards", "files": [{"name": "a.tar", "samples": 32}]},
            "data: shards: leases name ranges of 1 files, 32 samples",
        ),
        ({"mode": "free"}, "data: free: your own loader"),
    ],
)
def test_the_contract_names_what_a_lease_is_about(data: dict[str, Any], said: str) -> None:
    with joined(FakeServer(job_of(data=data))) as run:
        assert said in contract(run.worker)


def test_the_contract_is_printed_once_and_beside_the_scripts_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = FakeServer(job_of())
    for _ in range(2):
        joined(server).close()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("job toy: 4 parameters") == 1


def test_step_number_is_the_jobs_and_not_a_local_count() -> None:
    server, model = FakeServer(job_of(batch={"samples": 4, "slot_samples": 4})), linear()
    with joined(server, model) as run:
        for slot in run.slots():
            assert run.step_number == slot.step == server.version
            slot.backward(loss_of(model, slot.indices))
            run.step()


def test_threads_are_those_asked_for() -> None:
    before = torch.get_num_threads()
    try:
        attach(linear(), "toy", address=FakeServer(job_of()).connect(), threads=1).close()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
