"""Compiled kernels for tests: built once per checkout and source, shared by all test processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import require

from sheepfold_server.optim.kernel import Kernel
from sheepfold_server.optim.programs import programs_of
from sheepfold_server.optim.rules import rule_of
from sheepfold_server.shell.kernels import KernelFolder, found_compiler
from sheepfold_wire.optimizer import OptimizerKeys, rule_settings


def folder(config: pytest.Config) -> KernelFolder:
    """Where they lie; the test is skipped for want of a compiler (required in CI)."""
    if not found_compiler():
        require("compiler", "no C++ compiler: apt-get install -y g++")
    assert config.cache is not None
    return KernelFolder("cpu", Path(config.cache.mkdir("kernels")))


def kernel(config: pytest.Config, *optimizers: OptimizerKeys, parts: torch.dtype = torch.float32) -> Kernel:
    """One for parts of that dtype and fp32, without encoded copies and with an fp32 one."""
    rules = [rule_of(rule_settings(optimizer)) for optimizer in optimizers]
    programs = programs_of(rules, parts, [(), (torch.float32,)])
    return folder(config).kernel("compiled", programs)
