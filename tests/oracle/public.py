"""Implementations that nobody here wrote, each driven over one list of tensors in float64."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tests.conftest import require

Array = npt.NDArray[np.float64]
Tensors = Sequence[Array]
Run = Callable[[Tensors, Sequence[Tensors], float], list[Array]]
"""(initial tensors, gradients of each step, learning rate) -> tensors after the last step."""


def package(name: str) -> Any:
    """An installed package, or the test is skipped (required in CI)."""
    if importlib.util.find_spec(name) is None:
        require("oracles", f"the package {name} is not installed; make test installs it")
    return importlib.import_module(name)


def timm_optimizer(module: str, name: str) -> Any:
    """A class of timm.optim without timm itself, which imports torchvision: that may not fit torch."""
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        require("oracles", "the package timm is not installed; make test installs it")
        raise AssertionError
    alias = "timm_optim_alone"
    if alias not in sys.modules:
        sys.modules[alias] = types.ModuleType(alias)
        sys.modules[alias].__path__ = [f"{found.submodule_search_locations[0]}/optim"]
    return getattr(importlib.import_module(f"{alias}.{module}"), name)


def torch_run(make: Callable[[list[torch.Tensor], float], torch.optim.Optimizer]) -> Run:
    """A torch optimizer as a Run."""

    def run(start: Tensors, gradients: Sequence[Tensors], lr: float) -> list[Array]:
        parameters = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in start]
        optimizer = make(parameters, lr)
        for step in gradients:
            for parameter, g in zip(parameters, step, strict=True):
                parameter.grad = torch.tensor(g, dtype=torch.float64)
            optimizer.step()
        return [p.detach().numpy() for p in parameters]

    return run


def optax_run(make: Callable[[Any, float], Any]) -> Run:
    """An optax transformation as a Run; `make` gets the module and the rate."""

    def run(start: Tensors, gradients: Sequence[Tensors], lr: float) -> list[Array]:
        jax, optax = package("jax"), package("optax")
        jax.config.update("jax_enable_x64", True)
        transformation = make(optax, lr)
        weights = [jax.numpy.asarray(x, dtype="float64") for x in start]
        state = transformation.init(weights)
        update = jax.jit(transformation.update)
        for step in gradients:
            changes, state = update([jax.numpy.asarray(g, dtype="float64") for g in step], state, weights)
            weights = optax.apply_updates(weights, changes)
        return [np.asarray(w) for w in weights]

    return run
