"""Does a small network learn a function, and how well between the points that it saw?

Networks are judged on points that none of them was trained on. What it cannot say: how they do outside the interval.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from hw1.data import Dataset
from hw1.errors import UserError
from hw1.experiments import Experiment, Tables, conditions, replicate, summary
from hw1.quantities import quantity
from hw1.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hw1.laboratory import Run


@dataclass(frozen=True)
class Function(Experiment):
    """Fit a function of one variable, and compare prediction with truth."""

    headline: ClassVar[str] = "test_loss"

    def check(self, dataset: Dataset, recipes: Mapping[str, Recipe]) -> None:
        """Needs one real input and one real target."""
        if dataset.task != "regression" or dataset.outputs != 1 or math.prod(dataset.input_shape) != 1:
            raise UserError("experiment=function: needs one real input and one real target; see dataset=function")

    def measure(self, runs: "dict[str, Run]") -> Tables:
        """Tables `prediction` (on the test points), `history` and `summary`."""
        run = runs["trained"]
        predictions = pd.concat([self._of_replica(run, replica) for replica in range(run.recipe.replicas)])
        per_replica = summary(run)
        errors = (predictions["prediction"] - predictions["target"]).abs()
        per_replica["max_error"] = errors.groupby(predictions["replica"]).max().to_numpy()
        return {"prediction": predictions, "history": run.history, "summary": per_replica}

    @staticmethod
    def _of_replica(run: "Run", replica: int) -> pd.DataFrame:
        # Here, so that drawing needs no torch.
        import torch

        x, y = run.splits.inputs("test", slice(None)), run.splits.targets["test"]
        with torch.inference_mode():
            prediction = run.network(replica)(x)
        columns = {"x": x, "target": y, "prediction": prediction}
        flat = {name: values.flatten().double().cpu().numpy() for name, values in columns.items()}
        return pd.DataFrame({"replica": replica, **flat})

    def draw(self, tables: Tables, swept: list[str]) -> "dict[str, Figure]":
        """`function`: prediction against truth, every replica thin and their mean thick; and training loss by epoch."""
        from hw1 import figures

        keys = conditions(swept)
        one = replicate(swept)
        figure, grid = figures.new_figure(1, 2, 11, 4.8)
        left, right = grid[0]
        families = figures.families(tables["prediction"], keys)
        truths = [family.rows.drop_duplicates("x").sort_values("x")[["x", "target"]] for family in families]
        shared = all(truth.to_numpy().tolist() == truths[0].to_numpy().tolist() for truth in truths)
        for family, truth in zip(families, truths, strict=True):
            if shared and family is families[0]:
                left.plot(truth["x"], truth["target"], color="black", linewidth=3, alpha=0.25, label="truth")
            elif not shared:
                left.plot(truth["x"], truth["target"], color=family.colour, linewidth=4, alpha=0.2)
            for _, rows in family.rows.groupby(one):
                left.plot(rows["x"], rows["prediction"], color=family.colour, linewidth=0.6, alpha=0.4)
            mean = family.rows.groupby("x")["prediction"].mean()
            left.plot(
                mean.index, mean, color=family.colour, linewidth=1.6, label=family.label or "mean of the networks"
            )
        how = "grey" if shared else "broad and pale"
        left.set(xlabel="x (test points, none of them trained on)", ylabel="f(x)", title=f"prediction ({how}: truth)")
        for family in figures.families(tables["history"], keys):
            for _, rows in family.rows.groupby(one):
                right.plot(rows["epoch"], rows["train_loss"], color=family.colour, linewidth=0.6, alpha=0.4)
            mean = np.exp(np.log(family.rows["train_loss"]).groupby(family.rows["epoch"]).mean())
            right.plot(mean.index, mean, color=family.colour, linewidth=1.6)
        figures.plain_log_axis(right)
        right.set(xlabel="epoch", ylabel=f"{quantity('train_loss').label} (log axis)", title="training")
        figures.legend_below(figure, left)
        n = figures.counted(tables["history"].drop_duplicates([*keys, *one]), keys or ["epoch"], "replica")
        figure.suptitle(
            f"Function simulation; thin: each replica, thick: their mean (of losses geometric), {n}", fontsize=11
        )
        return {"function": figure}
