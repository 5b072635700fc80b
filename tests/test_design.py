"""Parameter counts against published facts and built networks; solved widths against their promise."""

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hw1.design import cnn_max_depth, mlp_parameters, solve_widths
from hw1.errors import UserError


@pytest.mark.parametrize(
    ("inputs", "widths", "outputs", "parameters"),
    [
        (784, [], 10, 7_850),
        (784, [128], 10, 101_770),
        (784, [300, 100], 10, 266_610),
        (784, [512] * 3, 10, 932_362),
        (1, [5, 10, 10, 10, 10, 10, 5], 1, 571),
        (1, [10, 18, 15, 4], 1, 572),
        (1, [190], 1, 571),
    ],
)
def test_parameters_of_known_nets(inputs, widths, outputs, parameters):
    assert mlp_parameters(widths, inputs, outputs) == parameters


@given(st.lists(st.integers(1, 30), max_size=5), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_parameters_equal_those_of_linear_layers(widths, inputs, outputs):
    sizes = [inputs, *widths, outputs]
    layers = [nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes)]
    assert mlp_parameters(widths, inputs, outputs) == sum(p.numel() for layer in layers for p in layer.parameters())


def test_one_layer_of_571_parameters_is_190_wide():
    assert solve_widths(571, 1, 1, 1) == (190,)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7])
def test_571_parameters_at_several_depths(depth):
    widths = solve_widths(571, depth, 1, 1)
    assert len(widths) == depth
    assert abs(mlp_parameters(widths, 1, 1) - 571) <= 0.01 * 571
    assert max(widths) - min(widths) <= 1


@given(
    budget=st.integers(1, 10**7),
    depth=st.integers(1, 20),
    inputs=st.sampled_from([1, 2, 13, 784, 3072]),
    outputs=st.sampled_from([1, 2, 10, 100]),
)
@settings(max_examples=200, deadline=None)
def test_solved_widths_keep_the_tolerance_or_raise(budget, depth, inputs, outputs):
    try:
        widths = solve_widths(budget, depth, inputs, outputs)
    except UserError as error:
        assert f"model.budget={budget}" in str(error)  # noqa: PT017
        return
    assert len(widths) == depth
    assert min(widths) >= 1
    assert abs(mlp_parameters(widths, inputs, outputs) - budget) <= 0.01 * budget


@given(st.integers(500, 10**6), st.integers(2, 20))
@settings(max_examples=100, deadline=None)
def test_every_budget_of_500_or_more_is_met_from_depth_2_on(budget, depth):
    assert len(solve_widths(budget, depth, 1, 1)) == depth


def test_a_constant_width_is_found_again():
    assert solve_widths(mlp_parameters([37] * 6, 11, 3), 6, 11, 3) == (37,) * 6


@pytest.mark.parametrize("inputs", [1, 784])
def test_large_budgets_are_solved_within_50_ms(inputs):
    start = time.process_time()
    solve_widths(10**7, 20, inputs, 10)
    assert time.process_time() - start < 0.05


def test_too_small_a_budget_names_the_smallest_net():
    with pytest.raises(UserError, match=r"model\.budget=9: .* depth 4 .* at least 10 parameters"):
        solve_widths(9, 4, 1, 1)


def test_an_unreachable_budget_names_the_nearest_count():
    with pytest.raises(UserError, match=r"model\.budget=104: the nearest count .* is 107 parameters"):
        solve_widths(104, 1, 4, 2)  # 7n + 2 parameters


def test_a_budget_needs_a_hidden_layer():
    with pytest.raises(UserError, match="depth=0"):
        solve_widths(100, 0, 1, 1)


@pytest.mark.parametrize(("shape", "depth"), [((1, 28, 28), 4), ((3, 32, 32), 5), ((1, 1, 1), 0), ((1, 31, 8), 3)])
def test_max_depth_of_a_cnn(shape, depth):
    assert cnn_max_depth(shape) == depth
    assert min(shape[1:]) // 2**depth >= 1 > min(shape[1:]) / 2 ** (depth + 1)
