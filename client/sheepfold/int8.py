"""The rows of `sheepfold_wire.int8`, bit for bit, by torch: where the gradient is, on a CPU or a device."""

from __future__ import annotations

import torch
from torch import Tensor

from sheepfold_wire import int8 as wire
from sheepfold_wire.manifest import ROW_ELEMENTS

CPU_TILE_ROWS = 512
"""With 64 rows the calls themselves took more time than the work, with 1,024 memory did."""
DEVICE_TILE_ROWS = 8_192


def _signed(word: int) -> int:
    """The 32 bits as torch holds them: its unsigned integers have hardly an operation."""
    return word - (1 << 32) if word >> 31 else word


FIRST, SECOND = _signed(wire.FIRST), _signed(wire.SECOND)


class RowEncoder:
    """Encodes gradients that lie on one device. Its buffers of one tile are used again and again."""

    def __init__(self, device: torch.device) -> None:
        self._tile_rows = CPU_TILE_ROWS if device.type == "cpu" else DEVICE_TILE_ROWS
        self._device = device
        self._counters = torch.from_numpy(wire.COUNTERS.view("i4")).to(device)
        self._words = torch.empty((2, self._tile_rows, wire.WORDS), dtype=torch.int32, device=device)
        self._values = torch.empty((2, self._tile_rows, ROW_ELEMENTS), dtype=torch.float32, device=device)

    def encode(
        self,
        values: Tensor,  # (elements,) of any floating dtype, from the beginning of a row on
        keys: wire.Keys,  # (rows, 2), of `row_keys`
        out: Tensor,  # (rows * 1024,) int8 on the host, written; beyond the elements with 0
        scales: Tensor,  # (rows,) fp32 on the host, written
    ) -> None:
        """As `sheepfold_wire.int8.encode_rows`."""
        halves = torch.from_numpy(keys.view("i4")).to(self._device)
        found = torch.empty((len(keys), 1), dtype=torch.float32, device=self._device)
        for first in range(0, len(keys), self._tile_rows):
            count = min(self._tile_rows, len(keys) - first)
            elements = values[first * ROW_ELEMENTS : (first + count) * ROW_ELEMENTS]
            own = found.narrow(0, first, count)
            rounded = self._rounded(self._whole_rows(elements, count), halves.narrow(0, first, count), own)
            target = out.narrow(0, first * ROW_ELEMENTS, count * ROW_ELEMENTS)
            target.view(count, ROW_ELEMENTS).copy_(rounded.to(torch.int8))
        scales.copy_(found.view(-1))

    def _whole_rows(self, values: Tensor, rows: int) -> Tensor:
        """(rows, 1024) fp32; a shorter last row is filled up with 0."""
        wide = values.float()
        if values.numel() == rows * ROW_ELEMENTS:
            return wide.view(rows, ROW_ELEMENTS)
        return torch.nn.functional.pad(wide, (0, rows * ROW_ELEMENTS - values.numel())).view(rows, -1)

    def _rounded(
        self,
        rows: Tensor,  # (rows, 1024) fp32
        keys: Tensor,  # (rows, 2) int32
        scales: Tensor,  # (rows, 1) fp32, written
    ) -> Tensor:  # (rows, 1024) fp32 integers, in a buffer of this object
        quotients, added = self._values[:, : len(rows)]
        scales.copy_(row_scales(torch.abs(rows, out=quotients).amax(1, keepdim=True)))
        torch.div(rows, torch.where(scales > 0, scales, 1.0), out=quotients)
        is_bad = scales.isnan()
        if self._device.type != "cpu" or bool(is_bad.any()):  # on a device, asking would wait for it
            quotients.masked_fill_(is_bad, 0.0)
        added.copy_(self._noise(keys))
        quotients.add_(added, alpha=wire.NOISE_UNIT)  # the product is exact: fused or not
        return torch.round(quotients, out=quotients)

    def _noise(
        self,
        keys: Tensor,  # (rows, 2) int32
    ) -> Tensor:  # (rows, 1024) int16, odd, in a buffer of this object
        words, shifted = self._words[:, : len(keys)]
        torch.bitwise_xor(self._counters, keys[:, :1], out=words)
        words.mul_(FIRST).bitwise_xor_(keys[:, 1:])
        _mix(words, 13, shifted)
        words.mul_(SECOND)
        _mix(words, 16, shifted)
        words.bitwise_or_(wire.ODD)
        drawn: Tensor = words.view(torch.int16)
        return drawn


def _mix(words: Tensor, shift: int, shifted: Tensor) -> None:
    """words ^= words >> shift, of unsigned words."""
    torch.bitwise_right_shift(words, shift, out=shifted)
    words.bitwise_xor_(shifted.bitwise_and_((1 << (32 - shift)) - 1))


def row_scales(
    largest: Tensor,  # (rows, 1) fp32, largest magnitude of each row
) -> Tensor:  # (rows, 1) fp32
    """As `sheepfold_wire.int8.row_scales`."""
    scales = (largest / wire.LARGEST).clamp_(min=wire.SCALE_MIN)
    bits = scales.view(torch.int32).bitwise_and_(~wire.SCALE_BITS_CUT)
    bits.add_((scales * wire.LARGEST < largest).to(torch.int32), alpha=wire.SCALE_BITS_CUT + 1)
    scales.masked_fill_(largest == 0, 0.0)
    return scales.masked_fill_(~largest.isfinite(), torch.nan)
