"""Array namespaces and devices."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import array_api_strict as strict
import ml_dtypes
import numpy as np
import pytest

from trbounds.arrays import array_namespace, asarray_float64, device, is_numpy, to_numpy
from trbounds.divergences import k3
from trbounds.errors import InputError
from trbounds.profile import DivergenceProfile


def test_numbers_and_sequences_count_as_numpy() -> None:
    for values in ((), (1, 2.0), ([1, 2],), (np.float32(1.0), None), (np.zeros(2), 1)):
        assert is_numpy(array_namespace(*values))


def test_arrays_decide_over_numbers_and_numpy_scalars() -> None:
    assert array_namespace(2.0, np.float64(1.0), strict.asarray([1.0])) is strict
    assert not is_numpy(strict)


def test_two_libraries_are_refused() -> None:
    with pytest.raises(TypeError):
        array_namespace(np.zeros(2), strict.asarray([1.0]))


def test_float64_arrays_are_not_copied() -> None:
    x = np.ones(3)
    assert np.shares_memory(asarray_float64(x), x)
    assert asarray_float64(np.ones(3, dtype=np.float32)).dtype == np.float64
    assert asarray_float64(1).shape == ()


def test_conversion_follows_a_neighbour() -> None:
    like = strict.asarray([1, 2])
    for value in (3, [1, 2], strict.asarray([1, 2])):
        result = asarray_float64(value, like=like)
        assert result.__array_namespace__() is strict
        assert result.dtype == strict.float64
        assert device(result) == device(like)
    assert device(1.0) is None


def test_to_numpy_keeps_dtype_and_values() -> None:
    x = strict.asarray([1, 2], dtype=strict.int16)
    np.testing.assert_array_equal(to_numpy(x), np.array([1, 2], dtype=np.int16))
    assert to_numpy(x).dtype == np.int16
    assert to_numpy([1.0]).shape == (1,)


class _Tensor:
    """What a torch tensor of bfloat16 shows: numpy cannot take it, but its bits."""

    def __init__(self, bits: np.ndarray, dtype: str = "bfloat16") -> None:
        self.bits, self.dtype = bits, dtype

    def detach(self) -> _Tensor:
        return self

    def cpu(self) -> _Tensor:
        return self

    def view(self, dtype: str) -> _Tensor:
        return _Tensor(self.bits, dtype)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        if self.dtype == "bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.bits.view(self.dtype)


def test_torch_shares_bfloat16_by_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = SimpleNamespace(Tensor=_Tensor, bfloat16="bfloat16", int16="int16")
    monkeypatch.setitem(sys.modules, "torch", torch)
    values = np.array([[1.5, -np.inf], [-0.0078125, 3.0]], dtype=ml_dtypes.bfloat16)
    found = to_numpy(_Tensor(values.view(np.uint16)))
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found, values)


def test_masked_entries_are_refused() -> None:
    x = np.ma.array([1.0, 2.0], mask=[False, True])
    for convert in (asarray_float64, to_numpy):
        with pytest.raises(InputError, match="masked entries"):
            convert(x)
        assert type(convert(np.ma.array([1.0, 2.0]))) is np.ndarray


@pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
def test_gradients_pass_without_a_warning() -> None:
    torch = importlib.import_module("torch")
    x = torch.tensor([0.5, 1.0], requires_grad=True)
    k3(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.expm1([0.5, 1.0]), rtol=1e-6)
    profile = DivergenceProfile(T=10, kl_max=x)
    assert profile.kl_max.requires_grad
