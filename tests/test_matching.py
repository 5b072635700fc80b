"""Weight matching against brute force, renamed copies, and what it cannot be used for."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hw1 import models
from hw1.measures import matching

PLAIN = {"activation": "relu", "dropout": 0.0, "batch_norm": False}
MLP = partial(models.mlp, input_shape=(1, 4, 4), outputs=3, depth=2, width=6, **PLAIN)
CNN = partial(models.cnn, input_shape=(2, 8, 8), outputs=3, depth=2, width=3, hidden=5, kernel=3, **PLAIN)
POOLED = nn.Sequential(
    nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.SiLU()),
    nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 5, bias=False), nn.Tanh(), nn.Linear(5, 3),
)  # fmt: skip
MAKE = {
    "mlp": (MLP, (1, 4, 4)),
    "mlp with batch norm": (partial(MLP, batch_norm=True, dropout=0.5, activation="tanh"), (1, 4, 4)),
    "cnn": (CNN, (2, 8, 8)),
    "cnn with batch norm": (partial(CNN, batch_norm=True), (2, 8, 8)),
    "lenet5": (partial(models.lenet5, input_shape=(1, 28, 28), outputs=3), (1, 28, 28)),
    "pooled": (lambda: POOLED, (2, 8, 8)),
}


def made(name: str, seed: int) -> nn.Module:
    """In float64, with batch norm as after training."""
    torch.manual_seed(seed)
    model = MAKE[name][0]().double().eval()
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        if isinstance(module, matching.NORMS):
            for values in (module.running_mean, module.running_var, module.weight, module.bias):
                values.data.uniform_(0.5, 2)
    return model


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def shuffled(layers: list[matching.Layer], seed: int) -> matching.Permutations:
    generator = torch.Generator().manual_seed(seed)
    return {layer.name: torch.randperm(layer.units, generator=generator) for layer in layers[:-1]}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], model: nn.Module) -> float:
    return sum((a[name] - b[name]).square().sum().item() for name, _ in model.named_parameters()) ** 0.5


@pytest.mark.parametrize("name", MAKE)
def test_a_renamed_network_is_the_same_function(name):
    model, shape = made(name, 0), MAKE[name][1]
    layers, x = matching.chain(model, shape), torch.randn(7, *shape, dtype=torch.float64)
    before, state = model(x), state_of(model)
    renamed = matching.permuted(state, layers, shuffled(layers, 1))
    assert any(not torch.equal(renamed[key], state[key]) for key in state)
    model.load_state_dict(renamed)
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MAKE)
def test_a_renamed_copy_is_found_bit_for_bit(name):
    model = made(name, 2)
    layers, state = matching.chain(model, MAKE[name][1]), state_of(model)
    permutations = shuffled(layers, 3)
    found, renamed = matching.match(state, matching.permuted(state, layers, permutations), layers)
    assert all(torch.equal(found[key], state[key]) for key in state)
    assert all(torch.equal(permutations[key][renamed[key]], torch.arange(len(renamed[key]))) for key in permutations)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(MAKE)))
def test_matching_never_leads_away_and_says_the_same_again(seed, name):
    a, b = state_of(made(name, seed)), state_of(made(name, seed + 1))
    model = made(name, seed)
    layers = matching.chain(model, MAKE[name][1])
    found, permutations = matching.match(a, b, layers)
    assert distance(a, found, model) <= distance(a, b, model) + 1e-9
    again, _ = matching.match(a, b, layers)
    assert all(torch.equal(found[key], again[key]) for key in found)
    assert all(sorted(places.tolist()) == list(range(len(places))) for places in permutations.values())


@pytest.mark.parametrize("seed", range(3))
def test_one_hidden_layer_is_matched_as_well_as_by_trying_every_permutation(seed):
    torch.manual_seed(seed)
    make = partial(MLP, depth=1, width=5)
    model, other = make().double(), make().double()
    a, b, layers = state_of(model), state_of(other), matching.chain(model, (1, 4, 4))
    found, _ = matching.match(a, b, layers)
    tried = [
        distance(a, matching.permuted(b, layers, {"hidden1": torch.tensor(order)}), model)
        for order in itertools.permutations(range(5))
    ]
    assert distance(a, found, model) == pytest.approx(min(tried), rel=1e-12)


def test_itself_stays_as_it_is():
    state, layers = state_of(made("mlp", 0)), matching.chain(made("mlp", 0), (1, 4, 4))
    _, permutations = matching.match(state, state, layers)
    assert matching.moved(permutations) == 0
    assert matching.moved({"hidden1": torch.tensor([1, 0, 2]), "hidden2": torch.tensor([0, 1])}) == 2


class Branched(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


@pytest.mark.parametrize(
    ("model", "shape", "why"),
    [
        (Branched(nn.Linear(3, 3)), (3,), "Branched is no nn.Sequential"),
        (nn.Sequential(nn.Linear(3, 4), Branched(nn.Linear(4, 4)), nn.Linear(4, 2)), (3,), "Branched"),
        (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), (3,), "LayerNorm is no part"),
        (nn.Sequential(nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2)), (3,), "Softmax"),
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 2)), (2, 3, 3), "in groups"),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 2)), (2, 4, 4), "behind"),
        (nn.Sequential(nn.Linear(4, 5), nn.Flatten(), nn.Linear(40, 2)), (2, 4, 4), "sees 3 dimensions"),
        (models.linear(input_shape=(4,), outputs=2), (4,), "no hidden units"),
        (nn.Sequential(nn.Flatten()), (4,), "no hidden units"),
    ],
)  # fmt: skip
def test_other_architectures_are_refused_with_the_reason(model, shape, why):
    with pytest.raises(matching.NotAChainError, match=f"^not available: .*{why}"):
        matching.chain(model, shape)
