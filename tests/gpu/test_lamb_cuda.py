"""LAMB on CUDA: the same step as on a CPU, and (without a GPU) that no tensor is left on the wrong device."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from tests.oracle.settings import optimizer_of
from tests.oracle.shards import Job
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sheepfold.int8 import RowEncoder
from sheepfold_server.optim import export, groups, layout, norms, state, upload
from sheepfold_server.optim.kernel import EagerKernel
from sheepfold_server.optim.state import ShardTensors
from sheepfold_wire.codecs import Codec
from sheepfold_wire.int8 import encode_rows, row_keys
from sheepfold_wire.manifest import Manifest, TensorSpec
from sheepfold_wire.plan import Plan

MANIFEST = Manifest(
    (
        TensorSpec("a", (200_000,), "float32", "parameter"),
        TensorSpec("b", (3, 700), "float32", "parameter"),
        TensorSpec("mean", (7,), "float32", "statistic"),
    )
)


def values(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {t.name: rng.normal(size=t.shape).astype(np.float32) for t in MANIFEST.tensors}


def trained(device: str, shards: int = 1, tile_rows: int = 256, codec: Codec = Codec.BF16) -> Job:
    job = Job.start(MANIFEST, values(0), shards, optimizer_of(clip_norm=1.0), 100_000, tile_rows, device)
    for t in range(4):
        absent = frozenset({"b"} if t == 2 else ())
        job.step(t, [values(2 * t + 1), values(2 * t + 2)], 0.02, [1.0, 2.5], codec, absent)
    return job


@pytest.fixture
def cuda() -> str:
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    return "cuda"


@pytest.mark.parametrize("codec", [Codec.BF16, Codec.INT8])
def test_cuda_agrees_with_the_cpu(cuda: str, codec: Codec) -> None:
    """Bits may differ between device types, which the numeric fingerprint names; more may not."""
    mine, theirs = trained(cuda, codec=codec).values(), trained("cpu", codec=codec).values()
    for name, expected in theirs.items():
        np.testing.assert_allclose(mine[name], expected, rtol=2e-6, atol=2e-7, err_msg=name)


def test_cuda_bits_do_not_depend_on_shards_or_tiles(cuda: str) -> None:
    digests = {
        trained(cuda, shards, tile_rows).digest() for shards in (1, 3) for tile_rows in (64, 256, 16_384)
    }
    assert len(digests) == 1


def test_uploads_through_pinned_memory_arrive_whole_and_in_order(cuda: str) -> None:
    """Two buffers in turn: a third upload must not overtake the first."""
    tiles = [torch.full((64, 1024), float(number)) for number in range(20)]
    send = upload.Uploader(torch.device(cuda), 64 * 4096)
    arrived = [send(tile) for tile in tiles]
    assert all(torch.equal(there.cpu(), tile) for there, tile in zip(arrived, tiles, strict=True))


def test_bytes_per_second_beside_a_device_copy_are_printed(cuda: str) -> None:
    """A figure, not a bar: one JSON line with the share of the copy bandwidth that a step reaches."""
    rows = 32 * 1024
    manifest = Manifest((TensorSpec("w", (rows, 1024), "float32", "parameter"),))
    shard = ShardTensors(Plan.of(manifest, 1), 0, optimizer_of(), EagerKernel(cuda))
    part = bytes(4 * rows * 1024)
    shard.load(part)
    source, target = (torch.ones((rows, 1024), device=cuda) for _ in range(2))
    step_seconds, copy_seconds = [], []
    for t in range(12):
        shard.begin(t)
        shard.fold(t, [(part, Codec.FP32, 1.0)])
        shard.finish(t, 1.0)
        step_seconds.append(seconds(partial(one_step, shard, t)))
        copy_seconds.append(seconds(lambda: target.copy_(source)))
    step, copy = sorted(step_seconds)[6], sorted(copy_seconds)[6]
    moved, copied = 40 * rows * 1024 / step, 8 * rows * 1024 / copy
    figures = {
        "kernel": "eager",
        "bytes_per_s": moved,
        "copy_bytes_per_s": copied,
        "fraction": moved / copied,
    }
    print(json.dumps({"bench": "gpu", "device": torch.cuda.get_device_name(), **figures}))
    assert moved > 0


def one_step(shard: ShardTensors, t: int) -> None:
    shard.directions(t, 0.01)
    shard.apply(t, 0.01)


def seconds(act: Callable[[], object]) -> float:
    """Of work on the device, from start to end."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    act()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def test_a_whole_step_keeps_every_tensor_on_the_jobs_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On fake CUDA tensors, which have shapes and devices but no values: mixing devices raises.

    Only copying is replaced, by a check: the two doors between host and device, and copy_, which asks for a
    CUDA library even for fake tensors.
    """

    def to_device(tensor: Tensor, device: torch.device) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

    def to_host(tensor: Tensor) -> np.ndarray:
        assert tensor.device.type == "cuda"
        return np.ones(tuple(tensor.shape))

    def copy_(target: Tensor, source: Tensor) -> Tensor:
        assert source.device == target.device, "only to_device and to_host may copy between devices"
        assert torch.broadcast_shapes(source.shape, target.shape) == target.shape
        return target

    monkeypatch.setattr(Tensor, "copy_", copy_)
    for module in (layout, groups, norms, state, upload):
        monkeypatch.setattr(module, "to_device", to_device)
    for module in (state, export):
        monkeypatch.setattr(module, "to_host", to_host)
    plan = Plan.of(MANIFEST, 1)
    part = bytes(plan.part_bytes(0, Codec.FP32))
    with FakeTensorMode(allow_non_fake_inputs=True):
        shard = ShardTensors(plan, 0, optimizer_of(), EagerKernel("cuda", 64))
        shard.load(part)
        for t, present in enumerate((None, np.array([True, False, True]))):
            shard.begin(t)
            shard.fold(t, [(part, Codec.FP32, 1.0), (part, Codec.FP32, 2.0)])
            shard.finish(t, 3.0)
            shard.directions(t, 0.1, 0.5, present)
            shard.apply(t, 0.1)


def test_a_worker_encodes_int8_on_its_device_to_the_bytes_of_a_cpu(cuda: str) -> None:
    """Subnormal, huge and tiny rows, one of zeros, one that is not finite, a short one; more than a tile."""
    rng = np.random.default_rng(8)
    rows = 20_000
    values = (rng.normal(size=(rows, 1024)) * np.exp(rng.normal(size=(rows, 1)) * 15)).astype(np.float32)
    values[3], values[4], values[5] = 0, 2.0**-149, 3e38
    values[6, 7] = np.nan
    flat, keys = values.reshape(-1)[:-500], row_keys(77, 64, rows)
    mine, theirs = np.empty(rows * 1024, np.int8), torch.empty(rows * 1024, dtype=torch.int8)
    scales, theirs_scales = np.empty(rows, np.float32), torch.empty(rows)
    encode_rows(flat, keys, mine, scales)
    RowEncoder(torch.device(cuda)).encode(torch.from_numpy(flat).to(cuda), keys, theirs, theirs_scales)
    np.testing.assert_array_equal(mine, theirs.numpy())
    np.testing.assert_array_equal(scales, theirs_scales.numpy())
