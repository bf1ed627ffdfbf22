"""Received bytes on their way to a device: through two pinned buffers, on a stream of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from sheepfold_server.optim.layout import to_device


class Uploader:
    """Host tensors to a device. On a CPU the tensor itself.

    Pageable memory, which received bytes lie in, would make every copy wait for the device. Here a copy waits
    only for the one before the last, whose pinned buffer it takes over, and runs beside the kernels.
    """

    def __init__(self, device: torch.device, tile_bytes: int) -> None:
        self._device = device
        self._is_pinned = device.type == "cuda" and torch.cuda.is_available()
        self._turn = 0
        if self._is_pinned:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._buffers = [torch.empty(tile_bytes, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
            self._copied = [torch.cuda.Event() for _ in range(2)]  # type: ignore[no-untyped-call]

    def __call__(self, tile: Tensor) -> Tensor:
        """A tile of at most `tile_bytes` on the device, ready for the current stream."""
        if not self._is_pinned:
            return to_device(tile, self._device)
        self._turn = 1 - self._turn
        copied = self._copied[self._turn]
        copied.synchronize()
        size = tile.numel() * tile.element_size()
        staged = self._buffers[self._turn].narrow(0, 0, size).view(tile.dtype).view(tile.shape)
        staged.copy_(tile)
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            uploaded = staged.to(self._device, non_blocking=True)
            copied.record(self._stream)
        compute.wait_stream(self._stream)
        uploaded.record_stream(compute)
        return uploaded
