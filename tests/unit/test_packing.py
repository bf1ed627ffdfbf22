"""sheepfold.packing, against the NumPy client's packing over the same layout and the wire's codecs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sheepfold.errors import Refused
from sheepfold.layout import part_layouts
from sheepfold.mirror import Mirror
from sheepfold.model_tensors import ModelTensors, down_codec, manifest_of, tensors_named, tensors_of
from sheepfold.numpy_client import pack_part, unpack_parts
from sheepfold.packing import Packer
from sheepfold_wire.codecs import DOWN, Codec
from sheepfold_wire.errors import ShapeMismatch
from sheepfold_wire.plan import Plan


class Net(nn.Module):
    """Matrices, a 0-d and an empty parameter, a tied weight, a frozen one, all kinds of buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(300, 250)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.empty = nn.Parameter(torch.zeros(0, 4))
        self.norm = nn.BatchNorm1d(7)
        self.tied = self.wide
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.register_buffer("mask", torch.tensor([True, False]))


def made(shards: int = 2, model: nn.Module | None = None) -> tuple[ModelTensors, Plan, Packer]:
    tensors = tensors_of(model or Net())
    manifest = manifest_of(tensors)
    plan = Plan.of(manifest, shards, split_above_bytes=100_000)
    return tensors, plan, Packer(manifest, plan)


def gradients_of(tensors: ModelTensors, seed: int = 0) -> dict[str, Tensor | None]:
    """Normal numbers and what rounding could get wrong: ties, tiny, huge, negative zero."""
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([1.00390625, 1.01171875, -0.0, 1e-40, 6e-8, 65_519.0, 65_520.0, 3.4e38, -1e-45])
    found: dict[str, Tensor | None] = {}
    for name, tensor in tensors.parameters.items():
        values = torch.randn(tensor.shape, generator=generator)
        values.view(-1)[: special.numel()] = special[: values.numel()]
        found[name] = values
    return {**found, **tensors.buffers}


def numpy_parts(plan: Plan, values: Mapping[str, Tensor | None], codec: Codec) -> list[bytes]:
    flat = []
    for tensor in plan.manifest.tensors:
        value = values[tensor.name]
        kind = np.int64 if tensor.is_integer else np.float32
        flat.append(None if value is None else value.detach().float().numpy().reshape(-1).astype(kind))
    return [bytes(pack_part(layout, flat, codec)) for layout in part_layouts(plan)]


def packed(packer: Packer, values: Mapping[str, Tensor | None], codec: Codec) -> list[bytes]:
    return [bytes(part) for part in packer.pack(values, codec)]


def test_manifest_has_trained_parameters_and_persistent_buffers_in_order() -> None:
    manifest = manifest_of(tensors_of(Net()))
    assert [(t.name, t.kind) for t in manifest.tensors] == [
        ("scale", "parameter"),
        ("empty", "parameter"),
        ("wide.weight", "parameter"),
        ("wide.bias", "parameter"),
        ("norm.weight", "parameter"),
        ("norm.bias", "parameter"),
        ("mask", "statistic"),
        ("norm.running_mean", "statistic"),
        ("norm.running_var", "statistic"),
        ("norm.num_batches_tracked", "statistic"),
    ]
    assert manifest.tensors[-1].dtype == "int64"


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("shards", [1, 3])
def test_torch_and_numpy_pack_the_same_bytes(codec: Codec, shards: int) -> None:
    tensors, plan, packer = made(shards)
    values = gradients_of(tensors)
    assert packed(packer, values, codec) == numpy_parts(plan, values, codec)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[list[range]]:
    """All tensors lie on what counts as an accelerator; what each copy from there covers."""
    seen: list[list[range]] = []
    download = Mirror.download

    def watched(mirror: Mirror, part: memoryview, ranges: Iterable[range]) -> None:
        seen.append(list(ranges))
        download(mirror, part, seen[-1])

    monkeypatch.setattr(Mirror, "download", watched)
    monkeypatch.setattr("sheepfold.packing.is_far", lambda device: True)
    return seen


@pytest.mark.parametrize("codec", list(Codec))
def test_tensors_of_an_accelerator_take_one_copy_of_each_stretch(
    codec: Codec, downloads: list[list[range]]
) -> None:
    tensors, plan, packer = made(3)
    for seed in (0, 1):
        values = gradients_of(tensors, seed)
        assert packed(packer, values, codec) == numpy_parts(plan, values, codec)
    assert len(downloads) == 6
    assert all(len(ranges) <= 2 + codec.has_scales for ranges in downloads)


def test_absent_tensors_are_zeros_beside_those_of_an_accelerator(downloads: list[list[range]]) -> None:
    tensors, plan, packer = made()
    values = gradients_of(tensors)
    packer.pack(values, Codec.INT8)
    gone = ("wide.bias", "norm.weight")
    without = {**values, **dict.fromkeys(gone)}
    zeros = {**values, **{name: torch.zeros_like(tensors.parameters[name]) for name in gone}}
    assert packed(packer, without, Codec.INT8) == numpy_parts(plan, zeros, Codec.INT8)


@pytest.mark.parametrize("codec", DOWN)
def test_weights_come_back_through_the_mirror(codec: Codec, downloads: list[list[range]]) -> None:
    tensors, plan, packer = made(3)
    values = gradients_of(tensors, seed=5)
    parts = [bytearray(part) for part in numpy_parts(plan, values, codec)]
    packer.unpack(parts, codec, tensors.all)
    expected = unpack_parts(part_layouts(plan), [bytes(part) for part in parts], codec)
    for name, tensor in tensors.all.items():
        np.testing.assert_array_equal(tensor.detach().numpy(), expected[name], name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("codec", list(Codec))
def test_half_precision_gradients_are_encoded_as_their_fp32_values(dtype: torch.dtype, codec: Codec) -> None:
    tensors, plan, packer = made()
    values = gradients_of(tensors)
    halves = {name: values[name].to(dtype) for name in tensors.parameters}  # type: ignore[union-attr]
    mixed = {**halves, **tensors.buffers}
    assert packed(packer, mixed, codec) == numpy_parts(plan, mixed, codec)


def test_a_gradient_that_is_not_contiguous_is_packed_by_its_logical_order() -> None:
    tensors, _, packer = made()
    values = gradients_of(tensors)
    plain = packed(packer, values, Codec.FP32)
    gradient = values["wide.weight"]
    assert gradient is not None
    turned = {**values, "wide.weight": gradient.t().contiguous().t()}
    assert packed(packer, turned, Codec.FP32) == plain


def test_an_absent_gradient_is_zeros_even_after_one_that_was_there() -> None:
    tensors, plan, packer = made()
    values = gradients_of(tensors)
    packer.pack(values, Codec.BF16)
    without = {**values, "wide.weight": None}
    zeros = {**values, "wide.weight": torch.zeros_like(tensors.parameters["wide.weight"])}
    assert packed(packer, without, Codec.BF16) == numpy_parts(plan, zeros, Codec.BF16)


def test_presence_bits_follow_the_manifest() -> None:
    tensors, _, packer = made()
    values = {**gradients_of(tensors), "empty": None, "norm.bias": None}
    assert packer.presence(values) == bytes([0b1101_1101, 0b0000_0011])


def test_buffers_are_used_again_but_not_by_the_init_parts() -> None:
    tensors, _, packer = made()
    init = packer.pack_weights(tensors.all)
    kept = [bytes(part) for part in init]
    first = packer.pack(gradients_of(tensors), Codec.FP32)
    again = packer.pack(gradients_of(tensors, seed=1), Codec.FP32)
    assert [bytes(part) for part in first] == [bytes(part) for part in again]
    assert [bytes(part) for part in init] == kept


def test_parts_are_packed_into_the_room_that_is_given_whatever_was_in_it_before() -> None:
    """Padding is zero there too, also when the memory is another one than last time."""
    tensors, _, packer = made()
    wanted, rooms = packed(packer, gradients_of(tensors), Codec.BF16), dict[int, bytearray]()

    def room(shard: int, size: int) -> memoryview:
        return memoryview(rooms.setdefault(shard, bytearray(b"\xff" * size)))

    for _ in range(2):
        rooms.clear()
        for seed in (1, 0):
            parts = packer.pack(gradients_of(tensors, seed), Codec.BF16, room=room)
        assert [part.obj for part in parts] == list(rooms.values())
        assert [bytes(part) for part in parts] == wanted
    assert packed(packer, gradients_of(tensors), Codec.BF16) == wanted, "and without room as well"


@pytest.mark.parametrize("is_writable", [True, False])
def test_weights_survive_the_way_down(is_writable: bool) -> None:
    model = Net()
    model.norm(torch.randn(5, 7))
    tensors, _, packer = made(3, model)
    parts = [bytes(part) for part in packer.pack_weights(tensors.all)]
    before = {name: tensor.detach().clone() for name, tensor in tensors.all.items()}
    with torch.no_grad():
        for tensor in tensors.all.values():
            tensor.zero_()
    packer.unpack([bytearray(p) if is_writable else p for p in parts], Codec.FP32, tensors.all)
    assert model.tied.weight is model.wide.weight
    for name, tensor in tensors.all.items():
        assert torch.equal(tensor, before[name]), name


def test_unpacking_fills_tensors_that_are_not_contiguous_and_other_dtypes() -> None:
    conv = nn.Conv2d(3, 5, 3, bias=False)
    tensors, plan, packer = made(2, conv)
    parts = [bytes(part) for part in packer.pack_weights(tensors.all)]
    expected = conv.weight.detach().clone()
    conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        conv.weight.zero_()
    packer.unpack(parts, Codec.FP32, tensors.all)
    assert torch.equal(conv.weight, expected)
    conv.half()
    packer.unpack(parts, Codec.FP32, tensors.all)
    assert torch.equal(conv.weight, expected.half())
    numpy_side = unpack_parts(part_layouts(plan), parts, Codec.FP32)
    assert np.array_equal(numpy_side["weight"], expected.numpy())


def test_a_part_of_the_wrong_length_changes_nothing() -> None:
    tensors, _, packer = made()
    parts = [bytes(part) for part in packer.pack_weights(tensors.all)]
    before = tensors.parameters["scale"].clone()
    with torch.no_grad():
        tensors.parameters["scale"].fill_(7)
    with pytest.raises(ShapeMismatch):
        packer.unpack([parts[0], parts[1][:-1]], Codec.FP32, tensors.all)
    assert tensors.parameters["scale"] == 7 != before


def test_weights_come_down_in_the_parameters_dtype_and_as_fp32_if_mixed() -> None:
    assert down_codec(tensors_of(nn.Linear(2, 2).bfloat16())) is Codec.BF16
    assert down_codec(tensors_of(nn.Linear(2, 2).half())) is Codec.FP16
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half())
    assert down_codec(tensors_of(mixed)) is Codec.FP32


def parameter(tensor: Tensor) -> list[tuple[str, Tensor]]:
    return [("layer.weight", tensor.requires_grad_())]


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(2, dtype=torch.float64), "float64"),
        (torch.zeros(2, dtype=torch.complex64), "complex"),
        (torch.zeros(2).to_sparse(), "sparse"),
        (torch.zeros(2, device="meta"), "no values yet"),
        (torch.zeros(2, dtype=torch.float8_e4m3fn), "bfloat16, float16, float32"),
    ],
)
def test_a_tensor_the_server_cannot_keep_is_refused_by_name(tensor: Tensor, said: str) -> None:
    with pytest.raises(Refused, match=rf"^layer\.weight .*{said}"):
        tensors_named(parameter(tensor))


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(Refused, match="nothing to train"):
        tensors_of(nn.Linear(2, 2).requires_grad_(False))


def test_a_sharded_module_is_refused_by_its_kind() -> None:
    class FullyShardedDataParallel(nn.Linear):
        """Named as torch names its own, which needs a process group to be made."""

    with pytest.raises(Refused, match="0 is a FullyShardedDataParallel"):
        tensors_of(nn.Sequential(FullyShardedDataParallel(2, 2)))


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_layer_with_sparse_gradients_is_refused_before_it_computes_any(kind: type[nn.Module]) -> None:
    with pytest.raises(Refused, match=r"^1 makes sparse gradients.*build 1 with sparse=False"):
        tensors_of(nn.Sequential(nn.Linear(2, 2), kind(4, 2, sparse=True)))


def test_a_sparse_gradient_is_refused_by_name() -> None:
    table = nn.Embedding(4, 2)
    _, _, packer = made(1, table)
    nn.functional.embedding(torch.tensor([1]), table.weight, sparse=True).sum().backward()
    with pytest.raises(Refused, match="weight has a sparse gradient"):
        packer.pack({"weight": table.weight.grad}, Codec.BF16)


def test_a_gradient_of_another_shape_is_refused_with_both_shapes() -> None:
    _, _, packer = made(1, nn.Linear(2, 2, bias=False))
    with pytest.raises(Refused, match=r"shape \(3, 2\), the job's is \(2, 2\)"):
        packer.pack({"weight": torch.zeros(3, 2)}, Codec.BF16)


@pytest.mark.parametrize("codec", list(Codec))
def test_fp32_parts_recoded_are_parts_packed_at_once(codec: Codec) -> None:
    """Ranks of a host add up fp32 parts; what they send is what one worker with that gradient sends."""
    tensors, plan, packer = made()
    values = {**gradients_of(tensors), "scale": None}
    exact = [bytearray(part) for part in packer.pack(values, Codec.FP32)]
    due = [bytes(part) for part in Packer(plan.manifest, plan).pack(values, codec, seed=5)]
    assert [bytes(packer.recoded(shard, exact[shard], codec, 5)) for shard in range(2)] == due


def test_sums_are_views_of_all_floats_and_all_integers_of_a_part() -> None:
    tensors, plan, packer = made()
    parts = packer.pack(gradients_of(tensors), Codec.FP32)
    for shard, part in enumerate(parts):
        floats, integers = packer.sums(shard, part)
        assert floats.numel() * 4 + integers.nbytes == plan.part_bytes(shard, Codec.FP32)
        floats.zero_()
        integers[:] = 0
        assert not any(part)
