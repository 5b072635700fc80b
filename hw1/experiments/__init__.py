"""Experiments: each names the recipes it needs, measures their runs into tidy tables, and draws tables.

A table has one row per observation. `draw` sees tables alone, so it serves one job, a sweep, and results of last year;
it must not need torch, and these modules import none before `measure` is called.
"""

from typing import TYPE_CHECKING, ClassVar, Protocol

import pandas as pd

from hw1.data import Dataset
from hw1.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hw1.laboratory import Run

Tables = dict[str, pd.DataFrame]
SEEDS = ("seed", "init_seed", "order_seed")  # swept, they replicate: no condition of their own


class Experiment(Protocol):
    """What a config's `experiment` node builds."""

    headline: ClassVar[str]  # the metric of `summary` that the closing sentence is about

    def check(self, dataset: Dataset) -> None:
        """See whether it can measure networks trained on a data set, before any is. Raises: UserError if not."""
        ...

    def recipes(self, base: Recipe) -> dict[str, Recipe]:
        """The runs it needs, by a name of its own; `base` is the recipe that the config describes."""
        ...

    def measure(self, runs: "dict[str, Run]") -> Tables:
        """Tidy tables; `summary`, with a row per replica and a column per scalar metric, is one of them."""
        ...

    def draw(self, tables: Tables, swept: list[str]) -> "dict[str, Figure]":
        """Figures by file name, from the tables of a job or, put under one another, of a sweep.

        `swept` names the columns that a sweep added in front, in the order of the command line; [] for a job.
        """
        ...


def summary(run: "Run") -> pd.DataFrame:
    """What every training can say of itself: a row per replica with its status, final metrics, steps and size."""
    final = run.final.drop(columns=["epoch", "learning_rate", "status"]).rename(columns={"step": "steps"})
    if {"train_accuracy", "test_accuracy"} <= set(final):
        final["generalisation_gap"] = final["train_accuracy"] - final["test_accuracy"]
    final.insert(0, "status", run.status)
    final["steps"] = final.pop("steps")  # those taken, fewer where a replica diverged
    return final.assign(parameters=run.info["parameters"]).reset_index()
