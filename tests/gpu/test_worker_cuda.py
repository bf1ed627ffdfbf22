"""A worker whose model lies on CUDA: the bytes of a CPU, with and without overlap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.integration.harness import SmallNet, digest_of, running_fold, slot_loss, small_data, small_job
from tests.unit.test_packing import gradients_of, made, packed

import sheepfold
import sheepfold.overlap
from sheepfold.transport.shared_memory import VARIABLE
from sheepfold_wire.codecs import DOWN, Codec


@pytest.fixture
def cuda() -> str:
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    return "cuda"


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("shards", [1, 3])
def test_gradients_on_cuda_are_packed_to_the_bytes_of_a_cpu(cuda: str, codec: Codec, shards: int) -> None:
    tensors, _, packer = made(shards)
    _, _, there = made(shards)
    for seed in (0, 1):
        values = gradients_of(tensors, seed)
        moved = {name: None if value is None else value.to(cuda) for name, value in values.items()}
        assert packed(there, moved, codec) == packed(packer, values, codec)


@pytest.mark.parametrize("codec", DOWN)
def test_weights_arrive_on_cuda_as_on_a_cpu(cuda: str, codec: Codec) -> None:
    tensors, _, packer = made(2)
    parts = [bytearray(part) for part in packed(packer, gradients_of(tensors), codec)]
    here = {name: torch.zeros_like(tensor) for name, tensor in tensors.all.items()}
    there = {name: tensor.to(cuda) for name, tensor in here.items()}
    for _ in range(2):  # the staging memory is used again
        packer.unpack(parts, codec, here)
        packer.unpack(parts, codec, there)
    assert all(torch.equal(there[name].cpu(), tensor) for name, tensor in here.items())


def trained(address: Any, overlap: bool) -> None:
    torch.use_deterministic_algorithms(True)
    model, (x, y) = SmallNet().to("cuda"), small_data()
    x, y = x.to("cuda"), y.to("cuda")
    with sheepfold.attach(model, address=address, config=small_job(), overlap=overlap) as run:
        for slot in run.slots():
            indices = torch.from_numpy(slot.indices).to("cuda")
            slot.backward(slot_loss(model, x[indices], y[indices]))
            assert run.step().counted


def test_overlap_on_cuda_changes_no_bit(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies run in a stream of their own while backward goes on in the other."""
    monkeypatch.setenv(VARIABLE, "0")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(sheepfold.overlap, "BUCKET_BYTES", 1)
    digests = []
    for overlap in (False, True):
        with running_fold(2) as fold:
            trained(fold.address, overlap)
            digests.append(digest_of(fold.address, "small"))
    torch.use_deterministic_algorithms(False)
    assert digests[0] == digests[1]
