"""How high curves rise between their ends, many curves at once. No torch: conclusions are drawn from tables.

Curves come as rows in any order: row i is a point (`alphas[i]`, `values[i]`) of the curve with the number `curve[i]`,
counted from 0, beside what the quantity L is at the ends of that curve, `first[i]` = L(0) and `last[i]` = L(1). Points
outside (0, 1) are left out, and the ends always belong to the curve: the choice of range changes nothing.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Rows = NDArray[np.integer[Any]]


def entezari_barriers(curve: Rows, alphas: Numbers, values: Numbers, first: Numbers, last: Numbers) -> Numbers:
    """max over α ∈ [0, 1] of L(α) − [(1−α)·L(0) + α·L(1)], Entezari et al. 2022 (arXiv:2110.06296); ≥ 0.

    Args: rows (N,), as above.
    Returns: one of each curve (C,), in the unit of L; a lower bound of the supremum over all α; NaN where a value of
        the curve is NaN.
    """

    def over(alpha: Numbers, value: Numbers) -> Numbers:
        return value - ((1 - alpha) * first + alpha * last)

    zero = np.zeros_like(alphas)
    with np.errstate(invalid="ignore"):  # a curve that is infinite somewhere
        return highest(curve, over(zero, first), _inside(alphas, over(alphas, values)), over(zero + 1, last))


def frankle_barriers(curve: Rows, alphas: Numbers, values: Numbers, first: Numbers, last: Numbers) -> Numbers:
    """max over α ∈ [0, 1] of L(α) − ½·(L(0) + L(1)), Frankle et al. 2020 (arXiv:1912.05671); rows as above.

    At least ½·|L(0) − L(1)|: unlike Entezari's it is positive between unequal ends without any rise between them.
    """
    with np.errstate(invalid="ignore"):
        middle = (first + last) / 2
        return highest(curve, first - middle, _inside(alphas, values - middle), last - middle)


BARRIERS = {"entezari": entezari_barriers, "frankle": frankle_barriers}


def highest(curve: Rows, *heights: Numbers) -> Numbers:
    """The maximum of each curve (C,) over its rows and all `heights` (N,); NaN where one is NaN."""
    found = np.full(curve.max(initial=-1) + 1, -np.inf)
    with np.errstate(invalid="ignore"):  # NaN
        for each in heights:
            np.maximum.at(found, curve, each)
    return found


def _inside(alphas: Numbers, heights: Numbers) -> Numbers:
    return np.where((alphas > 0) & (alphas < 1), heights, -np.inf)
