"""The same arithmetic with nothing around it: forward, backward, step on tensors that are there.

Trainings twice: with gradients by `backward()`, and with these written out as well, kernel by kernel, by hand.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLICE = {"cnn": 128, "mlp": 2048}  # images whose activations fit the cache, with two threads
JACOBIANS = 125  # images whose Jacobians do: 250 take 1.1 times as long
POOL = ((2, 2), (2, 2), (0, 0), (1, 1), False)  # kernel, stride, padding, dilation, rounding up
SAME = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)  # stride, padding, dilation, transposed, its padding, groups
aten = torch.ops.aten


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


def train(name: str, model: nn.Module, images: Images, batch_size: int, steps: int) -> None:
    """Adam in one kernel, batches in slices of at most `SLICE` images, no loss looked at."""
    model, size = model.to(memory_format=torch.channels_last), SLICE[name]
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


@torch.no_grad()
def train_by_hand(name: str, model: nn.Module, images: Images, batch_size: int, steps: int) -> None:
    """The same without a graph."""
    model, gradients, size = model.to(memory_format=torch.channels_last), GRADIENTS[name], SLICE[name]
    parameters: list[Tensor] = [parameter.detach() for parameter in model.parameters()]
    update = adam(parameters, 5e-3)
    order = torch.randperm(len(images.y))
    share = torch.ones(())
    for step in range(steps):
        start = step * batch_size % (len(order) - batch_size + 1)
        rows = order[start : start + batch_size]
        for number, part in enumerate(rows.split(size)):
            share.fill_(len(part) / batch_size)
            found = gradients(parameters, images.x.index_select(0, part), images.y.index_select(0, part), share)
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient if number == 0 else parameter.grad.add_(gradient)  # type: ignore[union-attr]
        update()


def _cross_entropy(z: Tensor, y: Tensor, share: Tensor) -> Tensor:
    """Its gradient by the logits."""
    logs = torch.log_softmax(z, 1)
    _, count = aten.nll_loss_forward.default(logs, y, None, 1, -100)
    g = aten.nll_loss_backward.default(share, logs, y, None, 1, -100, count)
    return torch._log_softmax_backward_data(g, logs, 1, logs.dtype)


def _mlp(parameters: list[Tensor], x: Tensor, y: Tensor, share: Tensor) -> list[Tensor]:
    w1, b1, w2, b2 = parameters
    x = x.flatten(1)
    h = torch.addmm(b1, x, w1.t()).relu_()
    g = _cross_entropy(torch.addmm(b2, h, w2.t()), y, share)
    g1 = aten.threshold_backward.default(g.mm(w2), h, 0)
    return [g1.t().mm(x), g1.sum(0), g.t().mm(h), g.sum(0)]


def _cnn(parameters: list[Tensor], x: Tensor, y: Tensor, share: Tensor) -> list[Tensor]:
    k1, c1, k2, c2, *dense = parameters
    h1 = torch.conv2d(x, k1, c1, padding=1)
    p1, at1 = aten.max_pool2d_with_indices.default(h1, *POOL)
    p1.relu_()
    h2 = torch.conv2d(p1, k2, c2, padding=1)
    p2, at2 = aten.max_pool2d_with_indices.default(h2, *POOL)
    p2.relu_()
    w1, b1, w2, b2 = dense
    flat = p2.flatten(1)
    h = torch.addmm(b1, flat, w1.t()).relu_()
    g = _cross_entropy(torch.addmm(b2, h, w2.t()), y, share)
    of_dense = [g.t().mm(h), g.sum(0)]
    g = aten.threshold_backward.default(g.mm(w2), h, 0)
    of_dense = [g.t().mm(flat), g.sum(0), *of_dense]
    g = torch.empty_like(p2).copy_(g.mm(w1).view(p2.shape))
    g = aten.max_pool2d_with_indices_backward.default(aten.threshold_backward.default(g, p2, 0), h2, *POOL, at2)
    of_c2 = g.sum((0, 2, 3))
    g, of_k2, _ = aten.convolution_backward.default(g, p1, k2, None, *SAME, [True, True, False])
    g = aten.threshold_backward.default(g, p1, 0)
    g = aten.max_pool2d_with_indices_backward.default(g, h1, *POOL, at1)
    _, of_k1, _ = aten.convolution_backward.default(g, x, k1, None, *SAME, [False, True, False])
    return [of_k1, g.sum((0, 2, 3)), of_k2, of_c2, *of_dense]


GRADIENTS = {"mlp": _mlp, "cnn": _cnn}


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


@torch.no_grad()
def fit_stacked_by_hand(models: list[nn.Module], x: Tensor, y: Tensor, batch_size: int, steps: int) -> None:
    """The same without a graph."""
    layers = [[model[n] for model in models] for n in range(0, len(models[0]), 2)]  # type: ignore[index]
    weights = [torch.stack([layer.weight for layer in same]).detach() for same in layers]
    biases = [torch.stack([layer.bias for layer in same]).detach().unsqueeze(2) for same in layers]
    update = adam([*weights, *biases], 2e-2)
    replicas, per_epoch, last = len(models), -(-len(x) // batch_size), len(weights) - 1
    for step in range(steps):
        if step % per_epoch == 0:
            orders = torch.stack([torch.randperm(len(x)) for _ in range(replicas)])
        start = step % per_epoch * batch_size
        rows = orders[:, start : start + batch_size].flatten()
        seen = [x.index_select(0, rows).view(replicas, 1, -1)]
        for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = torch.baddbmm(bias, weight, seen[-1])
            seen.append(h.tanh_() if number < last else h)
        g = (seen.pop() - y.index_select(0, rows).view(replicas, 1, -1)).mul_(2 / batch_size)
        for number in range(last, -1, -1):
            weights[number].grad = g.bmm(seen[number].mT)
            biases[number].grad = g.sum(2, keepdim=True)
            if number:
                g = aten.tanh_backward.default(weights[number].mT.bmm(g), seen[number])
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
