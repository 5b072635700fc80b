"""Intervals and tests against scipy.stats, by simulated coverage and by their invariances; how numbers are written."""

import math
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from hw1 import statistics
from hw1.quantities import QUANTITIES, quantity
from hw1.statistics import Interval, mean_interval

SAMPLES = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 6)), min_size=1, max_size=8)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def close(a: Interval, b: Interval, tolerance: float = 1e-6) -> bool:
    pairs = [(a.mean, b.mean), (a.low, b.low), (a.high, b.high)]
    return a.n == b.n and all(x == pytest.approx(y, rel=1e-9, abs=tolerance, nan_ok=True) for x, y in pairs)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_linear_interval_is_scipys(n: int) -> None:
    values = np.random.default_rng(n).normal(3, 2, n)
    got = mean_interval(values)
    expected = scipy.stats.t.interval(0.95, n - 1, loc=values.mean(), scale=scipy.stats.sem(values))
    assert (got.low, got.high) == pytest.approx(expected)


@pytest.mark.parametrize(("scale", "to", "back"), [
    ("log", np.log, np.exp),
    ("logit", lambda p: np.log(p / (1 - p)), lambda z: 1 / (1 + np.exp(-z))),
])  # fmt: skip
def test_scaled_interval_is_scipys_transformed_back(
    scale: str, to: Callable[..., Any], back: Callable[..., Any]
) -> None:
    values = np.array([0.91, 0.93, 0.97])
    z = to(values)
    low, high = scipy.stats.t.interval(0.95, 2, loc=z.mean(), scale=scipy.stats.sem(z))
    assert close(mean_interval(values, scale), Interval(values.mean(), back(low), back(high), 3))


def test_differences_and_p_values_are_scipys() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 5), rng.normal(1, 3, 5)
    paired, welch = scipy.stats.ttest_rel(b, a), scipy.stats.ttest_ind(b, a, equal_var=False)
    for got, expected in [
        (statistics.paired_difference(a, b), paired),
        (statistics.welch_difference(a, b), welch),
    ]:
        interval = expected.confidence_interval(0.95)
        assert close(got, Interval(b.mean() - a.mean(), interval.low, interval.high, 5))
    assert statistics.paired_p_value(a, b) == pytest.approx(paired.pvalue)
    assert statistics.welch_p_value(a, b) == pytest.approx(welch.pvalue)


def test_differences_drop_what_is_not_finite() -> None:
    a, b = [1.0, 2.0, math.nan, 4.0], [2.0, 4.0, 5.0, math.inf]
    assert close(statistics.paired_difference(a, b), mean_interval([1.0, 2.0]))
    assert statistics.welch_difference(a, b).n == 3
    assert math.isnan(statistics.paired_p_value([1.0], [2.0]))
    assert math.isnan(statistics.welch_difference([1.0], [2.0, 3.0]).low)
    assert statistics.welch_difference([], [2.0]).n == 0
    with pytest.raises(ValueError, match="equal lengths"):
        statistics.paired_difference([1.0], [1.0, 2.0])


def test_replicas_without_spread_have_no_p_value_for_a_difference() -> None:
    assert statistics.paired_p_value([1, 2, 3], [1, 2, 3]) == 1
    assert math.isnan(statistics.paired_p_value([1, 2, 3], [2, 3, 4]))
    assert statistics.welch_p_value([1, 1], [1, 1]) == 1
    assert statistics.welch_difference([1, 1], [3, 3]) == Interval(2, 2, 2, 2)


def test_holm() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # R: p.adjust(., "holm")
    assert statistics.holm([0.9, math.nan, 0.6]) == pytest.approx([1, math.nan, 1], nan_ok=True)
    assert statistics.holm([]) == []


def covered(samples: np.ndarray, scale: str, truth: float) -> float:
    return float(np.mean([not mean_interval(values, scale).excludes(truth) for values in samples]))


def test_coverage_of_three_replicas() -> None:
    rng = np.random.default_rng(0)
    normal, lognormal = rng.normal(5, 1, (4000, 3)), rng.lognormal(0, 0.5, (4000, 3))
    assert 0.93 < covered(normal, "linear", 5) < 0.97
    assert 0.91 < covered(lognormal, "log", math.exp(0.125)) < 0.97  # E of a lognormal is exp(μ + σ²/2)


@given(SAMPLES, st.floats(-100, 100), st.floats(0.01, 100))
def test_linear_interval_shifts_and_scales(values: list[float], shift: float, factor: float) -> None:
    base, moved = mean_interval(values), mean_interval([factor * v + shift for v in values])
    expected = Interval(factor * base.mean + shift, factor * base.low + shift, factor * base.high + shift, base.n)
    assert close(moved, expected, tolerance=1e-4)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=8), st.floats(0.01, 100))
def test_log_interval_scales(values: list[float], factor: float) -> None:
    base, moved = mean_interval(values, "log"), mean_interval([factor * v for v in values], "log")
    assert (moved.low, moved.high) == pytest.approx((factor * base.low, factor * base.high), rel=1e-6)


@given(SHARES, st.sampled_from(["linear", "log", "logit"]), st.randoms())
def test_interval_ignores_order_contains_mean_and_stays_in_range(
    values: list[float], scale: str, shuffler: random.Random
) -> None:
    got = mean_interval(values, scale)
    shuffled = shuffler.sample(values, len(values))
    assert close(mean_interval(shuffled, scale), got)
    if got.n == 1:
        assert math.isnan(got.low)
        assert math.isnan(got.high)
    else:
        assert got.low <= got.mean <= got.high
        assert scale == "linear" or got.low >= 0
        assert scale != "logit" or got.high <= 1


def test_values_outside_the_scale_make_it_linear() -> None:
    assert mean_interval([0.9, 1.0, 1.0], "logit").high == 1
    assert mean_interval([0.0, 0.1, 0.1], "log").low == 0
    assert close(mean_interval([-1.0, 0.0, 5.0], "log"), mean_interval([-1.0, 0.0, 5.0]))  # 0 is not its end, then
    with pytest.raises(ValueError, match="unknown scale 'cubic'"):
        mean_interval([1.0], "cubic")


def test_diverged_replicas_are_not_counted() -> None:
    assert close(mean_interval([1.0, math.nan, 2.0, math.inf]), mean_interval([1.0, 2.0]))
    nothing = mean_interval([math.nan, math.nan])
    assert nothing.n == 0
    assert math.isnan(nothing.mean)
    assert str(nothing) == "—, n=0"


@pytest.mark.parametrize(("interval", "expected"), [
    (Interval(0.4123456, 0.38812, 0.43711, 3), "0.412 [0.388, 0.437], n=3"),
    (Interval(0.412, math.nan, math.nan, 1), "0.412, n=1"),
    (Interval(0.98123456, math.nan, math.nan, 1), "0.9812, n=1"),
    (Interval(0.98123456, 0.98001, 0.98239, 3), "0.9812 [0.9800, 0.9824], n=3"),
    (Interval(571, 571, 571, 3), "571, n=3"),
    (Interval(12345.678, 12000, 12700, 3), "12346 [12000, 12700], n=3"),
    (Interval(3.21e-6, 3.1e-6, 3.3e-6, 3), "3.21e−06 [3.10e−06, 3.30e−06], n=3"),
    (Interval(0.4, 0.001, 160, 2), "0.40 [0.00, 160.00], n=2"),
    (Interval(0.0996, 0, 0.1992, 3), "0.10 [0.00, 0.20], n=3"),
    (Interval(0.5, 0.2, math.inf, 2), "0.50 [0.20, inf], n=2"),
])  # fmt: skip
def test_digits_follow_the_half_width(interval: Interval, expected: str) -> None:
    assert str(interval) == expected


def test_differences_are_written_with_their_sign() -> None:
    assert Interval(-0.0112, -0.0512, 0.0288, 3).text(signed=True) == "−0.011 [−0.051, +0.029]"
    assert Interval(-0.0001, -1, 1, 3).text(signed=True) == "0.0 [−1.0, +1.0]"


def test_quantities_are_defined_in_plain_words() -> None:
    for name, found in QUANTITIES.items():
        assert found.name == name
        assert found.definition
        assert "$" not in found.label + found.definition
        assert "\n" not in found.definition
    assert quantity("my_metric").better is None
    assert quantity("my_metric").scale == "linear"
    assert quantity("my_metric").label == "my metric"
    assert quantity("test_accuracy").scale == "logit"


@pytest.mark.parametrize("module", ["quantities", "statistics", "compare"])
def test_neither_torch_nor_matplotlib_is_imported(module: str) -> None:
    heavy = {"torch", "matplotlib", "hydra", "scipy.stats"}
    code = f"import sys, hw1.{module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_interval_of_r2_stays_below_one():
    values = np.array([0.9, 0.99, 0.999])
    interval = mean_interval(values, "unexplained")
    low, high = mean_interval(1 - values, "log").low, mean_interval(1 - values, "log").high
    np.testing.assert_allclose([interval.low, interval.high], [1 - high, 1 - low])
    assert interval.high < 1


def test_replicas_that_are_equal_but_for_rounding_have_no_digits_of_it():
    for scale in ("linear", "log", "logit"):
        for value in (0.0981173142790794373, 3.3e-7, 0.1):
            interval = mean_interval([value] * 49 + [value * (1 + 2e-15)], scale)
            assert "[" not in interval.text()
            assert len(interval.text()) <= 9
    assert mean_interval([1.0, 1.0 + 1e-9]).text().count("[") == 1  # a spread, if a small one
