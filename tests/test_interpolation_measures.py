"""The line between two networks against closed forms: quadratics, convex losses, renamed copies, batch statistics."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hw1 import models
from hw1.measures import interpolation, matching
from hw1.measures.barrier import entezari_barriers, frankle_barriers
from hw1.measures.performance import evaluate
from hw1.resident import Splits

ALPHAS = [-1, -0.5, 0, 0.25, 0.5, 0.75, 1, 1.5, 2]
PLAIN = {"activation": "relu", "dropout": 0.0, "batch_norm": False}


def of_one(barriers, alphas, values, first, last):
    """The barrier of a single curve."""
    alphas, values = (np.asarray(each, dtype=float) for each in (alphas, values))
    rows = np.zeros(len(alphas), dtype=int)
    (height,) = barriers(rows, alphas, values, *(np.full(len(alphas), end, dtype=float) for end in (first, last)))
    return height


entezari_barrier, frankle_barrier = (partial(of_one, each) for each in (entezari_barriers, frankle_barriers))


def splits_of(x: torch.Tensor, y: torch.Tensor) -> Splits:
    names = ("train", "validation", "test")
    task = "regression" if y.is_floating_point() else "classification"
    zero, one = (torch.tensor(value, dtype=x.dtype) for value in (0.0, 1.0))
    return Splits(dict.fromkeys(names, x), dict.fromkeys(names, y), task, zero, one)


def mlp(seed: int, **keys) -> nn.Module:
    torch.manual_seed(seed)
    return models.mlp(input_shape=(5,), outputs=3, depth=2, width=8, **(PLAIN | keys)).double().eval()


def labelled(seed: int = 0, count: int = 40) -> Splits:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    return splits_of(x, torch.randint(3, (count,), generator=generator))


def losses(probe: interpolation.Probe, a, b, alphas=ALPHAS) -> np.ndarray:
    return np.array([probe(interpolation.interpolated(a, b, alpha))["test"]["loss"] for alpha in alphas])


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# The line


def test_the_ends_are_the_networks_themselves():
    odd = torch.tensor([-0.0, 1e-45, math.inf, 1.0, math.nan])
    a, b = {"w": odd, "n": torch.tensor(3)}, {"w": odd.flip(0) * 3, "n": torch.tensor(9)}
    for alpha, end in ((0, a), (1.0, b)):
        found = interpolation.interpolated(a, b, alpha)
        assert found["w"].numpy().tobytes() == end["w"].numpy().tobytes()
    middle = interpolation.interpolated(a, b, 0.5)
    assert middle["n"] == 3
    assert middle["w"][3] == 0.5 * a["w"][3] + 0.5 * b["w"][3]


def test_on_a_quadratic_loss_it_is_half_of_the_curvature_below_the_chord():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(30, n, generator=generator, dtype=torch.float64) for n in (4, 2))
    model = nn.Sequential(nn.Linear(4, 2, bias=False)).double()
    a, b = ({"0.weight": torch.randn(2, 4, generator=generator, dtype=torch.float64)} for _ in "ab")
    found = losses(interpolation.Probe(model, nn.MSELoss(), splits_of(x, y)), a, b)
    delta = (b["0.weight"] - a["0.weight"]).flatten()
    hessian = torch.kron(torch.eye(2, dtype=torch.float64), 2 / y.numel() * x.T @ x)  # of mean((xWᵀ − y)²)
    curvature = (delta @ hessian @ delta).item()
    alpha = np.array(ALPHAS)
    chord = (1 - alpha) * found[2] + alpha * found[6]
    np.testing.assert_allclose(found - chord, -alpha * (1 - alpha) * curvature / 2, rtol=1e-10, atol=1e-12)
    assert entezari_barrier(ALPHAS, found, found[2], found[6]) == 0


def test_a_network_and_itself_give_a_constant():
    probe, state = interpolation.Probe(mlp(0), nn.CrossEntropyLoss(), labelled()), state_of(mlp(0))
    np.testing.assert_allclose(losses(probe, state, state), probe(state)["test"]["loss"], rtol=1e-12)
    assert interpolation.distance(state, state, state) == 0


def test_swapping_the_ends_mirrors_the_curve():
    a, b = (state_of(mlp(seed)) for seed in (0, 1))
    probe = interpolation.Probe(mlp(0), nn.CrossEntropyLoss(), labelled())
    assert losses(probe, a, b).tolist() == losses(probe, b, a, [1 - alpha for alpha in ALPHAS]).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_softmax_regression_has_no_barrier(seed):
    torch.manual_seed(seed)
    a, b, model = (models.linear(input_shape=(5,), outputs=3).double() for _ in range(3))
    for state in (a, b):
        state.output.weight.data *= 20
    places = np.linspace(0, 1, 21).tolist()
    found = losses(interpolation.Probe(model, nn.CrossEntropyLoss(), labelled(seed)), *map(state_of, (a, b)), places)
    assert entezari_barrier(places, found, found[0], found[-1]) <= 1e-12
    assert (np.diff(found, 2) >= -1e-12).all()


def test_a_renamed_copy_has_a_barrier_until_it_is_aligned():
    model, places = mlp(0), np.linspace(0, 1, 11).tolist()
    for parameter in model.parameters():
        parameter.data *= 6
    state, layers = state_of(model), matching.chain(model, (5,))
    x = torch.randn(60, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    probe = interpolation.Probe(model, nn.CrossEntropyLoss(), splits_of(x, model(x).argmax(1)))
    order = torch.tensor([3, 0, 1, 2, 7, 4, 5, 6])
    copy = matching.permuted(state, layers, {"hidden1": order, "hidden2": order.flip(0)})
    naive = losses(probe, state, copy, places)
    assert entezari_barrier(places, naive, naive[0], naive[-1]) > 0.1
    aligned = losses(probe, state, matching.match(state, copy, layers)[0], places)
    np.testing.assert_allclose(aligned, naive[0], rtol=1e-12)


# Judging


def test_a_probe_gives_what_evaluation_gives():
    model, splits = mlp(0).float(), labelled()
    splits = splits_of(splits.raw["test"].float(), splits.targets["test"])
    expected = evaluate(model, nn.CrossEntropyLoss(), splits.slices("test", 100))
    probe = interpolation.Probe(mlp(1).float(), nn.CrossEntropyLoss(), splits, recalibrated=True)
    assert probe(state_of(model)) == {"train": expected, "test": expected}


@pytest.mark.parametrize("keys", [{}, {"batch_norm": True, "dropout": 0.5}])
@pytest.mark.parametrize("count", [0, 1, interpolation.TOGETHER, 2 * interpolation.TOGETHER + 1])
def test_states_judged_together_have_the_bits_of_each_alone(keys, count):
    splits, (a, b) = labelled(), (state_of(mlp(seed, **keys)) for seed in (0, 1))
    states = [interpolation.interpolated(a, b, number / 7) for number in range(count)]
    model = mlp(2, **keys).train()
    probe = interpolation.Probe(model, nn.CrossEntropyLoss(), splits, recalibrated=True)
    alone = [interpolation.Probe(mlp(3, **keys), probe.loss, splits, recalibrated=True)(state) for state in states]
    assert list(probe.along(iter(states))) == alone
    assert [judged["test"] for judged in probe.along(states, ["test"])] == [judged["test"] for judged in alone]
    assert model.training


class Doubling(nn.Module):
    """Changes what it is given."""

    def forward(self, x):
        return x.mul_(2)


@pytest.mark.parametrize("first", [nn.ReLU(inplace=True), nn.LeakyReLU(2.0, inplace=True), Doubling()])
def test_networks_that_change_their_inputs_do_not_see_those_of_others(first):
    def network(seed):
        return nn.Sequential(first, mlp(seed))

    states, splits = [state_of(network(seed)) for seed in range(5)], labelled()
    probe = interpolation.Probe(network(9), nn.CrossEntropyLoss(), splits)
    expected = [evaluate(network(seed), probe.loss, splits.slices("test", 100)) for seed in range(5)]
    assert [judged["test"] for judged in probe.along(states)] == expected


def test_recalibrated_statistics_are_those_of_the_whole_split():
    model = mlp(0, batch_norm=True, dropout=0.5)
    model.norm1.running_mean.fill_(7)
    x = labelled().raw["train"]
    interpolation.recalibrate(model, [x])
    seen = model.hidden1(x)
    torch.testing.assert_close(model.norm1.running_mean, seen.mean(0))
    torch.testing.assert_close(model.norm1.running_var, seen.var(0))
    hidden = ((seen - seen.mean(0)) / (seen.var(0, correction=0) + model.norm1.eps).sqrt()).relu()  # no dropout
    torch.testing.assert_close(model.norm2.running_mean, model.hidden2(hidden).mean(0))


def test_slices_count_by_their_size():
    model, x = mlp(0, batch_norm=True), labelled().raw["train"]
    interpolation.recalibrate(model, x.split([30, 8, 2]))
    seen = model.hidden1(x)
    torch.testing.assert_close(model.norm1.running_mean, seen.mean(0))
    weights = [len(part) / 40 * part.var(0) for part in seen.split([30, 8, 2])]
    torch.testing.assert_close(model.norm1.running_var, sum(weights))


def test_recalibration_leaves_modes_and_momentum_and_needs_batch_norm():
    model = mlp(0, batch_norm=True).train()
    interpolation.recalibrate(model, [labelled().raw["train"]])
    assert all(module.training for module in model.modules())
    assert model.norm1.momentum == 0.1
    plain = mlp(0)
    interpolation.recalibrate(plain, iter([]))
    assert not interpolation.has_statistics(plain)
    assert interpolation.has_statistics(model)


@pytest.mark.parametrize("count", [2, 3, 200, 78401])
def test_no_slice_of_a_single_example(count):
    model = models.mlp(input_shape=(5,), outputs=3, depth=1, width=2, **(PLAIN | {"batch_norm": True}))
    splits = splits_of(torch.randn(count, 5), torch.zeros(count, dtype=torch.int64))
    probe = interpolation.Probe(model, nn.CrossEntropyLoss(), splits, recalibrated=True)
    sizes = [len(x) for x in probe._calibration()]
    assert sum(sizes) == count
    assert min(sizes) > 1


def test_layers_are_those_with_weights_and_their_batch_norm():
    names = interpolation.layers_of(mlp(0, batch_norm=True))
    assert list(names) == ["hidden1", "hidden2", "output"]
    assert {"hidden1.weight", "norm1.weight", "norm1.running_mean"} <= set(names["hidden1"])
    a, b = (state_of(mlp(seed, batch_norm=True)) for seed in (0, 1))
    assert sorted(key for keys in names.values() for key in keys) == sorted(a)
    mixed = interpolation.with_layer(a, b, names["hidden2"])
    assert {key for key in a if mixed[key] is b[key]} == set(names["hidden2"])
    assert interpolation.distance({"w": torch.zeros(2)}, {"w": torch.tensor([3.0, 4.0])}, ["w"]) == 5


# Barriers

CURVES = st.lists(st.tuples(st.floats(-1, 2), st.floats(0, 100)), min_size=1, max_size=8)


def test_barriers_of_a_known_curve():
    alphas, values = [-1, 0, 0.25, 0.5, 1, 2], [90, 1, 4, 5, 3, 99]
    assert entezari_barrier(alphas, values, 1, 3) == 3  # 5 − 2 at ½
    assert frankle_barrier(alphas, values, 1, 3) == 3
    assert entezari_barrier([2], [7], 1, 3) == 0
    assert frankle_barrier([2], [7], 1, 3) == 1
    assert math.isnan(entezari_barrier([0.5], [math.nan], 1, 3))
    assert entezari_barrier([0.5], [math.inf], 1, 3) == math.inf


@given(CURVES, st.floats(0, 100), st.floats(0, 100))
def test_barriers_by_definition(curve, first, last):
    alphas, values = [point[0] for point in curve], [point[1] for point in curve]
    inside = [(a, v) for a, v in curve if 0 < a < 1] + [(0, first), (1, last)]
    assert entezari_barrier(alphas, values, first, last) == max(v - ((1 - a) * first + a * last) for a, v in inside)
    assert frankle_barrier(alphas, values, first, last) == max(v - (first + last) / 2 for _, v in inside)
    assert entezari_barrier(alphas, values, first, last) >= 0
    assert frankle_barrier(alphas, values, first, last) >= abs(first - last) / 2 - 1e-12


@given(CURVES, st.floats(0, 100), st.floats(0, 100), st.floats(-10, 10))
def test_a_straight_line_added_changes_no_entezari_barrier(curve, first, last, slope):
    alphas, values = [point[0] for point in curve], [point[1] for point in curve]
    tilted = [value + slope * alpha for alpha, value in curve]
    expected = entezari_barrier(alphas, values, first, last)
    assert entezari_barrier(alphas, tilted, first, last + slope) == pytest.approx(expected, abs=1e-9)
