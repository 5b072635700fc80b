"""Experiments: each names the recipes it needs, measures their runs into tidy tables, concludes, and draws tables.

A table has one row per observation. `conclude` and `draw` see tables alone, so they serve one job, a sweep, and results
of last year; they must not need torch, and these modules import none before `measure` is called.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from hw1.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from hw1.data import Dataset
    from hw1.laboratory import Run

Tables = dict[str, "pd.DataFrame"]
Overrides = dict[str, Any]  # key → value, as on the command line: {"batch_size": 64}, {"optimizer": "sgd"}
SEEDS = ("seed", "init_seed", "order_seed")  # swept, they replicate: no condition of their own


@dataclass(frozen=True)
class Conclusion:
    """What an experiment makes of its tables: further tables, and sentences for whoever reads no more than these."""

    tables: Tables = field(default_factory=dict)
    sentences: Sequence[str] = ()
    answer: str = ""  # to the experiment's question, in one sentence, where the tables have one


class Experiment(ABC):
    """What a config's `experiment` node builds; its keys are the fields of the subclass, a dataclass."""

    headline: ClassVar[str]  # the metric of `summary` that the closing sentence of a sweep is about
    question: ClassVar[str] = ""  # what it asks, for the head of a report

    def check(self, dataset: "Dataset", recipes: Mapping[str, Recipe]) -> None:  # noqa: B027 (most need not override it)
        """See whether it can measure what these recipes give on a data set, before any is. Raises: UserError if not."""

    def recipes(self, base: Recipe) -> dict[str, Overrides]:
        """The runs it needs, by names of its own: each as overrides of the config, which by itself describes `base`."""
        return {"trained": {}}

    @abstractmethod
    def measure(self, runs: "dict[str, Run]") -> Tables:
        """Tidy tables; `summary`, with a row per replica and a column per scalar metric, is one of them."""

    def conclude(self, tables: Tables, swept: list[str]) -> Conclusion:
        """What follows from the tables of a job or, put under one another, of a sweep.

        Its tables take the place of those of the same name. `swept` names the columns that a sweep added in front, in
        the order of the command line; [] for a job.
        """
        return Conclusion()

    @abstractmethod
    def draw(self, tables: Tables, swept: list[str]) -> "dict[str, Figure]":
        """Figures by file name, from the tables of a job or of a sweep, those of `conclude` among them.

        Of nothing else: for the same tables, settings and code nobody asks again (`hw1.drawn`).
        """


def flattened(overrides: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"optimizer": {"lr": 1}} and {"optimizer.lr": 1} alike as ("optimizer.lr", 1)."""
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def conditions(swept: Sequence[str]) -> list[str]:
    """The swept keys that make conditions."""
    return [key for key in swept if key not in SEEDS]


def replicate(swept: Sequence[str]) -> list[str]:
    """The columns that tell replicates of one condition apart: the swept seeds and the replica."""
    return [*(key for key in swept if key in SEEDS), "replica"]


def summary(run: "Run") -> "pd.DataFrame":
    """What every training can say of itself: a row per replica with its status, final metrics, steps and size."""
    final = run.final.drop(columns=["epoch", "learning_rate", "status"]).rename(columns={"step": "steps"})
    if {"train_accuracy", "test_accuracy"} <= set(final):
        final["generalisation_gap"] = final["train_accuracy"] - final["test_accuracy"]
    final.insert(0, "status", run.status)
    final["steps"] = final.pop("steps")  # those taken, fewer where a replica diverged
    return final.assign(parameters=run.info["parameters"]).reset_index()
