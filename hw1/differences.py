"""Each condition against its baseline, the condition that differs from it in the baseline's keys alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hw1.aligned import is_written
from hw1.errors import UserError, shortened, written
from hw1.quantities import quantity
from hw1.results import Condition, Sweep
from hw1.statistics import Contrast, contrast, mean_interval


@dataclass(frozen=True)
class Difference:
    """What a metric of one condition has against the baseline's; the means are over what the contrast is over."""

    condition: Condition
    metric: str
    baseline_mean: float
    mean: float
    contrast: Contrast
    comparisons: int  # of this metric, over which the intervals hold together (Bonferroni)


def partners(sweep: Sweep, baseline: Sequence[tuple[str, str]]) -> dict[int, int | None]:
    """Row of a condition → row of its baseline, None where there is none; without the baselines themselves.

    Raises: UserError for a key that makes no condition, and for values that no condition has.
    """
    for key, _ in baseline:
        if key not in sweep.condition_keys:
            known = ", ".join(sweep.condition_keys) or "none do"
            raise UserError(f"--baseline {shortened(key)}: makes no condition here; those that do: {known}")
    keys = {key for key, _ in baseline}
    rows: dict[tuple[Any, ...], int] = {}
    others = [tuple(v for k, v in each.values.items() if k not in keys) for each in sweep.conditions]
    for row, condition in enumerate(sweep.conditions):
        if all(is_written(condition.values[key], text) for key, text in baseline):
            rows.setdefault(others[row], row)
    if not rows:
        wanted = " ".join(f"{key}={text}" for key, text in baseline)
        there = {key: ", ".join(dict.fromkeys(written(c.values[key]) for c in sweep.conditions)) for key in keys}
        values = "; ".join(f"{key}: {shortened(text)}" for key, text in there.items())
        raise UserError(f"--baseline {shortened(wanted)}: no condition has it; there are {values}")
    return {row: rows.get(others[row]) for row in range(len(others)) if rows.get(others[row]) != row}


def differences(sweep: Sweep, partner: dict[int, int | None], metric: str) -> list[Difference]:
    """A metric's contrast of each condition that has a baseline, with 95 % intervals that hold together."""
    matrix, scale = sweep.replicates.metrics[metric], quantity(metric).scale
    pairs = [(row, base) for row, base in partner.items() if base is not None]
    testable = [contrast(matrix[base], matrix[row], scale).interval for row, base in pairs]
    comparisons = max(1, sum(not np.isnan(interval.low) for interval in testable))
    level = 1 - 0.05 / comparisons
    found = []
    for row, base in pairs:
        a, b = matrix[base], matrix[row]
        against = contrast(a, b, scale, level)
        if against.paired:
            both = np.isfinite(a) & np.isfinite(b)
            a, b = a[both], b[both]
        means = mean_interval(a).mean, mean_interval(b).mean
        found.append(Difference(sweep.conditions[row], metric, *means, against, comparisons))
    return found


def table(found: Sequence[Difference], keys: Sequence[str]) -> pd.DataFrame:
    """A row per condition and metric; `effect` is the ratio to, or the difference from, the baseline."""
    frame: dict[str, Any] = {key: [each.condition.values[key] for each in found] for key in keys}
    intervals = [each.contrast.interval for each in found]
    return pd.DataFrame(
        frame
        | {
            "metric": [each.metric for each in found],
            "baseline_mean": [each.baseline_mean for each in found],
            "mean": [each.mean for each in found],
            "kind": [each.contrast.kind for each in found],
            "effect": [interval.mean for interval in intervals],
            "low": [interval.low for interval in intervals],
            "high": [interval.high for interval in intervals],
            "n": [interval.n for interval in intervals],
            "paired": [each.contrast.paired for each in found],
            "comparisons": [each.comparisons for each in found],
            "verdict": [each.contrast.verdict for each in found],
        }
    )
