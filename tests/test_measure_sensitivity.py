"""Sensitivities against closed forms, a naive twin, and what must not change them."""

from functools import partial

import pytest
import torch
from torch import nn

from hw1 import models
from hw1.measures.sensitivity import Sensitivities, input_sensitivity

CROSS_ENTROPY = nn.CrossEntropyLoss(reduction="none")


def measured(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, loss: nn.Module, batch: int = 250):
    return input_sensitivity(model, zip(inputs.split(batch), labels.split(batch), strict=False), loss)


def without_rank(model: nn.Sequential) -> nn.Sequential:
    """Four of its eight hidden units are one, and three see nothing."""
    with torch.no_grad():
        model.hidden1.weight[1:5] = model.hidden1.weight[0]
        model.hidden1.weight[5:] = 0
    return model


PLAIN = {"activation": "relu", "dropout": 0.0, "batch_norm": False}
MLP = partial(models.mlp, depth=1, width=8, **PLAIN)
CNN = partial(models.cnn, depth=2, width=3, hidden=7, kernel=3, **PLAIN)
MAKE = {
    "linear": lambda: models.linear(input_shape=(1, 8, 8), outputs=4),
    "mlp": lambda: MLP(input_shape=(1, 8, 8), outputs=4, activation="tanh", dropout=0.5, batch_norm=True),
    "cnn": lambda: CNN(input_shape=(1, 8, 8), outputs=4, dropout=0.5, batch_norm=True),
    "lenet5": lambda: models.lenet5(input_shape=(1, 28, 28), outputs=4),
    "rgb": lambda: CNN(input_shape=(3, 8, 8), outputs=4),
    "one output": lambda: MLP(input_shape=(5,), outputs=1),
    "equal and dead units": lambda: without_rank(MLP(input_shape=(1, 8, 8), outputs=4)),
    "nothing to flatten": lambda: nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 4)),
    "flattened in part": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(64, 6), nn.Flatten(), nn.Linear(6, 4)),
}
FIELDS = ["softmax_jacobian", "logit_jacobian", "loss_gradient"]


def examples(shape, classes, count=8):
    """Doubles (count, *shape) and labels (count,), the same at every call."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(classes, (count,), generator=generator)


def naive(model, inputs, labels):
    """One example at a time, by jacrev of the softmax, of the logits and of the loss."""
    model.eval()
    norms = []
    for x, y in zip(inputs, labels, strict=True):

        def logits(x):
            return model(x[None])[0]

        functions = [
            lambda x: logits(x).softmax(0),
            logits,
            lambda x, y=y: nn.functional.cross_entropy(logits(x), y),
        ]
        norms.append([torch.func.jacrev(function)(x).detach().norm() for function in functions])
    return Sensitivities(*(torch.stack(column) for column in zip(*norms, strict=True)))


def assert_same(got, expected, **tolerance):
    for field in FIELDS:
        torch.testing.assert_close(getattr(got, field), getattr(expected, field), **tolerance)


def made(name, shape):
    torch.manual_seed(0)
    model = MAKE[name]().double()
    for module in model.modules():  # statistics other than the 0 and 1 of a fresh layer
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model, *examples(shape, 1 if name == "one output" else 4)


SHAPES = dict.fromkeys(MAKE, (1, 8, 8)) | {
    "lenet5": (1, 28, 28), "rgb": (3, 8, 8), "one output": (5,), "nothing to flatten": (64,),
}  # fmt: skip


@pytest.mark.parametrize("name", MAKE)
def test_equals_the_naive_twin(name):
    model, inputs, labels = made(name, SHAPES[name])
    assert_same(measured(model, inputs, labels, CROSS_ENTROPY, batch=5), naive(model, inputs, labels))


def test_a_net_whose_weights_are_not_numbers_has_no_sensitivity():
    model, inputs, labels = made("mlp", (1, 8, 8))
    model.hidden1.weight.data[0, 0] = torch.nan
    found = measured(model, inputs, labels, CROSS_ENTROPY)
    assert all(getattr(found, field).isnan().all() for field in FIELDS)


def test_a_deep_linear_net_is_the_product_of_its_weights():
    torch.manual_seed(0)
    model = MLP(input_shape=(6,), outputs=3, widths=[5, 7, 4], activation="identity").double()
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    product = torch.linalg.multi_dot(weights[::-1]).norm().item()
    got = measured(model, *examples((6,), 3), CROSS_ENTROPY)
    assert got.logit_jacobian.tolist() == pytest.approx([product] * 8, rel=1e-6)


def test_one_hidden_relu_layer_and_its_softmax():
    torch.manual_seed(0)
    model = MLP(input_shape=(6,), outputs=3).double()
    inputs, labels = examples((6,), 3)
    got = measured(model, inputs, labels, CROSS_ENTROPY)
    open_gates = (model.hidden1(inputs) > 0).double()
    jacobians = torch.einsum("kh,nh,hd->nkd", model.output.weight, open_gates, model.hidden1.weight).detach()
    p = model(inputs).softmax(1).detach()
    softmax = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) @ jacobians
    loss = (p - nn.functional.one_hot(labels, 3)).unsqueeze(1) @ jacobians
    expected = Sensitivities(*(matrix.flatten(1).norm(dim=1) for matrix in (softmax, jacobians, loss)))
    assert_same(got, expected)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_loss_gradient_equals_autograd_of_each_example(name):
    model, inputs, labels = made(name, (1, 8, 8))
    got = measured(model, inputs, labels, CROSS_ENTROPY).loss_gradient
    model.eval()
    for n in range(len(inputs)):
        x = inputs[n : n + 1].clone().requires_grad_()
        nn.functional.cross_entropy(model(x), labels[n : n + 1]).backward()
        torch.testing.assert_close(got[n], x.grad.norm())


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(reduction="none", label_smoothing=0.2),
        lambda logits, labels: (logits - nn.functional.one_hot(labels, 4)).square().mean(1),
    ],
    ids=["label smoothing", "squared error"],
)
def test_other_losses_have_their_own_gradient(loss):
    model, inputs, labels = made("mlp", (1, 8, 8))
    got = measured(model, inputs, labels, loss).loss_gradient
    x = inputs.clone().requires_grad_()
    loss(model.eval()(x), labels).sum().backward()
    torch.testing.assert_close(got, x.grad.flatten(1).norm(dim=1))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_unchanged_by_slices_order_and_duplicates(name):
    model, inputs, labels = made(name, (1, 8, 8))
    whole = measured(model, inputs, labels, CROSS_ENTROPY)
    for batch in (1, 7, 8):
        assert_same(measured(model, inputs, labels, CROSS_ENTROPY, batch), whole)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2)).repeat(2)
    shuffled = measured(model, inputs[order], labels[order], CROSS_ENTROPY, 7)
    assert_same(shuffled, Sensitivities(*(getattr(whole, field)[order] for field in FIELDS)))


def test_scaling_the_input_divides_by_the_scale():
    model, inputs, labels = made("linear", (1, 8, 8))
    before = measured(model, inputs, labels, CROSS_ENTROPY)
    with torch.no_grad():
        model.output.weight /= 4
    after = measured(model, 4 * inputs, labels, CROSS_ENTROPY)
    assert_same(Sensitivities(*(4 * getattr(after, field) for field in FIELDS)), before)


@pytest.mark.parametrize("scale", [1, 30, 60, 200])
def test_a_saturated_net_keeps_its_digits_in_float32(scale):
    """Softmax Jacobians down to 1e-20 and below, where p rounds to one-hot in float32: right to 1e-4."""
    torch.manual_seed(0)
    model = MLP(input_shape=(6,), outputs=4, width=16)
    with torch.no_grad():
        model.output.weight *= scale
    inputs, labels = examples((6,), 4)
    inputs = inputs.float()
    got = measured(model, inputs, labels, CROSS_ENTROPY)
    model.double()
    logits = model(inputs.double()).detach()
    jacobians = torch.func.vmap(torch.func.jacrev(lambda x: model(x[None])[0]))(inputs.double()).detach()
    p = logits.softmax(1)
    identity = torch.eye(4, dtype=torch.float64)
    rest = p @ (1 - identity)  # 1 - p without cancellation: the sum of the others
    softmax = (torch.diag_embed(p * rest) - p[:, :, None] * p[:, None, :] * (1 - identity)) @ jacobians
    loss_weights = torch.where(identity[labels] == 1, -rest, p)
    expected = softmax.flatten(1).norm(dim=1)
    torch.testing.assert_close(got.softmax_jacobian, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(got.logit_jacobian, jacobians.flatten(1).norm(dim=1), rtol=1e-5, atol=0)
    gradients = (loss_weights.unsqueeze(1) @ jacobians).flatten(1).norm(dim=1)
    torch.testing.assert_close(got.loss_gradient, gradients, rtol=1e-4, atol=1e-14 * scale)
    if scale == 200:
        assert expected.min() < 1e-10


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_left_as_it_was(broken):
    model, inputs, labels = made("cnn", (1, 8, 8))
    model.train()
    model.norm2.eval()
    model.conv1.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if broken:
        with pytest.raises(ValueError, match="one loss per example"):
            measured(model, inputs, labels, nn.CrossEntropyLoss())
    else:
        measured(model, inputs, labels, CROSS_ENTROPY)
    assert [name for name, module in model.named_modules() if not module.training] == ["norm2"]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["conv1.weight"]
    assert all(p.grad is None for p in model.parameters())
    assert not inputs.requires_grad
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(context):
    model, inputs, labels = made("cnn", (1, 8, 8))
    expected = measured(model, inputs, labels, CROSS_ENTROPY)
    with context():
        got = measured(model, inputs.clone(), labels, CROSS_ENTROPY)
    assert_same(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("inputs", "labels"), [(0, 0), (3, 2)])
def test_empty_inputs_and_differing_lengths_are_errors(inputs, labels):
    with pytest.raises(ValueError, match=f"{inputs} inputs, {labels} labels"):
        measured(nn.Linear(2, 2), torch.zeros(inputs, 2), torch.zeros(labels, dtype=torch.long), CROSS_ENTROPY)


class Doubled(torch.autograd.Function):
    """A function of a user's own, which `vmap` cannot take."""

    @staticmethod
    def forward(context, x):
        return 2 * x

    @staticmethod
    def backward(context, gradient):
        return torch.from_numpy(2 * gradient.numpy())


class Own(nn.Module):
    def __init__(self, plain):
        super().__init__()
        self.plain = plain

    def forward(self, x):
        return self.plain(Doubled.apply(x))


def test_a_users_module_that_cannot_be_batched_is_measured_too():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = torch.randn(6, 5, dtype=torch.float64), torch.arange(6) % 3
    got, inner = measured(Own(plain), x, y, CROSS_ENTROPY), measured(plain, 2 * x, y, CROSS_ENTROPY)
    for field in FIELDS:
        torch.testing.assert_close(getattr(got, field), 2 * getattr(inner, field))
