"""How much a network's answer changes with its input: norms of derivatives with respect to one example at a time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hw1.models import evaluating

SLICE = 250  # examples whose Jacobians are held at once; 50 to 250 are equally fast for the small CNN


@dataclass(frozen=True)
class Sensitivities:
    """Three norms per example, each (N,) in float64, ≥ 0, per unit of input (pixels as scaled for training).

    softmax_jacobian: ‖∂softmax(f(x))/∂x‖_F, the sensitivity of Novak et al. 2018, arXiv:1802.08760.
    logit_jacobian: ‖∂f(x)/∂x‖_F.
    loss_gradient: ‖∂ℓ(f(x), y)/∂x‖₂ of this example's own loss, in nats for cross-entropy.
    """

    softmax_jacobian: Tensor
    logit_jacobian: Tensor
    loss_gradient: Tensor


def input_sensitivity(
    model: nn.Module, slices: Iterable[tuple[Tensor, Tensor]], loss: Callable[[Tensor, Tensor], Tensor]
) -> Sensitivities:
    """The three sensitivities of every example, all from the logits' Jacobian J = ∂f(x)/∂x (K × D), in eval mode.

    softmax: (diag p - ppᵀ)·J with p = softmax(f(x)); loss: qᵀ·J with q = ∂ℓ/∂f. The modules' modes are restored, and
    neither parameters nor their `.grad` are touched.

    Args:
        model: (N, *input shape) -> logits (N, K).
        slices: inputs (B, *input shape) with labels (B,), or whatever `loss` compares logits with, one for each
            example; one slice's J is held at a time, and no result depends on how examples are sliced.
        loss: (logits, labels) -> the loss of each example (N,), e.g. `nn.CrossEntropyLoss(reduction="none")`.
    Raises: ValueError for no examples, for lengths that differ, for a loss that is not per example.
    """
    norms = []
    # channels_last: a slice of MNIST through the small CNN runs 1.3 times as fast as in PyTorch's default order
    convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        for x, y in slices:
            if len(x) == 0 or len(x) != len(y):
                raise ValueError(f"need as many labels as inputs, at least 1; got {len(x)} inputs, {len(y)} labels")
            layout = torch.channels_last if convolutional and x.ndim == 4 else torch.contiguous_format
            norms.append(_norms(*_logit_jacobian(model, x, layout), y, loss))
    if not norms:
        raise ValueError("need at least one example")
    return Sensitivities(*(torch.cat(parts) for parts in zip(*norms, strict=True)))


def _logit_jacobian(model: nn.Module, inputs: Tensor, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and their Jacobians (N, K, D), one backward pass per class through one forward pass.

    Examples do not mix in eval mode, so the gradient of class k's sum over the slice holds every example's row k.
    """
    # not `.contiguous`: with one channel it sees nothing to do, and the first convolution's output keeps the slow order
    x = torch.empty_like(inputs, memory_format=layout).copy_(inputs.detach()).requires_grad_()
    logits = model(x)
    sums = logits.sum(0)
    rows = logits.new_empty(*logits.shape, inputs[0].numel())
    for k, total in enumerate(sums):
        rows[:, k] = torch.autograd.grad(total, x, retain_graph=k + 1 < len(sums))[0].flatten(1)
    return logits.detach(), rows.detach()


def _norms(
    logits: Tensor, jacobian: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The three norms (N,) from logits (N, K) and their Jacobians (N, K, D), which are overwritten.

    Every quantity is a combination aᵀJ of J's rows, of squared norm aᵀJJᵀa, so that only the K × K Gram matrix is
    needed. With c the largest class, row k ≠ c is first replaced by J_k - J_c, and a_c by Σa: the same aᵀJ. In a
    saturated net (p_c → 1, softmax Jacobians of 1e-10) the answer is a small difference of large rows; this way the
    difference is taken once between logits, where nothing is lost, and the weights of what remains are the small p_k.
    Relative accuracy in float32: about 1e-6, 1e-4 in saturated nets; a loss gradient below 1e-13·‖J‖ is rounding, as Σa
    of an arbitrary loss is known to float64 only.
    """
    z = logits.double().requires_grad_()
    losses = loss(z, labels)
    if losses.shape != (len(z),):
        raise ValueError(f"need one loss per example, shape ({len(z)},); got shape {tuple(losses.shape)}")
    loss_weights = torch.autograd.grad(losses.sum(), z)[0].unsqueeze(1)  # (N, 1, K)
    p = z.detach().softmax(1)
    softmax_weights = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)  # (N, K, K), row k = ∂p_k/∂z
    logit_weights = torch.eye(p.shape[1], dtype=p.dtype, device=p.device).expand_as(softmax_weights)

    top = p.argmax(1)
    each = torch.arange(len(p), device=p.device)
    reference = jacobian[each, top].clone()
    jacobian -= reference.unsqueeze(1)
    jacobian[each, top] = reference
    gram = (jacobian @ jacobian.mT).double()

    def norm(weights: Tensor, total: Tensor | float) -> Tensor:
        a = weights.clone()
        a[each, :, top] = total
        return ((a @ gram) * a).sum((1, 2)).clamp_min(0).sqrt()

    # the rows of diag p - ppᵀ sum to exactly 0, and 1.0 - p_c would be rounding
    return norm(softmax_weights, 0.0), norm(logit_weights, 1.0), norm(loss_weights, loss_weights.sum(2))
