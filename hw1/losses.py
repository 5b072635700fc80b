"""Losses and their gradients by a network's outputs, for one network or for several in a stack."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

# (outputs, targets, share) → share times the loss, and share times its gradient by the outputs. Of one network: outputs
# (B, K), a loss (); of a stack: outputs (R, K, B), losses (R,), the gradient of each by its own outputs.
Loss = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]

MEANS = (nn.CrossEntropyLoss, nn.MSELoss, nn.L1Loss, nn.HuberLoss)  # unless told otherwise
NONE, MEAN = 0, 1  # the kernels' words for reductions
NOT_IGNORED = -100  # no label
aten = torch.ops.aten


def averages(loss: nn.Module) -> bool:
    """Whether a loss is known to be the mean of the losses of single examples."""
    usual = getattr(loss, "weight", None) is None and getattr(loss, "ignore_index", NOT_IGNORED) < 0
    return type(loss) in MEANS and loss.reduction == "mean" and usual


def loss_of(loss: nn.Module, by_hand: bool = True) -> Loss:
    """Of one network; by the kernels that torch.autograd calls where they are known and wanted, else by itself."""
    rule = _rule(loss, {nn.CrossEntropyLoss: _cross_entropy, nn.MSELoss: _squares}) if by_hand else None
    return rule or _recorded(loss)


def losses_of(loss: nn.Module, by_hand: bool = True) -> Loss:
    """Of a stack, likewise: the mean loss of each of its networks."""
    if not averages(loss):
        return _recorded(lambda outputs, targets: torch.vmap(loss)(outputs.mT, targets))
    rule = _rule(loss, {nn.CrossEntropyLoss: _cross_entropies, nn.MSELoss: _stacked_squares}) if by_hand else None
    if rule:
        return rule
    keys = [key for key in ("label_smoothing", "delta") if hasattr(loss, key)]
    each = type(loss)(reduction="none", **{key: getattr(loss, key) for key in keys})
    if type(loss) is not nn.CrossEntropyLoss:
        return _recorded(lambda outputs, targets: each(outputs, targets.mT).mean((1, 2)))
    return _recorded(lambda outputs, targets: each(outputs, targets).mean(1))


def _rule(loss: nn.Module, rules: dict[type[nn.Module], Loss]) -> Loss | None:
    usual = averages(loss) and not getattr(loss, "label_smoothing", 0.0)
    return rules.get(type(loss)) if usual else None


def _recorded(function: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """By torch.autograd, of a function that gives a loss () or losses (R,)."""

    def rule(outputs: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            outputs = outputs.detach().requires_grad_()
            losses = _times(function(outputs, targets), share)
            total = losses.sum() if losses.ndim else losses  # the gradient of each is its own's
        return losses.detach(), torch.autograd.grad(total, outputs)[0]

    return rule


def _times(losses: Tensor, share: float) -> Tensor:
    return losses if share == 1 else losses * share


def _cross_entropy(outputs: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """−mean log softmax(z)[y], in nats; by z its gradient is (softmax(z) − onehot(y)) / B."""
    logs = torch.log_softmax(outputs, 1)
    loss, count = aten.nll_loss_forward.default(logs, labels, None, MEAN, NOT_IGNORED)
    by_logs = aten.nll_loss_backward.default(torch.full_like(loss, share), logs, labels, None, MEAN, NOT_IGNORED, count)
    return _times(loss, share), torch._log_softmax_backward_data(by_logs, logs, 1, logs.dtype)


def _cross_entropies(outputs: Tensor, labels: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The same of each network, z (R, K, B) and y (R, B)."""
    logs = torch.log_softmax(outputs, 1)
    images, pixels = logs.unsqueeze(2), labels.unsqueeze(1)  # to the kernel examples are the pixels of an image
    each, count = aten.nll_loss2d_forward.default(images, pixels, None, NONE, NOT_IGNORED)
    by_each = torch.full_like(each, share / labels.shape[1])
    by_logs = aten.nll_loss2d_backward.default(by_each, images, pixels, None, NONE, NOT_IGNORED, count).squeeze(2)
    losses = _times(each.squeeze(1).mean(1), share)
    return losses, torch._log_softmax_backward_data(by_logs, logs, 1, logs.dtype)


def _squares(outputs: Tensor, values: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """mean (z − y)², in the square of the values' unit; by z its gradient is 2 (z − y) / (B·K)."""
    loss = nn.functional.mse_loss(outputs, values)
    by_outputs = aten.mse_loss_backward.default(torch.full_like(loss, share), outputs, values, MEAN)
    return _times(loss, share), by_outputs


def _stacked_squares(outputs: Tensor, values: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The same of each network, z (R, K, B) and y (R, B, K)."""
    errors = outputs - values.mT
    return _times(errors.square().mean((1, 2)), share), errors.mul_(2 * share / outputs[0].numel())
