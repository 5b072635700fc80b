"""The same arithmetic with nothing around it: forward, backward, step on tensors that are there, by hand."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLICE = {"cnn": 256, "mlp": 2048}  # images whose activations fit the cache
JACOBIANS = 125  # images whose Jacobians do: 250 take 1.1 times as long


class Images:
    """All of a split as floats, scaled, in the layout that convolutions like."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x.contiguous(memory_format=torch.channels_last), y


def adam(parameters: list[Tensor], rate: float) -> Callable[[], None]:
    """What takes a step of Adam: its one kernel."""
    means, squares = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(2))
    step = torch.zeros(())
    steps = [step] * len(parameters)

    @torch.no_grad()
    def update() -> None:
        step.add_(1)
        gradients = [parameter.grad for parameter in parameters]
        torch._fused_adam_(
            parameters, gradients, means, squares, [], steps, lr=rate, beta1=0.9, beta2=0.999, weight_decay=0.0,
            eps=1e-8, amsgrad=False, maximize=False,
        )  # type: ignore[call-overload]  # fmt: skip

    return update


def train(model: nn.Module, images: Images, batch_size: int, steps: int, size: int) -> None:
    """Adam in one kernel, batches in slices of at most `size` images, no loss looked at."""
    model = model.to(memory_format=torch.channels_last)
    parameters: list[Tensor] = list(model.parameters())
    update = adam(parameters, 5e-3)
    order = torch.randperm(len(images.y))
    for step in range(steps):
        start = step * batch_size % (len(order) - batch_size + 1)
        rows = order[start : start + batch_size]
        for parameter in parameters:
            parameter.grad = None
        for part in rows.split(size):
            loss = F.cross_entropy(model(images.x.index_select(0, part)), images.y.index_select(0, part))
            (loss if batch_size <= size else loss * (len(part) / batch_size)).backward()
        update()


def fit_stacked(models: list[nn.Module], x: Tensor, y: Tensor, batch_size: int, steps: int) -> None:
    """Networks of dense layers with tanh between them, as batched products of matrices."""
    layers = [[model[n] for model in models] for n in range(0, len(models[0]), 2)]  # type: ignore[index]
    weights = [torch.stack([layer.weight for layer in same]).detach().requires_grad_() for same in layers]
    biases = [torch.stack([layer.bias for layer in same]).detach().unsqueeze(2).requires_grad_() for same in layers]
    update = adam([*weights, *biases], 2e-2)
    replicas, per_epoch = len(models), -(-len(x) // batch_size)
    for step in range(steps):
        if step % per_epoch == 0:
            orders = torch.stack([torch.randperm(len(x)) for _ in range(replicas)])
        start = step % per_epoch * batch_size
        rows = orders[:, start : start + batch_size]
        h = x.index_select(0, rows.flatten()).view(replicas, 1, -1)
        target = y.index_select(0, rows.flatten()).view(replicas, 1, -1)
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = torch.baddbmm(bias, weight, h)
            h = h.tanh() if number + 1 < len(weights) else h
        loss = (h - target).square().mean((1, 2)).sum()
        for parameter in (*weights, *biases):
            parameter.grad = None
        loss.backward()
        update()


def sensitivities(model: nn.Module, images: Images, count: int) -> tuple[float, float]:
    """Of a convolutional net: one backward pass per class through one forward pass of a slice, then both norms."""
    model = model.to(memory_format=torch.channels_last).eval()
    softmax = logit = torch.zeros(())
    for x in images.x[:count].split(JACOBIANS):
        x = x.detach().requires_grad_()
        z = model(x)
        rows = [torch.autograd.grad(z[:, k].sum(), x, retain_graph=k < 9)[0].flatten(1) for k in range(z.shape[1])]
        softmax, logit = _add_norms(torch.stack(rows, 1), z.detach(), softmax, logit)
    return softmax.item() / count, logit.item() / count


def mlp_sensitivities(model: nn.Sequential, images: Images, count: int) -> tuple[float, float]:
    """Of a dense net with one hidden layer of ReLUs: J = W₂·diag(1[h > 0])·W₁."""
    first, second = model[1], model[3]
    softmax = logit = torch.zeros(())
    with torch.inference_mode():
        for x in images.x[:count].flatten(1).split(JACOBIANS):
            h = torch.addmm(first.bias, x, first.weight.t())
            z = torch.addmm(second.bias, h.relu(), second.weight.t())
            jacobian = (second.weight * (h > 0).unsqueeze(1)) @ first.weight
            softmax, logit = _add_norms(jacobian, z, softmax, logit)
    return softmax.item() / count, logit.item() / count


def _add_norms(jacobian: Tensor, z: Tensor, softmax: Tensor, logit: Tensor) -> tuple[Tensor, Tensor]:
    p = z.softmax(1).unsqueeze(2)
    gram = jacobian @ jacobian.mT  # of (diag p − ppᵀ)·J the squared norm is a trace of products with it
    mixing = torch.diag_embed(p.squeeze(2)) - p @ p.mT
    squared = ((mixing @ gram) * mixing).sum((1, 2))
    return softmax + squared.clamp_min(0).sqrt().sum(), logit + gram.diagonal(dim1=1, dim2=2).sum(1).sqrt().sum()


def evaluate(model: nn.Module, images: Images, size: int) -> tuple[float, float]:
    """Mean loss and accuracy, so many images at a time."""
    model.eval()
    loss, right = torch.zeros(()), torch.zeros((), dtype=torch.int64)
    with torch.inference_mode():
        for x, y in zip(images.x.split(size), images.y.split(size), strict=True):
            z = model(x)
            loss += F.cross_entropy(z, y, reduction="sum")
            right += (z.argmax(1) == y).sum()
    return loss.item() / len(images.y), right.item() / len(images.y)
