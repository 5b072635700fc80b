"""How well a network does on a split: loss, accuracy, MAE, R²."""

import math

import torch
from torch import Tensor, nn

# A slice and its activations fit the cache: 1.3 times as fast as slices of 1,000 for the small CNN. Fixed, since the
# order of summation decides the last bits, and the same weights must give the same bits wherever they are evaluated.
SLICE = 250


def evaluate(model: nn.Module, loss: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Mean loss and accuracy (integer targets), or mean loss, MAE and R² (real ones), in evaluation mode.

    Sums over the examples, in float64, are divided by their number, whatever the size of the last slice.

    Args:
        model: (B, *shape) → (B, K); its mode is restored.
        loss: the mean over a batch, in the loss's own unit (nats for cross-entropy).
        inputs: (N, *shape), N ≥ 1.
        targets: (N,) labels, or (N, K) values.
    Returns: `loss`; `accuracy` in [0, 1]; `mae` in the target's unit; `r2` = 1 − SS_res/SS_tot ≤ 1, NaN where the
        targets do not vary.
    """
    was_training = model.training
    model.eval()
    labels = not targets.is_floating_point()
    sums = torch.zeros(2 if labels else 3, dtype=torch.float64, device=inputs.device)
    with torch.inference_mode():
        for x, y in zip(inputs.split(SLICE), targets.split(SLICE), strict=True):
            output = model(x)
            total = loss(output, y).double() * len(x)
            if labels:
                sums += torch.stack([total, (output.argmax(1) == y).sum().double()])
            else:
                error = (output - y).double()
                sums += torch.stack([total, error.abs().mean(1).sum(), error.square().sum()])
    model.train(was_training)
    if labels:
        return dict(zip(("loss", "accuracy"), (sums / len(inputs)).tolist(), strict=True))
    values = targets.double()
    total_squares = (values - values.mean(0)).square().sum().item()
    mean_loss, mae, squares = sums[0].item() / len(inputs), sums[1].item() / len(inputs), sums[2].item()
    return {"loss": mean_loss, "mae": mae, "r2": 1 - squares / total_squares if total_squares else math.nan}
