"""What a sweep's results say: which condition is best, which are tied with it, and the closing sentence.

Comparisons are made on the rows of the metrics' matrices (results.Replicates), column by column where the replicates
are shared.
"""

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hw1.errors import one_line
from hw1.files import write_json
from hw1.quantities import quantity
from hw1.results import Condition, Job, Sweep
from hw1.statistics import (
    Array,
    Interval,
    first_digit,
    holm,
    mean_interval,
    number,
    paired_difference,
    paired_p_value,
    shares_pairs,
    welch_difference,
    welch_p_value,
)

FINITE_TEST_SET = "Not in the intervals: the finite test set, such as ±0.27 points at 98 % on 10,000 images."
LEGEND = "* best   ~ not told apart from it: the difference includes 0 (paired t, Welch where nothing pairs; Holm)"
NO_SPREAD = "no spread between replicas to judge it by: not resolved"
SINGLE = "n=1: no interval, nothing can be concluded"
DISJOINT = "no two replicas to compare, nothing can be concluded"
KEPT = "findings.json"
_WIDEST = 32  # characters of a swept value in the printed table; comparison.csv has all of it
_LISTED = 20  # lines of one kind before "and … more"


# Comparing two conditions


def _compare(
    a: Array, b: Array, paired: Callable[..., Any], welch: Callable[..., Any], **level: float
) -> tuple[str, Any]:
    """Apply `paired` where at least two replicates are shared, else `welch`; says which."""
    if shares_pairs(a, b):
        return "paired difference", paired(a, b, **level)
    return "difference (unpaired)", welch(a, b, **level)


def marks(sweep: Sweep, metric: str) -> list[str]:
    """Per condition "*" if its mean is best, "~" if its difference to the best is not resolved, else "".

    Not resolved: two-sided p ≥ 0.05 after Holm, or no p for want of replicas or spread. Where some conditions have an
    interval, the best is one of them. No marks for a metric of which neither direction is better, for one whose meaning
    changes within the sweep, or for a single condition; with one replica each, the best alone.
    """
    matrix, better = sweep.replicates.metrics[metric], quantity(metric).better
    counts = np.isfinite(matrix).sum(axis=1)
    if better is None or (counts > 0).sum() < 2 or changes_meaning(metric, sweep.condition_keys):
        return [""] * len(matrix)
    means = np.array([mean_interval(row).mean for row in matrix])
    means[counts < min(2, counts.max())] = math.nan
    best = int(np.nanargmin(means) if better == "lower" else np.nanargmax(means))
    adjusted = holm(
        [
            math.nan if row == best else _compare(matrix[best], matrix[row], paired_p_value, welch_p_value)[1]
            for row in range(len(matrix))
        ]
    )
    testable = counts.max() > 1
    tied = [counts[row] > 0 and testable and not p < 0.05 for row, p in enumerate(adjusted)]
    return ["*" if row == best else "~" if tied[row] else "" for row in range(len(matrix))]


def changes_meaning(metric: str, keys: Sequence[str]) -> str | None:
    """The swept key that changes what a metric measures, if there is one: its values are then not compared.

    A loss is the one trained with; a sensitivity is per unit of input; an error in the target's unit.
    """
    meaning: tuple[str, ...]
    if metric.endswith("_loss") or metric.startswith("barrier_"):
        meaning = ("loss", "dataset", "dataset.target", "dataset.path", "experiment")
    elif metric in ("softmax_jacobian", "logit_jacobian", "loss_gradient"):
        meaning = ("dataset", "dataset.standardize", "dataset.path")
    elif metric.endswith("_mae") or metric == "max_error":
        meaning = ("dataset", "dataset.target", "dataset.path")
    else:
        return None
    own_keys = tuple(f"{key}." for key in meaning if key in ("loss", "dataset.target"))
    return next((key for key in keys if key in meaning or key.startswith(own_keys)), None)


# Printing


def render(sweep: Sweep, console: Console, chosen: Sequence[str] = (), against_first: bool = True) -> None:
    """Print the comparison: as many metrics as fit in the console's width, headline first, then test metrics.

    Of `chosen` metrics these, in their order, instead. Without the differences if not `against_first`.

    Behind the headline, where the first condition is the one to compare with, stands the difference to it. Below the
    table the legend, what is not in the intervals, and every job that is not ok with its one-line reason.
    """
    columns = _label_columns(sweep)
    differences = _difference_column(sweep, console.width - _width(columns)) if against_first else []
    metrics = _fitting(sweep, chosen, console.width - _width([*columns, *differences]))
    shown = list(metrics.values())
    columns += shown[:1] + differences + shown[1:]
    console.print(Text(_title(sweep), style="italic"), soft_wrap=True)  # a table's own would be as narrow as the table
    table = Table(box=box.SIMPLE_HEAD)
    for head, *_ in columns:
        table.add_column(Text(head), no_wrap=True)
    for row in zip(*(cells for _, *cells in columns), strict=True):
        table.add_row(*(Text(cell, style="bold" if cell.endswith("*") else "") for cell in row))
    console.print(table)
    for note in [*_notes(sweep, list(metrics)), *([_difference_note(sweep)] if differences else [])]:
        console.print(Text(note, style="dim"))
    lines = failures(sweep.jobs)
    more = [f"… and {len(lines) - _LISTED} more, see comparison.csv"] if len(lines) > _LISTED else []
    for line in [*lines[:_LISTED], *more]:
        console.print(Text(line, style="red"), soft_wrap=True)  # one line each, also in a narrow pipe


def failures(jobs: Sequence[Job]) -> list[str]:
    """One line for every job that is not ok: "job 1 (batch_size=64) failed: RuntimeError: …"."""
    return [
        f"{one_line(job)} ({one_line(_label(job.overrides))}) {job.status}: {job.error}".replace(" ()", "")
        for job in jobs
        if job.status != "ok"
    ]


def _label(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


Column = list[str]  # its head, then a cell per condition


def _label_columns(sweep: Sweep) -> list[Column]:
    """Swept keys, and where they say anything, status and replicas."""
    conditions, replicates = sweep.conditions, sweep.replicates
    columns = [[cell(key), *(cell(c.values[key]) for c in conditions)] for key in sweep.condition_keys]
    if any(condition.status != "ok" for condition in conditions):
        columns.append(["status", *(condition.status for condition in conditions)])
    if _shared_n(sweep) is None:
        diverged = replicates.diverged.sum(axis=1)
        cells = [f"{n} ({bad} diverged)" if bad else str(n) for n, bad in zip(_finished(sweep), diverged, strict=True)]
        columns.append(["n", *cells])
    return columns


def cell(value: Any) -> str:
    """A swept value as it stands in a printed table, the end of a long one left out."""
    text = one_line(value)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _finished(sweep: Sweep) -> list[int]:
    """Replicas that ended and did not diverge, per condition."""
    return [int(n) for n in (sweep.replicates.present & ~sweep.replicates.diverged).sum(axis=1)]


def _shared_n(sweep: Sweep) -> int | None:
    """The number of replicas, if all conditions that have a result have as many and none diverged."""
    found = set(_finished(sweep)) - {0}
    return found.pop() if len(found) == 1 and not sweep.replicates.diverged.any() else None


def _title(sweep: Sweep) -> str:
    n = _shared_n(sweep)
    return f"{one_line(sweep.experiment) or 'sweep'}: mean [95 % t-interval]" + (f", n={n}" if n else "")


def _width(columns: Sequence[Column]) -> int:
    """Characters a rich table with these columns takes, borders included."""
    return sum(max(len(line) for cell in column for line in cell.split("\n")) + 3 for column in columns) + 1


def _fitting(sweep: Sweep, chosen: Sequence[str], room: int) -> dict[str, Column]:
    """Columns of the metrics that fit into `room` characters in order of importance; the first one in any case."""
    fitting: dict[str, Column] = {}
    for name in chosen or by_importance(sweep):
        column = _metric_column(sweep, name)
        if fitting and _width([*fitting.values(), column]) > room:
            break
        fitting[name] = column
    return fitting


def by_importance(sweep: Sweep) -> Iterator[str]:
    """Headline, test metrics, the rest in the order of the summary; what has no better direction last."""
    first = _headline(sweep)
    names = [name for name, matrix in sweep.replicates.metrics.items() if np.isfinite(matrix).any()]

    def rank(name: str) -> tuple[bool, bool, bool, bool]:
        return name != first, quantity(name).better is None, not name.startswith("test_"), name != "test_accuracy"

    return iter(sorted(names, key=rank))


def _headline(sweep: Sweep) -> str | None:
    """The named headline if it was measured, else the first test metric, else the first metric."""
    names = list(sweep.replicates.metrics)
    candidates = [sweep.headline, "test_accuracy", "test_loss", *names]
    return next((name for name in candidates if name in names), None)


def _metric_column(sweep: Sweep, name: str) -> Column:
    """Mean and interval per condition with its mark; n where it is not the condition's number of replicas."""
    intervals = [mean_interval(row, quantity(name).scale) for row in sweep.replicates.metrics[name]]
    cells = [
        interval.text() + (f" n={interval.n}" if 0 < interval.n != n else "") + mark
        for interval, n, mark in zip(intervals, _finished(sweep), marks(sweep, name), strict=True)
    ]
    head = textwrap.fill(one_line(quantity(name).label), max(12, *map(len, cells)), break_long_words=False)
    return [head, *cells]


def _difference_column(sweep: Sweep, room: int) -> list[Column]:
    """The headline's difference to the first condition, in a list; [] where it says nothing or has no room.

    Left out where the values of one numeric key have an order, and their ends are what `finding` compares.
    """
    name = _headline(sweep)
    if name is None or "alpha" in sweep.condition_keys or changes_meaning(name, sweep.condition_keys):
        return []
    matrix = sweep.replicates.metrics[name]
    known = _known(matrix)
    if len(known) < 2 or (len(sweep.condition_keys) == 1 and _numeric_ends(sweep, known)):
        return []
    first, *others = known
    column = ["minus the first", *("the first" if row == first else "" for row in range(len(matrix)))]
    resolvable = False
    for row in others:
        kind, interval = _compare(
            matrix[first], matrix[row], paired_difference, welch_difference, level=1 - 0.05 / len(others)
        )
        resolvable |= not math.isnan(interval.low)
        unlike = " unpaired" if "unpaired" in kind else " n=1" if interval.n == 1 else ""
        column[row + 1] = interval.text(signed=True) + unlike
    return [column] if resolvable and _width([_metric_column(sweep, name), column]) <= room else []


def _difference_note(sweep: Sweep) -> str:
    comparisons = len(_known(sweep.replicates.metrics[str(_headline(sweep))])) - 1
    over = f"95 % intervals simultaneous over {comparisons} (Bonferroni)" if comparisons > 1 else "95 % interval"
    return f"minus the first: mean difference, paired by replica, {over}; not resolved where 0 is in it"


def _known(matrix: Array) -> list[int]:
    """Rows with a value."""
    return [row for row in range(len(matrix)) if np.isfinite(matrix[row]).any()]


def _notes(sweep: Sweep, shown: Sequence[str]) -> list[str]:
    counts = [np.isfinite(sweep.replicates.metrics[name]).sum(axis=1) for name in shown]
    several = any("*" in marks(sweep, name) for name in shown)
    notes = []
    if counts and np.max(counts) > 1:
        notes += [LEGEND] if several else []
        notes += [f"where {SINGLE}"] if np.min(counts) == 1 else []
    elif counts:
        notes.append(f"{'* best   ' if several else ''}{SINGLE}")
    left_out = len(sweep.replicates.metrics) - len(shown)
    if left_out:
        notes.append(f"{left_out} more metrics in comparison.csv")
    if "test_accuracy" in shown:
        notes.append(FINITE_TEST_SET)
    return notes


# Concluding


def finding(sweep: Sweep) -> str:
    """What the intervals support, in words: about the headline metric and, if it is another one, test accuracy.

    The first numeric swept key: its smallest against its largest value, at each value of the other keys (up to four
    such lines, with intervals simultaneous over them). Otherwise, where no two conditions are the natural pair: the
    first condition against the best of the others, with an interval simultaneous over all differences to the first
    (Bonferroni), because the best was chosen by looking. A metric of which neither direction is better takes the one
    furthest from the first. Then every diverged replica and every job that is not ok is counted. One line per
    statement.
    """
    if "alpha" in sweep.condition_keys:  # places on a path, not conditions to choose from: the experiment concludes
        return "\n".join(f"{line}." for line in _counted(sweep))
    claims = [claim for name in main_metrics(sweep) for claim in _claims(sweep, name)] or [
        "no job has a result: nothing can be concluded"
    ]
    return "\n".join(f"{line}." for line in [*claims, *_counted(sweep)])


def keep(folder: Path, sweep: Sweep, sentences: Sequence[str]) -> None:
    """Write what was said of a sweep or of a comparison into its folder, for whoever reads it later."""
    content = {"experiment": sweep.experiment, "headline": _headline(sweep), "findings": list(sentences)}
    write_json(folder / KEPT, content)


def answer(sweep: Sweep) -> str:
    """What a comparison comes to, in a sentence for who reads no other: the best by the headline, and how surely.

    "" where nothing can be best: one condition, a metric of which neither direction is better, or no value.
    """
    name = _headline(sweep)
    if name is None or "alpha" in sweep.condition_keys:
        return ""
    marked = marks(sweep, name)
    if "*" not in marked:
        return ""
    what, row = quantity(name), marked.index("*")
    interval = mean_interval(sweep.replicates.metrics[name][row], what.scale)
    best = f"{'Lowest' if what.better == 'lower' else 'Highest'} {what.label}: {_where(sweep.conditions[row])}"
    if interval.n < 2:
        return f"{best}, {interval.text()}; {SINGLE}."
    tied = [_where(sweep.conditions[place]) for place, mark in enumerate(marked) if mark == "~"]
    others = sum(np.isfinite(line).any() for line in sweep.replicates.metrics[name]) - 1
    if not tied:
        sure = f"told apart from {'the other' if others == 1 else f'all {others} others'}"
    else:
        all_or_some = f"any of the {others} others" if len(tied) == others else f"{len(tied)} of {others} others"
        sure = f"not told apart from {' and '.join(tied) if len(tied) < 3 else all_or_some}"
    return f"{best}, {interval}; {sure}."


def values(sweep: Sweep) -> str:
    """Of one condition the metrics that something is said of: "test loss 0.0033 [0.0020, 0.0050], n=5."."""
    said = []
    for name in main_metrics(sweep):
        interval = mean_interval(sweep.replicates.metrics[name][0], quantity(name).scale)
        said.append(f"{quantity(name).label} {interval}")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def main_metrics(sweep: Sweep) -> list[str]:
    """The metrics that something is said of: the headline and, if it is another one, test accuracy."""
    return list(dict.fromkeys(n for n in (_headline(sweep), "test_accuracy") if n and n in sweep.replicates.metrics))


def _claims(sweep: Sweep, name: str) -> list[str]:
    matrix, label = sweep.replicates.metrics[name], quantity(name).label
    known = _known(matrix)
    if not known:
        return [f"{label}: no replica has a value, nothing can be concluded"]
    if len(known) == 1:
        interval = mean_interval(matrix[known[0]], quantity(name).scale)
        return [f"{label}, {_where(sweep.conditions[known[0]])}: {interval}; one condition, nothing to compare"]
    if key := changes_meaning(name, sweep.condition_keys):
        return [f"{label}: {key} changes what it measures, so its values are not compared"]
    pairs = _numeric_ends(sweep, known)
    if pairs:
        comparisons = len(pairs)
    else:
        pairs, comparisons = [(known[0], _furthest(name, matrix, known))], len(known) - 1
    return [
        _sentence(label, _between(sweep, first, last), matrix[first], matrix[last], comparisons)
        for first, last in pairs
    ]


def _between(sweep: Sweep, first: int, last: int) -> str:
    """ "batch_size 16 to 256", of several keys "batch_size 16 to 256 at depth=2"; else both conditions in full."""
    low, high = sweep.conditions[first].values, sweep.conditions[last].values
    differing = [key for key in low if low[key] != high[key]]
    if len(differing) != 1:
        return f"{_where(sweep.conditions[first])} to {_where(sweep.conditions[last])}"
    (key,) = differing
    same = ", ".join(f"{other}={value}" for other, value in low.items() if other != key)
    return one_line(f"{key} {low[key]} to {high[key]}" + (f" at {same}" if same else ""))


def _numeric_ends(sweep: Sweep, known: Sequence[int]) -> list[tuple[int, int]]:
    """Rows of the smallest and the largest value of the first numeric key, for each value of the others; [] if many."""
    for key in sweep.condition_keys:
        values = {row: sweep.conditions[row].values[key] for row in known}
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()):
            groups: dict[tuple[Any, ...], list[int]] = {}
            for row in known:
                others = tuple(v for k, v in sweep.conditions[row].values.items() if k != key)
                groups.setdefault(others, []).append(row)
            ends = [(min(rows, key=values.__getitem__), max(rows, key=values.__getitem__)) for rows in groups.values()]
            pairs = [(low, high) for low, high in ends if low != high]
            return pairs if len(pairs) <= 4 else []
    return []


def _furthest(name: str, matrix: Array, known: Sequence[int]) -> int:
    """The best row but the first; for a metric without better direction the one furthest from the first."""
    means = {row: float(np.mean(matrix[row][np.isfinite(matrix[row])])) for row in known}
    score: dict[str | None, Callable[[int], float]] = {
        "lower": lambda row: -means[row],
        "higher": lambda row: means[row],
        None: lambda row: abs(means[row] - means[known[0]]),
    }
    return max(known[1:], key=score[quantity(name).better])


def _sentence(label: str, between: str, a: Array, b: Array, comparisons: int) -> str:
    """One claim; its direction is asserted only if the interval of the difference excludes 0."""
    kind, interval = _compare(a, b, paired_difference, welch_difference, level=1 - 0.05 / comparisons)
    arrow = _arrow(a, b, interval)
    if math.isnan(interval.low):
        single = min(np.isfinite(a).sum(), np.isfinite(b).sum()) == 1
        return f"{label}, {between}: {arrow}. {SINGLE if single else DISJOINT}"
    if interval.low == interval.high and interval.mean != 0:
        return f"{label}, {between}: {arrow}, n={interval.n}, {NO_SPREAD}"
    numbers = f"{arrow}, {kind} {interval.text(signed=True)}, n={interval.n}"
    if comparisons > 1:
        numbers += f" (simultaneous over {comparisons} comparisons)"
    if not interval.excludes(0):
        return f"{label}, {between}: {numbers}: not resolved"
    return f"{label} {'falls' if interval.mean < 0 else 'rises'} from {between}: {numbers}"


def _arrow(a: Array, b: Array, difference: Interval) -> str:
    """ "0.41 → 0.22": means over the replicates the difference is over, so that the three numbers agree."""
    both = np.isfinite(a) & np.isfinite(b)
    pairs = both if both.sum() >= 2 else None
    means = [mean_interval(values if pairs is None else values[pairs]) for values in (a, b)]
    decimals = difference.decimals() if difference.high > difference.low else max(m.decimals() for m in means)
    decimals = max(decimals, *(first_digit(m.mean) for m in means))  # a mean that is small is not 0
    return " → ".join(number(mean.mean, decimals) for mean in means)


def _counted(sweep: Sweep) -> list[str]:
    """Diverged replicas per condition and jobs per status, in words; none if there are none."""
    replicates, said = sweep.replicates, []
    rows = np.flatnonzero(replicates.diverged.any(axis=1))
    for row in rows[:_LISTED]:
        diverged, present = int(replicates.diverged[row].sum()), int(replicates.present[row].sum())
        said.append(f"{diverged} of {present} replicas diverged at {_where(sweep.conditions[row])}")
    if len(rows) > _LISTED:
        said.append(f"replicas diverged at {len(rows) - _LISTED} more conditions, see comparison.csv")
    bad = [job.status for job in sweep.jobs if job.status != "ok"]
    said += [f"{bad.count(status)} of {len(sweep.jobs)} jobs {status}" for status in dict.fromkeys(bad)]
    return said


def _where(condition: Condition) -> str:
    if len(condition.values) == 1:
        return one_line(" ".join(str(part) for part in next(iter(condition.values.items()))))
    return one_line(condition)
