"""Parts between an accelerator and the host: one copy for all tensors of a part, through pinned memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sheepfold_wire.codecs import Buffer


def is_far(device: torch.device) -> bool:
    """Whether each copy from there to the host, or back, costs a wait of its own."""
    return device.type != "cpu"


def new_pinned_part(size: int) -> npt.NDArray[np.uint8]:
    """Zeros, in memory that CUDA copies to and from by itself."""
    part: npt.NDArray[np.uint8] = torch.zeros(size, dtype=torch.uint8, pin_memory=True).numpy()
    return part


class Mirror:
    """The bytes of one part on one device. Kernels of the current stream move tensors to and from them."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.bytes = torch.zeros(size, dtype=torch.uint8, device=device)
        """As the part; what no tensor covers is zero."""
        self._staged: Tensor | None = None
        """Received bytes, which come in memory that is not pinned."""
        self._uploaded: torch.cuda.Event | None = None

    def download(self, part: memoryview, ranges: Iterable[range]) -> None:
        """Begins to copy these bytes into the part; they are there once `settle` has returned."""
        host = torch.from_numpy(np.frombuffer(part, np.uint8))
        for piece in ranges:
            own = slice(piece.start, piece.stop)
            host[own].copy_(self.bytes[own], non_blocking=self.bytes.is_cuda)

    def settle(self) -> None:
        """The one wait for the device."""
        if self.bytes.is_cuda:
            torch.cuda.current_stream(self.bytes.device).synchronize()

    def upload(self, part: Buffer, ranges: Iterable[range]) -> None:
        """These bytes of a received part are on the device for whatever the current stream does next."""
        if self._staged is None:
            size, pins = self.bytes.numel(), self.bytes.is_cuda
            self._staged = torch.zeros(size, dtype=torch.uint8, pin_memory=pins)
        if self._uploaded is not None:
            self._uploaded.synchronize()  # the last upload has left the staging memory
        received: npt.NDArray[np.uint8] = np.frombuffer(part, np.uint8)
        for piece in ranges:
            own = slice(piece.start, piece.stop)
            self._staged.numpy()[own] = received[own]
            self.bytes[own].copy_(self._staged[own], non_blocking=self.bytes.is_cuda)
        if self.bytes.is_cuda:
            self._uploaded = torch.cuda.current_stream(self.bytes.device).record_event()
