"""Optimizers' steps by their kernel alone: the very bits of torch's own."""

from functools import partial

import pytest
import torch
from torch import nn

from hw1.fused import Update

RULES = {
    "adam": partial(torch.optim.Adam, fused=True),
    "adam, decay": partial(torch.optim.Adam, betas=(0.8, 0.95), eps=1e-5, weight_decay=0.1, fused=True),
    "adam, up": partial(torch.optim.Adam, maximize=True, fused=True),
    "adam, amsgrad": partial(torch.optim.Adam, amsgrad=True, fused=True),
    "adamw": partial(torch.optim.AdamW, weight_decay=0.2, fused=True),
    "sgd": partial(torch.optim.SGD, fused=True),
    "sgd, momentum": partial(torch.optim.SGD, momentum=0.9, dampening=0.3, weight_decay=0.1, fused=True),
    "sgd, nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True, maximize=True, fused=True),
    "many kernels": partial(torch.optim.Adam, foreach=True),
    "rmsprop": torch.optim.RMSprop,
}
BY_KERNEL = {name for name in RULES if name not in ("adam, amsgrad", "many kernels", "rmsprop")}


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def optimizer_of(model, rule):
    groups = [{"params": model[0].parameters(), "lr": 0.02}, {"params": model[2].parameters()}]
    return rule(groups, lr=0.01)


def take_steps(model, optimizer, update, count=6, skipped=()):
    generator = torch.Generator().manual_seed(0)
    for step in range(count):
        for number, group in enumerate(optimizer.param_groups):
            group["lr"] = 0.01 * (number + 1) / (step + 1)
        optimizer.zero_grad()
        x = torch.randn(4, 5, generator=generator)
        (model[0](x) if step in skipped else model(x)).square().sum().backward()
        update()


def numbers(model, optimizer):
    state = [optimizer.state[parameter] for parameter in model.parameters() if parameter in optimizer.state]
    moments = [value for entry in state for value in entry.values() if torch.is_tensor(value)]
    return [value.detach() for value in (*model.parameters(), *moments)]


def same_bits(rule, prepare=lambda model, optimizer: None, **settings):
    """The update after steps by it, having seen that they are torch's."""
    found = []
    for own in (True, False):
        model = network()
        optimizer = optimizer_of(model, rule)
        prepare(model, optimizer)
        update = Update(optimizer)
        take_steps(model, optimizer, update if own else optimizer.step, **settings)
        found.append((update, numbers(model, optimizer)))
    (update, ours), (_, theirs) = found
    assert len(ours) == len(theirs) >= 4
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
    return update


@pytest.mark.parametrize("name", RULES)
def test_steps_have_the_bits_of_torch(name):
    assert bool(same_bits(RULES[name]).kernels) == (name in BY_KERNEL)


@pytest.mark.parametrize("name", ["adam", "sgd, momentum"])
@pytest.mark.parametrize("skipped", [(0, 1), (3,), (1, 4, 5)])
def test_a_step_in_which_a_layer_has_no_gradient_leaves_it_as_it_is(name, skipped):
    assert same_bits(RULES[name], skipped=skipped).kernels


def test_a_frozen_layer_stays():
    def freeze(model, optimizer):
        model[0].requires_grad_(False)

    assert not same_bits(RULES["adam"], freeze).kernels


def test_hooks_of_an_optimizer_are_called():
    def hook(model, optimizer):
        optimizer.register_step_post_hook(lambda *_: [weight.data.mul_(0.5) for weight in model.parameters()])

    assert not same_bits(RULES["adam"], hook).kernels


def test_stacked_parameters_too():
    weights = [torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (0, 0)]
    optimizers = [torch.optim.Adam([weight], lr=0.1, fused=True) for weight in weights]
    for way, weight in zip((Update(optimizers[0]), optimizers[1].step), weights, strict=True):
        for _ in range(5):
            weight.grad = weight.detach().sin()
            way()
    assert torch.equal(*weights)
