"""What of a model the server keeps.

That is every parameter that requires a gradient when the model is attached, and every persistent buffer (a
*statistic*, such as BatchNorm's running mean). A frozen parameter stands in no manifest: it never changes, so
each worker keeps what it loaded. Tied weights count once, under their first name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sheepfold.errors import Refused
from sheepfold_wire.codecs import Codec
from sheepfold_wire.job import Job
from sheepfold_wire.manifest import (
    PARAMETER_DTYPES,
    STATISTIC_DTYPES,
    Kind,
    Manifest,
    ManifestError,
    TensorSpec,
)

TORCH_DTYPES = {Codec.FP32: torch.float32, Codec.BF16: torch.bfloat16, Codec.FP16: torch.float16}
SHARDED_TYPES = frozenset({"DTensor", "FlatParameter", "FullyShardedDataParallel", "FSDPModule"})
COMPILED = "_orig_mod."
"""What torch.compile puts before the names of a model's tensors."""


@dataclass(frozen=True, slots=True)
class ModelTensors:
    """The tensors that a job keeps, by name, in manifest order: parameters first, then buffers."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @property
    def all(self) -> dict[str, Tensor]:
        return {**self.parameters, **self.buffers}

    @property
    def device(self) -> str:
        return str(next(iter(self.parameters.values())).device)


def tensors_of(model: nn.Module) -> ModelTensors:
    """What of a model the server keeps; raises Refused for what it cannot."""
    for name, module in model.named_modules():
        _refuse_sharded(name or "the model", module)
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise Refused(
                f"{name or 'the model'} makes sparse gradients: only dense ones have a place on the server",
                remedy=f"build {name or 'it'} with sparse=False",
            )
        if type(module).__name__ == "DistributedDataParallel":
            raise Refused(
                f"{name or 'the model'} is wrapped in DistributedDataParallel, which averages by itself",
                remedy="attach the plain model: the server averages the slots of all workers",
            )
    persistent = model.state_dict(keep_vars=True)
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if name in persistent)
    return tensors_named(model.named_parameters(), buffers)


def tensors_named(
    parameters: Iterable[tuple[str, Tensor]], buffers: Iterable[tuple[str, Tensor]] = ()
) -> ModelTensors:
    """The same from names and tensors; a tensor that comes twice counts under its first name."""
    found = ModelTensors(_once(parameters, "parameter"), _once(buffers, "statistic"))
    if not found.parameters:
        raise Refused("the model has no parameter that requires a gradient: there is nothing to train")
    if shared := sorted(found.parameters.keys() & found.buffers.keys()):
        raise Refused(f"{shared[0]} names a parameter and a buffer: give each a name of its own")
    return found


def _once(named: Iterable[tuple[str, Tensor]], kind: Kind) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for full_name, tensor in named:
        name = full_name.replace(COMPILED, "")
        if id(tensor) in seen or (kind == "parameter" and not tensor.requires_grad):
            continue
        if name in found:
            raise Refused(f"two {kind}s are named {name}: give each a name of its own")
        _check(name, tensor, kind)
        seen.add(id(tensor))
        found[name] = tensor
    return found


def manifest_of(tensors: ModelTensors) -> Manifest:
    """The manifest of what the server keeps; raises Refused."""
    specs = [_spec(name, tensor, "parameter") for name, tensor in tensors.parameters.items()]
    specs += [_spec(name, tensor, "statistic") for name, tensor in tensors.buffers.items()]
    try:
        return Manifest(tuple(specs))
    except ManifestError as error:
        raise Refused(str(error)) from None


def _spec(name: str, tensor: Tensor, kind: Kind) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), _dtype_name(tensor), kind)


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _refuse_sharded(name: str, thing: object) -> None:
    found = SHARDED_TYPES.intersection(kind.__name__ for kind in type(thing).__mro__)
    if found:
        raise Refused(
            f"{name} is a {min(found)}: sharding a worker's model is not supported; attach the plain model, "
            "the server shards the state"
        )


def _check(name: str, tensor: Tensor, kind: Kind) -> None:
    """Raises Refused, naming the tensor and the remedy."""
    _refuse_sharded(name, tensor)
    if is_lazy(tensor) or tensor.is_meta:
        raise Refused(f"{name} has no values yet (lazy, or on the meta device): initialise the model first")
    if tensor.layout is not torch.strided:
        raise Refused(f"{name} is sparse: only dense tensors have a place on the server; store it densely")
    if tensor.dtype is torch.float64:
        raise Refused(f"{name} is float64, the server's state is fp32: convert the model with model.float()")
    if tensor.is_complex():
        raise Refused(f"{name} is complex: store real and imaginary parts apart (torch.view_as_real)")
    allowed = PARAMETER_DTYPES if kind == "parameter" else STATISTIC_DTYPES
    if _dtype_name(tensor) not in allowed:
        raise Refused(f"{name} is {_dtype_name(tensor)}: a {kind} is one of {', '.join(sorted(allowed))}")


def check_loss_scale(tensors: ModelTensors, job: Job) -> None:
    """Raises Refused for parameters whose gradients could not be divided by the scale without loss."""
    halves = [name for name, tensor in tensors.parameters.items() if tensor.dtype is torch.float16]
    if job.loss_scale is not None and halves:
        raise Refused(
            f"{halves[0]} is float16, and the job has a loss scale (from {job.loss_scale.initial:g} on): "
            "divided by it, small gradients would be 0",
            remedy="keep parameters in float32 and compute in float16 by torch.autocast",
        )


def down_codec(tensors: ModelTensors) -> Codec:
    """The format weights come down in: the parameters' own, fp32 if they differ."""
    dtypes = {tensor.dtype for tensor in tensors.parameters.values()}
    return next((codec for codec, dtype in TORCH_DTYPES.items() if dtypes == {dtype}), Codec.FP32)
