"""sheepfold.optimizer: the conventions of torch.optim, over a fake server."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fake_server import FakeServer, job_of
from tests.unit.test_run import linear, loss_of, trained_locally
from torch import nn

from sheepfold.errors import JobEnded, Refused
from sheepfold.model_tensors import tensors_of
from sheepfold.optimizer import RemoteOptimizer
from sheepfold.schedules import tabulated
from sheepfold_wire.errors import NonFinite

ONE_SLOT: dict[str, Any] = {"batch": {"samples": 8, "slot_samples": 8}}


def started(model: nn.Module, server: FakeServer | None = None, **sections: Any) -> RemoteOptimizer:
    used = server or FakeServer(job_of(**{**ONE_SLOT, **sections}))
    return RemoteOptimizer(model.named_parameters(), "toy", address=used.connect())


def backward(model: nn.Module, optimizer: RemoteOptimizer) -> float:
    assert optimizer.run.slot is not None
    loss = loss_of(model, optimizer.run.slot.indices)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def test_a_loop_for_a_local_optimizer_trains_and_learns_that_the_job_has_ended() -> None:
    model = linear()
    optimizer = started(model)
    while not optimizer.has_ended:
        optimizer.zero_grad()
        backward(model, optimizer)
        optimizer.step()
    for mine, theirs in zip(model.parameters(), trained_locally(3).parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert optimizer.run.version == 3
    with pytest.raises(JobEnded):
        optimizer.step()
    optimizer.run.close()


def test_step_leaves_gradients_to_the_caller_and_returns_nothing_without_a_closure() -> None:
    model = linear()
    optimizer = started(model)
    backward(model, optimizer)
    assert optimizer.step() is None
    assert model.weight.grad is not None
    optimizer.zero_grad()
    assert model.weight.grad is None
    optimizer.run.close()


def test_a_closure_runs_with_gradients_and_its_loss_is_returned_and_stated() -> None:
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)

    def closure() -> Any:
        optimizer.zero_grad()
        assert optimizer.run.slot is not None
        loss = loss_of(model, optimizer.run.slot.indices)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.no_grad():
        loss: Any = optimizer.step(closure)
    facts = server.pushed[-1].facts
    assert facts is not None
    assert facts.loss == pytest.approx(loss.item())
    optimizer.run.close()


def test_accumulated_micro_batches_are_the_callers_mean() -> None:
    whole, pieces = linear(), linear()
    one, two = started(whole), started(pieces)
    backward(whole, one)
    assert two.run.slot is not None
    for piece in two.run.slot.indices.reshape(2, 4):
        (loss_of(pieces, piece) / 2).backward()  # type: ignore[no-untyped-call]
    for optimizer in (one, two):
        optimizer.step()
    torch.testing.assert_close(pieces.weight, whole.weight)
    for optimizer in (one, two):
        optimizer.run.close()


def test_groups_show_the_servers_values() -> None:
    optimizer = started(linear(), optimizer={"lr": {"peak": 0.25}, "beta1": 0.8, "weight_decay": 0.1})
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.25, (0.8, 0.999), 0.1)
    optimizer.run.close()


def test_a_local_learning_rate_is_named_once_and_ignored() -> None:
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    named = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            backward(model, optimizer)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    named = sum("the server owns lr (peak 0.5" in str(warning.message) for warning in caught)
    assert named == 1
    assert server.version == 3
    optimizer.run.close()


def test_a_learning_rate_given_in_a_group_is_named_too() -> None:
    groups = [{"params": list(linear().named_parameters()), "lr": 3.0}]
    with pytest.warns(UserWarning, match=r"param_groups\[0\]\['lr'\] = 3.0 has no effect"):
        optimizer = RemoteOptimizer(groups, "toy", address=FakeServer(job_of()).connect())
    assert optimizer.param_groups[0]["lr"] == 0.5
    optimizer.run.close()


def test_parameters_without_names_go_by_their_places() -> None:
    server = FakeServer(job_of())
    model = linear()
    groups = [{"params": [model.weight]}, {"params": [model.bias]}]
    RemoteOptimizer(groups, "toy", address=server.connect()).run.close()
    assert [tensor.name for tensor in server.plan.manifest.tensors] == ["group0.param0", "group1.param0"]


def test_state_goes_round_without_tensors_and_without_a_call() -> None:
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)
    calls = len(server.calls)
    state = optimizer.state_dict()
    assert state["sheepfold"]["job"] == "toy"
    assert state["state"] == {}
    optimizer.load_state_dict(copy.deepcopy(state))
    optimizer.load_state_dict(state)
    assert optimizer.state_dict() == state
    assert len(server.calls) == calls
    backward(model, optimizer)
    optimizer.step()
    assert optimizer.state_dict()["sheepfold"]["step"] == 1
    optimizer.run.close()


def test_the_state_of_another_model_or_optimizer_is_refused() -> None:
    model = linear()
    optimizer = started(model)
    state = optimizer.state_dict()
    state["sheepfold"] = {**state["sheepfold"], "manifest": "f" * 64}
    with pytest.raises(Refused, match="of another model"):
        optimizer.load_state_dict(state)
    with pytest.raises(Refused, match="a local optimizer's"):
        optimizer.load_state_dict(torch.optim.SGD(model.parameters(), 0.1).state_dict())
    optimizer.run.close()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_holds_no_connection_and_says_so_when_it_is_used(copied: Any) -> None:
    optimizer = started(linear())
    twin = copied(optimizer)
    assert twin.param_groups[0]["lr"] == 0.5
    with pytest.raises(Refused, match="copy of the optimizer of job toy"):
        twin.step()
    with pytest.raises(Refused, match="sealed"):
        twin.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    assert optimizer.run.slot is not None
    optimizer.run.close()


def test_a_parameter_group_after_the_start_is_refused() -> None:
    optimizer = started(linear())
    with pytest.raises(Refused, match="sealed"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    optimizer.run.close()


def test_an_absent_gradient_is_absent_on_the_wire() -> None:
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)
    backward(model, optimizer)
    model.bias.grad = None
    optimizer.step()
    facts = server.pushed[-1].facts
    assert facts is not None
    assert facts.present == bytes([0b01])
    optimizer.run.close()


def test_a_sparse_gradient_is_refused_by_name() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = started(table)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(Refused, match="weight has a sparse gradient"):
        optimizer.step()
    optimizer.run.close()


def test_tokens_need_the_weight_and_state_it() -> None:
    model = linear()
    server = FakeServer(job_of(batch={"samples": 8, "slot_samples": 8, "weight": "tokens"}))
    optimizer = started(model, server)
    backward(model, optimizer)
    with pytest.raises(Refused, match="weight="):
        optimizer.step()
    optimizer.weight = 21.0
    optimizer.step()
    facts = server.pushed[-1].facts
    assert facts is not None
    assert facts.weight == 21.0
    optimizer.run.close()


def test_step_hooks_and_isinstance_work_as_for_any_optimizer() -> None:
    model = linear()
    optimizer = started(model)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    backward(model, optimizer)
    optimizer.step()
    assert seen == ["before", "after"]
    assert isinstance(optimizer, torch.optim.Optimizer)
    optimizer.run.close()


def test_a_lost_lease_shows_in_the_result_and_raises_nothing() -> None:
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)
    backward(model, optimizer)
    server.end_leases()
    optimizer.step()
    assert optimizer.result is not None
    assert not optimizer.result.counted
    assert optimizer.run.slot is not None
    optimizer.run.close()


# --- existing loops --------------------------------------------------------------------------------------


def test_steps_within_no_sync_contribute_nothing_and_keep_the_gradient() -> None:
    whole, pieces = linear(), linear()
    one, two = started(whole), started(pieces)
    backward(whole, one)
    one.step()
    assert two.run.slot is not None
    first, last = two.run.slot.indices.reshape(2, 4)
    with two.no_sync():
        (loss_of(pieces, first) / 2).backward()  # type: ignore[no-untyped-call]
        two.step()
        two.zero_grad()
    (loss_of(pieces, last) / 2).backward()  # type: ignore[no-untyped-call]
    two.step()
    assert two.run.version == 1
    torch.testing.assert_close(pieces.weight, whole.weight)
    for optimizer in (one, two):
        optimizer.run.close()


def test_a_loss_scaler_changes_nothing_but_the_scale_of_backward() -> None:
    plain, scaled = linear(), linear()
    one, two = started(plain), started(scaled)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        backward(plain, one)
        one.step()
        one.zero_grad()
        assert two.run.slot is not None
        scaler.scale(loss_of(scaled, two.run.slot.indices)).backward()
        scaler.step(two)
        scaler.update()
        two.zero_grad()
    assert torch.equal(plain.weight, scaled.weight)  # a power of two is exact
    assert two.run.version == 3
    for optimizer in (one, two):
        optimizer.run.close()


def test_a_slot_that_overflows_is_handed_back_and_the_scale_halved() -> None:
    model, server = linear(), FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert optimizer.run.slot is not None
    first, indices = optimizer.run.slot.lease, optimizer.run.slot.indices
    (scaler.scale(loss_of(model, indices)) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert server.version == 0
    again = optimizer.run.slot.lease
    assert (again.step, again.slot, again.attempt != first.attempt) == (first.step, first.slot, True)
    assert "overflowed" in server.named("ReleaseRequest")[-1].reason
    optimizer.run.close()


def test_the_servers_scaler_takes_the_scale_of_each_slot_and_keeps_it() -> None:
    plain, scaled, server = linear(), linear(), FakeServer(job_of(**ONE_SLOT, loss_scale={}))
    server.loss_scale = 256.0
    one, two = started(plain), started(scaled, server)
    scaler = two.grad_scaler()
    for _ in range(3):
        assert scaler.get_scale() == server.loss_scale
        backward(plain, one)
        one.step()
        one.zero_grad()
        assert two.run.slot is not None
        scaler.scale(loss_of(scaled, two.run.slot.indices)).backward()
        server.loss_scale *= 2
        scaler.step(two)
        scaler.update()
        two.zero_grad()
    assert torch.equal(plain.weight, scaled.weight)
    for optimizer in (one, two):
        optimizer.run.close()


@pytest.mark.parametrize("unscales", [False, True])
def test_an_overflow_at_the_servers_scale_is_pushed_so_that_the_server_knows(unscales: bool) -> None:
    model, server = linear(), FakeServer(job_of(**ONE_SLOT, loss_scale={}))
    server.loss_scale = 256.0
    optimizer = started(model, server)
    scaler = optimizer.grad_scaler()
    assert optimizer.run.slot is not None
    (scaler.scale(loss_of(model, optimizer.run.slot.indices)) * float("inf")).backward()
    if unscales:
        scaler.unscale_(optimizer)
    server.failures["push"].append(NonFinite("4 elements of tensor weight are NaN or infinite"))
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.result is not None
    assert not optimizer.result.counted
    assert not server.named("ReleaseRequest")
    optimizer.run.close()


def test_a_scaler_of_the_workers_own_is_named_once_where_the_job_owns_the_scale() -> None:
    model, server = linear(), FakeServer(job_of(**ONE_SLOT, loss_scale={}))
    optimizer, scaler = started(model, server), torch.amp.GradScaler("cpu", init_scale=64.0)
    for count in (1, 0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert optimizer.run.slot is not None
            scaler.scale(loss_of(model, optimizer.run.slot.indices)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert ["use optimizer.grad_scaler()" in str(each.message) for each in caught] == [True] * count
    optimizer.run.close()


def test_a_job_without_a_loss_scale_has_no_scaler_to_give() -> None:
    optimizer = started(linear())
    with pytest.raises(Refused, match=r"job toy has no loss scale.*\[loss_scale\]"):
        optimizer.grad_scaler()
    optimizer.run.close()


def test_gradients_that_were_unscaled_by_the_script_are_taken_as_they_are() -> None:
    plain, scaled = linear(), linear()
    one, two = started(plain), started(scaled)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    backward(plain, one)
    one.step()
    assert two.run.slot is not None
    scaler.scale(loss_of(scaled, two.run.slot.indices)).backward()
    scaler.unscale_(two)
    scaler.step(two)
    assert torch.equal(plain.weight, scaled.weight)
    for optimizer in (one, two):
        optimizer.run.close()


def test_a_free_loop_must_say_how_many_samples_a_step_is_the_mean_of() -> None:
    free = {"data": {"mode": "free"}}
    server = FakeServer(job_of(**ONE_SLOT, **free))
    with pytest.raises(Refused, match=r"RemoteOptimizer\(\.\.\., weight=\.\.\.\)") as caught:
        started(linear(), server)
    assert caught.value.field == "weight"
    assert not server.named("LeaseRequest")
    model = linear()
    optimizer = RemoteOptimizer(model.named_parameters(), "toy", address=server.connect(), weight=8)
    loss_of(model, torch.arange(8).numpy()).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    facts = server.pushed[-1].facts
    assert facts is not None
    assert (facts.samples, facts.weight) == (8, 8.0)
    optimizer.run.close()


def test_a_tabulated_schedule_is_the_scripts_own_and_named_by_no_warning() -> None:
    def make(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    model = linear()
    optimizer = started(model, optimizer={"lr": tabulated(make, peak=0.5, steps=3)})
    scheduler = make(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            backward(model, optimizer)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    optimizer.run.close()


def test_the_names_of_a_compiled_model_are_those_of_the_model() -> None:
    plain = nn.Sequential(nn.Linear(4, 1))
    compiled = torch.compile(plain, backend="eager")
    assert list(tensors_of(compiled).parameters) == list(tensors_of(plain).parameters)  # type: ignore[arg-type]
    outer = nn.ModuleDict({"inner": compiled})  # type: ignore[dict-item]
    assert list(tensors_of(outer).parameters) == ["inner.0.weight", "inner.0.bias"]


def test_a_compiled_model_trains_as_the_model() -> None:
    plain, inner = linear(), linear()
    compiled: Any = torch.compile(inner, backend="aot_eager")
    for model, parameters in ((plain, plain), (compiled, inner)):
        optimizer = started(parameters)
        while not optimizer.has_ended:
            optimizer.zero_grad()
            assert optimizer.run.slot is not None
            loss_of(model, optimizer.run.slot.indices).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        optimizer.run.close()
    torch.testing.assert_close(plain.weight, inner.weight)


def test_parameters_that_live_in_bf16_train_in_fp32_on_the_server() -> None:
    """bf16 weights come down, fp32 ones are kept: small updates add up that bf16 would lose."""
    server = FakeServer(job_of(**ONE_SLOT, stop={"steps": 40}, optimizer={"lr": {"peak": 0.5}}))
    model = nn.Linear(4, 1).bfloat16()
    optimizer = started(model, server)
    with torch.no_grad():
        before = float(model.weight[0, 0])
    while not optimizer.has_ended:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, abs(before) * 2**-10)  # below half a unit of bf16
        optimizer.step()
    assert model.weight.dtype is torch.bfloat16
    assert float(model.weight[0, 0].detach()) != before
    optimizer.run.close()


def test_a_model_that_averages_its_own_gradients_is_refused(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(linear())
        with pytest.raises(Refused, match="wrapped in DistributedDataParallel"):
            tensors_of(wrapped)
    finally:
        torch.distributed.destroy_process_group()


def test_autocast_and_plain_fp32_give_gradients_of_the_same_names_and_types() -> None:
    model = linear()
    optimizer = started(model)
    assert optimizer.run.slot is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, optimizer.run.slot.indices)
    loss.backward()  # type: ignore[no-untyped-call]
    assert model.weight.grad is not None
    assert model.weight.grad.dtype is torch.float32
    optimizer.step()
    assert optimizer.run.version == 1


def test_a_loss_given_beforehand_is_stated_with_one_step() -> None:
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)
    for stated in (2.5, None):
        optimizer.loss = stated
        backward(model, optimizer)
        optimizer.step()
        facts = server.pushed[-1].facts
        assert facts is not None
        assert facts.loss == stated
        assert optimizer.loss is None
    optimizer.run.close()


def test_a_loss_given_beforehand_counts_before_the_closures() -> None:
    """Lightning's closure returns the last micro-batch's loss, divided by their number."""
    model = linear()
    optimizer = started(model)
    optimizer.loss = 2.5
    assert optimizer.step(lambda: backward(model, optimizer)) != 2.5
    assert optimizer.result is not None
    assert optimizer.result.loss == 2.5
    optimizer.run.close()


def progress_of(optimizer: RemoteOptimizer, server: FakeServer) -> int:
    """What the next heartbeat says."""
    optimizer.run.worker._driver.beat_once()
    done: int = server.named("HeartbeatRequest")[-1].progress[0].done
    return done


def test_micro_batches_of_a_long_slot_keep_its_lease() -> None:
    """Without this word a lease ends after 30 s, in the middle of an accumulation."""
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT))
    optimizer = started(model, server)
    before = progress_of(optimizer, server)
    with optimizer.no_sync():
        backward(model, optimizer)
        optimizer.step()
    assert progress_of(optimizer, server) == before + 1
    optimizer.run.close()


def test_micro_batches_that_a_loop_asks_for_keep_its_lease() -> None:
    model = linear()
    server = FakeServer(job_of(**ONE_SLOT, data={"mode": "free"}))
    optimizer = RemoteOptimizer(model.named_parameters(), "toy", address=server.connect(), weight=8)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(16, 3)), batch_size=2)
    batches = optimizer.run.batches(loader)
    next(batches)
    before = progress_of(optimizer, server)
    next(batches)
    assert progress_of(optimizer, server) == before + 1
    optimizer.run.close()
