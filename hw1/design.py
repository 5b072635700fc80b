"""Sizes of networks as integer functions: parameter counts, and the widths that meet a parameter budget."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from hw1.errors import UserError

Widths = tuple[int, ...]


def mlp_parameters(widths: Sequence[int], inputs: int, outputs: int) -> int:
    """Weights and biases of a dense net with hidden layers of these widths, Σ (n_in + 1)·n_out over its layers."""
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise([inputs, *widths, outputs]))


def cnn_max_depth(input_shape: Sequence[int]) -> int:
    """Largest depth with side // 2**depth >= 1: how often 2×2 pooling can halve the shorter side of (C, H, W)."""
    return min(input_shape[-2:]).bit_length() - 1


def solve_widths(budget: int, depth: int, inputs: int, outputs: int, tolerance: float = 0.01) -> Widths:
    """Widths of `depth` hidden layers whose parameter count meets the budget, as equal as possible.

    Three families of nets are tried in turn; the first that reaches the tolerance gives its member with the count
    closest to the budget: (1) widths w or w+1; (2) the same with the first layer's width set apart, which is the coarse
    one when there are many inputs; (3) such a net with one layer of any width.

    Args:
        budget: wanted number of weights and biases; batch-norm parameters are no part of it.
        depth: number of hidden layers, at least 1.
        tolerance: allowed |count - budget| / budget.
    Raises: UserError naming the nearest count found, or the smallest possible, if no family reaches the tolerance.
    """
    if depth < 1:
        raise UserError(f"depth={depth}: a parameter budget needs at least 1 hidden layer")

    def rank(widths: Widths) -> tuple[int, int, Widths]:  # ends with the widths themselves, so that ties are settled
        return abs(mlp_parameters(widths, inputs, outputs) - budget), max(widths) - min(widths), widths

    tried: list[Widths] = []
    for family in (_even, _first_apart, _one_free):
        nets = sorted(family(budget, depth, inputs, outputs), key=rank)
        if nets and rank(nets[0])[0] <= tolerance * budget:
            return nets[0]
        tried += nets[:1]
    raise UserError(_out_of_reach(budget, depth, inputs, outputs, min(tried, key=rank)))


def _even(budget: int, depth: int, inputs: int, outputs: int) -> Iterator[Widths]:
    """Nets of widths w and w+1, either kind in one run of neighbours; w is the widest constant width in the budget."""
    affordable = range(1, budget + 1)
    w = max(1, bisect_right(affordable, budget, key=lambda width: mlp_parameters([width] * depth, inputs, outputs)))
    for start in range(depth):
        for stop in range(start, depth + 1):
            before, run, after = start, stop - start, depth - stop
            yield (w,) * before + (w + 1,) * run + (w,) * after
            yield (w + 1,) * before + (w,) * run + (w + 1,) * after


def _first_apart(budget: int, depth: int, inputs: int, outputs: int, reach: int = 0) -> Iterator[Widths]:
    """Nets whose first width is that of an even net, up to `reach` more or less; the others share what is left."""
    if depth > 1:
        even = [widths[0] for widths in _even(budget, depth, inputs, outputs)]
        for first in range(max(1, min(even) - reach), max(even) + reach + 1):
            for others in _even(budget - (inputs + 1) * first, depth - 1, first, outputs):
                yield (first, *others)


def _one_free(budget: int, depth: int, inputs: int, outputs: int) -> Iterator[Widths]:
    """Nets of the two other families with each layer in turn set to its best width; the count is linear in it."""
    bases = {*_even(budget, depth, inputs, outputs), *_first_apart(budget, depth, inputs, outputs, reach=4)}
    # 50 of up to 1,000: within 50 ms at depth 20, and near bases need the smallest corrections
    for widths in sorted(bases, key=lambda net: (abs(mlp_parameters(net, inputs, outputs) - budget), net))[:50]:
        missing = budget - mlp_parameters(widths, inputs, outputs)
        padded = (inputs, *widths, outputs)
        for layer, width in enumerate(widths):
            per_unit = padded[layer] + 1 + padded[layer + 2]
            yield (*widths[:layer], max(1, width + round(missing / per_unit)), *widths[layer + 1 :])


def _out_of_reach(budget: int, depth: int, inputs: int, outputs: int, nearest: Widths) -> str:
    smallest = mlp_parameters([1] * depth, inputs, outputs)
    net = f"a net of depth {depth} from {inputs} inputs to {outputs} outputs"
    if budget < smallest:
        return f"model.budget={budget}: {net} has at least {smallest} parameters"
    return f"model.budget={budget}: the nearest count of {net} is {mlp_parameters(nearest, inputs, outputs)} parameters"


def check_network(model: Mapping[str, Any], input_shape: Sequence[int], outputs: int) -> None:
    """See whether one of our networks can be built for a data set, by its config alone.

    Raises: UserError naming the key, its value and what is allowed.
    """
    kind = str(model.get("_target_")).removeprefix("hw1.models.")
    if kind in ("cnn", "lenet5") and len(input_shape) != 3:
        raise UserError(f"model={kind}: needs images (C, H, W); the data set's inputs have shape {tuple(input_shape)}")
    if kind == "lenet5" and tuple(input_shape[-2:]) not in ((28, 28), (32, 32)):
        raise UserError(f"model=lenet5: needs images of 28×28 or 32×32; these have {input_shape[-2]}×{input_shape[-1]}")
    if kind == "cnn" and model["depth"] > cnn_max_depth(input_shape):
        raise UserError(
            f"depth={model['depth']}: must be at most {cnn_max_depth(input_shape)}, since each block halves the image "
            f"of {input_shape[-2]}×{input_shape[-1]}"
        )
    if kind == "mlp" and model["budget"] is not None:
        if model["widths"] is not None:
            raise UserError(f"model.budget={model['budget']}: cannot be met where model.widths is given; choose one")
        solve_widths(model["budget"], model["depth"], math.prod(input_shape), outputs)
