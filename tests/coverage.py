"""`python -m tests.coverage`: what intervals of few replicas can and cannot show, by simulation (docs/compare.md).

Replicas are drawn from a normal distribution; one unit is the standard deviation, of replicas or of their paired
differences. Each number is a share of SIMULATIONS, with a standard error of at most half a point.
"""

import numpy as np

from hw1.statistics import contrast, mean_interval

SIMULATIONS = 10_000
REPLICAS = (2, 3, 5, 8, 16)
CORRELATION = 0.7  # of two conditions' replicas that share their seeds


def main() -> None:
    """Print the table."""
    heads = ("covers", "finds 1 sd", "2 sd", "3 sd", "1 of 3", "corrected", "half width", "paired")
    print("   n", *(f"{head:>10}" for head in heads))
    for n in REPLICAS:
        rng = np.random.default_rng(n)
        numbers = [_covered(rng, n), *_found(rng, n), *_false(rng, n), *_widths(rng, n)]
        print(f"{n:4d}", *(f"{value:10.3f}" for value in numbers))


def _covered(rng: np.random.Generator, n: int) -> float:
    """Share of 95 % intervals that contain the mean, 0."""
    intervals = [mean_interval(values) for values in rng.normal(size=(SIMULATIONS, n))]
    return float(np.mean([not interval.excludes(0) for interval in intervals]))


def _found(rng: np.random.Generator, n: int) -> list[float]:
    """Share of true differences of 1, 2 and 3 standard deviations of the paired difference that are resolved."""
    noise = rng.normal(size=(SIMULATIONS, n))
    return [_resolved(noise + size, 0.95) for size in (1, 2, 3)]


def _resolved(differences: np.ndarray, level: float) -> float:
    nothing = np.zeros(differences.shape[1])
    return float(np.mean([contrast(nothing, row, level=level).verdict != "not resolved" for row in differences]))


def _false(rng: np.random.Generator, n: int) -> list[float]:
    """Share of sweeps with three differences to a baseline, none of them true, in which one at least is resolved."""
    baseline, others = rng.normal(size=(SIMULATIONS, n)), rng.normal(size=(3, SIMULATIONS, n))
    return [
        float(np.mean([any(_differ(a, other[i], level) for other in others) for i, a in enumerate(baseline)]))
        for level in (0.95, 1 - 0.05 / 3)
    ]


def _differ(a: np.ndarray, b: np.ndarray, level: float) -> bool:
    return contrast(a, b, level=level).verdict != "not resolved"


def _widths(rng: np.random.Generator, n: int) -> list[float]:
    """Median half width of a difference's interval, unpaired and paired, in standard deviations of the replicas."""
    shared = rng.normal(size=(SIMULATIONS, n)) * np.sqrt(CORRELATION)
    a, b = (shared + rng.normal(size=(SIMULATIONS, n)) * np.sqrt(1 - CORRELATION) for _ in range(2))
    absent = np.full(n, np.nan)
    apart = [contrast(np.append(x, absent), np.append(absent, y)).interval for x, y in zip(a, b, strict=True)]
    paired = [contrast(x, y).interval for x, y in zip(a, b, strict=True)]
    return [float(np.median([(each.high - each.low) / 2 for each in group])) for group in (apart, paired)]


if __name__ == "__main__":
    main()
