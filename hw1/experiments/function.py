"""Does a small network learn a function, and how well between the points that it saw?

Networks are judged on points that none of them was trained on. What it cannot say: how they do outside the interval.
Nor does a sweep over one key say that its best value is best where others (learning rate, length) are tuned for each.
"""

import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from hw1.data import Dataset
from hw1.errors import UserError, written
from hw1.experiments import Conclusion, Experiment, Tables, conditions, replicate, summary
from hw1.quantities import quantity
from hw1.recipe import Recipe
from hw1.schema import Range
from hw1.statistics import mean_interval, paired_difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hw1.figures import Family
    from hw1.laboratory import Run

LENGTHS = ("epochs", "steps")
SIZES = ("depth", "width", "budget", "model.widths")
TOGETHER = 6  # conditions that one panel can hold
DOTS = 200  # training points drawn
ANY_LOSS = ("test_mae", "max_error", "test_unexplained", "accuracy_within")  # comparable whatever was minimised
SPLITS = ("train_loss", "validation_loss", "test_loss")


@dataclass(frozen=True)
class Question:
    """What a sweep over one key asks, and what the figure made for it shows.

    Attributes:
        asks: as its title puts it.
        metrics: a panel each, or with `splits` lines of one panel.
        below: a wide panel: "history" of the training loss, or "residual" along x, or none.
    """

    asks: str
    metrics: tuple[str, ...] = ("test_loss", "accuracy_within")
    splits: bool = False
    below: str = ""


LENGTH = Question("Does longer training still help, and does it overfit?", SPLITS, splits=True)
SHAPE = Question("Shallow or deep, at these numbers of parameters?", ("test_loss", "max_error"))
QUESTIONS = {
    "depth": SHAPE,
    "model.widths": SHAPE,
    "model.activation": Question("Which activation fits best, and which fastest?", below="history"),
    "loss": Question("Which training loss, by measures that do not depend on it?", ANY_LOSS, below="residual"),
    "dataset.target": Question("Which function is hardest to fit?", ("test_unexplained", "accuracy_within")),
    "dataset.noise": Question("How much does noise in the training targets cost?", SPLITS, splits=True),
    **dict.fromkeys(LENGTHS, LENGTH),
}


@dataclass(frozen=True)
class Function(Experiment):
    """Fit a function of one variable, and compare prediction with truth."""

    tolerance: Annotated[float, Range(0, 1e9)]  # ε of `accuracy_within`, as a share of the target's range

    headline: ClassVar[str] = "test_loss"
    question: ClassVar[str] = "Does a small network learn a function, and how well between the points it saw?"

    def check(self, dataset: Dataset, recipes: Mapping[str, Recipe]) -> None:
        """Needs one real input and one real target."""
        if dataset.task != "regression" or dataset.outputs != 1 or math.prod(dataset.input_shape) != 1:
            raise UserError("experiment=function: needs one real input and one real target; see dataset=function")

    def measure(self, runs: "dict[str, Run]") -> Tables:
        """Tables `prediction` (on the test points), `training_points`, `network`, `history` and `summary`."""
        run = runs["trained"]
        predictions = pd.concat([_predicted(run, replica) for replica in range(run.recipe.replicas)])
        return {
            "prediction": predictions,
            "training_points": pd.DataFrame(_points(run, "train")),
            "network": pd.DataFrame({"network": [run.info["architecture"]]}),
            "history": run.history,
            "summary": summary(run).merge(errors(predictions, self.tolerance), on="replica"),
        }

    def conclude(self, tables: Tables, swept: list[str]) -> Conclusion:
        """Of a sweep over losses alone: which is best by what. Over lengths alone: whether the longest overfits."""
        keys, rows = conditions(swept), tables["summary"]
        rows = rows[rows["status"] == "ok"]
        if len(keys) != 1 or keys[0] not in ("loss", *LENGTHS) or rows[keys[0]].nunique() < 2:
            return Conclusion()
        names = ["test_mae", "max_error", "test_r2", "accuracy_within"] if keys == ["loss"] else ["validation_loss"]
        matrices = {name: rows.pivot(index=replicate(swept), columns=keys[0], values=name) for name in names}
        if keys == ["loss"]:
            return Conclusion(sentences=[_best_loss(name, matrix) for name, matrix in matrices.items()])
        return Conclusion(sentences=[_overfitting(keys[0], matrices["validation_loss"])])

    def draw(self, tables: Tables, swept: list[str]) -> "dict[str, Figure]":
        """`function`: prediction against truth, and training loss by epoch; and `by_<key>` for each key swept.

        Of more than 24 conditions the first 24; `by_<key>` has all values of its key.
        """
        drawn = {"function": _overview(tables, swept)}
        for key in conditions(swept):
            if tables["summary"][key].nunique() > 1:
                drawn[f"by_{re.sub(r'[^A-Za-z0-9]+', '_', key).strip('_')}"] = self._answer(key, tables, swept)
        return drawn

    def _answer(self, key: str, tables: Tables, swept: list[str]) -> "Figure":
        """The figure for the question that a swept key asks."""
        from hw1 import figures

        others = [other for other in conditions(swept) if other != key]
        any_loss = _any_loss([key, *others])
        tables, more = figures.shown(tables, "summary", others)
        question = QUESTIONS.get(key, Question(f"What does {key} change?"))
        rows = _in_order(tables["summary"], key)
        panels = list(_panels(question, key, rows, others, any_loss))
        tall = 7.6 if question.below else 4.6
        figure, grid = figures.new_figure(1 + bool(question.below), len(panels), min(4.8 + 2.4 * len(panels), 16), tall,
                                          sharey=question.splits)  # fmt: skip
        labels = _tick_labels(key, rows)
        for axes, (title, lines) in zip(grid[0], panels, strict=True):
            self._compare(axes, key, lines, labels)
            axes.set_title(title)
        if question.below == "residual":
            _draw_residuals(figure, grid[1], figures.families(tables["prediction"], [key, *others])[:TOGETHER], swept)
        elif question.below:
            _draw_histories(figure, grid[1], figures.families(tables["history"], [key])[:TOGETHER], others, any_loss)
        if question.splits or others:
            figures.legend_below(figure, grid[0, 0])
        n = figures.counted(rows, [key, *others], panels[0][1][0][1])
        bars = "mean and 95 % t-interval over replicas, each a dot" if n != "n=1" else "one replica, no interval"
        noise = "; test targets are without noise" if question.splits else ""
        figures.titled(figure, question.asks, f"{bars}, {n}{noise}{more}")
        return figure

    def _compare(self, axes: "Axes", key: str, lines: "list[tuple[Family, str]]", labels: dict[Any, str]) -> None:
        """One panel: metrics of families against the values of a key."""
        from hw1 import figures

        metrics = list(dict.fromkeys(metric for _, metric in lines))
        for family, metric in lines:
            if key in LENGTHS:
                figures.mean_line(axes, family, key, metric, metric)
            else:
                figures.mean_dots(axes, family, key, metric, metric, {value: n for n, value in enumerate(labels)})
        what = quantity(metrics[0])
        said = what.definition.partition(", over")[0] if len(metrics) > 1 else what.definition
        said += f"; ε = {self.tolerance:g} of the target's range" if what.name == "accuracy_within" else ""
        axes.set_ylabel(textwrap.fill(said + (" (log axis)" if what.scale == "log" else ""), 40), fontsize=8.5)
        if what.scale == "log":
            figures.plain_log_axis(axes)
        figures.cap(axes, what.name)
        if key in LENGTHS:
            figures.powers_axis(axes, list(labels))
            axes.set_xlabel(f"{key} (log₂ axis), each a training of its own")
        else:
            figures.category_axis(axes, list(labels.values()))
            axes.set_xlabel(f"{key} (parameters)" if any("\n(" in label for label in labels.values()) else key)


def errors(predictions: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Per replica max |prediction − target|, and the share of points where that is at most ε; NaN where it diverged.

    ε is `tolerance` × the range of the target over the points. Columns: replica, accuracy_within, max_error.
    """
    epsilon = tolerance * (predictions["target"].max() - predictions["target"].min())
    error = (predictions["prediction"] - predictions["target"]).abs()
    within = (error <= epsilon).astype(float).where(error.notna())
    found = pd.DataFrame({"replica": predictions["replica"], "accuracy_within": within, "max_error": error})
    return found.groupby("replica").agg({"accuracy_within": "mean", "max_error": "max"}).reset_index()


def _points(run: "Run", split: str) -> dict[str, np.ndarray]:
    """x as the networks see it, and target, of a whole split."""
    columns = {"x": run.splits.inputs(split, slice(None)), "target": run.splits.targets[split]}
    return {name: values.flatten().double().cpu().numpy() for name, values in columns.items()}


def _predicted(run: "Run", replica: int) -> pd.DataFrame:
    # Here, so that drawing needs no torch.
    import torch

    with torch.inference_mode():
        prediction = run.network(replica)(run.splits.inputs("test", slice(None)))
    return pd.DataFrame(
        {"replica": replica, **_points(run, "test"), "prediction": prediction.flatten().double().cpu().numpy()}
    )


def _any_loss(keys: Sequence[str]) -> bool:
    """Whether losses of different meaning stand side by side."""
    return any(key == "loss" or key.startswith("loss.") for key in keys)


# ---- words ----


def _best_loss(metric: str, matrix: pd.DataFrame) -> str:
    """Which loss is best by a metric, and how each other one differs from it; matrix (replicates, losses)."""
    what, means = quantity(metric), matrix.mean()
    best = means.idxmin() if what.better == "lower" else means.idxmax()
    others = [loss for loss in matrix if loss != best]
    differences = {
        other: paired_difference(matrix[best], matrix[other], level=1 - 0.05 / len(others)) for other in others
    }
    n = min(difference.n for difference in differences.values())
    said = [
        f"{other} {difference.text(signed=True)}" + (" (not resolved)" if n > 1 and not difference.excludes(0) else "")
        for other, difference in differences.items()
    ]
    end = ": no interval" if n < 2 else f", simultaneous over {len(others)}" if len(others) > 1 else ""
    most = "lowest" if what.better == "lower" else "highest"
    return (
        f"{what.label}: {most} with loss={best}, {mean_interval(matrix[best], what.scale).text()}; paired differences "
        f"from it: {', '.join(said)}, n={n}{end}."
    )


def _overfitting(key: str, matrix: pd.DataFrame) -> str:
    """Whether the validation loss (replicates, lengths) is higher after the longest training than after the best."""
    longest, best = matrix.columns.max(), matrix.mean().idxmin()
    if longest == best:
        return f"validation loss is lowest after the longest training, {key}={best}: no overfitting up to there."
    difference = paired_difference(matrix[best], matrix[longest])
    found = f"paired difference {difference.text(signed=True)}, n={difference.n}"
    verdict = (
        "overfitting" if difference.excludes(0) else "overfitting not resolved" if difference.n > 1 else "no interval"
    )
    return f"validation loss is lowest at {key}={best}; from there to {longest}: {found}: {verdict}."


# ---- pictures ----


def _overview(tables: Tables, swept: list[str]) -> "Figure":
    """Predictions, in one panel where few conditions share truth and training points; and training losses."""
    from hw1 import figures

    keys, one = conditions(swept), replicate(swept)
    tables, more = figures.shown(tables, "prediction", keys)
    families = figures.families(tables["prediction"], keys)
    points = {family.label: family.rows for family in figures.families(tables["training_points"], keys)}
    nets = {family.label: family.rows["network"].iloc[0] for family in figures.families(tables["network"], keys)}
    together = len(families) <= TOGETHER and all(
        _same([table[["x", "target"]] for table in shared])
        for shared in ([family.rows for family in families], list(points.values()))
    )
    if together:
        figure, grid = figures.new_figure(1, 2, 11, 5.2)
        fits, below = {grid[0, 0]: families}, grid[0, 1]
        grid[0, 0].set_title("prediction")
    else:
        columns = min(4, math.ceil(math.sqrt(len(families))))
        rows = math.ceil(len(families) / columns)
        figure, grid = figures.new_figure(rows + 1, columns, 12, 3.4 + 2.5 * rows)
        fits, (below,) = {}, figures.parted(figure, grid[rows], 1)
        for number, axes in enumerate(grid[:rows].flat):
            if number < len(families):
                fits[axes] = families[number : number + 1]
                lines = families[number].label, nets[families[number].label]
                title = "\n".join(textwrap.fill(line, 136 // columns) for line in lines)
                axes.set_title(title, fontsize=8, color=families[number].colour)
            else:
                axes.remove()
    for axes, members in fits.items():
        _draw_fit(axes, members, points[members[0].label], one, nets if together else {})
    _draw_history(below, tables, keys, one)
    figures.legend_below(figure, grid[0, 0])
    n = figures.counted(tables["history"].drop_duplicates([*keys, *one]), keys or ["epoch"], "replica")
    how = f"thin: each replica, thick: their mean, {n}" if n != "n=1" else "one replica, n=1"
    figures.titled(figure, f"Function simulation; {how}{more}")
    return figure


def _same(tables: list[pd.DataFrame]) -> bool:
    first = tables[0].drop_duplicates().to_numpy()
    return all(np.array_equal(table.drop_duplicates().to_numpy(), first) for table in tables[1:])


def _draw_fit(
    axes: "Axes", families: "list[Family]", points: pd.DataFrame, one: list[str], nets: dict[str, str]
) -> None:
    """Predictions of families over the truth and the training points that they share."""
    from hw1 import figures

    truth = families[0].rows.drop_duplicates("x").sort_values("x")
    axes.plot(truth["x"], truth["target"], color="black", linewidth=4, alpha=0.2, label="truth (test points)")
    points = points.drop_duplicates(["x", "target"]).sort_values("x")  # seeds of a sweep share them
    some = points.iloc[np.unique(np.linspace(0, len(points) - 1, min(DOTS, len(points))).round().astype(int))]
    thinned = f", {len(some)} of {len(points)}" if len(some) < len(points) else ""
    label = f"training points{thinned}"
    axes.plot(some["x"], some["target"], ".", color="black", alpha=0.45, markersize=3, label=label)
    for family in families:
        name = f"{family.label}: {nets[family.label]}".removeprefix(": ") if nets else "mean of the networks"
        figures.replica_lines(axes, family, "x", "prediction", one, name)
    axes.set(xlabel="x", ylabel="f(x)")


def _draw_history(axes: "Axes", tables: Tables, keys: list[str], one: list[str]) -> None:
    """Training loss by epoch: replicas thin, their mean thick."""
    from hw1 import figures

    metric = "train_mae" if _any_loss(keys) else "train_loss"
    for family in figures.families(tables["history"], keys):
        figures.replica_lines(axes, family, "epoch", metric, one)
    figures.plain_log_axis(axes)
    axes.set(xlabel="epoch", ylabel=f"{quantity(metric).label} (log axis)", title="training")


def _draw_histories(
    figure: "Figure", row: Sequence["Axes"], families: "list[Family]", others: list[str], any_loss: bool
) -> None:
    """Training loss by step with its interval: of families in one panel, or a panel each where others differ, too."""
    from hw1 import figures

    metric = "train_mae" if any_loss else "train_loss"
    panels = figures.parted(figure, row, len(families) if others else 1)
    for number, family in enumerate(families):
        axes = panels[number if others else 0]
        for line in figures.families(family.rows, others) if others else [family]:
            figures.mean_band(axes, line, "step", metric, metric)
        axes.set_xlabel("step")
        axes.set_title(family.label.partition("=")[2] if others else "training", fontsize=10)
    for axes in panels:
        figures.plain_log_axis(axes)
    panels[0].set_ylabel(f"{quantity(metric).label} (log axis)\nmean and 95 % t-interval", fontsize=8.5)
    if not others:
        panels[0].legend(fontsize=8.5)


def _draw_residuals(figure: "Figure", row: Sequence["Axes"], families: "list[Family]", swept: list[str]) -> None:
    """A panel for each family: prediction − target along x, replicas thin, their mean thick."""
    from hw1 import figures

    panels = figures.parted(figure, row, len(families))
    for axes, family in zip(panels, families, strict=True):
        table = family.rows.assign(residual=family.rows["prediction"] - family.rows["target"])
        axes.axhline(0, color="black", linewidth=0.8)
        figures.replica_lines(axes, replace(family, rows=table), "x", "residual", replicate(swept))
        axes.set_xlabel("x")
        axes.set_title(textwrap.fill(f"residuals, {family.label}", 30), fontsize=10)
    panels[0].set_ylabel(f"{quantity('residual').definition}\nthin: each replica, thick: mean", fontsize=8.5)


def _in_order(rows: pd.DataFrame, key: str) -> pd.DataFrame:
    """Rows of the summary in the order of a key, where it has one; with 1 − R²."""
    if key == "steps":  # of a replica that diverged these are the steps that it took
        rows = rows[rows["status"] == "ok"]
    if is_numeric_dtype(rows[key]):
        rows = rows.sort_values(key, kind="stable")
    return rows.assign(test_unexplained=1 - rows["test_r2"])


def _tick_labels(key: str, rows: pd.DataFrame) -> dict[Any, str]:
    """Value → what stands below it: itself, and the number of parameters where that is the point, or differs."""
    sizes = {value: sorted(group.unique()) for value, group in rows.groupby(key, sort=False)["parameters"]}
    sized = key in SIZES or len(set(map(tuple, sizes.values()))) > 1
    return {
        value: textwrap.fill(written(value), 20) + (f"\n({', '.join(f'{n:,}' for n in counts)})" if sized else "")
        for value, counts in sizes.items()
    }


def _panels(
    question: Question, key: str, rows: pd.DataFrame, others: list[str], any_loss: bool
) -> "Iterator[tuple[str, list[tuple[Family, str]]]]":
    """Title of each panel, and what it shows: rows in a colour, and the metric of theirs.

    A panel for every metric, with the other conditions in colours; or, of `splits`, one for every other condition, with
    the metrics in colours. Without other conditions, values of a key that are no numbers have the colours.
    """
    from hw1 import figures

    metrics = [metric.replace("_loss", "_mae") if any_loss else metric for metric in question.metrics]
    families = figures.families(rows, others)
    if question.splits:
        looks = figures.families(pd.DataFrame({"metric": metrics}), ["metric"])
        for family in families[:TOGETHER]:
            yield (
                family.label,
                [
                    (replace(look, rows=family.rows, label=quantity(metric).label), metric)
                    for look, metric in zip(looks, metrics, strict=True)
                ],
            )
        return
    if not others and (question.below or not is_numeric_dtype(rows[key])):
        families = [replace(family, place=0.0, room=1.0) for family in figures.families(rows, [key])]
    for metric in metrics:
        yield quantity(metric).label, [(family, metric) for family in families]
