"""How much a network's answer changes with its input: norms of derivatives with respect to one example at a time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hw1.models import CONVOLUTIONS, evaluating, is_plain

SLICE = 125  # examples whose Jacobians are held at once; 250 take 1.1 to 1.2 times as long


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
    convolutional = any(isinstance(module, CONVOLUTIONS) for module in model.modules())
    batched = not convolutional and is_plain(model)
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        narrow = _Narrow.of(model) if batched else None
        for x, y in slices:
            if len(x) == 0 or len(x) != len(y):
                raise ValueError(f"need as many labels as inputs, at least 1; got {len(x)} inputs, {len(y)} labels")
            logits, rows = narrow(x) if narrow else _logit_jacobian(model, x, convolutional, batched)
            norms.append(_norms(logits, rows, y, loss))
    if not norms:
        raise ValueError("need at least one example")
    return Sensitivities(*(torch.cat(parts) for parts in zip(*norms, strict=True)))


@dataclass(frozen=True)
class _Narrow:
    """A dense network with a first layer x → W·x + b that has fewer outputs H than inputs D, for norms of Jacobians.

    With Wᵀ = Q·R (Q: D × H of orthonormal columns, R: H × H) the Jacobian is J = A·W = (A·Rᵀ)·Qᵀ, where A is the one by
    the first layer's outputs: J and A·Rᵀ have the same Gram matrix. 10,000 images through 784-128-10 take less
    than half of the time that they take with J itself.
    """

    first: nn.Linear
    rest: nn.Module
    triangle: Tensor  # Rᵀ (H × H)

    @classmethod
    def of(cls, model: nn.Module) -> "_Narrow | None":
        """Of a sequence that begins with Flatten and such a layer; None of any other network."""
        match list(model.children()) if type(model) is nn.Sequential else []:
            case [nn.Flatten(start_dim=1, end_dim=-1), nn.Linear() as first, *rest]:
                if first.out_features < first.in_features:
                    triangle = torch.linalg.qr(first.weight.detach().double().T, mode="r").R.T
                    return cls(first, nn.Sequential(*rest), triangle.to(first.weight.dtype))
        return None

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K), and rows (N, K, H) that stand for those of `_logit_jacobian`."""
        logits, rows = _logit_jacobian(self.rest, self.first(inputs.flatten(1)), convolutional=False, batched=True)
        return logits, rows @ self.triangle


def _logit_jacobian(model: nn.Module, inputs: Tensor, convolutional: bool, batched: bool) -> tuple[Tensor, Tensor]:
    """Logits (N, K), and rows (N, K, D) of their Jacobians J: J_c of the largest logit c, J_k - J_c of the others k.

    Examples do not mix in eval mode, so one backward pass through the slice gives a row of every example. Dense
    networks take all rows in one batched pass, in 0.85 of the time of one after another; for convolutions that takes
    longer, and what a user's own modules do may be unknown to `vmap`.
    """
    # not `.contiguous`: with one channel it sees nothing to do, and the first convolution's output keeps the slow order
    layout = torch.channels_last if convolutional and inputs.ndim == 4 else torch.contiguous_format
    x = torch.empty_like(inputs, memory_format=layout).copy_(inputs.detach()).requires_grad_()
    logits = model(x)
    count, classes = logits.shape
    one_hot = torch.eye(classes, dtype=logits.dtype, device=logits.device)
    top = logits.detach().argmax(1)
    seeds = one_hot.unsqueeze(1) - one_hot[top]  # row k of example n: e_k - e_c
    seeds[top, torch.arange(count, device=top.device)] = one_hot[top]
    if batched:
        (found,) = torch.autograd.grad(logits, x, seeds, is_grads_batched=True)
        return logits.detach(), found.detach().flatten(2).transpose(0, 1)
    rows = logits.new_empty(count, classes, inputs[0].numel())
    for k, seed in enumerate(seeds):
        rows[:, k] = torch.autograd.grad(logits, x, seed, retain_graph=k + 1 < classes)[0].flatten(1)
    return logits.detach(), rows.detach()


def _norms(
    logits: Tensor, rows: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The three norms (N,) from logits (N, K) and the rows (N, K, D) of `_logit_jacobian`.

    Every quantity is a combination aᵀJ of J's rows, of squared norm aᵀGa with G = JJᵀ, so that only the K × K Gram
    matrix is needed. With J_k - J_c instead of row k ≠ c, and Σa instead of a_c, it is the same aᵀJ. In a saturated net
    (p_c → 1, softmax Jacobians of 1e-10) the answer is a small difference of large rows; this way the difference is
    taken once between logits, where nothing is lost, and the weights of what remains are the small p_k. Relative
    accuracy in float32: about 1e-6, 1e-4 in saturated nets; a loss gradient below 1e-13·‖J‖ is rounding, as Σa of an
    arbitrary loss is known to float64 only.
    """
    z = logits.double().requires_grad_()
    losses = loss(z, labels)
    if losses.shape != (len(z),):
        raise ValueError(f"need one loss per example, shape ({len(z)},); got shape {tuple(losses.shape)}")
    w = torch.autograd.grad(losses.sum(), z)[0]  # (N, K)
    p = z.detach().softmax(1)

    top = logits.argmax(1)
    each = torch.arange(len(p), device=p.device)
    gram = (rows @ rows.mT).double()
    own = gram.diagonal(dim1=1, dim2=2)

    def squared(a: Tensor) -> tuple[Tensor, Tensor]:
        products = (gram @ a.unsqueeze(2)).squeeze(2)
        return products, (a * products).sum(1)

    # softmax: a_k = p_k·(e_k - p), whose entries sum to exactly 0, so that a_c is 0: 1.0 - p_c would be rounding
    q = p.index_put((each, top), p.new_zeros(()))
    products, of_q = squared(q)
    softmax = (q.square() * (own - 2 * products)).sum(1) + p.square().sum(1) * of_q
    # logits: a_k = e_k with a 1 added at c, but for k = c
    with_top = gram[each, top]
    logit = own.sum(1) + 2 * with_top.sum(1) + (p.shape[1] - 3) * own[each, top]
    _, gradient = squared(w.index_put((each, top), w.sum(1)))
    return tuple(value.clamp_min(0).sqrt() for value in (softmax, logit, gradient))  # type: ignore[return-value]
