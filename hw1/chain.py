"""A network as a chain of layers, and the gradient of its loss by the chain rule, one kernel after another.

The kernels are those that torch.autograd calls, so one network's gradients have its bits; without its graph, which is
recorded and walked anew at each step, a step of the MLP is 1.5 times as fast at batch 16, 1.3 at 64, 1.15 at 256, one
of ten stacked networks of 571 parameters 1.4 times, one of the small CNN at 16 1.1 times. Layers without a rule of
their own here, and networks that are no plain sequence, go through torch.autograd.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hw1.losses import Loss
from hw1.models import Dropout, MaxPool2x2, Sine

Back = Callable[[Tensor], Tensor | None]  # from the gradient by a layer's outputs to that by its inputs, if wanted
Layer = Callable[[Tensor, bool], tuple[Tensor, Back]]  # (inputs, whether their gradient is wanted) → (outputs, Back)

aten = torch.ops.aten


class Chain:
    """Layers after one another, and a loss.

    Args:
        layers: with the parameters of each. A layer adds to the gradients of its own (`add_gradient`).
        loss: of one network, or of several in a stack, which share no parameter.
        bf16: whether products are computed in bfloat16. Then torch.autograd takes the layers back as well: casts have
            gradients, which rules by hand would have to repeat.
    """

    def __init__(self, layers: Iterable[tuple[Layer, Iterable[Tensor]]], loss: Loss, bf16: bool = False) -> None:
        self.layers: list[tuple[Layer, bool]] = []
        self.loss, self.bf16 = loss, bf16
        wanted = False
        for layer, parameters in layers:
            self.layers.append((Recorded.of(layer) if bf16 else layer, wanted))
            wanted = wanted or any(parameter.requires_grad for parameter in parameters)

    @torch.no_grad()
    def add_gradients(self, x: Tensor, y: Tensor, share: float = 1.0) -> Tensor:
        """Add `share` times the gradient of the loss to that of each parameter; the loss, times `share`."""
        backs = []
        with torch.autocast(x.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            for layer, wanted in self.layers:
                x, back = layer(x, wanted)
                backs.append(back)
            losses, found = self.loss(x, y, share)
        gradient: Tensor | None = found
        while backs and gradient is not None:
            gradient = backs.pop()(gradient)  # and what it held is free again
        return losses


def add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Add to what a parameter has of this step; of the same layout in memory, since fused optimizers look no closer."""
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient


def chain_of(model: nn.Module) -> list[tuple[Layer, list[Tensor]]]:
    """The layers of a network, each with its parameters; of one that is no plain sequence, the whole as one."""
    parts = list(model) if type(model) is nn.Sequential and not watched(model) else [model]
    return [(elementwise(part) or _layer(part), list(part.parameters())) for part in parts]


def _layer(part: Any) -> Layer:
    by_hand = LAYERS.get(type(part))
    parameters = list(part.parameters())
    usual = not watched(part) and all(parameter.requires_grad for parameter in parameters)
    return (by_hand(part) if by_hand and usual else None) or Recorded.module(part, part)


def watched(part: nn.Module) -> bool:
    """Whether something is called with this module, which is not if its kernels are."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(module, kind) for module in part.modules() for kind in kinds)


class Recorded:
    """A layer whose gradient torch.autograd finds."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    @classmethod
    def of(cls, layer: Layer) -> "Recorded":
        """The same layer, its gradient found by torch.autograd."""
        return layer if isinstance(layer, cls) else cls(lambda x: layer(x, True)[0])

    @classmethod
    def module(cls, part: nn.Module, function: Callable[[Tensor], Tensor]) -> "Recorded":
        """What a module does; if it works in place, on a copy: the layer before may need what it gave."""
        in_place = any(getattr(module, "inplace", False) for module in part.modules())
        return cls((lambda x: function(x.clone())) if in_place else function)

    def __call__(self, x: Tensor, wanted: bool) -> tuple[Tensor, Back]:
        with torch.enable_grad():
            x = x.detach().requires_grad_(wanted)
            y = self.function(x)

        def back(gradient: Tensor) -> Tensor | None:
            if y.requires_grad:
                y.backward(gradient)
            return x.grad

        return y.detach(), back


# Layers that work on each number by itself: one kernel each way, of a single network or of a stack


def elementwise(part: nn.Module) -> Layer | None:
    """Such a layer; None if it is none."""
    if type(part) not in ELEMENTWISE or watched(part):
        return None
    forward, rule, of_outputs = ELEMENTWISE[type(part)]

    def layer(x: Tensor, wanted: bool) -> tuple[Tensor, Back]:
        y = forward(part, x)
        known = y if of_outputs else x
        return y, lambda gradient: rule(part, gradient, known) if wanted else None

    return layer


# What gives outputs, what gives the gradient by inputs, and whether it takes, after the gradient by outputs, outputs or
# inputs. Nothing works in place, whatever the layer says.
ELEMENTWISE: dict[type[nn.Module], tuple[Callable[..., Tensor], Callable[..., Tensor], bool]] = {
    nn.ReLU: (lambda part, x: x.relu(), lambda part, g, y: aten.threshold_backward.default(g, y, 0), True),
    nn.Tanh: (lambda part, x: x.tanh(), lambda part, g, y: aten.tanh_backward.default(g, y), True),
    nn.Sigmoid: (lambda part, x: x.sigmoid(), lambda part, g, y: aten.sigmoid_backward.default(g, y), True),
    nn.Identity: (lambda part, x: x, lambda part, g, y: g, True),
    Sine: (lambda part, x: x.sin(), lambda part, g, x: g * x.cos(), False),
    nn.GELU: (
        lambda part, x: F.gelu(x, approximate=part.approximate),
        lambda part, g, x: aten.gelu_backward.default(g, x, approximate=part.approximate),
        False,
    ),
    nn.LeakyReLU: (
        lambda part, x: F.leaky_relu(x, part.negative_slope),
        lambda part, g, x: aten.leaky_relu_backward.default(g, x, part.negative_slope, False),
        False,
    ),
}


def dropout(p: float, noise: Callable[[], Tensor]) -> Layer:
    """`models.Dropout` in training mode, with the numbers that decide its mask."""

    def layer(x: Tensor, wanted: bool) -> tuple[Tensor, Back]:
        kept = noise() >= p
        return x * kept / (1 - p), lambda gradient: gradient / (1 - p) * kept if wanted else None

    return layer


def reshaped(function: Callable[[Tensor], Tensor]) -> Layer:
    """A layer that gives the same numbers in the same order, in another shape.

    The gradient lies in memory as its inputs do: the kernel of a ReLU takes 20 times as long where the two differ.
    """

    def layer(x: Tensor, wanted: bool) -> tuple[Tensor, Back]:
        def back(gradient: Tensor) -> Tensor | None:
            gradient = gradient.reshape(x.shape)
            return (gradient if x.is_contiguous() else torch.empty_like(x).copy_(gradient)) if wanted else None

        return function(x), back

    return layer


# Layers of a single network


def _dense(part: nn.Linear) -> Layer | None:
    weight, bias, otherwise = part.weight, part.bias, Recorded.module(part, part)
    if bias is None:
        return None

    def layer(x: Tensor, wanted: bool) -> tuple[Tensor, Back]:
        if x.ndim != 2:
            return otherwise(x, wanted)

        def back(gradient: Tensor) -> Tensor | None:
            add_gradient(weight, gradient.t().mm(x))
            add_gradient(bias, gradient.sum(0))
            return gradient.mm(weight) if wanted else None

        return F.linear(x, weight, bias), back

    return layer


def _convolution(part: nn.Conv2d) -> Layer | None:
    weight, bias = part.weight, part.bias
    if bias is None or part.padding_mode != "zeros" or isinstance(part.padding, str):
        return None
    where = (part.stride, part.padding, part.dilation)
    last = weight.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format

    def layer(x: Tensor, wanted: bool) -> tuple[Tensor, Back]:
        def back(gradient: Tensor) -> Tensor | None:
            of_x, of_weight, _ = aten.convolution_backward.default(
                gradient, x, weight, None, *where, False, (0, 0), part.groups, (wanted, True, False)
            )
            add_gradient(weight, of_weight.contiguous(memory_format=layout))
            add_gradient(bias, gradient.sum((0, 2, 3)))  # in a quarter of the time that the kernel takes for it
            return of_x

        return F.conv2d(x, weight, bias, *where, part.groups), back

    return layer


def _max_pool(part: nn.MaxPool2d) -> Layer | None:
    if part.return_indices:
        return None
    where = (_pair(part.kernel_size), _pair(part.stride), _pair(part.padding), _pair(part.dilation), part.ceil_mode)

    def layer(x: Tensor, wanted: bool) -> tuple[Tensor, Back]:
        y, indices = aten.max_pool2d_with_indices.default(x, *where)

        def back(gradient: Tensor) -> Tensor | None:
            if not wanted:
                return None
            return aten.max_pool2d_with_indices_backward.default(gradient, x, *where, indices)

        return y, back

    return layer


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else value


LAYERS: dict[type[nn.Module], Callable[[Any], Layer | None]] = {
    nn.Linear: _dense,
    nn.Conv2d: _convolution,
    nn.MaxPool2d: _max_pool,
    MaxPool2x2: _max_pool,
    nn.Flatten: lambda part: reshaped(part.forward),
    Dropout: lambda part: dropout(part.p, lambda: part.noise),
}
