"""Loss, accuracy, MAE and R² against their definitions, whatever the slices."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, mean_absolute_error, r2_score
from torch import nn

from hw1.measures.performance import evaluate


def cut(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 4)).double()


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(23, 3).double()


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.2)])
def test_classification_equals_its_definition(net, x, loss):
    y = torch.arange(23) % 4
    net.eval()
    found, output = evaluate(net, loss, cut(x, y, 5)), net(x)
    assert list(found) == ["loss", "accuracy"]
    assert found["loss"] == pytest.approx(
        sum(loss(o[None], t[None]).item() for o, t in zip(output, y, strict=True)) / 23
    )
    assert found["accuracy"] == accuracy_score(y, output.argmax(1))


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(delta=0.3)])
def test_regression_equals_its_definition(x, outputs, loss):
    torch.manual_seed(2)
    net, y = nn.Linear(3, outputs).double(), torch.randn(23, outputs).double() * torch.arange(1, outputs + 1) + 1
    found, output = evaluate(net, loss, cut(x, y, 5)), net(x).detach()
    assert list(found) == ["loss", "mae", "r2"]
    assert found["loss"] == pytest.approx(loss(output, y).item())
    assert found["mae"] == pytest.approx(mean_absolute_error(y, output))
    assert found["r2"] == pytest.approx(r2_score(y, output, multioutput="variance_weighted"))


def test_r2_of_special_predictions():
    y = torch.tensor([[1.0], [2.0], [6.0]]).double()

    def r2(predicted, target=y):
        return evaluate(nn.Identity(), nn.MSELoss(), cut(predicted, target, 2))["r2"]

    assert r2(y) == 1
    assert r2(torch.full_like(y, 3.0)) == 0
    assert r2(2 * y.mean() - y) == -3  # error twice the deviation: 1 − 4
    assert math.isnan(r2(y, torch.ones_like(y)))


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("size", [1, 2, 7, 22, 23, 100])
def test_slices_do_not_matter(net, x, task, size):
    loss = nn.CrossEntropyLoss() if task == "classification" else nn.MSELoss()
    y = torch.arange(23) % 4 if task == "classification" else torch.sin(torch.arange(92.0).double()).reshape(23, 4)
    whole, sliced = evaluate(net, loss, [(x, y)]), evaluate(net, loss, cut(x, y, size))
    np.testing.assert_allclose(list(sliced.values()), list(whole.values()), rtol=1e-12)


def test_modes_come_back_one_by_one(net, x):
    net.train()
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [part.training for part in net.modules()]
    evaluate(net, nn.CrossEntropyLoss(), [(x, torch.zeros(23).long())])
    assert [part.training for part in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_nothing_to_evaluate_is_an_error(net):
    with pytest.raises(ValueError, match="at least one example"):
        evaluate(net, nn.CrossEntropyLoss(), [])
