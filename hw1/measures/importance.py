"""Which weights matter: scores of every parameter, and the test of a score by setting to 0 what it names."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from hw1.models import evaluating

Found = TypeVar("Found")


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """One vector (P,) of all entries, tensor by tensor, whatever their layout in memory; a copy."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def saliency(model: nn.Module, loss: nn.Module, slices: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """|w·∂L/∂w| (P,) of every parameter, in the loss's unit: to first order what L changes by if w is set to 0.

    L is the mean loss over all examples, in evaluation mode; its gradient is summed over the slices, whatever their
    sizes. Modes and `.grad` are as they were afterwards.

    Args:
        model: (B, *shape) → (B, K), at most one gradient per parameter.
        loss: mean over a batch.
        slices: inputs (B, *shape) with their targets, at least one example.
    Source: the Taylor criterion of Molchanov et al. 2017, arXiv:1611.06440, per weight.
    """
    parameters = list(model.parameters())
    total, count = [torch.zeros_like(parameter) for parameter in parameters], 0
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        for x, y in slices:
            gradients = torch.autograd.grad(loss(model(x), y) * len(x), parameters, allow_unused=True)
            for added, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    added += gradient
            count += len(x)
    if not count:
        raise ValueError("need at least one example")
    return (flat(parameters) * flat(total) / count).abs()


def ablation(
    model: nn.Module, order: Tensor, counts: Sequence[int], measure: Callable[[nn.Module], Found]
) -> list[Found]:
    """What is measured with the first k parameters of `order` set to 0, for every k; the network gets its weights back.

    Args: order: positions (P,) in the vector of all parameters (`flat(model.parameters())`).
    """
    parameters = list(model.parameters())
    weights = flat(parameters)
    found = []
    try:
        for count in counts:
            pruned = weights.clone()
            pruned[order[:count]] = 0
            _write(parameters, pruned)
            found.append(measure(model))
    finally:
        _write(parameters, weights)
    return found


def _write(parameters: Sequence[Tensor], values: Tensor) -> None:
    with torch.no_grad():  # copied, so that convolutions keep their layout in memory
        for parameter, part in zip(parameters, values.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))


def densities(samples: Sequence[Tensor], bins: int) -> tuple[Tensor, list[Tensor]]:
    """Histograms of several samples over common, equal bins from the least to the largest value: densities, area 1.

    Returns: edges (bins + 1,) and per sample (bins,), in float64; where all values are equal, over a width of 1.
    """
    low, high = (float(f(torch.stack([f(sample) for sample in samples]))) for f in (torch.min, torch.max))
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    width = (high - low) / bins
    # histc and not bucketize: no index per weight is kept
    counted = [torch.histc(sample.flatten().double(), bins, low, high) for sample in samples]
    return edges, [counts / (counts.sum() * width) for counts in counted]


def pixel_sums(model: nn.Module, input_shape: Sequence[int], score: Tensor) -> Tensor | None:
    """Scores of the first layer's weights, summed over its units and over channels: (H, W), of each pixel's weights.

    Args: score: (P,), of every parameter.
    Returns: None where inputs are no images (C, H, W), or the first layer is not dense on all of them.
    """
    layers = [(name, part) for name, part in model.named_modules() if next(part.parameters(False), None) is not None]
    if len(input_shape) != 3 or not layers or not isinstance(layers[0][1], nn.Linear):
        return None
    name, first = layers[0]
    if first.in_features != torch.Size(input_shape).numel():
        return None
    start = 0
    for key, parameter in model.named_parameters():
        if key == f"{name}.weight" if name else key == "weight":
            weights = score[start : start + parameter.numel()].view(first.out_features, *input_shape)
            return weights.sum((0, 1))
        start += parameter.numel()
    return None
