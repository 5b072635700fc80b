"""The gradient noise scale: unbiased over all batches of a tiny data set, the closed form of a quadratic, no traces."""

import itertools
import math

import pytest
import torch
from torch import nn

from hw1.measures.noise_scale import gradient_noise_scale, two_batches


class Point(nn.Module):
    """The parameter w as the output, whatever the input; with `half_square` a gradient of w − x at each example x."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w.clone())

    def forward(self, x):
        return self.w.expand(len(x), -1)


def half_square(output, x):
    return 0.5 * (output - x).square().sum(1).mean()


def batches_of(x, size):
    return [(part, part) for part in x.split(size)]


def population_of(x, w):
    """|G|² and tr(Σ) of ℓ = ½‖w − x‖² over a finite population, Σ with N − 1 in its denominator."""
    return (w - x.mean(0)).square().sum().item(), x.var(0).sum().item()


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return torch.randn(5, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)


def mean_over(estimates):
    found = list(estimates)
    return [sum(getattr(one, name) for one in found) / len(found) for name in ("gradient", "spread")]


@pytest.mark.parametrize(("small", "big"), [(1, 2), (1, 3), (1, 4), (2, 4)])
def test_unbiased_over_all_independent_draws(tiny, small, big):
    """Every way to draw `big` of four examples with replacement: the mean is |G|² and tr(Σ) of the distribution."""
    x, w = tiny[0][:4], tiny[1]
    gradient = (w - x.mean(0)).square().sum().item()
    spread = x.var(0, correction=0).sum().item()
    drawn = itertools.product(range(4), repeat=big)
    found = mean_over(gradient_noise_scale(Point(w), half_square, batches_of(x[list(d)], small)) for d in drawn)
    assert found == pytest.approx([gradient, spread], rel=1e-12)


@pytest.mark.parametrize(("small", "big"), [(1, 2), (1, 5), (2, 4)])
def test_unbiased_over_all_draws_without_replacement(tiny, small, big):
    x, w = tiny
    drawn = itertools.permutations(range(5), big)
    found = mean_over(gradient_noise_scale(Point(w), half_square, batches_of(x[list(d)], small), 5) for d in drawn)
    assert found == pytest.approx(population_of(x, w), rel=1e-12)


@pytest.mark.parametrize("small", [1, 2, 3, 6])
def test_on_the_whole_population_the_gradient_is_exact(small):
    torch.manual_seed(1)
    x, w = torch.randn(12, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    found = gradient_noise_scale(Point(w), half_square, batches_of(x, small), 12)
    assert found.gradient == pytest.approx(population_of(x, w)[0], rel=1e-12)
    assert found.noise == 0
    if small == 1:
        assert found.examples == pytest.approx(population_of(x, w)[1] / population_of(x, w)[0], rel=1e-12)


@pytest.mark.parametrize(("small", "count"), [(1, 400), (10, 4000), (50, 4000)])
def test_a_gaussian_quadratic_has_its_closed_form_whatever_the_batch_sizes(small, count):
    """ℓ = ½‖w − x‖², x ~ N(μ, s²I): B_simple = d·s²/‖w − μ‖²."""
    torch.manual_seed(2)
    d, s = 200, 0.5
    w = torch.full((d,), 0.3, dtype=torch.float64)
    x = s * torch.randn(count, d, dtype=torch.float64)
    found = gradient_noise_scale(Point(w), half_square, batches_of(x, small))
    assert found.examples == pytest.approx(d * s**2 / (d * 0.3**2), rel=0.1)


@pytest.mark.parametrize("population", [math.inf, 40])
def test_the_formulas_are_those_of_the_paper(population):
    found = two_batches(5.0, 3.0, 2, 8, population)
    assert found.spread == pytest.approx((5 - 3) / (1 / 2 - 1 / 8))
    if population == math.inf:
        assert found.gradient == pytest.approx((8 * 3 - 2 * 5) / (8 - 2))
    assert found.gradient == pytest.approx(3 - found.spread * (1 / 8 - 1 / population))


def test_what_noise_hides_is_not_resolved():
    assert math.isnan(two_batches(5.0, 0.5, 1, 10).examples)  # |G|² = 0
    assert math.isnan(two_batches(9.0, 0.5, 1, 10).examples)  # below 0
    assert math.isnan(two_batches(5.0, 0.9, 1, 10).examples)  # above 0, but below the noise
    assert two_batches(5.0, 1.5, 1, 10).examples == pytest.approx((3.5 / 0.9) / (1.5 - 3.5 / 9))


@pytest.mark.parametrize(("small", "big", "population"), [(0, 1, 9), (2, 2, 9), (3, 2, 9), (2, 8, 7)])
def test_sizes_must_be_in_order(small, big, population):
    with pytest.raises(ValueError, match=r"0 < B_s < B_b ≤ N"):
        two_batches(1.0, 1.0, small, big, population)


@pytest.mark.parametrize("sizes", [[4], [], [4, 3]])
def test_two_batches_of_one_size_are_needed(sizes):
    with pytest.raises(ValueError, match="need two batches or more of one size"):
        gradient_noise_scale(Point(torch.ones(2)), half_square, [(torch.ones(n, 2),) * 2 for n in sizes])


def test_evaluation_mode_and_no_traces():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    model[0].bias.requires_grad_(False)
    batches = [(torch.randn(5, 4).double(), torch.randint(3, (5,))) for _ in range(6)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        found = gradient_noise_scale(model, nn.CrossEntropyLoss(), batches)
    assert found == gradient_noise_scale(model, nn.CrossEntropyLoss(), batches)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
