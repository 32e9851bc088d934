"""One table of number types: every name leads to the same type, with the bytes that torch says."""

import pytest

from quant.dtypes import (
    FLOATS,
    ITEMSIZE,
    PRECISIONS,
    STORED_NAMES,
    STORED_PRECISIONS,
    TORCH_NAMES,
    precision_stored_as,
    stored_bytes,
    torch_dtype,
)


@pytest.mark.parametrize("stored", TORCH_NAMES)
def test_a_stored_type(stored: str) -> None:
    dtype = torch_dtype(stored)
    assert STORED_NAMES[str(dtype).removeprefix("torch.")] == stored
    assert stored_bytes(stored) == dtype.itemsize


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision(precision: str) -> None:
    stored = STORED_PRECISIONS[precision]
    assert torch_dtype(precision) == torch_dtype(stored)
    assert ITEMSIZE[precision] == stored_bytes(stored)
    assert precision_stored_as(stored) == precision
    assert stored in FLOATS


def test_a_type_that_nothing_computes_in_keeps_its_name() -> None:
    assert precision_stored_as("I8") == "I8"
    assert precision_stored_as("F64") == "fp32"
