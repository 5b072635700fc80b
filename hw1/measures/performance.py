"""How well a network does on a split: loss, accuracy, MAE, R²."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from hw1.models import evaluating


def slice_size(input_shape: Sequence[int]) -> int:
    """Examples to evaluate at once: 1,000 MNIST images, as many numbers of others, ≥ 32.

    With two threads the small CNN takes 1.4 times as long in slices of 125 and 1.2 in slices of 250, with one thread
    1.0 to 1.1. A function of the shape alone, since the order of summation decides the last bits, and the same
    weights must give the same bits wherever they are evaluated.
    """
    return max(32, 784 * 1000 // math.prod(input_shape))


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
    sums: Tensor | int = 0
    values, count = [], 0
    with evaluating(model), torch.inference_mode():
        for x, y in slices:
            output = model(x)
            total = loss(output, y).double() * len(x)
            count += len(x)
            if not y.is_floating_point():
                sums = sums + torch.stack([total, (output.argmax(1) == y).sum().double()])
            else:
                error = (output - y).double()
                sums = sums + torch.stack([total, error.abs().mean(1).sum(), error.square().sum()])
                values.append(y.double())
    if not isinstance(sums, Tensor):
        raise ValueError("need at least one example")
    means = (sums / count).tolist()
    if not values:
        return dict(zip(("loss", "accuracy"), means, strict=True))
    target = torch.cat(values)
    spread = (target - target.mean(0)).square().sum().item() / count
    return {"loss": means[0], "mae": means[1], "r2": 1 - means[2] / spread if spread else math.nan}
