"""Every reported quantity, defined once for people: its name on an axis, its formula and source, which way is better.

Labels and definitions are plain unicode: a dollar sign would be mathtext to matplotlib.
"""

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]
Scale = Literal["linear", "log", "logit", "unexplained"]

SPLITS = {"train": "training", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Quantity:
    """What a column of numbers is, as a person needs to know it.

    Attributes:
        name: column name in the tables.
        label: short name, lower case, for an axis, a table head and the middle of a sentence.
        definition: one line, formula and source.
        better: direction that is better, None where neither is.
        scale: scale on which its intervals are computed and its axis drawn (see statistics.mean_interval).
    """

    name: str
    label: str
    definition: str
    better: Better | None = None
    scale: Scale = "linear"


def _of_split(split: str, words: str) -> list[Quantity]:
    """The quantities that exist once per split; `words` names the split in a sentence."""
    over = f"over the {words} split"
    return [
        Quantity(
            f"{split}_loss",
            f"{split} loss",
            f"mean over examples of the training loss (cross-entropy in nats, or as chosen), {over}",
            "lower",
            "log",
        ),
        Quantity(
            f"{split}_accuracy",
            f"{split} accuracy",
            f"share of examples classified right, {over}",
            "higher",
            "logit",
        ),
        Quantity(f"{split}_mae", f"{split} MAE", f"mean |prediction − target|, {over}", "lower", "log"),
        Quantity(f"{split}_r2", f"{split} R²", f"1 − SS_res/SS_tot, {over}", "higher", "unexplained"),
    ]


_ALL = [
    *(quantity for split, words in SPLITS.items() for quantity in _of_split(split, words)),
    Quantity("max_error", "max |error|", "max |prediction − target| over the test split", "lower", "log"),
    Quantity(
        "accuracy_within",
        "accuracy within ε",
        "share of test points with |prediction − target| ≤ ε",
        "higher",
        "logit",
    ),
    Quantity("generalisation_gap", "generalisation gap", "train accuracy − test accuracy", "lower", "linear"),
    Quantity(
        "softmax_jacobian",
        "softmax sensitivity",
        "mean over test points of ‖∂softmax(f(x))/∂x‖_F (Novak et al. 2018)",
        "lower",
        "log",
    ),
    Quantity(
        "logit_jacobian",
        "logit sensitivity",
        "mean over test points of ‖∂f(x)/∂x‖_F, f the logits (after Novak et al. 2018)",
        "lower",
        "log",
    ),
    Quantity(
        "loss_gradient",
        "loss sensitivity",
        "mean over test points of ‖∂ℓ(x, y)/∂x‖₂, per example (the assignment's wording)",
        "lower",
        "log",
    ),
    Quantity("parameters", "parameters", "number of trained parameters, by layer Σ (n_in + 1)·n_out"),
    Quantity("steps", "steps", "optimizer steps taken"),
    Quantity("epochs", "epochs", "passes over the training split"),
]

QUANTITIES: dict[str, Quantity] = {quantity.name: quantity for quantity in _ALL}


def quantity(name: str) -> Quantity:
    """The quantity of that name; for a name not defined here (a user's own metric), linear and neither way better."""
    return QUANTITIES.get(name) or Quantity(name, name.replace("_", " "), "user-defined metric")
