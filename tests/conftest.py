"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import array_api_compat.numpy
import array_api_strict
import hypothesis
import pytest

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("suite")

NAMESPACES = ["numpy", "array_api_strict"] + [
    name for name in ("torch", "jax", "cupy") if importlib.util.find_spec(name)
]


@pytest.fixture(params=NAMESPACES)
def xp(request: pytest.FixtureRequest) -> ModuleType:
    """An array namespace: numpy, the strict one, and whichever others are installed."""
    name: str = request.param
    if name == "numpy":
        return array_api_compat.numpy
    if name == "array_api_strict":
        return array_api_strict
    return _optional_namespace(name)


def _optional_namespace(name: str) -> Any:
    if name == "torch":
        import array_api_compat.torch as namespace
    elif name == "jax":
        import jax
        import jax.numpy as namespace

        jax.config.update("jax_enable_x64", True)
    else:
        import array_api_compat.cupy as namespace

        if namespace.cuda.runtime.getDeviceCount() == 0:
            pytest.skip("CuPy is installed, but there is no CUDA device")
    return namespace
