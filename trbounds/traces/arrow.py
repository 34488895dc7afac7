"""Arrow tables to the columns of a batch, and back. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trbounds.errors import InputError, MissingDependency
from trbounds.traces.batch import offsets_of
from trbounds.traces.columns import (
    BOOLEANS,
    IDENTIFIERS,
    INTEGERS,
    NUMBERS,
    TRUTH_VALUES,
    field_of,
)
from trbounds.traces.validate import Ragged

MAX_STRING_BYTES = 1 << 16
"""Longest identifier, in bytes: a compressed file may repeat one for every row."""

# By name, because pyarrow before 16 has neither views nor functions that recognise them. Bytes
# count as strings where they are UTF-8: some writers store strings so.
_STRING_VIEWS = frozenset({"string_view", "binary_view"})
_STRINGS = _STRING_VIEWS | {"string", "large_string", "binary", "large_binary"}
_LIST_VIEWS = frozenset({"list_view", "large_list_view"})
_LISTS = _LIST_VIEWS | {"list", "large_list", "fixed_size_list"}


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
        Canonical columns: lists (list, large_list, their views, fixed_size_list; of any number
        type), numbers, booleans, and strings or UTF-8 bytes of any layout; all but lists also
        dictionary-encoded, as may be the numbers of a list. Columns of Arrow's null type count as
        absent.
    file : str
        For messages.

    Raises
    ------
    InputError
        If a column has a type that cannot hold its field, or a string of more than 64 KiB.
    """
    columns: dict[str, Ragged | NDArray[Any]] = {}
    missing: dict[str, NDArray[np.bool_]] = {}
    pa = import_pyarrow("Reading traces")
    for column, raw in arrays.items():
        name = field_of(column)
        try:
            array = _decoded(pa, raw)
            if pa.types.is_null(array.type):
                continue
            if array.null_count:
                missing[name] = np.asarray(array.is_null().to_numpy(zero_copy_only=False))
            columns[name] = _convert(pa, name, array)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            # The type says all, unless it is a value that does not fit.
            reason = (
                f" ({str(error).splitlines()[0]})" if isinstance(error, pa.ArrowInvalid) else ""
            )
            raise InputError(
                f"found type {raw.type}, expected {_expected_type(name)}{reason}",
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
    if name in NUMBERS:
        return "numbers"
    if name in INTEGERS:
        return "whole numbers"
    if name in IDENTIFIERS:
        return "whole numbers or strings"
    if name in BOOLEANS:
        return "true or false"
    if name == "logprobs_mode":
        return "strings"
    return "a list of numbers"


def _decoded(pa: Any, raw: Any) -> Any:
    """Return the array without dictionary; strings are checked before each row has its own."""
    if not pa.types.is_dictionary(raw.type):
        _check_lengths(pa, raw)
        return raw
    _check_lengths(pa, raw.dictionary)
    return raw.dictionary_decode()


def _convert(pa: Any, name: str, array: Any) -> Ragged | NDArray[Any]:
    if name not in TRUTH_VALUES and _holds_truth_values(pa, array.type):
        raise pa.ArrowTypeError
    if name in NUMBERS:
        return _numbers(pa, array)
    if name in BOOLEANS:
        if not pa.types.is_boolean(array.type):
            raise pa.ArrowTypeError
        return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False))
    if name == "logprobs_mode" or (name in IDENTIFIERS and str(array.type) in _STRINGS):
        return _strings(pa, array)
    one_of_a_record = name == "weight_version" and not _is_list(array.type)
    if name in INTEGERS or name in IDENTIFIERS or one_of_a_record:
        return _whole_numbers(pa, array)
    return _ragged(pa, array)


def _holds_truth_values(pa: Any, kind: Any) -> bool:
    while hasattr(kind, "value_type"):  # a list, or numbers encoded by a dictionary
        kind = kind.value_type
    return bool(pa.types.is_boolean(kind))


def _check_lengths(pa: Any, array: Any) -> None:
    """Refuse strings that are too long, without a copy of them; arrays of other types pass."""
    kind = str(array.type)
    if kind not in _STRINGS or not len(array):
        return
    # From the buffers: pyarrow.compute would take 10 MB to load.
    if kind in _STRING_VIEWS:
        # A view is 16 bytes, of which the first four are the length.
        views = np.frombuffer(array.buffers()[1], np.int32, 4 * (array.offset + len(array)))
        lengths = views[4 * array.offset :: 4]
    else:
        width = np.dtype(np.int64 if kind.startswith("large") else np.int32)
        start = array.offset * width.itemsize
        lengths = np.diff(np.frombuffer(array.buffers()[1], width, len(array) + 1, start))
    # Of what is null the length may be anything.
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    longest = int(lengths.max(initial=0, where=valid))
    if longest > MAX_STRING_BYTES:
        raise pa.ArrowInvalid(f"one of {longest} bytes, the limit is {MAX_STRING_BYTES}")


def _strings(pa: Any, array: Any) -> NDArray[Any]:
    if str(array.type) not in _STRINGS:
        raise pa.ArrowTypeError
    strings = array.cast(pa.large_string())
    return np.asarray(strings.to_numpy(zero_copy_only=False), dtype=object)


def _is_list(kind: Any) -> bool:
    return _layout(kind) in _LISTS


def _layout(kind: Any) -> str:
    """Return the name of a type without that of its values."""
    return str(kind).partition("<")[0]


def _ragged(pa: Any, array: Any) -> Ragged:
    if not _is_list(array.type):
        raise pa.ArrowTypeError
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.large_list(array.type.value_type))
    if array.null_count or _layout(array.type) in _LIST_VIEWS:
        # A null list may still own values, and views lie in any order: flatten() sees to both,
        # offsets do not. Not cast(), which in pyarrow 26 makes corrupt lists of views.
        values = array.flatten()
        offsets = offsets_of(array.value_lengths().fill_null(0).to_numpy())
    else:
        offsets = array.offsets.to_numpy().astype(np.int64)
        values = array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    return Ragged(offsets - offsets[0], _numbers(pa, values))


def _is_number(pa: Any, kind: Any) -> bool:
    return bool(
        pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def _numbers(pa: Any, array: Any) -> NDArray[np.float64]:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not _is_number(pa, array.type):
        raise pa.ArrowTypeError
    if not pa.types.is_float64(array.type):
        array = array.cast(pa.float64())
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _whole_numbers(pa: Any, array: Any) -> NDArray[np.int64]:
    if not _is_number(pa, array.type):
        raise pa.ArrowTypeError
    return np.asarray(array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False))
