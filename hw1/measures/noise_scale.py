"""How large a batch has to be before its gradient says more than noise: the gradient noise scale."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hw1.models import evaluating


@dataclass(frozen=True)
class NoiseScale:
    """B_simple = tr(Σ)/|G|² with its parts, G the expected gradient of the loss and Σ its covariance over examples.

    Attributes:
        gradient: |G|², unbiased, so that it may be negative where noise hides it.
        spread: tr(Σ), unbiased.
        noise: what of tr(Σ) is left in the big batch's |G_b|², which is |G|² + noise on average.
    """

    gradient: float
    spread: float
    noise: float

    @property
    def examples(self) -> float:
        """B_simple, in examples: at this batch size noise and gradient are equally large.

        NaN, not resolved, unless |G|² is larger than the noise that was subtracted to get it: a ratio with a
        denominator near 0 is of any size, and to leave out the negative ones alone would favour the others.
        """
        return self.spread / self.gradient if self.gradient > self.noise else math.nan


def two_batches(small: float, big: float, small_size: int, big_size: int, population: float = math.inf) -> NoiseScale:
    """Unbiased |G|² and tr(Σ) from the mean squared gradient norms of batches of two sizes, B_s < B_b.

    Of B independent examples E|G_B|² = |G|² + tr(Σ)/B, hence |G|² = (B_b·|G_b|² − B_s·|G_s|²)/(B_b − B_s) and
    tr(Σ) = (|G_s|² − |G_b|²)/(1/B_s − 1/B_b): McCandlish et al. 2018, arXiv:1812.06162, appendix A.1. Both are to be
    averaged over batches before they are divided, as here. Of B drawn without replacement from a finite population of N
    the noise is tr(Σ)·(1/B − 1/N), Σ with N − 1 in its denominator, and |G|² = |G_b|² − tr(Σ)·(1/B_b − 1/N): nothing of
    it is left to estimate where the big batch is the population.

    Args:
        small, big: mean over batches of ‖gradient of the batch's mean loss‖², at the sizes `small_size`, `big_size`.
        population: N, examples that batches are drawn from without replacement; ∞: independent ones.
    Raises: ValueError unless 0 < small_size < big_size ≤ population.
    """
    if not 0 < small_size < big_size <= population:
        raise ValueError(f"need 0 < B_s < B_b ≤ N; got {small_size}, {big_size} and {population}")
    spread = (small - big) / (1 / small_size - 1 / big_size)
    noise = spread * (1 / big_size - 1 / population)
    return NoiseScale(big - noise, spread, noise)


def gradient_noise_scale(
    model: nn.Module, loss: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], population: float = math.inf
) -> NoiseScale:
    """The noise scale from batches of one size and their union, in evaluation mode: without the noise of dropout.

    The gradient of the union is the mean of theirs, so that one pass gives both; sums are float64. The network's modes
    and `.grad` are left as they were.

    Args:
        model: (B, *shape) → (B, K).
        loss: the mean over a batch; a penalty of the optimizer's (weight decay) is no part of it.
        batches: inputs with labels or values, at least two batches, all of one size.
        population: as in `two_batches`.
    Raises: ValueError for fewer batches, or of different sizes.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    squares: list[float] = []
    sizes: set[int] = set()
    total: Tensor | float = 0.0
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        for x, y in batches:
            gradients = torch.autograd.grad(loss(model(x), y), parameters)
            flat = torch.cat([gradient.flatten() for gradient in gradients]).double()
            squares.append(flat.square().sum().item())
            sizes.add(len(x))
            total = total + flat
    if len(squares) < 2 or len(sizes) > 1:
        raise ValueError(f"need two batches or more of one size; got {len(squares)}, of sizes {sorted(sizes)}")
    (size,) = sizes
    big = (torch.as_tensor(total) / len(squares)).square().sum().item()
    return two_batches(sum(squares) / len(squares), big, size, size * len(squares), population)
