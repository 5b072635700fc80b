"""Scores of weights against closed forms and slow twins; what is set to 0 comes back."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from hw1.measures.importance import ablation, densities, flat, pixel_sums, saliency


def dense(*sizes, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return nn.Sequential(nn.Flatten(), *[part for layer in layers for part in (layer, nn.Tanh())][:-1]).double()


@pytest.mark.parametrize("slices", [[23], [10, 13], [1] * 23])
def test_saliency_of_a_linear_regression_has_a_closed_form(slices):
    torch.manual_seed(0)
    x, y = torch.randn(23, 3, dtype=torch.float64), torch.randn(23, 1, dtype=torch.float64)
    model = nn.Linear(3, 1).double().train()
    found = saliency(model, nn.MSELoss(), zip(x.split(slices), y.split(slices), strict=True))
    error = model(x) - y
    gradient = torch.cat([2 / 23 * (x.T @ error).flatten(), 2 / 23 * error.sum().reshape(1)])
    torch.testing.assert_close(found, (flat(model.parameters()) * gradient).abs())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_saliency_is_what_shrinking_a_weight_costs_to_first_order():
    model, loss = dense(4, 6, 3), nn.CrossEntropyLoss()
    x, y = torch.randn(15, 4, dtype=torch.float64), torch.randint(3, (15,))
    found = saliency(model, loss, [(x, y)])
    base, step = loss(model(x), y).item(), 1e-6
    for place in (0, 7, 25, 40):
        changed = flat(model.parameters())
        changed[place] *= 1 - step
        twin = dense(4, 6, 3)
        nn.utils.vector_to_parameters(changed, twin.parameters())
        assert abs(loss(twin(x), y).item() - base) / step == pytest.approx(found[place].item(), rel=1e-3, abs=1e-8)


def test_saliency_leaves_dropout_and_batch_norm_out():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.randn(12, 4), torch.randint(2, (12,))
    first = saliency(model, nn.CrossEntropyLoss(), [(x, y)])
    assert torch.equal(first, saliency(model, nn.CrossEntropyLoss(), [(x, y)]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_parameters_that_nothing_uses_have_no_saliency():
    model = dense(3, 2)
    model.unused = nn.Parameter(torch.ones(4, dtype=torch.float64))
    model.forward = lambda x: model[1](x)
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randint(2, (5,))
    found = saliency(model, nn.CrossEntropyLoss(), [(x, y)])
    names = [name for name, parameter in model.named_parameters() for _ in range(parameter.numel())]
    assert all((found[i] == 0) == (names[i] == "unused") for i in range(len(names)))
    with pytest.raises(ValueError, match="at least one example"):
        saliency(model, nn.CrossEntropyLoss(), [])


def test_ablation_sets_the_first_of_the_order_to_0_and_gives_them_back():
    model = dense(3, 4, 2)
    before = flat(model.parameters())
    order = torch.randperm(len(before), generator=torch.Generator().manual_seed(0))
    found = ablation(model, order, [0, 5, len(before)], lambda net: flat(net.parameters()))
    assert torch.equal(found[0], before)
    expected = before.clone()
    expected[order[:5]] = 0
    assert torch.equal(found[1], expected)
    assert (found[2] == 0).all()
    assert torch.equal(flat(model.parameters()), before)


def test_weights_come_back_when_measuring_fails_and_keep_their_layout():
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).to(memory_format=torch.channels_last)
    before = flat(model.parameters())
    with pytest.raises(ZeroDivisionError):
        ablation(model, torch.arange(len(before)), [3], lambda net: 1 / 0)
    assert torch.equal(flat(model.parameters()), before)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(before[: model[0].weight.numel()], model[0].weight.contiguous().flatten())


def test_densities_are_histograms_of_area_1():
    torch.manual_seed(0)
    samples = [torch.randn(3, 50), torch.randn(3, 70) * 2]
    edges, found = densities(samples, 12)
    for sample, density in zip(samples, found, strict=True):
        known, _ = np.histogram(sample.double().numpy(), bins=edges.numpy(), density=True)
        np.testing.assert_allclose(density, known, atol=1e-9)
        assert (density * edges.diff()).sum().item() == pytest.approx(1)
    edges, (density,) = densities([torch.full((4,), 2.0)], 5)
    assert (edges[0].item(), edges[-1].item()) == (1.5, 2.5)
    assert (density * edges.diff()).sum().item() == pytest.approx(1)


def test_pixels_get_the_scores_of_the_weights_that_they_feed():
    shape, model = (2, 3, 4), dense(24, 5, 2)
    score = torch.rand(len(flat(model.parameters())))
    expected = torch.zeros(3, 4)
    for unit in range(5):
        for channel in range(2):
            for row in range(3):
                for column in range(4):
                    expected[row, column] += score[unit * 24 + channel * 12 + row * 4 + column]
    torch.testing.assert_close(pixel_sums(model, shape, score), expected)
    assert pixel_sums(nn.Linear(24, 2), shape, score).shape == (3, 4)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)), (1, 4, 4)),
        (nn.Linear(4, 2), (4,)),
        (nn.Linear(4, 2), (1, 2, 4)),  # sees each row by itself
        (nn.Flatten(), (1, 2, 2)),
    ],
)
def test_no_picture_without_pixels(model, shape):
    assert pixel_sums(model, shape, torch.ones(100)) is None
