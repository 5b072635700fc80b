"""How high a curve rises between its ends. No torch: conclusions are drawn from tables."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def entezari_barrier(alphas: Sequence[float], values: ArrayLike, first: float, last: float) -> float:
    """max over α ∈ [0, 1] of L(α) − [(1−α)·L(0) + α·L(1)], Entezari et al. 2022 (arXiv:2110.06296); ≥ 0.

    Args:
        alphas, values: the curve at some α; those outside [0, 1] are left out: the choice of range changes nothing.
        first, last: L(0) and L(1), which always belong to it.
    Returns: in the unit of L, a lower bound of the supremum over all α; NaN where a value of the curve is NaN.
    """
    places, curve = _inside(alphas, values, first, last)
    with np.errstate(invalid="ignore"):  # a curve that is infinite somewhere
        return float(np.max(curve - ((1 - places) * first + places * last)))


def frankle_barrier(alphas: Sequence[float], values: ArrayLike, first: float, last: float) -> float:
    """max over α ∈ [0, 1] of L(α) − ½·(L(0) + L(1)), Frankle et al. 2020 (arXiv:1912.05671); arguments as above.

    At least ½·|L(0) − L(1)|: unlike Entezari's it is positive between unequal ends without any rise between them.
    """
    _, curve = _inside(alphas, values, first, last)
    return float(np.max(curve - (first + last) / 2))


BARRIERS = {"entezari": entezari_barrier, "frankle": frankle_barrier}


def _inside(alphas: Sequence[float], values: ArrayLike, first: float, last: float) -> tuple[np.ndarray, np.ndarray]:
    places, curve = np.asarray(alphas, dtype=float), np.asarray(values, dtype=float)
    if places.shape != curve.shape:
        raise ValueError(f"need as many values as α, got shapes {curve.shape} and {places.shape}")
    within = (places > 0) & (places < 1)
    return np.array([0.0, *places[within], 1.0]), np.array([first, *curve[within], last])
