"""Which kernel a job runs on: decided once, for all shards, when the job is opened on them."""

from __future__ import annotations

from collections.abc import Sequence

import sheepfold_wire.messages as m
from sheepfold_wire.errors import PreconditionError

AUTO_PARAMETERS_MIN = 1_000_000
"""Below, an eager step takes a few milliseconds: compiling for a minute would not pay."""


def choose_kernel(wanted: str, hellos: Sequence[m.Hello], parameters: int) -> tuple[str, str]:
    """(eager or compiled, one line to tell or ""): what the job wants, is worth and every shard offers.

    Raises PreconditionError if the job insists on a kernel that a shard lacks.
    """
    if wanted == "eager":
        return "eager", ""
    if wanted == "auto" and parameters < AUTO_PARAMETERS_MIN:
        small = f"{parameters:,} parameters, fewer than {AUTO_PARAMETERS_MIN:,}"
        return "eager", f"the kernel is eager: {small}, are not worth compiling for"
    lacking = [hello for hello in hellos if "compiled" not in hello.kernels]
    if not lacking:
        return "compiled", ""
    told = "; ".join(f"shard {hello.shard}: {hello.kernel_note}" for hello in lacking)
    if wanted == "compiled":
        raise PreconditionError(f'numerics.kernel = "compiled" cannot be had: {told}; or set it to "auto"')
    return "eager", f"the kernel is eager: {told}"


def fingerprint(kernel: str, hello: m.Hello) -> str:
    """What bits are promised within: kernel, device type, instruction set, torch version."""
    return f"{kernel}/{hello.numeric_fingerprint}" if kernel else hello.numeric_fingerprint
