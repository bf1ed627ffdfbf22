"""What a job's tensors are, in order: equal manifest digests mean equal byte offsets."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

ROW_ELEMENTS = 1024
ROWS_PER_BLOCK = 64
BLOCK_ELEMENTS = ROW_ELEMENTS * ROWS_PER_BLOCK

TENSORS_MAX = 65_536
SLICES_MAX = 1_048_576
NAME_CHARACTERS_MAX = 512
DIMENSIONS_MAX = 32
ELEMENTS_MAX = 2**48

Kind = Literal["parameter", "statistic"]
PARAMETER_DTYPES = frozenset({"float32", "bfloat16", "float16"})
INTEGER_DTYPES = frozenset({"int64", "int32", "int16", "int8", "uint8", "bool"})
STATISTIC_DTYPES = PARAMETER_DTYPES | INTEGER_DTYPES

FORMAT = 1


class ManifestError(ValueError):
    """A manifest that cannot be: says which tensor, which value, and what to do."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor of the model, as the worker holds it.

    `slices` are the sizes of contiguous ranges along the leading axis, each with a trust ratio of its
    own (stacked layers, fused projections); empty means that the whole tensor is one slice.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: Kind
    slices: tuple[int, ...] = ()

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a 0-d tensor."""
        return math.prod(self.shape)

    @property
    def is_integer(self) -> bool:
        """Whether a statistic travels as int64 instead of fp32."""
        return self.dtype in INTEGER_DTYPES


@dataclass(frozen=True, slots=True)
class SliceSpec:
    """The unit of a trust ratio. `tensor` is a manifest index; elements count within that tensor."""

    index: int
    tensor: int
    name: str
    first_element: int
    elements: int

    @property
    def rows(self) -> int:
        """Rows of 1,024 elements, the last one zero-padded."""
        return -(-self.elements // ROW_ELEMENTS)

    @property
    def blocks(self) -> int:
        """Blocks of 64 rows, the last one shorter."""
        return -(-self.elements // BLOCK_ELEMENTS)


@dataclass(frozen=True)
class Manifest:
    """The ordered tensors of a job. Raises ManifestError for anything that could not be laid out."""

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        if len(self.tensors) > TENSORS_MAX:
            raise ManifestError(
                f"{len(self.tensors)} tensors: give at most {TENSORS_MAX}; fuse the smallest ones"
            )
        seen: set[str] = set()
        for tensor in self.tensors:
            check_tensor(tensor)
            if tensor.name in seen:
                raise ManifestError(f"two tensors are named {tensor.name!r}: give each a name of its own")
            seen.add(tensor.name)
        slices = sum(len(tensor.slices) or 1 for tensor in self.tensors)
        if slices > SLICES_MAX:
            raise ManifestError(f"{slices} slices: declare at most {SLICES_MAX}")

    @cached_property
    def parameters(self) -> tuple[int, ...]:
        """Manifest indices of the tensors the optimizer updates."""
        return tuple(i for i, tensor in enumerate(self.tensors) if tensor.kind == "parameter")

    @cached_property
    def parameter_elements(self) -> int:
        """Elements of all of them: what people call the number of parameters."""
        return sum(self.tensors[index].elements for index in self.parameters)

    @cached_property
    def statistics(self) -> tuple[int, ...]:
        """Manifest indices of the tensors that are averaged, not optimised."""
        return tuple(i for i, tensor in enumerate(self.tensors) if tensor.kind == "statistic")

    @cached_property
    def slices(self) -> tuple[SliceSpec, ...]:
        """All slices of all parameters, in manifest order; a slice's place is its global index."""
        found: list[SliceSpec] = []
        for tensor in self.parameters:
            for name, first_element, elements in _ranges(self.tensors[tensor]):
                found.append(SliceSpec(len(found), tensor, name, first_element, elements))
        return tuple(found)

    @cached_property
    def _first_blocks(self) -> tuple[int, ...]:
        """The running number of blocks before each slice, and the total at the end."""
        starts = [0]
        for piece in self.slices:
            starts.append(starts[-1] + piece.blocks)
        return tuple(starts)

    def first_block(self, slice_index: int) -> int:
        """Global index of a slice's first block; blocks are numbered over all slices in manifest order."""
        if not 0 <= slice_index < len(self.slices):
            raise IndexError(f"slice {slice_index}: the manifest has slices 0 to {len(self.slices) - 1}")
        return self._first_blocks[slice_index]

    @property
    def block_count(self) -> int:
        """Blocks of all slices together."""
        return self._first_blocks[-1]

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, ASCII only."""
        tensors = [{field.name: getattr(t, field.name) for field in fields(t)} for t in self.tensors]
        return json.dumps({"format": FORMAT, "tensors": tensors}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Reads what `to_json` wrote. Raises ManifestError for anything else, unknown keys included."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError(
                f"the manifest is no JSON ({error}): send the text of Manifest.to_json()"
            ) from None
        _check_keys(document, {"format", "tensors"}, "the manifest")
        if document["format"] != FORMAT:
            raise ManifestError(f"manifest format {document['format']!r}: this version reads format {FORMAT}")
        if not isinstance(document["tensors"], list):
            raise ManifestError(
                "the manifest's key 'tensors' is no list: send the text of Manifest.to_json()"
            )
        return cls(tuple(_tensor_from(entry, i) for i, entry in enumerate(document["tensors"])))

    @cached_property
    def digest(self) -> str:
        """SHA-256 hex of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def check_tensor(tensor: TensorSpec) -> None:
    """Raises ManifestError unless `tensor` could stand in a manifest."""
    if not tensor.name or len(tensor.name) > NAME_CHARACTERS_MAX or not tensor.name.isprintable():
        raise ManifestError(
            f"tensor name {tensor.name[:40]!r} of {len(tensor.name)} characters: "
            f"give 1 to {NAME_CHARACTERS_MAX} printable characters"
        )
    if tensor.kind not in get_args(Kind):
        raise ManifestError(
            f"{tensor.name}: kind {tensor.kind!r} is unknown; give 'parameter' or 'statistic'"
        )
    allowed = PARAMETER_DTYPES if tensor.kind == "parameter" else STATISTIC_DTYPES
    if tensor.dtype not in allowed:
        raise ManifestError(
            f"{tensor.name}: dtype {tensor.dtype!r} cannot be a {tensor.kind}; "
            f"give one of {', '.join(sorted(allowed))}"
        )
    if len(tensor.shape) > DIMENSIONS_MAX or any(size < 0 for size in tensor.shape):
        raise ManifestError(
            f"{tensor.name}: shape {tensor.shape} is impossible; "
            f"give at most {DIMENSIONS_MAX} dimensions, none below 0"
        )
    if tensor.elements > ELEMENTS_MAX:
        raise ManifestError(
            f"{tensor.name}: {tensor.elements} elements; at most {ELEMENTS_MAX} can be laid out"
        )
    _check_slices(tensor)


def _check_slices(tensor: TensorSpec) -> None:
    if not tensor.slices:
        return
    if tensor.kind != "parameter":
        raise ManifestError(
            f"{tensor.name}: a {tensor.kind} has no trust ratio; leave out slices {tensor.slices}"
        )
    if not tensor.shape:
        raise ManifestError(
            f"{tensor.name}: a 0-d tensor has no leading axis; leave out slices {tensor.slices}"
        )
    if any(size <= 0 for size in tensor.slices) or sum(tensor.slices) != tensor.shape[0]:
        raise ManifestError(
            f"{tensor.name}: slices {tensor.slices} add up to {sum(tensor.slices)}, but the leading axis has "
            f"{tensor.shape[0]}; give positive sizes that cover it exactly (permute another axis first)"
        )


def first_difference(mine: Manifest, theirs: Manifest) -> str | None:
    """One sentence on the first tensor and field in which two manifests differ, or None if they are equal."""
    for index, (a, b) in enumerate(zip(mine.tensors, theirs.tensors, strict=False)):
        for field in fields(TensorSpec):
            left, right = getattr(a, field.name), getattr(b, field.name)
            if left != right:
                return f"tensor {index} ({a.name}): {field.name} is {left!r} here, but {right!r} there"
    if len(mine.tensors) == len(theirs.tensors):
        return None
    shared = min(len(mine.tensors), len(theirs.tensors))
    longer, where = (mine, "here") if len(mine.tensors) > shared else (theirs, "there")
    return (
        f"{len(mine.tensors)} tensors here, but {len(theirs.tensors)} there: "
        f"tensor {shared} ({longer.tensors[shared].name}) is only {where}"
    )


def _ranges(tensor: TensorSpec) -> Iterator[tuple[str, int, int]]:
    """(name, first element, elements) of each slice of a parameter."""
    if not tensor.slices:
        yield tensor.name, 0, tensor.elements
        return
    per_entry = math.prod(tensor.shape[1:])
    start = 0
    for size in tensor.slices:
        yield f"{tensor.name}[{start}:{start + size}]", start * per_entry, size * per_entry
        start += size


def _check_keys(document: object, wanted: set[str], what: str) -> None:
    if not isinstance(document, Mapping):
        raise ManifestError(f"{what} is no JSON object: send the text of Manifest.to_json()")
    if unknown := sorted(set(document) - wanted):
        raise ManifestError(f"{what} has unknown keys {', '.join(map(repr, unknown[:5]))}: remove them")
    if missing := sorted(wanted - set(document)):
        raise ManifestError(f"{what} lacks keys {', '.join(map(repr, missing))}: add them")


def _tensor_from(entry: Any, index: int) -> TensorSpec:
    _check_keys(entry, {field.name for field in fields(TensorSpec)}, f"tensor {index}")
    for key in ("name", "dtype", "kind"):
        if not isinstance(entry[key], str):
            raise ManifestError(f"tensor {index}: {key} is {entry[key]!r}; give text")
    for key in ("shape", "slices"):
        # type(), not isinstance: JSON's true would pass as the integer 1.
        if not isinstance(entry[key], list) or any(type(size) is not int for size in entry[key]):
            raise ManifestError(f"tensor {index}: {key} is {entry[key]!r}; give a list of integers")
    shape, slices = tuple(entry["shape"]), tuple(entry["slices"])
    return TensorSpec(entry["name"], shape, entry["dtype"], entry["kind"], slices)
