"""Gradients by the chain rule: the very bits of torch.autograd's, for one network; close to them for a stack."""

from functools import partial

import pytest
import torch
from torch import nn

from hw1 import chain, models
from hw1.learner import Learner
from hw1.losses import averages

IMAGE, VECTOR = (1, 8, 8), (5,)
MLP = partial(models.mlp, depth=2, width=6, dropout=0.0, batch_norm=False)
CNN = partial(models.cnn, depth=2, width=3, hidden=7, kernel=3, activation="relu", dropout=0.0, batch_norm=False)


def frozen(*, input_shape, outputs):
    model = MLP(input_shape=input_shape, outputs=outputs, activation="relu")
    model.hidden2.weight.requires_grad_(False)
    return model


def all_frozen_but_the_last(*, input_shape, outputs):
    model = MLP(input_shape=input_shape, outputs=outputs, activation="relu")
    for layer in (model.hidden1, model.hidden2):
        layer.requires_grad_(False)
    return model


def without_bias(*, input_shape, outputs):
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5, bias=False), nn.Tanh(),
        nn.Linear(5, outputs),
    )  # fmt: skip


def unusual(*, input_shape, outputs):
    """Strides, dilation, groups, padding by name and by reflection, poolings of many kinds, a nested sequence."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"), nn.GELU("tanh"), nn.MaxPool2d(3, 1, 1, ceil_mode=True),
        nn.Conv2d(4, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), nn.LeakyReLU(0.2),
        nn.Sequential(nn.Conv2d(4, 3, 1, padding_mode="reflect"), nn.Sigmoid()), nn.MaxPool2d((2, 1), (1, 2)),
        nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(outputs),
    )  # fmt: skip


def tied(*, input_shape, outputs):
    layer = nn.Linear(*input_shape, *input_shape)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(*input_shape, outputs))


def of_matrices(*, input_shape, outputs):
    return nn.Sequential(nn.Flatten(1, 2), nn.Linear(8, 4), nn.Tanh(), nn.Flatten(), nn.Linear(32, outputs))


def in_place(*, input_shape, outputs):
    return nn.Sequential(
        nn.Linear(*input_shape, 6), nn.ReLU(inplace=True), nn.Linear(6, 6), nn.ELU(inplace=True), nn.Linear(6, 6),
        nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Linear(6, 6)), nn.LeakyReLU(0.3, True), nn.Linear(6, outputs),
    )  # fmt: skip


class Own(nn.Module):
    def __init__(self, *, input_shape, outputs):
        super().__init__()
        self.layer, self.scale = nn.Linear(*input_shape, outputs), nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.scale * self.layer(x) + self.layer(x.square())


NETWORKS = {
    "linear": (models.linear, VECTOR),
    **{f"mlp, {name}": (partial(MLP, activation=name), VECTOR) for name in models.ACTIVATIONS},
    "mlp of images": (partial(MLP, activation="relu"), IMAGE),
    "mlp, dropout": (partial(MLP, activation="tanh", dropout=0.4), VECTOR),
    "mlp, batch norm": (partial(MLP, activation="relu", batch_norm=True), VECTOR),
    "cnn": (CNN, IMAGE),
    "cnn, gelu": (partial(CNN, activation="gelu"), IMAGE),
    "cnn, dropout, batch norm": (partial(CNN, dropout=0.4, batch_norm=True), IMAGE),
    "lenet5": (models.lenet5, (1, 28, 28)),
    "lenet5, max": (partial(models.lenet5, pooling="max"), (1, 28, 28)),
    "frozen": (frozen, VECTOR),
    "all frozen but the last": (all_frozen_but_the_last, VECTOR),
    "without bias": (without_bias, IMAGE),
    "unusual": (unusual, IMAGE),
    "tied": (tied, VECTOR),
    "of matrices": (of_matrices, IMAGE),
    "in place": (in_place, VECTOR),
    "own": (Own, VECTOR),
}
BY_HAND = [f"mlp, {name}" for name in (*models.ACTIVATIONS, "dropout")]
BY_HAND += ["linear", "mlp of images", "cnn", "cnn, gelu", "lenet5, max"]
LOSSES = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.2),
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])),
    "one label ignored": nn.CrossEntropyLoss(ignore_index=1),
    "mse": nn.MSELoss(),
    "mse, sum": nn.MSELoss(reduction="sum"),
    "l1": nn.L1Loss(),
    "huber": nn.HuberLoss(delta=0.3),
}


def built(name, dtype=torch.float32, seed=0):
    make, shape = NETWORKS[name]
    torch.manual_seed(seed)
    model = make(input_shape=shape, outputs=3)
    if any(isinstance(part, nn.modules.lazy.LazyModuleMixin) for part in model.modules()):
        model(torch.zeros(2, *shape))
    return model.to(dtype=dtype, memory_format=torch.channels_last), shape


def batch(shape, replicas=1, dtype=torch.float32, loss="cross-entropy", size=10):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(replicas, size, *shape, generator=generator).to(dtype)
    if isinstance(LOSSES[loss], nn.CrossEntropyLoss):
        return x, torch.randint(3, (replicas, size), generator=generator)
    return x, torch.randn(replicas, size, 3, generator=generator).to(dtype)


def noise_of(model, shape, replicas=1, size=10):
    generator = torch.Generator().manual_seed(2)
    shapes = models.dropout_shapes(model, shape)
    return {name: torch.rand(replicas, size, *features, generator=generator) for name, features in shapes.items()}


def by_autograd(model, loss, x, y, noise, share=1.0):
    """Losses and gradients as torch gives them, of one network."""
    for name, values in noise.items():
        model.get_submodule(name).noise = values
    model.train().zero_grad()
    found = loss(model(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x), y) * share
    found.backward()
    return found.detach(), [parameter.grad for parameter in model.parameters()]


def both(name, loss="cross-entropy", share=1.0, dtype=torch.float32, precision="highest"):
    """What torch gives, and what a learner gives, for the same network, batch and noise."""
    found = []
    for own in (False, True):
        model, shape = built(name, dtype)
        (x, y), noise = batch(shape, dtype=dtype, loss=loss), noise_of(model, shape)
        rule = LOSSES[loss].to(dtype)
        if own:
            learner = Learner([model], [0], rule, [0], shape, precision)
            value = learner.add_gradients(x, y, noise, share)
        else:
            first = {key: values[0] for key, values in noise.items()}
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                value, _ = by_autograd(model, rule, x[0], y[0], first, share)
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        found.append((value, gradients, model.state_dict()))
    return found


def assert_same_bits(theirs, mine, summed=()):
    """But for gradients of these names, which are sums in another order."""
    assert torch.equal(theirs[0], mine[0])
    for name, expected in theirs[1].items():
        found = mine[1][name]
        assert (found is None) == (expected is None)
        if found is not None and name in summed:
            torch.testing.assert_close(found, expected)
        else:
            assert found is None or torch.equal(found, expected), name
    for key, value in theirs[2].items():
        assert torch.equal(value, mine[2][key]), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_bits_of_autograd(name, dtype):
    theirs, mine = both(name, dtype=dtype)
    parts = built(name)[0].named_modules()
    assert_same_bits(theirs, mine, {f"{part}.bias" for part, module in parts if type(module) is nn.Conv2d})
    assert mine[0].requires_grad is False


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_lie_in_memory_as_what_they_are_of(name, last):
    """Fused optimizers go through both as they lie, whatever the strides say."""
    model, shape = built(name)
    model = model if last else model.to(memory_format=torch.contiguous_format)
    (x, y), noise = batch(shape), noise_of(model, shape)
    Learner([model], [0], nn.CrossEntropyLoss(), [0], shape).add_gradients(x, y, noise)
    for parameter in model.parameters():
        if parameter.grad is not None:
            laid_out = torch.empty_like(parameter).copy_(parameter.grad).detach()
            assert torch.equal(*(value.as_strided((value.numel(),), (1,)) for value in (parameter.grad, laid_out)))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_bits_of_autograd_for_any_loss(loss, share):
    assert_same_bits(*both("mlp, relu", loss, share))


@pytest.mark.parametrize("name", ["mlp, relu", "cnn, dropout, batch norm", "lenet5"])
def test_the_bits_of_autograd_in_bf16(name):
    theirs, mine = both(name, precision="bf16")
    assert_same_bits(theirs, mine)
    assert not torch.equal(mine[0], both(name)[1][0])


@pytest.mark.parametrize("name", BY_HAND)
def test_what_is_done_by_hand_records_no_graph(name, monkeypatch):
    def refuse(*_):
        raise AssertionError("a graph was recorded")

    monkeypatch.setattr(chain.Recorded, "__call__", refuse)
    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    for loss in ("cross-entropy", "mse"):
        model, shape = built(name)
        (x, y), noise = batch(shape, loss=loss), noise_of(model, shape)
        Learner([model], [0], LOSSES[loss], [0], shape).add_gradients(x, y, noise)
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_gradients_of_slices_add_up():
    model, shape = built("cnn", torch.float64)
    x, y = batch(shape, dtype=torch.float64)
    learner = Learner([model], [0], nn.CrossEntropyLoss(), [0], shape)
    parts = [learner.add_gradients(x[:, part], y[:, part], {}, len(y[0][part]) / 10)
             for part in (slice(0, 4), slice(4, 10))]  # fmt: skip
    loss, gradients = by_autograd(built("cnn", torch.float64)[0], nn.CrossEntropyLoss(), x[0], y[0], {})
    torch.testing.assert_close(sum(parts), loss)
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], gradients)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("tied", "frozen", "all frozen but the last",
                                                                           "own", "unusual")])  # fmt: skip
def test_a_stack_has_the_gradients_of_each(name, loss):
    networks = [built(name, torch.float64, seed) for seed in range(3)]
    models_of_it, shape = [model for model, _ in networks], networks[0][1]
    (x, y), noise = batch(shape, 3, torch.float64, loss), noise_of(models_of_it[0], shape, 3)
    rule = LOSSES[loss].double()
    found = [
        by_autograd(model, rule, x[r], y[r], {key: values[r] for key, values in noise.items()}, 0.5)
        for r, model in enumerate(built(name, torch.float64, seed)[0] for seed in range(3))
    ]
    learner = Learner(models_of_it, [0, 1, 2], rule, [0, 1, 2], shape)
    losses = learner.add_gradients(x, y, noise, 0.5)
    torch.testing.assert_close(losses, torch.stack([value for value, _ in found]))
    gradients = [learner.parameters[key].grad for key, _ in models_of_it[0].named_parameters()]
    for number, gradient in enumerate(gradients):
        for r, (_, theirs) in enumerate(found):
            torch.testing.assert_close(gradient[r].view_as(theirs[number]), theirs[number])


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_what_watches_a_layer_is_called(kind):
    model, shape = built("mlp, relu")
    calls = []
    getattr(model.hidden2, kind)(lambda *_: calls.append(1))
    x, y = batch(shape)
    Learner([model], [0], nn.CrossEntropyLoss(), [0], shape).add_gradients(x, y, {})
    assert calls == [1]


@pytest.mark.parametrize(("loss", "expected"), [
    ("cross-entropy", True), ("smoothed", True), ("weighted", False), ("one label ignored", False), ("mse", True),
    ("mse, sum", False), ("l1", True), ("huber", True),
])  # fmt: skip
def test_which_losses_are_means_over_examples(loss, expected):
    assert averages(LOSSES[loss]) is expected
