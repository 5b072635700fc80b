"""What the tests of data share."""

import struct

import numpy as np
import pytest

from hw1.errors import UserError


def message(call, *arguments, **settings) -> str:
    """The one line that `call` says when it refuses."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **settings)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


def idx(array: np.ndarray) -> bytes:
    """The IDX file of an array of unsigned bytes."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
