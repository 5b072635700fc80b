"""How figures look, and how they reach the disk. The one owner of matplotlib, with the experiments' `draw`."""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Family:
    """Rows that belong to one line, and how it looks."""

    rows: pd.DataFrame
    label: str
    colour: str
    marker: str
    place: float  # −½ to ½: its share of the room around each x, so that intervals stand side by side


def families(table: pd.DataFrame, keys: Sequence[str]) -> list[Family]:
    """The rows of each combination of `keys`, in order of appearance; one unlabelled family without keys."""
    if not keys:
        return [Family(table, "", COLOURS[0], MARKERS[0], 0.0)]
    groups = list(table.groupby(list(keys), sort=False, dropna=False))
    return [
        Family(
            rows,
            ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True)),
            COLOURS[number % len(COLOURS)],
            MARKERS[number // len(COLOURS) % len(MARKERS)],
            (number + 0.5) / len(groups) - 0.5,
        )
        for number, (values, rows) in enumerate(groups)
    ]


def mean_line(axes: Axes, family: Family, x: str, y: str, metric: str) -> None:
    """Mean over replicas with a 95 % t-interval at every x, joined by a line; every replica as a faint dot beside it.

    For a logarithmic x axis with values a factor of 2 apart, or more. `metric` names the quantity on whose scale
    (linear, log, logit) the interval is computed.
    """
    scale = quantity(metric).scale
    points = family.rows.groupby(x)[y]
    places = np.array(list(points.groups), dtype=float) * 1.35**family.place
    intervals = [mean_interval(values.to_numpy(), scale) for _, values in points]
    means = np.array([interval.mean for interval in intervals])
    ends = np.array([[interval.mean - interval.low, interval.high - interval.mean] for interval in intervals]).T
    if len(family.rows) > len(intervals):
        beside = family.rows[x] * 1.35**family.place * 1.07
        axes.plot(beside, family.rows[y], ".", color=family.colour, alpha=0.4, markersize=7, markeredgewidth=0)
    axes.errorbar(
        places,
        means,
        yerr=np.nan_to_num(ends),  # one replica has no interval
        color=family.colour,
        marker=family.marker,
        markersize=5,
        capsize=3,
        linewidth=1.5,
        label=family.label,
    )
    if scale == "logit" and axes.get_ylim()[1] > 1:
        axes.set_ylim(top=1)


def powers_axis(axes: Axes, values: Sequence[float]) -> None:
    """A log₂ x axis with a tick at each of the values that were used."""
    axes.set_xscale("log", base=2)
    ticks = sorted(set(values))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(ticks[0] / 1.5, ticks[-1] * 1.5)
    if len(ticks) > 8:
        axes.tick_params(axis="x", labelrotation=45)


def plain_log_axis(axes: Axes) -> None:
    """A log y axis whose ticks are plain numbers, also where it spans less than a decade."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if low > 0 and high / low < 3:  # so narrow that only room shows what is noise
        low, high = low / 1.3, high * 1.3
        axes.set_ylim(low, high)
    plain = FuncFormatter(lambda value, _: f"{value:.3g}")
    axes.yaxis.set_major_formatter(plain)
    if low > 0 and high / low < 20:
        axes.yaxis.set_minor_formatter(plain)
    axes.tick_params(axis="y", which="both", labelsize=9)


def counted(rows: pd.DataFrame, by: Sequence[str]) -> str:
    """How many replicas stand behind a point: `n=3`, or `n=2 to 3` where some diverged or are missing."""
    counts = rows.groupby(list(by)).size() if by else pd.Series([len(rows)])
    low, high = int(counts.min()), int(counts.max())
    return f"n={low}" if low == high else f"n={low} to {high}"
