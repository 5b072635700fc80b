"""How figures look, and how they reach the disk. The one owner of matplotlib, with the experiments' `draw`."""

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hw1.experiments import Experiment, Tables
from hw1.quantities import quantity
from hw1.statistics import mean_interval

# Okabe & Ito's palette, told apart by the colour-blind; its yellow left out, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    # The same figure gives the same bytes, and its text stays text.
    "svg.hashsalt": "hw1",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a user's name is a dollar sign
}


def new_figure(rows: int, columns: int, width: float, height: float, **keys: Any) -> tuple[Figure, np.ndarray]:
    """A figure with its axes as an array (rows, columns); sizes in inches. Belongs to no window and no global list."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **keys)


def draw(folder: Path, experiment: Experiment, tables: Tables, swept: list[str]) -> None:
    """Let an experiment draw its tables in the house style, and write each figure as `<name>.png` (300 dpi) and `.svg`.

    Files are replaced atomically. The same tables give the same bytes.
    """
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        for name, figure in experiment.draw(tables, swept).items():
            for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                scratch = folder / f".{name}.{kind}.tmp"
                figure.savefig(scratch, format=kind, metadata=metadata)
                scratch.replace(folder / f"{name}.{kind}")


def families(table: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Label, colour, marker and rows of each combination of `keys`, in order of appearance; one unlabelled without."""
    if not keys:
        yield "", COLOURS[0], MARKERS[0], table
        return
    groups = table.groupby(list(keys), sort=False, dropna=False)
    for number, (values, rows) in enumerate(groups):
        label = ", ".join(f"{key}={value}" for key, value in zip(keys, _as_tuple(values), strict=True))
        yield label, COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)], rows


def _as_tuple(values: Hashable) -> tuple[Hashable, ...]:
    return values if isinstance(values, tuple) else (values,)


def mean_line(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, metric: str, colour: str, label: str, marker: str
) -> None:
    """Mean over replicas with a 95 % t-interval at every x, joined by a line; every replica as a faint dot.

    `metric` names the quantity whose scale (linear, log, logit) the interval is computed on.
    """
    points = rows.groupby(x)[y]
    places = np.array(list(points.groups), dtype=float)
    intervals = [mean_interval(values.to_numpy(), quantity(metric).scale) for _, values in points]
    means = np.array([interval.mean for interval in intervals])
    ends = np.array([[interval.mean - interval.low, interval.high - interval.mean] for interval in intervals]).T
    # Beside the bar, not behind it; on a log axis a factor is a distance.
    axes.plot(rows[x] * 1.09, rows[y], ".", color=colour, alpha=0.35, markersize=7, markeredgewidth=0, zorder=2)
    ends = np.nan_to_num(ends)  # one replica has no interval
    axes.errorbar(
        places,
        means,
        yerr=ends,
        color=colour,
        marker=marker,
        markersize=5,
        capsize=3,
        linewidth=1.5,
        label=label,
        zorder=3,
    )


def powers_axis(axes: Axes, values: Sequence[float]) -> None:
    """A log₂ x axis with a tick at each of the values that were used."""
    axes.set_xscale("log", base=2)
    ticks = sorted(set(values))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if len(ticks) > 1:
        axes.set_xlim(ticks[0] / 1.4, ticks[-1] * 1.4)
    if len(ticks) > 8:
        axes.tick_params(axis="x", labelrotation=45)


def plain_log_axis(axes: Axes) -> None:
    """A log y axis whose ticks are plain numbers, also where it spans less than a decade."""
    axes.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:.3g}")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(plain)
    axes.tick_params(axis="y", which="both", labelsize=9)
    if low > 0 and high / low < 20:
        axes.yaxis.set_minor_formatter(plain)


def counted(rows: pd.DataFrame, by: Sequence[str]) -> str:
    """How many replicas stand behind a point: `n=3`, or `n=2 to 3` where some diverged or are missing."""
    counts = rows.groupby(list(by)).size() if by else pd.Series([len(rows)])
    low, high = int(counts.min()), int(counts.max())
    return f"n={low}" if low == high else f"n={low} to {high}"
