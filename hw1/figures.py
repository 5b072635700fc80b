"""How figures look, and how they reach the disk. The one owner of matplotlib, with the experiments' `draw`."""

import io
import logging
import math
import struct
import textwrap
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from hw1.errors import one_line, written
from hw1.experiments import Experiment, Tables
from hw1.files import write_atomically
from hw1.quantities import quantity
from hw1.statistics import Interval, mean_interval

log = logging.getLogger(__name__)

# Okabe & Ito's palette, told apart by the colour-blind; its yellow left out, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
MOST = 24  # conditions that one figure shows
MANY = 30  # values of x from which on marks are small, not to hide one another
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # found out for every panel it costs a fifth of the drawing
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "image.interpolation": "none",  # pixels with sharp edges, and in an SVG no more of them than there are
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    # The same figure gives the same bytes, and its text stays text.
    "svg.hashsalt": "hw1",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a user's name is a dollar sign
}

# A person's own settings would give other bytes; the backend is no matter of looks.
_DEFAULTS = {name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")}


def new_figure(rows: int, columns: int, width: float, height: float, **keys: Any) -> tuple[Figure, np.ndarray]:
    """A figure with its axes as an array (rows, columns); sizes in inches. Belongs to no window and no global list."""
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(rows, columns, squeeze=False, **keys)
    for axes in grid.flat:
        axes.yaxis.set_offset_position("right")  # a "1e6" above the axis would meet the title
    return figure, grid


class Drawn(NamedTuple):
    """The figures that were drawn, by name, and "" or in one line why another could not be."""

    names: list[str]
    problem: str


def draw(folder: Path, experiment: Experiment, tables: Tables, swept: list[str]) -> Drawn:
    """Let an experiment draw its tables in the house style, and write each figure as `<name>.png` (300 dpi) and `.svg`.

    Files are replaced atomically; the same tables give the same bytes. A figure that cannot be drawn must cost neither
    tables nor comparison.
    """
    names: list[str] = []
    try:
        with mpl.rc_context(_DEFAULTS | STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # it draws a box; the SVG has the letter
            for name, figure in experiment.draw(tables, swept).items():
                _save(figure, folder, name)
                names.append(name)
    except Exception as error:
        log.info("a figure could not be drawn", exc_info=error)
        return Drawn(names, f"{type(error).__name__}: {one_line(error)}")
    return Drawn(names, "")


def _save(figure: Figure, folder: Path, name: str) -> None:
    """Write both files of a figure: drawn once for each, while `savefig` draws twice, in a layout solved only once."""
    figure.set_dpi(mpl.rcParams["savefig.dpi"])
    canvas = FigureCanvasAgg(figure)
    if layout := figure.get_layout_engine():
        layout.execute(figure)
        figure.set_layout_engine("none")
    canvas.draw()
    write_atomically(folder / f"{name}.png", _png(np.asarray(canvas.buffer_rgba()), figure.dpi))
    svg = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(
        svg, metadata={"Date": None, "Title": figure.get_label() or figure.get_suptitle() or name}
    )
    write_atomically(folder / f"{name}.svg", svg.getvalue())


def _png(pixels: np.ndarray, dpi: float) -> bytes:
    """A PNG of pixels (height, width, 4), without the usual filters: of drawings no larger, and in half the time.

    zlib's level 3 takes half as long as its 6 (33 and 66 ms a figure), for files 1.2 to 1.4 times as large.
    """
    height, width, _ = pixels.shape
    lines = np.pad(pixels.reshape(height, 4 * width), ((0, 0), (1, 0)))  # each begins with the number of its filter, 0
    per_metre = round(dpi / 0.0254)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0),  # 8 bits, RGBA
        b"pHYs": struct.pack(">IIB", per_metre, per_metre, 1),
        b"IDAT": zlib.compress(lines.data, 3),
        b"IEND": b"",
    }
    parts = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in chunks.items())  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@dataclass(frozen=True)
class Family:
    """Rows that belong to one line, and how it looks."""

    rows: pd.DataFrame
    label: str
    colour: str
    marker: str
    place: float  # −½ to ½: where in the room around each x it stands, so that intervals are side by side
    room: float  # its share of that room

    @property
    def dashes(self) -> str:
        """A line style that tells families of one colour apart."""
        return DASHES[MARKERS.index(self.marker) % len(DASHES)]


def shown(tables: Tables, name: str, keys: Sequence[str], most: int = MOST) -> tuple[Tables, str]:
    """What of the tables one figure shows: the rows of the first `most` conditions of table `name`.

    Returns: the tables, and for the title "; the first 24 of 300 conditions, all are in the tables", or "".
    """
    found = tables[name][list(keys)].drop_duplicates()
    if not keys or len(found) <= most:
        return tables, ""
    chosen = pd.MultiIndex.from_frame(found.head(most))
    known = {
        each: pd.MultiIndex.from_frame(table[list(keys)]).isin(chosen)
        for each, table in tables.items()
        if set(keys) <= set(table)
    }
    some = {each: table[known[each]] if each in known else table for each, table in tables.items()}
    return some, f"; the first {most} of {len(found)} conditions, all are in the tables"


def families(table: pd.DataFrame, keys: Sequence[str]) -> list[Family]:
    """The rows of each combination of `keys`, in order of appearance; one unlabelled family without keys."""
    if not keys:
        return [Family(table, "", COLOURS[0], MARKERS[0], 0.0, 1.0)]
    groups = list(table.groupby(list(keys), sort=False, dropna=False))
    return [
        Family(
            rows,
            ", ".join(f"{key}={written(value)}" for key, value in zip(keys, values, strict=True)),
            COLOURS[number % len(COLOURS)],
            MARKERS[number // len(COLOURS) % len(MARKERS)],
            (number + 0.5) / len(groups) - 0.5,
            1 / len(groups),
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
    if len(family.rows) > len(intervals):
        beside = family.rows[x] * 1.35 ** (family.place + family.room / 4)
        size = 7 if len(intervals) <= MANY else 3
        axes.plot(beside, family.rows[y], ".", color=family.colour, alpha=0.4, markersize=size, markeredgewidth=0)
    _error_bars(axes, family, places, intervals, label=family.label)


def mean_dots(axes: Axes, family: Family, x: str, y: str, metric: str, places: Mapping[Any, float]) -> None:
    """Mean over replicas with a 95 % t-interval at each value of a category, every replica as a faint dot beside it.

    `places` are where on the x axis each value of column `x` stands, 1 apart (`category_axis`). `metric` is as for
    `mean_line`.
    """
    points = family.rows.groupby(x, sort=False)[y]
    intervals = [mean_interval(values.to_numpy(), quantity(metric).scale) for _, values in points]
    at = np.array([places[value] for value in points.groups]) + 0.7 * family.place
    if len(family.rows) > len(intervals):
        beside = family.rows[x].map(places) + 0.7 * family.place + 0.2 * family.room
        size = 7 if len(intervals) <= MANY else 3
        axes.plot(beside, family.rows[y], ".", color=family.colour, alpha=0.4, markersize=size, markeredgewidth=0,
                  clip_on=False)  # fmt: skip
    _error_bars(axes, family, at, intervals, linestyle="none", clip_on=False)
    axes.plot([], [], color=family.colour, marker=family.marker, linestyle="none", label=family.label)


def _error_bars(axes: Axes, family: Family, places: np.ndarray, intervals: Sequence[Interval], **look: Any) -> None:
    means = [interval.mean for interval in intervals]
    ends = np.array([[interval.mean - interval.low, interval.high - interval.mean] for interval in intervals]).T
    ends = np.nan_to_num(ends)  # one replica has no interval
    size, cap, width = (5, 3, 1.5) if len(means) <= MANY else (2, 0, 0.4)
    axes.errorbar(places, means, yerr=ends, color=family.colour, marker=family.marker, markersize=size, capsize=cap,
                  linewidth=width, **look)  # fmt: skip


def category_axis(axes: Axes, labels: Sequence[str]) -> None:
    """An x axis of categories at 0, 1, 2 …, their labels slanted where they are many, and of too many only some."""
    every = -(-len(labels) // MOST)
    axes.set_xticks(range(0, len(labels), every), labels[::every], fontsize=9 if len(labels) <= 4 else 8)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    if len(labels) > 5:
        axes.tick_params(axis="x", labelrotation=45)


def mean_band(axes: Axes, family: Family, x: str, y: str, metric: str) -> None:
    """Mean over replicas along `x`, with its 95 % t-interval as a band; no band for one replica."""
    points = family.rows.groupby(x)[y]
    intervals = [mean_interval(values.to_numpy(), quantity(metric).scale) for _, values in points]
    places = np.array(list(points.groups), dtype=float)
    lows, highs = ([getattr(interval, end) for interval in intervals] for end in ("low", "high"))
    axes.plot(places, [interval.mean for interval in intervals], color=family.colour, linestyle=family.dashes,
              linewidth=1.5, label=family.label)  # fmt: skip
    axes.fill_between(places, lows, highs, color=family.colour, alpha=0.2, linewidth=0)


def replica_lines(axes: Axes, family: Family, x: str, y: str, one: Sequence[str], label: str = "") -> None:
    """Every replica, told apart by the columns `one`, as a thin line along `x`, and their mean as a thick one."""
    for _, rows in family.rows.groupby(list(one)):
        axes.plot(rows[x], rows[y], color=family.colour, linestyle=family.dashes, linewidth=0.6, alpha=0.4)
    mean = family.rows.groupby(x)[y].mean()
    axes.plot(mean.index, mean, color=family.colour, linestyle=family.dashes, linewidth=1.6, label=label or None)


def parted(figure: Figure, row: Sequence[Axes], count: int) -> list[Axes]:
    """`count` axes with one y axis, as wide as the figure together, in place of those in a row of `new_figure`."""
    place = row[0].get_subplotspec()
    assert place is not None
    inner = place.get_gridspec()[place.rowspan.start, :].subgridspec(1, count)
    for axes in row:
        axes.remove()
    return list(inner.subplots(sharey=True, squeeze=False)[0])


def titled(figure: Figure, *lines: str) -> None:
    """A title above all panels, lines too long for the figure's width broken."""
    width = int(figure.get_figwidth() * 11)
    figure.suptitle("\n".join(textwrap.fill(line, width) for line in lines), fontsize=11)
    figure.set_label("; ".join(lines))  # for the caption on a page


def cap(axes: Axes, metric: str) -> None:
    """End the axis of a quantity that cannot be above 1 there."""
    if quantity(metric).scale == "logit" and axes.get_ylim()[1] > 1:
        axes.set_ylim(top=1)


def legend_below(figure: Figure, axes: Axes) -> None:
    """One legend for all panels, below them, in as many columns as the labels leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(4, int(figure.get_figwidth() * 14 // (max(map(len, labels), default=0) + 8))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8.5)
    figure.set_figheight(figure.get_figheight() + 0.17 * max(0, math.ceil(len(labels) / columns) - 3))


def powers_axis(axes: Axes, values: Sequence[float]) -> None:
    """A log₂ x axis with a tick at each of the values that were used, as far as there is room."""
    axes.set_xscale("log", base=2)
    ticks = _apart(sorted(set(values)))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(min(values) / 1.5, ticks[-1] * 1.5)
    gaps = np.diff(np.log(ticks)) / math.log(2.25 * ticks[-1] / ticks[0])  # shares of the axis
    longest = max(len(f"{tick:g}") for tick in ticks)
    if len(ticks) > 8 or (len(gaps) and gaps.min() < 0.03 * longest):  # labels that would touch
        axes.tick_params(axis="x", labelrotation=45)


def _apart(values: Sequence[float]) -> list[float]:
    """Those of ascending values that have room for a slanted label each on a log axis, the last among them."""
    room = (2.25 * values[-1] / values[0]) ** 0.04
    kept = [values[-1]]
    for value in reversed(values):
        if value * room <= kept[-1]:
            kept.append(value)
    return kept[::-1]


def plain_log_axis(axes: Axes) -> None:
    """A log y axis whose ticks are plain numbers, also where it spans less than a decade."""
    values = [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]
    low, high = axes.dataLim.intervaly
    if 0 < low == high:  # of which matplotlib would complain
        axes.set_ylim(low / 1.3, high * 1.3)
    if any((each > 0).any() for each in values):  # of nothing above 0 there is no logarithm to draw
        axes.set_yscale("log")
    low, high = axes.get_ylim()
    if low > 0 and high / low < 3:  # so narrow that only room shows what is noise
        low, high = low / 1.3, high * 1.3
        axes.set_ylim(low, high)
    plain = FuncFormatter(lambda value, _: f"{value:,.0f}" if 1000 <= value < 1e7 else f"{value:.3g}")
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(plain if low > 0 and high / low < 8 else NullFormatter())
    if low > 0 and 8 <= high / low < 1000:  # decades alone would be too few ticks to read a value by
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.tick_params(axis="y", which="both", labelsize=9)


def plain_log_x_axis(axes: Axes) -> None:
    """A log x axis with a few ticks, written as plain numbers, also where it spans less than a decade."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high / low < 1.5:  # so narrow that only room shows what is noise
        low, high = low / 1.2, high * 1.2
        axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(5) if high / low < 8 else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.tick_params(axis="x", labelsize=9)


def counted(rows: pd.DataFrame, by: Sequence[str], column: str) -> str:
    """How many replicas have a value in `column` at a point: `n=3`, or `n=2 to 3` where some diverged."""
    counts = rows.groupby(list(by), dropna=False)[column].count()
    if counts.empty:
        return "n=0"
    low, high = int(counts.min()), int(counts.max())
    return f"n={low}" if low == high else f"n={low} to {high}"
