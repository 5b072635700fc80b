"""Means with intervals, differences between conditions, and how both are written.

All intervals are Student t over replicas: at n = 3 it covers .95 where a percentile bootstrap covers .75.
scipy.special instead of scipy.stats, which takes as long to import as everything else here together.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, stdtr, stdtrit

Array = NDArray[np.float64]
Transform = Callable[[Array], Array]

# scale -> (to it, back from it, lower and upper end of the quantity's range)
SCALES: dict[str, tuple[Transform, Transform, float, float]] = {
    "linear": (np.asarray, np.asarray, -math.inf, math.inf),
    "log": (np.log, np.exp, 0.0, math.inf),
    "logit": (logit, expit, 0.0, 1.0),
    "unexplained": (lambda v: np.log1p(-v), lambda t: -np.expm1(t), -math.inf, 1.0),  # 1 − R² on the log scale
}


ROUNDING = 1e-12  # relative: equal replicas differ by so much where their mean is rounded


@dataclass(frozen=True)
class Interval:
    """A mean (or difference of means), its interval and the number of replicas; low and high are NaN when n < 2."""

    mean: float
    low: float
    high: float
    n: int

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside the interval; False when there is no interval."""
        return value < self.low or value > self.high

    def decimals(self) -> int:
        """Decimals worth writing: two significant digits of the half width; four of the mean without one."""
        half = (self.high - self.low) / 2
        nearer = min(self.mean - self.low, self.high - self.mean)
        if 0 < nearer < half / 10:  # very skewed: the far end must not round the mean away
            half = nearer
        if math.isfinite(half) and half > ROUNDING * abs(self.mean):
            return max(0, 1 - _exponent(half, 2))
        return max(0, 3 - _exponent(self.mean, 4))

    def text(self, signed: bool = False, neutral: float = 0.0) -> str:
        """Mean and interval, "0.412 [0.388, 0.437]"; without an interval "0.412"; with no value at all "—".

        With its sign a difference is written, whose `neutral` value is 0; a ratio's is 1.
        """
        if self.n == 0:
            return "—"
        if math.isnan(self.low) or self.high - self.low <= 2 * ROUNDING * abs(self.mean):
            # no spread to take the digits from; equal replicas (a parameter count) need no brackets of zero width
            return _without_zeros(number(self.mean, self.decimals(), signed))
        decimals = self.decimals()
        if (signed or neutral) and self.excludes(neutral):  # and must be seen to: no end may be rounded to it
            decimals = max(decimals, *(first_digit(end - neutral) for end in (self.low, self.high)))
        mean, low, high = (number(value, decimals, signed) for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"

    def __str__(self) -> str:
        return f"{self.text()}, n={self.n}"


VERDICTS = ("lower", "higher", "not resolved")


@dataclass(frozen=True)
class Contrast:
    """What one condition has against another: a ratio, whose neutral value is 1, or a difference, whose is 0."""

    kind: Literal["ratio", "difference"]
    paired: bool
    interval: Interval

    @property
    def neutral(self) -> float:
        """The value that says that both are equal."""
        return 1.0 if self.kind == "ratio" else 0.0

    @property
    def verdict(self) -> str:
        """higher or lower, if the interval says so; without an interval, or without spread, nothing is resolved."""
        interval = self.interval
        if not interval.low < interval.high or not interval.excludes(self.neutral):
            return "not resolved"
        return "higher" if interval.low > self.neutral else "lower"

    def text(self) -> str:
        """ "×0.87 [0.80, 0.94]" or "−0.020 [−0.026, −0.015]"."""
        if self.kind == "ratio" and self.interval.n:
            return f"×{self.interval.text(neutral=1.0)}"
        return self.interval.text(signed=True)


def number(value: float, decimals: int, signed: bool = False) -> str:
    """`value` with so many decimals and a real minus sign; powers of ten where zeros would hide the digits."""
    sign = "+" if signed else ""
    if value != 0 and math.isfinite(value) and (abs(value) >= 1e7 or (decimals > 6 and abs(value) < 1e-3)):
        places = min(max(decimals + _exponent(value, 2), 0), 3)
        written = f"{value:{sign}.{places}e}"
    else:
        written = f"{value:{sign}.{decimals}f}"
    if float(written) == 0:
        written = written.lstrip("+-")  # a difference that rounds to nothing has no direction
    return written.replace("-", "−")


def rounded(value: float) -> str:
    """A number that has no interval, with four significant digits; "—" for NaN."""
    return Interval(value, math.nan, math.nan, 0 if math.isnan(value) else 1).text()


def mean_interval(values: ArrayLike, scale: str = "linear", level: float = 0.95) -> Interval:
    """Arithmetic mean over replicas with a Student-t interval computed on `scale` and transformed back.

    On scale g the ends are g⁻¹(mean g(v) ± t(n−1)·sd g(v)/√n): positive for "log", inside (0, 1) for "logit". They
    bound g⁻¹(E g(v)), for "log" the geometric mean, and are widened to contain the arithmetic mean where they do not;
    at the spread of replicas the two differ by much less than the interval's width.

    Args:
        values: (n,) one per replica; those not finite (diverged replicas) are left out and not counted in n.
        scale: "linear", "log", "logit", or "unexplained" for R². A value outside its open range (loss 0, accuracy 1)
            makes it linear, clipped to the closed range if all values lie in that.
        level: nominal coverage.
    Raises: ValueError if `scale` is unknown.
    """
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; choose from {sorted(SCALES)}")
    finite = _finite(values)
    if len(finite) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(finite.mean())
    if len(finite) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    low, high = _ends(finite, scale, level)
    return Interval(mean, min(low, mean), max(high, mean), len(finite))


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of b − a over replicas with its t interval; n counts the pairs of which both are finite.

    Args: a, b: (n,) aligned replica by replica. Raises: ValueError if their lengths differ.
    """
    return mean_interval(_pairs(a, b), level=level)


def paired_p_value(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of the paired t test of mean(b − a) = 0; NaN with fewer than two finite pairs."""
    return _p_value(*_mean_error(_pairs(a, b)))


def welch_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """mean(b) − mean(a) of unpaired replicas, Welch's t interval; n is the smaller group's."""
    first, second = _finite(a), _finite(b)
    n = min(len(first), len(second))
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean, error, freedom = _welch(first, second)
    half = _t_quantile(freedom, level) * error  # NaN where a group has one value
    return Interval(mean, mean - half, mean + half, n)


def welch_p_value(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided p of Welch's t test of equal means; NaN where a group has fewer than two finite values."""
    return _p_value(*_welch(_finite(a), _finite(b)))


def contrast(a: ArrayLike, b: ArrayLike, scale: str = "linear", level: float = 0.95) -> Contrast:
    """b against a: paired where at least two replicates are shared, else Welch's; n counts pairs, or the smaller group.

    On the log scale, of values above 0, the ratio of the geometric means, exp(mean(ln b − ln a)), with the interval of
    the difference of logarithms transformed back; on other scales the difference of the means, b − a.

    Args: a, b: (n,) aligned replica by replica, NaN where there is none. Raises: ValueError if their lengths differ.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    paired = shares_pairs(first, second)
    difference = paired_difference if paired else welch_difference
    if scale != "log" or min(_finite(first).min(initial=1), _finite(second).min(initial=1)) <= 0:
        return Contrast("difference", paired, difference(first, second, level))
    logs = difference(np.log(first), np.log(second), level)
    with np.errstate(over="ignore"):
        mean, low, high = (float(end) for end in np.exp([logs.mean, logs.low, logs.high]))
    return Contrast("ratio", paired, Interval(mean, low, high, logs.n))


def shares_pairs(a: Array, b: Array) -> bool:
    """Whether to compare replica by replica: two pairs at least, or too few values for anything else."""
    counts = np.isfinite(a).sum(), np.isfinite(b).sum()
    return bool((np.isfinite(a) & np.isfinite(b)).sum() >= 2 or min(counts) < 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, max over j ≤ i of (m − j + 1)·p₍ⱼ₎, at most 1; NaN stays NaN and is not counted."""
    adjusted, largest = [math.nan] * len(p_values), 0.0
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = largest
    return adjusted


def _finite(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=float).ravel()
    return array[np.isfinite(array)]


def _pairs(a: ArrayLike, b: ArrayLike) -> Array:
    """Finite differences b − a, (pairs,)."""
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"pairs need equal lengths, got {first.shape} and {second.shape}")
    whole = np.isfinite(first) & np.isfinite(second)
    return second[whole] - first[whole]


def _ends(values: Array, scale: str, level: float) -> tuple[float, float]:
    """Interval of at least two finite values on `scale`, or clipped linear where they leave its domain."""
    to, back, bottom, top = SCALES[scale]
    if values.min() <= bottom or values.max() >= top:
        low, high = _ends(values, "linear", level)
        in_range = values.min() >= bottom and values.max() <= top
        return (max(low, bottom), min(high, top)) if in_range else (low, high)
    mean, error, freedom = _mean_error(to(values))
    half = _t_quantile(freedom, level) * error
    with np.errstate(over="ignore"):  # two replicas decades apart: the upper end is infinite, and says so
        low, high = sorted(back(np.array([mean - half, mean + half])))
    return float(low), float(high)


def _mean_error(values: Array) -> tuple[float, float, float]:
    """Mean, its standard error and degrees of freedom; NaN error below two values."""
    if len(values) < 2:
        return math.nan, math.nan, math.nan
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1


def _welch(a: Array, b: Array) -> tuple[float, float, float]:
    """Difference of means, its standard error and the Welch–Satterthwaite degrees of freedom."""
    if min(len(a), len(b)) < 2:
        return (float(b.mean() - a.mean()) if len(a) and len(b) else math.nan), math.nan, math.nan
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    total = float(parts.sum())
    freedom = len(a) + len(b) - 2.0  # where neither group varies, and the formula is 0/0
    if total > 0:
        shares = parts / total  # not parts² / total²: squares of small variances underflow
        freedom = float(1 / (shares**2 / np.array([len(a) - 1, len(b) - 1])).sum())
    return float(b.mean() - a.mean()), math.sqrt(total), freedom


def _p_value(mean: float, error: float, freedom: float) -> float:
    if error == 0:  # no spread to judge a difference by: a few equal accuracies are no certainty
        return 1.0 if mean == 0 else math.nan
    return float(2 * stdtr(freedom, -abs(mean / error)))


@lru_cache(maxsize=4096)
def _t_quantile(freedom: float, level: float) -> float:
    """Two-sided Student-t factor, 4.303 for freedom 2 and level 0.95."""
    return float(stdtrit(freedom, (1 + level) / 2))


def first_digit(value: float) -> int:
    """The place behind the point of the first digit that is not 0, so many decimals show it; 0 for 0, NaN, ∞."""
    return -_exponent(value, 1)


def _exponent(value: float, digits: int) -> int:
    """Power of ten of the leading digit after rounding to `digits` significant ones (0.0996 -> −1); 0 for 0, NaN, ∞."""
    return int(f"{value:.{digits - 1}e}".split("e")[1]) if value and math.isfinite(value) else 0


def _without_zeros(written: str) -> str:
    """0.4120 -> 0.412, for numbers that stand alone; powers of ten are left as they are."""
    return written.rstrip("0").rstrip(".") if "." in written and "e" not in written else written
