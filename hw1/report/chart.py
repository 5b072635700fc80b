"""The comparison chart of a report: what stands where, so that a page has it with scripts off, and a script moves it.

A row per condition: replicas as dots, their mean, its interval. Positions are shares of an axis' length in per cent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hw1.quantities import quantity
from hw1.statistics import Array, mean_interval

TICKS = 5  # about so many
MARGIN = 0.04  # of the axis, at each end
OUTSIDE = (-10.0, 110.0)  # where an end that is beyond the axis is drawn: out of sight
COLOURED = range(2, 7)  # values of a swept key that one colour each can tell apart


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high`, with ticks (position, label)."""

    log: bool
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...] = ()

    def place(self, value: float) -> float | None:
        """Position in per cent; None for what has none."""
        if math.isnan(value):
            return None
        if self.log and value <= 0:
            return OUTSIDE[0]
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, min(value, 1e300)))
        return round(min(max(100 * (at - low) / (high - low), OUTSIDE[0]), OUTSIDE[1]), 2)


def axis(values: Array, ends: Array, log: bool) -> Axis | None:
    """An axis for all finite `values` and, as far as they leave the values room, the `ends` of their intervals.

    None where there is nothing to show, or for a logarithmic one of values that are not all above 0.
    """
    values = values[np.isfinite(values)]
    if not len(values) or (log and values.min() <= 0):
        return None
    to, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    low, high = to(values.min()), to(values.max())
    span = (high - low) or (0.05 if log else 0.05 * abs(high)) or 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = to(ends[np.isfinite(ends) & ((ends > 0) | (not log))])
    # two replicas have intervals so wide that all else would be one point: three times the values' span is enough
    ends_shown = [*reach[(reach > low - 3 * span) & (reach < high + 3 * span)]]
    low, high = min([low, *ends_shown]), max([high, *ends_shown])
    if low == high:
        low, high = low - span, high + span
    margin = MARGIN * (high - low)
    ends_of_axis = float(back(low - margin)), float(back(high + margin))
    return _with_ticks(Axis(log, *ends_of_axis))


def _with_ticks(bare: Axis) -> Axis:
    found = _round_numbers(bare.low, bare.high)
    if bare.log and bare.high / bare.low > 3:
        powers = range(math.floor(math.log10(bare.low)), math.ceil(math.log10(bare.high)) + 1)
        factors = (1, 2, 5) if bare.high / bare.low < 200 else (1,)
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [tick for tick in found if bare.low <= tick <= bare.high]
        found = found[:: max(1, len(found) // (2 * TICKS) + 1)]
    ticks = tuple((float(bare.place(tick) or 0.0), f"{tick:.10g}".replace("-", "−")) for tick in found)
    return Axis(bare.log, bare.low, bare.high, ticks)


def _round_numbers(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, about TICKS of them."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def of_metric(name: str, matrix: Array, marks: Sequence[str]) -> dict[str, Any]:
    """What a chart needs of a metric (conditions, replicates): numbers for a script, axes, and where the dots are."""
    what = quantity(name)
    intervals = [mean_interval(row, what.scale) for row in matrix]
    ends = np.array([[each.low, each.high] for each in intervals]).reshape(-1, 2)
    axes = {kind: axis(matrix, ends, kind == "log") for kind in ("linear", "log")}
    linear, log = axes["linear"], axes["log"]
    wide = log is not None and what.scale == "log" and log.high / log.low > 20
    return {
        "name": name,
        "label": what.label,
        "definition": what.definition,
        "better": what.better,
        "axes": {kind: vars(each) for kind, each in axes.items() if each is not None},
        "shown": "log" if wide else "linear",
        "values": [[_short(value) for value in row] for row in matrix],
        "intervals": [[_short(each.mean), _short(each.low), _short(each.high)] for each in intervals],
        "texts": [each.text() for each in intervals],
        "counts": [each.n for each in intervals],
        "marks": list(marks),
        "rows": [_row(log if wide else linear, row, each) for row, each in zip(matrix, ends, strict=True)],
        "shades": _shades(np.array([each.mean for each in intervals]), what.scale == "log"),
    }


def _row(on: Axis | None, values: Array, ends: Array) -> dict[str, Any]:
    """Positions of a condition: of its replicates, of their mean, and of the interval's ends."""
    if on is None:
        return {"dots": [], "mean": None, "low": None, "high": None}
    finite = values[np.isfinite(values)]
    mean = on.place(float(finite.mean())) if len(finite) else None
    low, high = (on.place(float(end)) for end in ends)
    return {"dots": [on.place(float(value)) for value in values], "mean": mean, "low": low, "high": high}


def _shades(means: Array, log: bool) -> list[float | None]:
    """Each mean as a share of their range, 0 to 1."""
    known = means[np.isfinite(means)]
    if log and len(known) and known.min() > 0:
        means, known = np.log(means), np.log(known)
    if not len(known) or known.min() == known.max():
        return [None if math.isnan(mean) else 0.0 for mean in means]
    shares = (means - known.min()) / (known.max() - known.min())
    return [None if math.isnan(share) else round(float(share), 3) for share in shares]


def _short(value: float) -> float | None:
    """Six digits are enough to draw and to read; JSON has no NaN and no infinity."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def families(values: Sequence[dict[str, str]], keys: Sequence[str]) -> tuple[str, list[str]]:
    """The key of which each value gets a colour, and its values; ("", []) where one colour is enough.

    The last of several keys that has few values: the first ones are what a chart's rows are read along.
    """
    for key in reversed(keys):
        found = list(dict.fromkeys(each[key] for each in values))
        if len(keys) > 1 and len(found) in COLOURED:
            return key, found
    return "", []


def grid(values: Sequence[dict[str, str]], keys: Sequence[str]) -> dict[str, Any] | None:
    """Conditions of two or more keys as a matrix: numbers of conditions by row and column, None where there is none.

    Columns are the values of the last key that has from two to ten; rows the combinations of the others. None where
    there are fewer than two of either, or most places would be empty.
    """
    for key in reversed(keys if len(keys) > 1 else []):
        others = [other for other in keys if other != key]
        columns = list(dict.fromkeys(each[key] for each in values))
        rows = list(dict.fromkeys(tuple(each[other] for other in others) for each in values))
        if 2 <= len(columns) <= 10 and len(rows) > 1 and 2 * len(values) >= len(rows) * len(columns):
            places: dict[tuple[tuple[str, ...], str], int] = {}
            for number, each in enumerate(values):
                places.setdefault((tuple(each[other] for other in others), each[key]), number)
            cells = [(row, [places.get((row, column)) for column in columns]) for row in rows]
            return {"key": key, "others": others, "columns": columns, "rows": cells}
    return None
