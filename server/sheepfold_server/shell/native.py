"""Calls a compiled program through the C interface that torch keeps stable, so that the GIL is let go.

torch's own loader holds the GIL while a program runs: at 100 million parameters no gradient would be received
for a tenth of a second. A call costs about 0.1 ms.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CPU_DEVICE = 0
DTYPES = {
    torch.float32: "aoti_torch_dtype_float32",
    torch.float64: "aoti_torch_dtype_float64",
    torch.bfloat16: "aoti_torch_dtype_bfloat16",
    torch.float16: "aoti_torch_dtype_float16",
    torch.int8: "aoti_torch_dtype_int8",
    torch.bool: "aoti_torch_dtype_bool",
}


class NativeError(RuntimeError):
    """A compiled program that could not be loaded or that failed: its tensors are in an unknown state."""


class NativeProgram:
    """One program for the CPU: tensors in, results in place. May be called from any one thread at a time."""

    def __init__(self, path: Path) -> None:
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise NativeError(str(error)) from None
        self._path = path
        self._container = ctypes.c_void_p()
        create = self._library.AOTInductorModelContainerCreateWithDevice
        self._check(create(ctypes.byref(self._container), ctypes.c_size_t(1), b"cpu", None), "loading")
        count = ctypes.c_size_t()
        outputs = self._library.AOTInductorModelContainerGetNumOutputs
        self._check(outputs(self._container, ctypes.byref(count)), "loading")
        self._outputs = count.value

    def __call__(self, *arguments: Tensor) -> None:
        # The program takes the handles over; the tensors' memory stays ours.
        handles = (ctypes.c_void_p * len(arguments))(*map(_handle, arguments))
        outputs = (ctypes.c_void_p * self._outputs)()
        status = self._library.AOTInductorModelContainerRun(
            self._container,
            handles,
            ctypes.c_size_t(len(arguments)),
            outputs,
            ctypes.c_size_t(self._outputs),
            None,
            None,
        )
        self._check(status, "running")

    def _check(self, status: int, what: str) -> None:
        if status:
            raise NativeError(
                f"{what} {self._path} failed with status {status}; torch's message is on stderr"
            )


def _handle(tensor: Tensor) -> int | None:
    """A handle on the tensor's memory, which must be contiguous and outlive the call."""
    assert tensor.is_contiguous(), "a compiled program assumes contiguous rows"
    torch_c, dtypes = _interface()
    dims = max(tensor.dim(), 1)
    sizes, strides = (ctypes.c_int64 * dims)(*tensor.shape), (ctypes.c_int64 * dims)(*tensor.stride())
    handle = ctypes.c_void_p()
    status = torch_c.aoti_torch_create_tensor_from_blob(
        ctypes.c_void_p(tensor.data_ptr()),
        ctypes.c_int64(tensor.dim()),
        sizes,
        strides,
        ctypes.c_int64(0),
        ctypes.c_int32(dtypes[tensor.dtype]),
        ctypes.c_int32(CPU_DEVICE),
        ctypes.c_int32(0),
        ctypes.byref(handle),
    )
    if status:
        raise NativeError(
            f"torch made no handle for a tensor of shape {tuple(tensor.shape)}: status {status}"
        )
    return handle.value


@lru_cache(maxsize=1)
def _interface() -> tuple[Any, dict[torch.dtype, int]]:
    """(torch's C interface, its codes of dtypes)."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    return library, {dtype: getattr(library, name)() for dtype, name in DTYPES.items()}
