"""Every reported quantity, defined once for people: its name on an axis, its formula and source, which way is better.

Labels and definitions are plain unicode: a dollar sign would be mathtext to matplotlib.
"""

import re
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

    What it cannot say is in CAVEATS.
    """

    name: str
    label: str
    definition: str
    better: Better | None = None
    scale: Scale = "linear"

    @property
    def caveat(self) -> str:
        """What the number cannot say, in a sentence; "" where nothing is known of it."""
        return next((text for pattern, text in CAVEATS if re.fullmatch(pattern, self.name)), "")


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


def _of_line(init: str, method: str) -> list[Quantity]:
    """The quantities of one straight line between two networks: from the same initial weights or from different ones,
    as they are (naive) or with the hidden units of one renamed (aligned)."""
    of, at = f"{method}, {init} init", "at the α given, θ_α = (1−α)·θ_A + α·θ_B"
    rise = "max over α in [0, 1] of L(θ_α) − [(1−α)·L(θ_A) + α·L(θ_B)]"
    return [
        Quantity(f"barrier_{init}_{method}", f"barrier ({of})", f"{rise}, test loss (Entezari et al. 2022)", "lower"),
        Quantity(f"error_barrier_{init}_{method}", f"error barrier ({of})", f"{rise}, L the test error", "lower"),
        Quantity(f"test_loss_{init}_{method}", f"test loss ({of})", f"test loss {at}", "lower", "log"),
        Quantity(f"test_accuracy_{init}_{method}", f"test accuracy ({of})", f"test accuracy {at}", "higher", "logit"),
        Quantity(f"test_r2_{init}_{method}", f"test R² ({of})", f"test R² {at}", "higher", "unexplained"),
    ]


_ALL = [
    *(quantity for split, words in SPLITS.items() for quantity in _of_split(split, words)),
    Quantity("max_error", "max |error|", "max |prediction − target| over the test split", "lower", "log"),
    Quantity("test_unexplained", "1 − test R²", "SS_res/SS_tot, over the test split", "lower", "log"),
    Quantity("residual", "residual", "prediction − target, at each test point"),
    Quantity(
        "accuracy_within",
        "accuracy within ε",
        "share of test points with |prediction − target| ≤ ε",
        "higher",
        "logit",
    ),
    Quantity(
        "test_error", "test error", "share of test examples classified wrong, 1 − test accuracy", "lower", "logit"
    ),
    Quantity("recall", "recall", "share of the test examples of a class that are classified right", "higher", "logit"),
    Quantity("confidence", "confidence", "softmax probability of the class predicted", None, "logit"),
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
    Quantity(
        "noise_scale",
        "gradient noise scale",
        "tr(Σ)/|G|² of the training loss at the end of training, in examples (McCandlish et al. 2018)",
        None,
        "log",
    ),
    Quantity(
        "noise_scale_start",
        "noise scale at the start",
        "tr(Σ)/|G|² of the training loss at the initial weights, in examples (McCandlish et al. 2018)",
        None,
        "log",
    ),
    *(line for init in ("same", "different") for method in ("naive", "aligned") for line in _of_line(init, method)),
    *(
        Quantity(f"distance_{init}", f"distance ({init} init)", "‖θ_A − θ_B‖₂ over all parameters", scale="log")
        for init in ("same", "different")
    ),
    Quantity(
        "layer_barrier",
        "layer barrier",
        "max over α in [0, 1] of L(θ_A with one layer at α) − [(1−α)·L(θ_A) + α·L(θ_B)], test loss "
        "(after Adilova et al. 2024)",
        "lower",
    ),
    Quantity(
        "displacement",
        "distance travelled",
        "‖w_T − w_0‖ between the first and the last collected weights of a network",
    ),
    Quantity(
        "straightness",
        "straightness",
        "‖w_T − w_0‖ / Σ_t‖w_t − w_(t−1)‖ over a network's collected weights: 1 for a straight line",
        None,
        "logit",
    ),
    Quantity(
        "walk_straightness",
        "straightness of a random walk",
        "√(Σ_t d_t²) / Σ_t d_t with the path's own steps d_t = ‖w_t − w_(t−1)‖, orthogonal in many dimensions",
        None,
        "logit",
    ),
    Quantity(
        "path_plane",
        "share of a path's variance in its own plane",
        "PC1 + PC2's share of the variance of one network's collected weights: 1 for a path in a plane",
        None,
        "logit",
    ),
    Quantity(
        "walk_plane",
        "that share of a random walk",
        "the same of random walks with the path's own steps (Antognini & Sohl-Dickstein 2018), mean over draws",
        None,
        "logit",
    ),
    Quantity("parameters", "parameters", "number of trained parameters, by layer Σ (n_in + 1)·n_out"),
    Quantity("steps", "steps", "optimizer steps taken"),
    Quantity("epochs", "epochs", "passes over the training split"),
]

# Name, as a regular expression → what such a number cannot say. The first that fits counts.
CAVEATS: tuple[tuple[str, str], ...] = (
    ("train_.*", "Says nothing of examples that were not trained on."),
    (
        "validation_.*",
        "Of a condition that was chosen by it, it is better than what new examples would give; the test split tells.",
    ),
    (
        "test_loss.*",
        "Compares only where the loss and the data set are the same; a few confidently wrong examples can decide it.",
    ),
    (
        "(test_accuracy|test_error|recall).*",
        "The finite test set is an error of its own, ±0.27 points at 98 % on 10,000 images, which all conditions share "
        "and no interval here contains.",
    ),
    ("(.*_mae|max_error|residual)", "In the target's unit: compares only where the target is the same."),
    ("(test_r2|test_unexplained).*", "Relative to the target's variance over the test points; says nothing outside."),
    ("accuracy_within", "How far beyond ε the others lie is not in it."),
    ("confidence", "A network can be confident and wrong; this is no calibrated probability."),
    ("generalisation_gap", "Also small where a network learned nothing; read it beside the accuracy."),
    (
        "softmax_jacobian",
        "Local, at the test points alone: no bound on what a finite or a chosen change of the input does. Small where "
        "the softmax saturates, whatever the logits do. Per unit of input, so it compares only with equal scaling.",
    ),
    (
        "logit_jacobian",
        "Grows with the scale of the logits, which longer training raises without another prediction. Per unit of "
        "input, so it compares only with equal scaling.",
    ),
    (
        "loss_gradient",
        "Near 0 where an example is fitted, whatever the network does beside it. Per unit of input, so it compares "
        "only with equal scaling.",
    ),
    (
        "noise_scale.*",
        "Of one set of weights, for plain gradient descent; it predicts a batch size by its order of magnitude.",
    ),
    (
        "(barrier|error_barrier|layer_barrier).*",
        "Of the straight line and of the given α alone: a curved path may have none, a finer grid of α may find more. "
        "A failed alignment does not prove that there is no better one.",
    ),
    ("distance.*", "Of weights, not of functions: renamed hidden units lie far apart and compute the same."),
    ("(displacement|straightness|path_plane)", "Depends on how often weights are collected, and from when on."),
    ("walk_.*", "What chance alone would give; no property of the network."),
    ("(parameters|steps|epochs)", "A size, not a result."),
)

QUANTITIES: dict[str, Quantity] = {quantity.name: quantity for quantity in _ALL}


def quantity(name: str) -> Quantity:
    """The quantity of that name; for a name not defined here (a user's own metric), linear and neither way better."""
    return QUANTITIES.get(name) or Quantity(name, name.replace("_", " "), "user-defined metric")
