"""Are networks trained with larger batches less sensitive to their input, and which batch size is best?

Three sensitivities of trained networks on the test split, beside their accuracy and the noise of their gradient. Of
several batch sizes the best trade between softmax sensitivity and validation error is picked, with how sure that is.

What it cannot say: at fixed epochs a larger batch takes fewer steps, so a difference between batch sizes is one of
both; `control=fixed_steps` holds the steps (a larger batch then sees more examples), `control=linear` and `sqrt` make
the rate grow with the batch. No control alone isolates the batch. Sensitivity near the data says nothing of points far
from it.
"""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

from hw1.data import Dataset
from hw1.errors import UserError, written
from hw1.experiments import Conclusion, Experiment, Tables, conditions, replicate, summary
from hw1.measures import trade_off
from hw1.quantities import quantity
from hw1.recipe import Recipe
from hw1.schema import Range
from hw1.side_by_side import each
from hw1.statistics import Array, Interval, holm, mean_interval, paired_p_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hw1.figures import Family
    from hw1.laboratory import Run

MEASURES = ("softmax_jacobian", "logit_jacobian", "loss_gradient")
BESIDE = [f"{split}_{kind}" for kind in ("loss", "accuracy") for split in ("train", "validation", "test")]
NOISE = ("noise_scale", "noise_scale_start")
NOISE_BATCH = 100  # examples of a small batch of the two-batch estimator
NOISE_START = 5000  # examples that are enough at the start, where the gradient is large
RESAMPLES = 2000
RESOLVED = 0.5  # share of resamples from which on a pick counts as one
MOST_SENTENCES = 8


@dataclass(frozen=True)
class Sensitivity(Experiment):
    """How much a trained network's output moves with its input, against the batch size it was trained with."""

    examples: Annotated[int, Range(1, 1e9)] | None  # test examples probed, the first so many; None: all
    noise_examples: Annotated[int, Range(100, 1e9)] | None  # training examples for the noise scale; None: all

    headline: ClassVar[str] = "softmax_jacobian"
    question: ClassVar[str] = (
        "Are networks trained with larger batches less sensitive to their input, and which batch size is best?"
    )

    def check(self, dataset: Dataset, recipes: Mapping[str, Recipe]) -> None:
        """Needs classes."""
        if dataset.task != "classification":
            raise UserError("experiment=sensitivity: needs a data set of classes, such as mnist or digits")

    def measure(self, runs: "dict[str, Run]") -> Tables:
        """Tables `sensitivity` (a row per replica and measure), `history` and `summary`."""
        run = runs["trained"]
        per_replica = summary(run)
        parts = [(part, replica) for replica in per_replica["replica"] for part in (self._sensitivities, self._noise)]
        found = each(lambda part: part[0](run, part[1]), parts, run.machine)
        for names, values in ((MEASURES, found[0::2]), (NOISE, found[1::2])):
            per_replica[list(names)] = values
        long = per_replica.melt(
            id_vars=["replica", *BESIDE, "steps", *NOISE],
            value_vars=list(MEASURES),
            var_name="measure",
            value_name="sensitivity",
        )
        long["batch_size"], long["unit"] = run.recipe.batch_size, run.dataset.unit
        columns = ["replica", "batch_size", "measure", "sensitivity", *BESIDE, "steps", *NOISE, "unit"]
        table = long.sort_values(["replica", "measure"], key=_order)[columns]
        return {"sensitivity": table, "history": run.history, "summary": per_replica}

    def _sensitivities(self, run: "Run", replica: int) -> list[float]:
        # Here, so that drawing needs no torch.
        from torch import nn

        from hw1.measures.sensitivity import SLICE, input_sensitivity

        if run.status[replica] != "ok":
            return [np.nan] * len(MEASURES)
        loss = nn.CrossEntropyLoss(reduction="none")
        found = input_sensitivity(run.network(replica), run.splits.slices("test", SLICE, self.examples), loss)
        return [getattr(found, name).mean().item() for name in MEASURES]

    def _noise(self, run: "Run", replica: int) -> list[float]:
        if run.status[replica] != "ok":
            return [np.nan] * len(NOISE)
        few = min(NOISE_START, self.noise_examples or NOISE_START)
        networks = (run.network(replica), self.noise_examples), (run.initial(replica), few)
        return [_noise_scale(run, network, examples) for network, examples in networks]

    def conclude(self, tables: Tables, swept: list[str]) -> Conclusion:
        """Table `best_batch_size` (a row per batch size at each combination of the other swept keys), and what it says.

        Points are (mean log softmax sensitivity, mean validation error) over replicas, both to be small. Nothing where
        fewer than two batch sizes were swept.
        """
        rows = _per_replica(tables)
        if "batch_size" not in swept or rows["batch_size"].nunique() < 2:
            return Conclusion()
        others = [key for key in conditions(swept) if key != "batch_size"]
        found, sentences = [], []
        for values, part in _combinations(rows, others):
            best = _best_batch_size(part, replicate(swept))
            at = ", ".join(f"{key}={written(value)}" for key, value in values.items())
            sentences.append(_sentence(best, part, f", {at}" if at else ""))
            found.append(best.assign(**values)[[*others, *best.columns]])
        if len(sentences) > MOST_SENTENCES:
            more = len(sentences) - MOST_SENTENCES
            sentences = [*sentences[:MOST_SENTENCES], f"… and {more} more in best_batch_size.csv"]
        table = pd.concat(found, ignore_index=True)
        answer = _answer(found[0]) if len(found) == 1 else ""
        return Conclusion({"best_batch_size": table}, [*sentences, *_confounds(rows, others)], answer)

    def draw(self, tables: Tables, swept: list[str]) -> "dict[str, Figure]":
        """`sensitivity`, and where `control` is swept over batch sizes also `controls`: one beside the other.

        All values of the swept number on the x axis; of more than 24 combinations of the other keys the first 24.
        """
        keys = conditions(swept)
        drawn = {"sensitivity": _draw_sensitivity(tables, keys)}
        if {"control", "batch_size"} <= set(keys) and "best_batch_size" in tables:
            drawn["controls"] = _draw_controls(tables, [key for key in keys if key not in ("control", "batch_size")])
        return drawn


def _noise_scale(run: "Run", network: Any, examples: int | None) -> float:
    """On random examples of the training split (None: all of it), the same ones for every run and replica."""
    import torch

    from hw1.measures.noise_scale import gradient_noise_scale
    from hw1.resident import lay_out

    splits, targets = run.splits, run.splits.targets["train"]
    count = min(len(targets), examples or len(targets))
    if count < 2:
        return np.nan
    size = max(1, min(NOISE_BATCH, count // 10))
    drawn = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))[: count // size * size]
    parts = drawn.to(splits.device).split(size)
    batches = ((lay_out(splits.inputs("train", rows)), targets[rows]) for rows in parts)
    return gradient_noise_scale(network, run.loss(), batches, len(targets)).examples


def _order(column: pd.Series) -> pd.Series:
    return column.map({name: place for place, name in enumerate(MEASURES)}) if column.name == "measure" else column


def _per_replica(tables: Tables) -> pd.DataFrame:
    """A row per replica; `sensitivity` is the headline's."""
    table = tables["sensitivity"]
    return table[table["measure"] == Sensitivity.headline]


def _combinations(rows: pd.DataFrame, keys: list[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    if not keys:
        yield {}, rows
        return
    for values, part in rows.groupby(keys, sort=False, dropna=False):
        yield dict(zip(keys, values, strict=True)), part


def _rows(table: pd.DataFrame) -> list[Any]:
    """Rows as named tuples."""
    return list(table.itertuples(index=False))


# Choosing a batch size


def _best_batch_size(rows: pd.DataFrame, one: list[str]) -> pd.DataFrame:
    """The table's rows at one combination of the other keys, with n, the replicas that have a value."""
    found = rows.assign(log_sensitivity=_logs(rows), validation_error=1 - rows["validation_accuracy"])
    coordinates = ["log_sensitivity", "validation_error"]
    wide = found.groupby(["batch_size", *one], dropna=False)[coordinates].mean().unstack(one)
    values = np.stack([wide[name].to_numpy() for name in coordinates], axis=-1)
    values[~np.isfinite(values).all(-1)] = np.nan
    sizes = wide.index.to_numpy()
    points = trade_off.replicate_means(values)
    front = trade_off.pareto_front(points)
    picked = int(trade_off.nearest_to_utopia(points, front))
    places = np.arange(len(sizes))
    table = pd.DataFrame(
        {
            "batch_size": sizes,
            "log_sensitivity": points[:, 0],
            "validation_error": points[:, 1],
            "on_front": front,
            "pick": places == picked,
            "one_se_pick": places == trade_off.one_standard_error(values[..., 1], sizes),
            "frequency": trade_off.pick_frequency(values, RESAMPLES),
            "told_apart": _told_apart(values, picked),
            "n": np.isfinite(values[..., 0]).sum(1),
        }
    )
    return table.assign(verdict=[_verdict(row) for row in _rows(table)])


def _logs(rows: pd.DataFrame) -> "pd.Series[float]":
    """Log sensitivities; a sensitivity of 0, of a saturated network, has none."""
    return np.log(rows["sensitivity"].where(rows["sensitivity"] > 0))


def _told_apart(values: Array, picked: int) -> NDArray[np.bool_]:
    """Which batch sizes (B,) differ from the picked one in either coordinate: paired t at .05, Holm over all tests.

    Beside the frequency, because of equal batch sizes, too, one is picked more often than the others: of three, one
    comes in over half of the resamples in four of five sweeps.
    """
    rivals = [place for place in range(len(values)) if place != picked]
    tests = [(place, way) for place in rivals for way in range(2)]
    p_values = holm([paired_p_value(values[picked, :, way], values[place, :, way]) for place, way in tests])
    apart = {place for (place, _), p in zip(tests, p_values, strict=True) if p < 0.05}
    return np.array([place in apart for place in range(len(values))])


def _not_told_apart(best: pd.DataFrame, most: int = 20) -> str:
    """ "not told apart from 16, 256", "not told apart from 8 of 9 others", or nothing."""
    rivals = best.loc[(best["n"] > 0) & ~best["pick"] & ~best["told_apart"], "batch_size"]
    if len(rivals) > most:
        return f"not told apart from {len(rivals)} of {len(best) - 1} others"
    return f"not told apart from {', '.join(map(str, rivals))}" if len(rivals) else ""


def _verdict(row: Any) -> str:
    if row.n == 0:
        return "diverged"
    if not row.pick:
        return "on the front" if row.on_front else "dominated"
    if np.isnan(row.frequency):
        return "n=1"
    return "pick" if row.frequency >= RESOLVED else "not resolved"


def _sentence(best: pd.DataFrame, rows: pd.DataFrame, at: str) -> str:
    what = f"best batch size (least softmax sensitivity and validation error){at}"
    known = best[best["n"] > 0]
    if len(known) < 2:
        return f"{what}: fewer than two batch sizes have a value, nothing can be concluded"
    (pick,) = _rows(best[best["pick"]])
    low, high = known["n"].min(), known["n"].max()
    n = f"n={low}" if low == high else f"n={low} to {high}"
    if pick.verdict == "n=1":
        return f"{what}: {pick.batch_size} in the one replica; n=1, nothing can be concluded"
    share = f"{pick.frequency:.0%} of {RESAMPLES:,} bootstrap resamples".replace("%", " %")
    rivals = best[~best["pick"] & (best["frequency"] > 0)].nlargest(3, "frequency")
    beside = ", ".join(f"{row.batch_size}: {row.frequency:.0%}".replace("%", " %") for row in _rows(rivals))
    beside = f" ({beside})" if beside else ""
    said = f"{pick.batch_size}, picked in {share}{beside}, {n}"
    if pick.verdict == "not resolved":
        said = f"not resolved: {pick.batch_size} is picked in only {share}{beside}, {n}"
    said += {1: "; it beats all others in both", 2: "; a front of two ties, so the lower validation error decided"}.get(
        int(best["on_front"].sum()), ""
    )
    if tied := _not_told_apart(best):
        said += f"; {tied} in either (paired t, Holm)"
    largest = best.loc[best["one_se_pick"], "batch_size"].tolist()
    said += f"; one-standard-error pick {largest[0]}" if largest else ""
    test = mean_interval(1 - rows.loc[rows["batch_size"] == pick.batch_size, "test_accuracy"].to_numpy(), "logit")
    return f"{what}: {said}; test error of {pick.batch_size}: {test.text()}"


def _answer(best: pd.DataFrame) -> str:
    """Which batch size, and how surely, for who reads nothing else; "" where nothing can be said."""
    known = best[best["n"] > 0]
    if len(known) < 2:
        return ""
    (pick,) = _rows(best[best["pick"]])
    if pick.verdict == "n=1":
        return f"Batch size {pick.batch_size} in the one replica, from which nothing can be concluded."
    picked = f"picked in {pick.frequency:.0%} of resamples, n={pick.n}".replace("%", " %")
    tied = _not_told_apart(best, most=3)
    if pick.verdict == "not resolved":
        return f"Not resolved: batch size {pick.batch_size} comes out best ({picked}), {tied or 'told apart from all'}."
    sure = f"but not surely: {tied}" if tied else "told apart from every other"
    return f"Batch size {pick.batch_size} comes out best, {sure} ({picked})."


def _confounds(rows: pd.DataFrame, others: list[str]) -> list[str]:
    """What differs between batch sizes besides them: steps, or where these were held, examples seen."""
    said: dict[str, list[str]] = {}
    for values, part in _combinations(rows, others):
        steps = part.groupby("batch_size")["steps"].max()  # the fewest are of replicas that diverged
        first, last = steps.index[[0, -1]]
        taken = f"{steps.iloc[0]:,.0f} at {first}, {steps.iloc[-1]:,.0f} at {last}"
        if steps.nunique() > 1:
            text = (
                f"confounded with steps: at fixed epochs a larger batch takes fewer ({taken}); "
                "control=fixed_steps holds them"
            )
        else:
            text = (
                f"confounded with examples seen: at equal steps ({steps.iloc[0]:,.0f}) batch size {last} saw "
                f"{last / first:g} times those of {first}"
            )
        said.setdefault(text, []).append(", ".join(f"{key}={written(value)}" for key, value in values.items()))
    places = {text: " or ".join(at[:4]) + (" …" if len(at) > 4 else "") for text, at in said.items()}
    return [text if len(said) == 1 else f"at {places[text]}: {text}" for text in said]


# Figures


def _draw_sensitivity(tables: Tables, keys: list[str]) -> "Figure":
    """Each measure (log axis), test accuracy, trade-off and gradient noise scale against the batch size (log₂ axis).

    Where another positive number was swept and the batch size was not, that number takes its place.
    """
    from hw1 import figures

    table = tables["sensitivity"]
    numeric = [key for key in keys if is_numeric_dtype(table[key]) and table[key].gt(0).all()]
    x = "batch_size" if "batch_size" in keys or not numeric else numeric[0]
    others = [key for key in keys if key != x]
    tables, more = figures.shown(tables, "sensitivity", others)
    table, first = tables["sensitivity"], _per_replica(tables)
    figure, grid = figures.new_figure(2, 3, 14, 8)
    panels = [(name, table[table["measure"] == name], "sensitivity") for name in MEASURES]
    panels += [("test_accuracy", first, "test_accuracy"), ("noise_scale", first, "noise_scale")]
    for axes, (metric, rows, column) in zip(grid.flat[[0, 1, 2, 3, 5]], panels, strict=True):
        for family in figures.families(rows, others):
            figures.mean_line(axes, family, x, column, metric)
        what = quantity(metric)
        axes.set_title(what.label)
        log = " (log axis)" if what.scale == "log" else ""
        axes.set_ylabel(textwrap.fill(what.definition + log, 46), fontsize=8.5)
        figures.powers_axis(axes, table[x].tolist())
        figures.cap(axes, metric)
        axes.set_xlabel("batch size (examples per step, log₂ axis)" if x == "batch_size" else f"{x} (log₂ axis)")
    _finish_noise(grid[1, 2], first, x, others)
    for axes in grid.flat[[0, 1, 2, 5]]:
        figures.plain_log_axis(axes)
    for axes in grid.flat[[3, 4]]:
        axes.tick_params(axis="y", labelsize=9)
    picks = _picks(tables, others)
    _trade_off(grid[1, 1], figures.families(first, others), x, picks)
    if picks is not None:
        grid[1, 1].set_xlabel(f"softmax sensitivity (log axis)\n{_symbols(picks)}", fontsize=8.5)
    if others:
        figures.legend_below(figure, grid[0, 0])
    n = figures.counted(first, [x, *others], "sensitivity")
    bars = "mean and 95 % t-interval over replicas, each a dot" if n != "n=1" else "one replica, no interval"
    title = f"Input sensitivity of trained networks against {x.replace('_', ' ')}{'' if others else _steps(first)}"
    unit = "; or ".join(table["unit"].unique())
    figure.suptitle(f"{title}\n" + textwrap.fill(f"{bars}, {n}{more}; input unit: {unit}", 150), fontsize=11)
    figure.set_label(f"{title}; {bars}, {n}{more}; input unit: {unit}")
    return figure


def _steps(rows: pd.DataFrame) -> str:
    steps = rows.groupby("batch_size")["steps"].max()
    return f" ({steps.max():,.0f} to {steps.min():,.0f} steps)" if steps.nunique() > 1 else ""


def _finish_noise(axes: "Axes", rows: pd.DataFrame, x: str, others: list[str]) -> None:
    """Where it was at the start, where batch and noise scale are equal, and how many replicas resolve none."""
    from hw1 import figures

    places = np.array(sorted(rows[x].unique()), dtype=float)[[0, -1]] * [0.85, 1.18]
    for family in figures.families(rows, others):
        start = mean_interval(family.rows["noise_scale_start"].to_numpy(), "log").mean
        if np.isfinite(start):
            axes.plot(places, [start, start], ":", color=family.colour, linewidth=1.3)
            axes.text(places[0], start, "at the start", color=family.colour, fontsize=8, va="bottom")
    if x == "batch_size":
        axes.plot(places, places, "--", color="black", linewidth=1)
        axes.text(places[-1], places[-1], "= batch size", fontsize=8, ha="right", va="bottom")
    alive = rows["sensitivity"].notna()
    hidden = int((alive & rows["noise_scale"].isna()).sum())
    if hidden:
        note = f"not resolved in {hidden} of {alive.sum()} replicas, left out: noise hides |G|²"
        axes.set_xlabel(f"{axes.get_xlabel()}\n{note}", fontsize=8.5)


Picks = list[pd.DataFrame] | None


def _picks(tables: Tables, others: list[str]) -> Picks:
    """`best_batch_size` by combination of the other keys, in the order of the families."""
    table = tables.get("best_batch_size")
    return None if table is None else [part for _, part in _combinations(table, others)]


def _symbols(picks: list[pd.DataFrame]) -> str:
    """What the marks of a trade-off mean: a front of one point has no line, and is the utopia point itself."""
    front = "line: Pareto front; +: utopia; " if any(best["on_front"].sum() > 1 for best in picks) else ""
    return f"{front}star: pick; ring: one-standard-error pick"


def _trade_off(axes: "Axes", families: "list[Family]", x: str, picks: Picks) -> None:
    """Validation error against softmax sensitivity, a point per value of x; with `picks` also front and picks."""
    for number, family in enumerate(families):
        _points(
            axes, family, x, _labelled(family.rows[x], picks[number] if picks else None) if len(families) <= 2 else []
        )
        if picks is not None:
            _mark(axes, picks[number], family.colour, corner=number if len(families) > 2 else None)
    from hw1 import figures

    figures.plain_log_x_axis(axes)
    figures.plain_log_axis(axes)
    axes.set_xlabel("softmax sensitivity (log axis)", fontsize=9)
    axes.set_ylabel("validation error (1 − validation accuracy, log axis)", fontsize=8.5)
    axes.set_title(_trade_off_title(picks), fontsize=10)


def _trade_off_title(picks: Picks) -> str:
    if picks is None:
        return "trade-off"
    if len(picks) > 1:
        return "trade-off, pick with its share of resamples"
    return f"trade-off: {_verdict_in_short(picks[0])}"


def _verdict_in_short(best: pd.DataFrame) -> str:
    """ "pick 64 (71 % of resamples)", "not resolved: 64 (41 % of resamples)", "64, n=1"."""
    for row in _rows(best[best["pick"]]):
        if np.isnan(row.frequency):
            return f"{row.batch_size}, n=1: no verdict"
        share = f"{row.batch_size} ({100 * row.frequency:.0f} % of resamples)"
        tied = _not_told_apart(best, 4)
        return (f"pick {share}" if row.verdict == "pick" else f"not resolved: {share}") + (f"\n{tied}" if tied else "")
    return "no batch size has a value"


def _labelled(values: "pd.Series[float]", best: pd.DataFrame | None) -> list[float]:
    """The values of x whose points are named: all, or of more than 6 those on the front and the largest."""
    known = sorted(values.unique())
    if best is None or len(known) <= 6:
        return known
    return [*best.loc[best["on_front"], "batch_size"], known[-1]]


def _points(axes: "Axes", family: "Family", x: str, labelled: list[float]) -> None:
    """Means with intervals both ways; the mean of a sensitivity is geometric, as the choice looks at its logarithm."""
    from hw1 import figures

    found = []
    value: Any
    for value, rows in family.rows.groupby(x):
        across = mean_interval(rows["sensitivity"].to_numpy(), "log")
        up = mean_interval(1 - rows["validation_accuracy"].to_numpy(), "logit")
        if across.n == 0 or up.n == 0 or across.mean <= 0:
            continue
        place = float(np.exp(_logs(rows).mean())), up.mean
        found.append([*place, *_beside(place[0], across), *_beside(place[1], up)])
        if value in labelled:
            axes.annotate(
                f"{value:g}", place, (7, 6), textcoords="offset points", fontsize=8.5, color=family.colour, zorder=6
            )
    if found:
        x_places, y_places, *ends = np.array(found).T
        size, width = (4.5, 0.7) if len(found) <= figures.MANY else (2, 0.2)
        axes.errorbar(x_places, y_places, xerr=ends[:2], yerr=ends[2:], color=family.colour, marker=family.marker,
                      markersize=size, linestyle="none", elinewidth=width, alpha=0.75)  # fmt: skip


def _beside(mean: float, interval: Interval) -> Array:
    """Lengths of error bars to both sides."""
    ends = np.array([mean - interval.low, interval.high - mean])
    return np.nan_to_num(np.maximum(ends, 0.0))  # one replica has no interval


def _mark(axes: "Axes", best: pd.DataFrame, colour: str, corner: int | None) -> None:
    """The front joined and the utopia point, if there are several points on it, and marks on both picks.

    Where there is no room for a label at every point, the pick has one, in a corner by the number of its family.
    """
    front = best[best["on_front"]].sort_values("log_sensitivity")
    if front.empty:
        return
    if len(front) > 1:
        axes.plot(np.exp(front["log_sensitivity"]), front["validation_error"], color=colour, linewidth=1.2, zorder=4)
        low = np.exp(front["log_sensitivity"].min()), front["validation_error"].min()
        axes.plot(*low, "+", color=colour, markersize=10, zorder=4)
    for column, marker, size, face in (("pick", "*", 15, colour), ("one_se_pick", "o", 17, "none")):
        for row in _rows(best[best[column]]):
            place = np.exp(row.log_sensitivity), row.validation_error
            axes.plot(*place, marker, color=colour, markersize=size, markerfacecolor=face, markeredgewidth=1, zorder=5)
            if corner is not None and column == "pick":
                text = f"{row.batch_size}" + ("" if np.isnan(row.frequency) else f" ({100 * row.frequency:.0f} %)")
                aside, ha, up = [(9, "left", 7), (9, "left", -14), (-9, "right", 7), (-9, "right", -14)][corner % 4]
                axes.annotate(
                    text,
                    place,
                    (aside, up),
                    textcoords="offset points",
                    ha=ha,
                    fontsize=8.5,
                    color=colour,
                    zorder=6,
                    bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5},
                )


def _draw_controls(tables: Tables, others: list[str]) -> "Figure":
    """Columns: the controls. Rows: softmax sensitivity, test accuracy, trade-off; axes shared along each row."""
    from hw1 import figures

    tables, more = figures.shown(tables, "sensitivity", others)
    first, best = _per_replica(tables), tables["best_batch_size"]
    columns = list(_combinations(first, ["control"]))
    every: list[pd.DataFrame] = []
    figure, grid = figures.new_figure(3, len(columns), 1.6 + 3.1 * len(columns), 9.2, sharey="row")
    for place, (values, rows) in enumerate(columns):
        top, middle, bottom = grid[:, place]
        chosen = best[best["control"] == values["control"]]
        families, picks = figures.families(rows, others), _picks({"best_batch_size": chosen}, others) or []
        every += picks
        for axes, metric, column in (
            (top, "softmax_jacobian", "sensitivity"),
            (middle, "test_accuracy", "test_accuracy"),
        ):
            for family in families:
                figures.mean_line(axes, family, "batch_size", column, metric)
            figures.powers_axis(axes, first["batch_size"].tolist())
        middle.set_xlabel("batch size (log₂ axis)")
        _trade_off(bottom, families, "batch_size", picks)
        top.set_title(f"control={values['control']}\n{_steps(rows).strip(' ()') or _held(rows)}", fontsize=10)
        if place:
            bottom.set_ylabel("")
    figures.plain_log_axis(grid[0, 0])
    figures.cap(grid[1, 0], "test_accuracy")
    for axes, metric in zip(grid[:2, 0], ("softmax_jacobian", "test_accuracy"), strict=True):
        what = quantity(metric)
        axes.set_ylabel(f"{what.label}\n" + textwrap.fill(what.definition, 40), fontsize=8.5)
    low = min(axes.get_xlim()[0] for axes in grid[2])
    high = max(axes.get_xlim()[1] for axes in grid[2])
    for axes in grid[2]:
        axes.set_xlim(low / 1.02, high * 1.06)
        figures.plain_log_x_axis(axes)
    if others:
        figures.legend_below(figure, grid[0, 0])
    n = figures.counted(first, ["control", "batch_size", *others], "sensitivity")
    bars = "mean and 95 % t-interval over replicas" if n != "n=1" else "one replica, no interval"
    text = f"{bars}, {n}{more}. Trade-off: {_symbols(every)}"
    title = "Does the effect of the batch size survive the controls?"
    figure.suptitle(f"{title}\n" + textwrap.fill(text, 40 * len(columns)), fontsize=11)
    figure.set_label(f"{title}; {text}")
    return figure


def _held(rows: pd.DataFrame) -> str:
    return f"{rows['steps'].max():,.0f} steps at every batch size"
