"""Arrow tables to the columns of a batch, and back. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError, MissingDependency
from trbounds.traces.validate import Ragged

__all__ = ["ALIASES", "ArrowColumns", "columns_from_arrow", "import_pyarrow"]

ALIASES = {"loss_mask": "mask"}
"""Other names of canonical columns."""

MAX_STRING_BYTES = 1 << 16
"""Longest identifier, in bytes: a compressed file may repeat one for every row."""

_NUMBERS = ("reward", "temperature", "top_p")
_INTEGERS = ("step", "top_k")
_BOOLEANS = ("finished", "accepted")
_IDENTIFIERS = ("seq_id", "prompt_id", "group_id")


def import_pyarrow(purpose: str) -> Any:
    """Import pyarrow, or say how to install it.

    Raises
    ------
    MissingDependency
        If pyarrow is absent.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingDependency("pyarrow", extra="traces", purpose=purpose) from None
    return pa


class ArrowColumns(NamedTuple):
    """Columns for :func:`trbounds.traces.validate.assemble`, and which records lack a value."""

    columns: dict[str, Ragged | NDArray[Any]]
    missing: dict[str, NDArray[np.bool_]]


def columns_from_arrow(arrays: Mapping[str, Any], *, file: str) -> ArrowColumns:
    """Convert canonical Arrow arrays.

    Parameters
    ----------
    arrays : mapping of str to pyarrow.Array
        Canonical columns: lists (list, large_list, fixed_size_list; of any number type, also
        dictionary-encoded) and scalars. Columns of Arrow's null type count as absent.
    file : str
        For messages.

    Raises
    ------
    InputError
        If a column has a type that cannot hold its field.
    """
    columns: dict[str, Ragged | NDArray[Any]] = {}
    missing: dict[str, NDArray[np.bool_]] = {}
    pa = import_pyarrow("Reading traces")
    for column, raw in arrays.items():
        name = ALIASES.get(column, column)
        array = raw.dictionary_decode() if pa.types.is_dictionary(raw.type) else raw
        if pa.types.is_null(array.type):
            continue
        if array.null_count:
            missing[name] = np.asarray(array.is_null().to_numpy(zero_copy_only=False))
        try:
            columns[name] = _convert(pa, name, array)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            expected = _expected_type(name)
            raise InputError(
                f"found type {raw.type}, expected {expected} ({str(error).splitlines()[0]})",
                file=file,
                field=column,
            ) from None
    version = columns.get("weight_version")
    if version is not None and not isinstance(version, Ragged):
        tokens = columns["rollout_logprobs"]
        if isinstance(tokens, Ragged):
            values = np.repeat(version, np.diff(tokens.offsets))
            columns["weight_version"] = Ragged(tokens.offsets, values)
    return ArrowColumns(columns, missing)


def _expected_type(name: str) -> str:
    if name in _NUMBERS:
        return "numbers"
    if name in _INTEGERS:
        return "whole numbers"
    if name in _IDENTIFIERS:
        return "whole numbers or strings"
    if name in _BOOLEANS:
        return "true or false"
    if name == "logprobs_mode":
        return "strings"
    return "a list of numbers"


def _convert(pa: Any, name: str, array: Any) -> Ragged | NDArray[Any]:
    if name in _NUMBERS:
        return _numbers(pa, array)
    if name in _INTEGERS or (name == "weight_version" and not _is_list(pa, array.type)):
        return np.asarray(array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False))
    if name in _IDENTIFIERS:
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            _check_lengths(pa, array)
            return np.asarray(array.to_numpy(zero_copy_only=False), dtype=object)
        return np.asarray(array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False))
    if name in _BOOLEANS:
        if not pa.types.is_boolean(array.type):
            raise pa.ArrowTypeError("not a boolean")
        return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False))
    if name == "logprobs_mode":
        if pa.types.is_fixed_size_binary(array.type):
            # Its width is what the schema says, for every row.
            raise pa.ArrowTypeError("not strings")
        array = array.cast(pa.string())
        _check_lengths(pa, array)
        return np.asarray(array.to_numpy(zero_copy_only=False), dtype=object)
    return _ragged(pa, array)


def _check_lengths(pa: Any, strings: Any) -> None:
    import pyarrow.compute as pc

    longest = pc.max(pc.binary_length(strings)).as_py() or 0
    if longest > MAX_STRING_BYTES:
        raise pa.ArrowInvalid(f"one of {longest} bytes, the limit is {MAX_STRING_BYTES}")


def _is_list(pa: Any, kind: Any) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _ragged(pa: Any, array: Any) -> Ragged:
    if not _is_list(pa, array.type):
        raise pa.ArrowTypeError("not a list")
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.large_list(array.type.value_type))
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    if array.null_count:
        # A null list may still own values: flatten() leaves them out, offsets do not.
        values = array.flatten()
        lengths = array.value_lengths().fill_null(0).to_numpy().astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged(offsets - offsets[0], _numbers(pa, values))


def _numbers(pa: Any, array: Any) -> NDArray[np.float64]:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if not (
        pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    ):
        raise pa.ArrowTypeError("not numbers")
    if not pa.types.is_float64(kind):
        array = array.cast(pa.float64())
    return np.asarray(array.to_numpy(zero_copy_only=False))
