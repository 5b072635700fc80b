"""Does a small network learn a function, and how well between the points that it saw?

Networks are judged on points that none of them was trained on. What it cannot say: how they do outside the interval.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from hw1.data import Dataset
from hw1.errors import UserError
from hw1.experiments import Tables, summary
from hw1.quantities import quantity
from hw1.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hw1.laboratory import Run


@dataclass(frozen=True)
class Function:
    """Fit a function of one variable, and compare prediction with truth."""

    headline: ClassVar[str] = "test_loss"

    def check(self, dataset: Dataset) -> None:
        """Needs one real input and one real target."""
        if dataset.task != "regression" or dataset.outputs != 1 or math.prod(dataset.input_shape) != 1:
            raise UserError("experiment=function: needs one real input and one real target; see dataset=function")

    def recipes(self, base: Recipe) -> dict[str, Recipe]:
        """One run, as configured."""
        return {"trained": base}

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

        keys = [key for key in swept if key not in ("seed", "init_seed", "order_seed")]
        figure, grid = figures.new_figure(1, 2, 11, 4.4)
        left, right = grid[0]
        truth = tables["prediction"].drop_duplicates("x").sort_values("x")
        left.plot(truth["x"], truth["target"], color="black", linewidth=3, alpha=0.25, label="truth")
        for family in figures.families(tables["prediction"], keys):
            rows, colour, label = family.rows, family.colour, family.label
            for _, one in rows.groupby("replica"):
                left.plot(one["x"], one["prediction"], color=colour, linewidth=0.6, alpha=0.4)
            mean = rows.groupby("x")["prediction"].mean()
            left.plot(mean.index, mean, color=colour, linewidth=1.6, label=label or "mean of the networks")
        left.set(xlabel="x (test points, none of them trained on)", ylabel="f(x)", title="prediction")
        left.legend(fontsize=8.5)
        for family in figures.families(tables["history"], keys):
            rows, colour, label = family.rows, family.colour, family.label
            for _, one in rows.groupby("replica"):
                right.plot(one["epoch"], one["train_loss"], color=colour, linewidth=0.6, alpha=0.4)
            mean = rows.groupby("epoch")["train_loss"].apply(lambda losses: np.exp(np.log(losses).mean()))
            right.plot(mean.index, mean, color=colour, linewidth=1.6, label=label or "geometric mean")
        figures.plain_log_axis(right)
        right.set(xlabel="epoch", ylabel=quantity("train_loss").label, title="training")
        right.legend(fontsize=8.5)
        replicas = tables["history"]["replica"].nunique()
        figure.suptitle(f"Function simulation; thin lines: each of {replicas} replicas", fontsize=11)
        return {"function": figure}
