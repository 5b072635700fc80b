"""How well a network does on a split: loss, accuracy, MAE, R²."""

import contextlib
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from hw1.models import evaluating


def evaluate(model: nn.Module, loss: nn.Module, slices: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Mean loss and accuracy (integer targets), or mean loss, MAE and R² (real ones), in evaluation mode.

    Sums over the examples, in float64, are divided by their number, whatever the sizes of the slices.

    Args:
        model: (B, *shape) → (B, K); its mode is restored.
        loss: the mean over a batch, in the loss's own unit (nats for cross-entropy).
        slices: inputs (B, *shape) with labels (B,) or values (B, K), at least one.
    Returns: `loss`; `accuracy` in [0, 1]; `mae` in the target's unit; `r2` = 1 − SS_res/SS_tot ≤ 1, NaN where the
        targets do not vary.
    """
    return evaluate_each([model], loss, slices)[0]


def evaluate_each(
    models: Sequence[nn.Module], loss: nn.Module, slices: Iterable[tuple[Tensor, Tensor]]
) -> list[dict[str, float]]:
    """The same of several networks, none of which changes its inputs, in one pass over the slices; the same bits."""
    sums: list[Tensor | int] = [0] * len(models)
    values, count = [], 0
    with contextlib.ExitStack() as stack, torch.inference_mode():
        for model in models:
            stack.enter_context(evaluating(model))
        for x, y in slices:
            count += len(x)
            for number, model in enumerate(models):
                sums[number] = sums[number] + _sums(model(x), y, loss)
            if y.is_floating_point():
                values.append(y.double())
    if not count:
        raise ValueError("need at least one example")
    means = [(torch.as_tensor(each) / count).tolist() for each in sums]
    if not values:
        return [dict(zip(("loss", "accuracy"), each, strict=True)) for each in means]
    target = torch.cat(values)
    spread = (target - target.mean(0)).square().sum().item() / count
    return [
        {"loss": value, "mae": mae, "r2": 1 - square / spread if spread else math.nan} for value, mae, square in means
    ]


def _sums(output: Tensor, y: Tensor, loss: nn.Module) -> Tensor:
    """Over a slice: the loss and the right answers, or the loss, absolute and squared errors; float64."""
    total = loss(output, y).double() * len(y)
    if not y.is_floating_point():
        return torch.stack([total, (output.argmax(1) == y).sum().double()])
    error = (output - y).double()
    return torch.stack([total, error.abs().mean(1).sum(), error.square().sum()])
