"""Are networks trained with larger batches less sensitive to their input?

Three sensitivities of trained networks on the test split, beside their accuracy. What it cannot say: at fixed epochs a
larger batch takes fewer steps, so a difference between batch sizes is one of both; `steps=…` holds the steps, and
`schedule.scaling` the ratio of rate to batch. Sensitivity near the data says nothing of points far from it.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from hw1.data import Dataset
from hw1.errors import UserError
from hw1.experiments import Experiment, Tables, conditions, summary
from hw1.quantities import quantity
from hw1.recipe import Recipe
from hw1.schema import Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hw1.laboratory import Run

MEASURES = ("softmax_jacobian", "logit_jacobian", "loss_gradient")
BESIDE = [f"{split}_{kind}" for kind in ("loss", "accuracy") for split in ("train", "validation", "test")]


@dataclass(frozen=True)
class Sensitivity(Experiment):
    """How much a trained network's output moves with its input, against the batch size it was trained with."""

    examples: Annotated[int, Range(1, 1e9)] | None  # test examples probed, the first so many; None: all

    headline: ClassVar[str] = "softmax_jacobian"

    def check(self, dataset: Dataset, recipes: Mapping[str, Recipe]) -> None:
        """Needs classes."""
        if dataset.task != "classification":
            raise UserError("experiment=sensitivity: needs a data set of classes, such as mnist or digits")

    def measure(self, runs: "dict[str, Run]") -> Tables:
        """Tables `sensitivity` (a row per replica and measure), `history` and `summary`."""
        run = runs["trained"]
        per_replica = summary(run)
        found = [self._of_replica(run, replica) for replica in per_replica["replica"]]
        for name in MEASURES:
            per_replica[name] = [values[name] for values in found]
        long = per_replica.melt(
            id_vars=["replica", *BESIDE, "steps"],
            value_vars=list(MEASURES),
            var_name="measure",
            value_name="sensitivity",
        )
        long["batch_size"], long["unit"] = run.recipe.batch_size, run.dataset.unit
        columns = ["replica", "batch_size", "measure", "sensitivity", *BESIDE, "steps", "unit"]
        table = long.sort_values(["replica", "measure"], key=_order)[columns]
        return {"sensitivity": table, "history": run.history, "summary": per_replica}

    def _of_replica(self, run: "Run", replica: int) -> dict[str, float]:
        # Here, so that drawing needs no torch.
        from torch import nn

        from hw1.measures.sensitivity import SLICE, input_sensitivity

        if run.status[replica] != "ok":
            return dict.fromkeys(MEASURES, np.nan)
        loss = nn.CrossEntropyLoss(reduction="none")
        found = input_sensitivity(run.network(replica), run.splits.slices("test", SLICE, self.examples), loss)
        return {name: getattr(found, name).mean().item() for name in MEASURES}

    def draw(self, tables: Tables, swept: list[str]) -> "dict[str, Figure]":
        """`sensitivity`: each measure (log axis) and the test accuracy against the batch size (log₂ axis).

        Where another positive number was swept and the batch size was not, that number takes its place.
        """
        from hw1 import figures

        table = tables["sensitivity"]
        keys = conditions(swept)
        numeric = [key for key in keys if is_numeric_dtype(table[key]) and table[key].gt(0).all()]
        x = "batch_size" if "batch_size" in keys or not numeric else numeric[0]
        others = [key for key in keys if key != x]
        figure, grid = figures.new_figure(2, 2, 9.6, 7.2, sharex=True)
        first = table[table["measure"] == MEASURES[0]]
        panels = [(name, table[table["measure"] == name], "sensitivity") for name in MEASURES]
        panels.insert(1, ("test_accuracy", first, "test_accuracy"))
        for axes, (metric, rows, column) in zip(grid.flat, panels, strict=True):
            for family in figures.families(rows, others):
                figures.mean_line(axes, family, x, column, metric)
            what = quantity(metric)
            axes.set_title(what.label)
            log = " (log axis)" if what.scale == "log" else ""
            axes.set_ylabel(textwrap.fill(what.definition + log, 44), fontsize=8.5)
            figures.powers_axis(axes, table[x].tolist())
            figures.cap(axes, metric)
            if log:
                figures.plain_log_axis(axes)
            axes.tick_params(axis="y", labelsize=9)
        name = "batch size (examples per step, log₂ axis)" if x == "batch_size" else f"{x} (log₂ axis)"
        for axes in grid[1]:
            axes.set_xlabel(name)
        if others:
            figures.legend_below(figure, grid[0, 0])
        n = figures.counted(first, [x, *others], "sensitivity")
        bars = "mean and 95 % t-interval over replicas, each a dot" if n != "n=1" else "one replica, no interval"
        title = f"Input sensitivity of trained networks against {x.replace('_', ' ')}"
        unit = "; or ".join(table["unit"].unique())
        figure.suptitle(
            textwrap.fill(f"{title}\n{bars}, {n}; input unit: {unit}", 110, replace_whitespace=False), fontsize=11
        )
        return {"sensitivity": figure}


def _order(column: pd.Series) -> pd.Series:
    return column.map({name: place for place, name in enumerate(MEASURES)}) if column.name == "measure" else column
