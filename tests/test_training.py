"""The training loop against a plain PyTorch loop, closed forms, and itself: stacked, repeated, watched, diverging."""

import copy
import math
import threading
from contextlib import contextmanager
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hw1 import captured, crew, data, models, session, training
from hw1.learner import stacks_well, treats_examples_singly
from hw1.resident import Splits
from hw1.schedule import Plan, Schedule
from hw1.seeds import data_order, initial_model, seed_of
from hw1.training import train
from hw1.watcher import Keeper, Kept, Watcher

CONSTANT = Schedule("constant", 0.0, 0.3, 0.1, "none", 64, "epochs")
COSINE = Schedule("cosine", 0.2, 0.3, 0.1, "none", 64, "epochs")
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, fused=True),
    "adam": partial(torch.optim.Adam, lr=3e-3, weight_decay=1e-3, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.1, fused=True),
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-3, momentum=0.5),
}
IMAGE, VECTOR = (1, 4, 4), (3,)
MLP = partial(models.mlp, depth=2, width=5, activation="tanh", dropout=0.3, batch_norm=True)
CNN = partial(models.cnn, depth=1, width=2, hidden=4, kernel=3, activation="relu", dropout=0.3, batch_norm=True)


def classes(shape=VECTOR, train_size=22, dtype=torch.float64):
    """Three classes of normal inputs, as bytes where they are images."""
    generator = np.random.default_rng(0)

    def make(count):
        x = generator.standard_normal((count, *shape))
        return (x * 40 + 128).clip(0, 255).astype(np.uint8) if len(shape) == 3 else x

    x, y = make(train_size + 6), np.arange(train_size + 6) % 3
    offset, scale = (128.0, 40.0) if len(shape) == 3 else (0.0, 1.0)
    source = data.Source(x, y, make(9), np.arange(9) % 3, offset=offset, scale=scale)
    dataset = data.split(source, validation=6, split_seed=0, subset=None, label_noise=0.0)
    return Splits.of(dataset, torch.device("cpu"), dtype)


def values(train_size=12):
    """Targets linear in two inputs, plus a little noise."""
    generator = np.random.default_rng(1)
    x, test = generator.standard_normal((train_size + 4, 2)), generator.standard_normal((5, 2))
    slope = np.array([[1.0], [-2.0]])
    y = x @ slope + 0.1 * generator.standard_normal((len(x), 1))
    dataset = data.split(
        data.Source(x, y, test, test @ slope), validation=4, split_seed=0, subset=None, label_noise=0.0
    )
    return Splits.of(dataset, torch.device("cpu"), torch.float64)


def fit(splits, make=None, optimizer=OPTIMIZERS["sgd"], *, batch_size=8, epochs=2, steps=None, collect_every=1,
        evaluate_every=1, schedule=CONSTANT, loss=None, **settings):  # fmt: skip
    """`train` with what most tests need."""
    make = make or models.linear
    outputs = 3 if splits.task == "classification" else 1
    loss = loss or (nn.CrossEntropyLoss() if splits.task == "classification" else nn.MSELoss())
    plan = Plan.of(len(splits.targets["train"]), batch_size, epochs, steps, collect_every, evaluate_every)
    settings = {
        "init_seed": 0, "order_seed": 0, "replicas": 1, "vectorize": False, "watcher": Watcher()
    } | settings  # fmt: skip
    named = partial(make, input_shape=splits.input_shape, outputs=outputs)
    return train(named, optimizer, loss, splits, plan, schedule, **settings)


def assert_same(one, other, **tolerance):
    """Equal names, weights and histories; bit for bit unless a tolerance is given."""
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    assert one.status == other.status
    assert list(one.weights) == list(other.weights)
    for name, weight in one.weights.items():
        torch.testing.assert_close(weight, other.weights[name], equal_nan=True, **tolerance, msg=name)
    assert len(one.history) == len(other.history)
    for row, twin in zip(one.history, other.history, strict=True):
        assert list(row) == list(twin)
        for key, value in row.items():
            if isinstance(value, str):
                assert value == twin[key]
            else:
                np.testing.assert_allclose(
                    value, twin[key], rtol=tolerance["rtol"], atol=tolerance["atol"], err_msg=key
                )


def only(trained, replica):
    """What one replica contributed to a training, as a training of its own (renumbered 0)."""
    weights = {name: weight[replica : replica + 1] for name, weight in trained.weights.items()}
    history = [row | {"replica": 0} for row in trained.history if row["replica"] == replica]
    return training.Trained(weights, history, [trained.status[replica]], trained.arrangement)


def differ(one, other):
    """Whether the final weights of two trainings differ."""
    assert list(one.weights) == list(other.weights)
    return any(not torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


# ---- replicas ----


@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_of_matrices_stacks(bias):
    """A dense layer whose examples are matrices, and one behind it whose examples are vectors."""

    def rows(*, input_shape, outputs):
        width = input_shape[-1]
        inner = nn.Linear(width, 3, bias=bias)
        return nn.Sequential(inner, nn.Tanh(), nn.Flatten(), nn.Linear(3 * math.prod(input_shape[:-1]), outputs))

    splits = classes(IMAGE)
    runs = [fit(splits, rows, OPTIMIZERS["adam"], replicas=3, steps=8, vectorize=v) for v in (True, False)]
    assert [run.arrangement.stacked for run in runs] == [True, False]
    assert_same(*runs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("make", "shape"), [(models.linear, VECTOR), (MLP, VECTOR), (CNN, IMAGE)])
def test_stacked_equals_one_after_another(make, shape, optimizer):
    splits = classes(shape)
    runs = [
        fit(splits, make, OPTIMIZERS[optimizer], replicas=3, schedule=COSINE, steps=8, vectorize=vectorize)
        for vectorize in (True, False)
    ]
    assert [run.arrangement.stacked for run in runs] == [True, False]
    assert_same(*runs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_replica_does_not_depend_on_how_many_there_are(vectorize):
    splits = classes()
    one, three, five = (fit(splits, MLP, replicas=n, vectorize=vectorize) for n in (1, 3, 5))
    tolerance = {"rtol": 1e-8, "atol": 1e-10} if vectorize else {}
    assert_same(only(three, 0), one, **tolerance)
    for replica in range(3):
        assert_same(only(five, replica), only(three, replica), **tolerance)
    assert differ(only(three, 0), only(three, 1))


def test_conditions_start_from_the_same_weights():
    small, large = (fit(classes(), MLP, batch_size=size, replicas=2, optimizer=OPTIMIZERS["adam"]) for size in (4, 16))
    start = [name for name in small.weights if name.startswith("0/")]
    assert start
    assert all(torch.equal(small.weights[name], large.weights[name]) for name in start)
    assert differ(small, large)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("vectorize", [True, False])
def test_the_same_call_gives_the_same_bits(vectorize, dtype):
    runs = [fit(classes(dtype=dtype), MLP, replicas=2, vectorize=vectorize) for _ in range(2)]
    assert_same(*runs)
    assert all(weight.dtype == dtype for name, weight in runs[0].weights.items() if "num_batches" not in name)


def test_seeds_act_apart():
    splits = classes()
    base = fit(splits, MLP)
    other_start, other_order = fit(splits, MLP, init_seed=1), fit(splits, MLP, order_seed=1)
    starts = [{n: w for n, w in run.weights.items() if n.startswith("0/")} for run in (base, other_start, other_order)]
    weight = "0/hidden1.weight"
    assert not torch.equal(starts[0][weight], starts[1][weight])
    assert all(torch.equal(starts[0][name], starts[2][name]) for name in starts[0])
    assert differ(base, other_order)
    orders = [
        data_order(seed, replica, epoch, 22).tolist() for seed in (0, 1) for replica in (0, 1) for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 8


def test_seeds_are_frozen():  # another value would orphan every stored run
    assert seed_of("initialisation", 0, 0) == 8843196093779206950
    assert seed_of("order", 1, 2, 3) == 2561932993765994566
    assert len({seed_of("order", *numbers) for numbers in [(1, 23), (12, 3), (123,), (1, 2, 3)]}) == 4


# ---- what a training is ----


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_a_plain_loop(name):
    splits = classes(train_size=22)
    plan = Plan.of(22, 8, 2, None, 1, 1)
    make = partial(models.mlp, depth=1, width=5, activation="relu", dropout=0.0, batch_norm=True)
    got = fit(splits, make, OPTIMIZERS[name], schedule=COSINE, init_seed=5, order_seed=7)

    model = initial_model(partial(make, input_shape=VECTOR, outputs=3), 5, 0).double()
    optimizer = OPTIMIZERS[name](model.parameters())
    rate, step, loss = optimizer.param_groups[0]["lr"], 0, nn.CrossEntropyLoss()
    x, y = splits.inputs("train", slice(None)), splits.targets["train"]
    for epoch in range(2):
        for batch in data_order(7, 0, epoch, 22).split(8):  # 8, 8 and 6
            optimizer.param_groups[0]["lr"] = rate * COSINE.factor(step, plan.steps, 8)
            optimizer.zero_grad()
            loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
            step += 1
        for key, weight in model.state_dict().items():
            torch.testing.assert_close(got.weights[f"{epoch + 1}/{key}"][0], weight, rtol=1e-9, atol=1e-10)
    model.eval()
    for split in ("train", "validation", "test"):
        output, labels = model(splits.inputs(split, slice(None))), splits.targets[split]
        assert math.isclose(got.history[-1][f"{split}_loss"], loss(output, labels).item(), rel_tol=1e-9)
        assert got.history[-1][f"{split}_accuracy"] == (output.argmax(1) == labels).double().mean().item()
    assert got.history[-1]["learning_rate"] == optimizer.param_groups[0]["lr"]


def test_full_batch_descent_on_a_linear_net_has_a_closed_form():
    splits = values()
    rate, epochs = 0.1, 6
    got = fit(splits, optimizer=partial(torch.optim.SGD, lr=rate), batch_size=12, epochs=epochs)
    x = torch.cat([splits.inputs("train", slice(None)), torch.ones(12, 1, dtype=torch.float64)], dim=1)
    y = splits.targets["train"]
    hessian, best = 2 / 12 * x.T @ x, torch.linalg.lstsq(x, y).solution
    start = torch.cat([got.weights["0/output.weight"][0].T, got.weights["0/output.bias"][0][:, None]])
    for t in range(epochs + 1):
        expected = best + torch.linalg.matrix_power(torch.eye(3).double() - rate * hessian, t) @ (start - best)
        weights = torch.cat([got.weights[f"{t}/output.weight"][0].T, got.weights[f"{t}/output.bias"][0][:, None]])
        torch.testing.assert_close(weights, expected, rtol=1e-10, atol=1e-12)


def test_learning_rates_that_reach_the_optimizer():
    schedule = Schedule("step", 0.0, 0.5, 0.1, "linear", 4, "epochs")
    rows = fit(classes(train_size=16), optimizer=partial(torch.optim.SGD, lr=0.01), epochs=4, schedule=schedule).history
    assert [row["learning_rate"] for row in rows[1:]] == pytest.approx([0.02, 0.02, 0.002, 0.002])


class Recorder(nn.Module):
    """Remembers the rows of each training batch; the first input is the row's number."""

    seen: list = []  # noqa: RUF012

    def __init__(self, *, input_shape, outputs):
        super().__init__()
        self.layer = nn.Linear(*input_shape, outputs)

    def forward(self, x):
        if self.training:
            Recorder.seen.append(x[:, 0].long().tolist())
        return self.layer(x)


def test_every_example_is_seen_once_an_epoch():
    splits = values()
    splits.raw["train"][:, 0] = torch.arange(12)
    Recorder.seen.clear()
    fit(splits, Recorder, partial(torch.optim.SGD, lr=1e-5), batch_size=5, epochs=3)
    assert [len(batch) for batch in Recorder.seen] == [5, 5, 2] * 3
    epochs = [list(chain(*Recorder.seen[start : start + 3])) for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs == [data_order(0, 0, epoch, 12).tolist() for epoch in range(3)]


# ---- what is kept of it ----


def test_names_and_shapes_of_weights():
    got = fit(classes(), MLP, replicas=2, epochs=5, collect_every=2)
    network = MLP(input_shape=VECTOR, outputs=3)
    assert list(got.weights) == [f"{epoch}/{name}" for epoch in (0, 2, 4, 5) for name in network.state_dict()]
    for name, weight in got.weights.items():
        assert weight.shape == (2, *network.state_dict()[name.partition("/")[2]].shape)
    assert [(row["replica"], row["epoch"]) for row in got.history] == [
        (replica, epoch) for replica in (0, 1) for epoch in range(6)
    ]
    last = fit(classes(), MLP, replicas=2, epochs=5, collect_every=None)
    assert {name.partition("/")[0] for name in last.weights} == {"5"}
    assert all(torch.equal(weight, got.weights[name]) for name, weight in last.weights.items())


def test_steps_may_end_within_an_epoch():
    splits = classes(train_size=22)  # 3 steps an epoch
    got = fit(splits, steps=8, evaluate_every=2, collect_every=2)
    assert [(row["epoch"], row["step"]) for row in got.history] == [(0, 0), (2, 6), (8 / 3, 8)]
    assert list({name.partition("/")[0]: None for name in got.weights}) == ["0", "2", "2.666666667"]
    longer = fit(splits, steps=9, evaluate_every=1, collect_every=1)
    assert torch.equal(got.weights["2/output.weight"], longer.weights["2/output.weight"])
    assert not torch.equal(got.weights["2.666666667/output.weight"], longer.weights["3/output.weight"])


def test_looking_more_often_changes_no_weight():
    splits = classes()
    often, seldom = (fit(splits, MLP, epochs=4, evaluate_every=every, collect_every=None) for every in (1, 4))
    assert (len(often.history), len(seldom.history)) == (4, 1)
    assert not differ(often, seldom)
    assert often.history[-1] == seldom.history[-1]


class Loud(Watcher):
    """Listens, and draws random numbers on the way."""

    def __init__(self):
        self.rows, self.reports = [], []

    def row(self, row):
        self.rows.append(row)
        torch.rand(3)

    def progress(self, progress):
        self.reports.append(progress)
        torch.rand(3)


@pytest.mark.parametrize("vectorize", [True, False])
def test_a_watcher_hears_everything_and_changes_nothing(vectorize, monkeypatch):
    monkeypatch.setattr(crew, "REPORT_SECONDS", 0.0)
    watcher = Loud()
    watched = fit(classes(), MLP, replicas=2, vectorize=vectorize, watcher=watcher)
    assert_same(watched, fit(classes(), MLP, replicas=2, vectorize=vectorize))
    assert sorted(watcher.rows, key=lambda row: (row["replica"], row["step"])) == watched.history
    shares = [report.done for report in watcher.reports]
    assert len(shares) == (9 if vectorize else 18)  # after every step and every epoch
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_global_generator_is_left_alone(vectorize):
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    first = fit(classes(), MLP, replicas=2, vectorize=vectorize)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(456)
    assert_same(fit(classes(), MLP, replicas=2, vectorize=vectorize), first)


# ---- the user's own networks ----


class Own(nn.Module):
    """A network with torch's own dropout, which draws from the global generator."""

    def __init__(self, *, input_shape, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(*input_shape, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, outputs))

    def forward(self, x):
        return self.layers(x)


def test_a_users_network_with_dropout_trains_and_repeats():
    one, two = (fit(classes(), Own, replicas=n, vectorize="auto") for n in (2, 3))
    assert not one.arrangement.stacked
    for replica in range(2):
        assert_same(only(one, replica), only(two, replica))
    assert differ(one, fit(classes(), Own, replicas=2, order_seed=1))


class Spy(nn.Module):
    """Records what its dropout layer was given and what it drew itself, in training."""

    seen: list = []  # noqa: RUF012

    def __init__(self, *, input_shape, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(*input_shape, outputs), models.Dropout(0.5))

    def forward(self, x):
        if self.training:
            Spy.seen.append((self.layers[1].noise.flatten().tolist(), torch.rand(3).tolist()))
        return self.layers(x)


def test_noise_depends_on_order_seed_replica_and_step_alone():
    def noise(**settings):
        Spy.seen.clear()
        fit(classes(train_size=8), Spy, epochs=2, **settings)
        return list(Spy.seen)

    base = noise(replicas=2)
    assert len(base) == 4
    assert noise(replicas=1) == base[:2]
    assert noise(replicas=2, init_seed=1, schedule=COSINE) == base
    for of_layer in (0, 1):
        seen = [seen[of_layer] for seen in base + noise(replicas=2, order_seed=1)]
        assert all(one != other for i, one in enumerate(seen) for other in seen[:i])


def test_a_network_that_uses_a_layer_twice_trains():
    def tied(*, input_shape, outputs):
        layer = nn.Linear(*input_shape, *input_shape)
        return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(*input_shape, outputs))

    got = fit(classes(), tied, replicas=2, vectorize="auto")
    assert torch.equal(got.weights["2/0.weight"], got.weights["2/2.weight"])


@pytest.mark.parametrize(
    ("make", "expected"), [
        (models.linear, True), (MLP, True), (CNN, False), (Own, False),
        (lambda **_: nn.Sequential(nn.Linear(3, 3), nn.MultiheadAttention(3, 1, dropout=0.5)), False),
    ],
)  # fmt: skip
def test_which_networks_are_stacked(make, expected):
    model = make(input_shape=IMAGE if make is CNN else VECTOR, outputs=3)
    assert stacks_well(model, torch.optim.SGD(model.parameters()), 1) is expected
    assert not stacks_well(model, torch.optim.SGD(model.parameters()), 10**8)


def test_an_optimizer_that_mixes_entries_is_not_stacked():
    splits = classes()
    alone, together = (fit(splits, MLP, torch.optim.Adafactor, replicas=n, vectorize="auto") for n in (1, 3))
    assert not together.arrangement.stacked
    assert_same(only(together, 0), alone)


# ---- divergence ----


class Brittle(nn.Module):
    """Mean squared error; infinite for a network whose mean output is above a limit. Remembers the mean outputs."""

    def __init__(self, limit):
        super().__init__()
        self.limit, self.outputs = limit, []

    def forward(self, output, target):
        if math.isinf(self.limit):
            self.outputs.append(output.mean().item())
        return (output - target).square().mean() * torch.where(output.mean() > self.limit, torch.inf, 1.0)


@pytest.mark.parametrize("vectorize", [True, False])
def test_one_diverging_replica_leaves_the_others_as_they_were(vectorize):
    splits = values()
    settings = {"replicas": 3, "epochs": 4, "optimizer": partial(torch.optim.Adam, lr=0.05)}
    calm_loss = Brittle(math.inf)
    fit(splits, loss=calm_loss, **settings)
    peaks = np.array(calm_loss.outputs).reshape(3, -1).max(axis=1)
    limit, felled = np.sort(peaks)[1:].mean(), int(peaks.argmax())

    calm = fit(splits, vectorize=vectorize, **settings)
    got = fit(splits, loss=Brittle(limit), vectorize=vectorize, **settings)
    assert got.status == ["diverged" if replica == felled else "ok" for replica in range(3)]
    for replica in {0, 1, 2} - {felled}:
        assert_same(only(got, replica), only(calm, replica))
    last = only(got, felled).history[-1]
    assert last["status"] == "diverged"
    assert math.isnan(last["train_loss"])
    assert got.weights["4/output.weight"][felled].isnan().all()
    assert got.weights["0/output.weight"][felled].isfinite().all()


@pytest.mark.parametrize("batch_size", [5, 12])
@pytest.mark.parametrize("vectorize", [True, False])
def test_all_diverge(vectorize, batch_size):
    sgd = partial(torch.optim.SGD, lr=1e30)
    got = fit(values(), optimizer=sgd, batch_size=batch_size, epochs=50, replicas=2, vectorize=vectorize)
    assert got.status == ["diverged", "diverged"]
    assert list(got.weights) == [f"{epoch}/output.{name}" for epoch in range(51) for name in ("weight", "bias")]
    last = got.history[-1]["epoch"]
    assert last < 50
    for name, weight in got.weights.items():
        assert bool(weight.isnan().all()) is (int(name.partition("/")[0]) >= last)


def test_exploding_at_the_very_last_step_is_diverging_too():
    got = fit(values(), optimizer=partial(torch.optim.SGD, lr=1e300), steps=1)
    assert got.status == ["diverged"]
    assert [row["status"] for row in got.history] == ["ok", "diverged"]
    assert math.isnan(got.history[-1]["test_loss"])


# ---- side by side ----


@pytest.fixture
def always_side_by_side(monkeypatch):
    monkeypatch.setattr(training, "SIDE_BY_SIDE_WORK", 0)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_side_by_side_gives_the_bits_of_one_after_another(always_side_by_side, threads, batch_norm):
    make = partial(CNN, batch_norm=batch_norm)
    settings = {"replicas": 3, "schedule": COSINE, "steps": 8}
    before = torch.get_num_threads()
    one = fit(classes(IMAGE), make, **settings)
    several = fit(classes(IMAGE), make, threads=threads, **settings)
    assert (one.arrangement.workers, several.arrangement.workers) == (1, min(threads, 3))
    assert_same(several, one)
    assert torch.get_num_threads() == before


def test_stacks_side_by_side_share_the_replicas(always_side_by_side):
    splits = classes()
    together = fit(splits, MLP, replicas=5, vectorize=True, threads=2)
    assert together.arrangement.groups == [[0, 2, 4], [1, 3]]
    assert_same(together, fit(splits, MLP, replicas=5), rtol=1e-8, atol=1e-10)


def test_what_draws_random_numbers_itself_is_not_trained_side_by_side(always_side_by_side):
    one, two = (fit(classes(), Own, replicas=2, threads=n) for n in (1, 2))
    assert two.arrangement.workers == 1
    assert_same(one, two)


def test_one_that_fails_side_by_side_ends_all(always_side_by_side):
    class Broken(Watcher):
        def row(self, row):
            if row["replica"] == 1:
                raise RuntimeError("broken")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="broken"):
        fit(classes(), MLP, replicas=3, threads=3, epochs=50, watcher=Broken())
    assert threading.active_count() == before


class Free:
    """Stands for hw1.shares.Shares: what is free is all that is asked for, twice."""

    def __init__(self):
        self.left, self.given_back = 2, 0

    @contextmanager
    def taken(self):
        self.left -= 1
        yield self.left >= 0
        self.given_back += 1


class Always(Keeper):
    """Keeps a state whenever it is asked, and goes on from one that it is given."""

    def __init__(self, state=None):
        self.state, self.states = state, []

    def kept(self):
        return copy.deepcopy(self.state)

    def due(self):
        return True

    def keep(self, state):
        tensors = {name: value.clone() for name, value in state.tensors.items()}
        self.states.append(Kept(tensors, copy.deepcopy(state.notes)))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(crew, "SHARE_SECONDS", 0.0)
    monkeypatch.setattr(crew, "POLL_SECONDS", 0.001)


@pytest.mark.parametrize("threads", [1, 2])
def test_who_joins_on_cores_that_come_free_changes_no_bit(always_side_by_side, impatient, threads):
    settings, before = {"replicas": 7, "schedule": COSINE, "steps": 60}, threading.active_count()
    one, shares = fit(classes(IMAGE), CNN, **settings), Free()
    several = fit(classes(IMAGE), CNN, **settings, threads=threads, shares=shares)
    assert several.arrangement.joined == 2 * threads
    assert several.arrangement.workers == threads
    assert f"{2 * threads} more on cores that came free" in str(several.arrangement)
    assert_same(several, one)
    assert shares.given_back >= 2
    assert threading.active_count() == before


def test_a_state_kept_with_those_who_joined_is_gone_on_with_to_the_bit(always_side_by_side, impatient):
    settings = {"replicas": 5, "schedule": COSINE, "steps": 12}
    one, keeper = fit(classes(IMAGE), CNN, **settings), Always()
    assert_same(fit(classes(IMAGE), CNN, **settings, keeper=keeper, shares=Free()), one)
    assert max(sum(0 < step < 12 for step in state.notes["steps"]) for state in keeper.states) == 3
    for state in keeper.states[:: len(keeper.states) // 8]:
        assert_same(fit(classes(IMAGE), CNN, **settings, keeper=Always(state)), one)
        assert_same(fit(classes(IMAGE), CNN, **settings, keeper=Always(state), shares=Free()), one)


def test_small_steps_take_no_cores_from_elsewhere():
    shares = Free()
    fit(classes(), MLP, replicas=3, shares=shares)
    assert shares.left == 2


@pytest.mark.parametrize("batch_size", [7, 16, 22])
@pytest.mark.parametrize(("make", "shape"), [(models.linear, VECTOR), (CNN, IMAGE)])
def test_a_sliced_batch_is_the_whole_batch(monkeypatch, make, shape, batch_size):
    """Slices of 5 examples; with dropout, whose masks are sliced too. With batch norm a batch is not sliced."""
    make = partial(make, batch_norm=False) if make is CNN else make
    splits = classes(shape)
    settings = {"batch_size": batch_size, "schedule": COSINE, "optimizer": OPTIMIZERS["adam"], "replicas": 2}
    whole = fit(splits, make, **settings)
    monkeypatch.setattr(session.Session, "_slice", lambda self, model: 5)
    for vectorize in (False, True):
        assert_same(fit(splits, make, vectorize=vectorize, **settings), whole, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "threads", "sizes"),
    [
        (partial(CNN, batch_norm=False), 1, [40, 40, 40, 30]),
        (partial(CNN, batch_norm=False), 2, [80, 70]),
        (models.linear, 1, [120, 30]),
        (models.linear, 2, [150]),
    ],
)
def test_each_thread_has_its_share_of_a_slice(monkeypatch, make, threads, sizes):
    splits, settings = classes(IMAGE, train_size=150), {"batch_size": 150, "epochs": 1, "threads": threads}
    whole = fit(splits, make, **settings)
    seen, add = [], session.Session._add_gradient
    monkeypatch.setitem(session.SLICE, "cpu", 40 * 16)
    monkeypatch.setattr(session, "DENSE", 3)
    monkeypatch.setattr(session.Session, "_add_gradient", lambda *given: (seen.append(given[1].shape[1]), add(*given)))
    assert_same(fit(splits, make, **settings), whole, rtol=1e-8, atol=1e-10)
    assert seen == sizes


def test_batch_norm_sees_whole_batches():
    made = [make(input_shape=IMAGE, outputs=3) for make in (CNN, partial(CNN, batch_norm=False))]
    assert [treats_examples_singly(model) for model in made] == [False, True]


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_fetched_ahead_is_what_a_data_loader_gives(always_side_by_side, monkeypatch, threads):
    """Batches fetched 1, 2 or all at once, and a plain loop over a DataLoader with the same order: the same weights."""
    splits = classes(IMAGE, train_size=22)
    make = partial(models.cnn, depth=1, width=2, hidden=4, kernel=3, activation="relu", dropout=0.0, batch_norm=False)
    runs = []
    for numbers in (1, 2 * 5 * 16, 10**6):
        monkeypatch.setattr(session, "AHEAD", numbers)
        runs.append(fit(splits, make, batch_size=5, replicas=2, threads=threads))
    for other in runs[1:]:
        assert_same(other, runs[0], rtol=1e-12, atol=1e-14)
    x, y = splits.raw["train"].double().sub(128.0).div(40.0), splits.targets["train"]
    for replica in range(2):
        model = initial_model(partial(make, input_shape=IMAGE, outputs=3), 0, replica).double()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        for epoch in range(2):
            order = data_order(0, replica, epoch, 22).tolist()
            for images, labels in DataLoader(TensorDataset(x, y), batch_size=5, sampler=order):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
        for key, weight in model.state_dict().items():
            torch.testing.assert_close(runs[0].weights[f"2/{key}"][replica], weight, rtol=1e-9, atol=1e-12)


# ---- as on a GPU ----


def test_a_captured_step_gives_what_the_step_gives(monkeypatch):
    """A stand-in for a CUDA graph: what was recorded is called anew, on the inputs that it was recorded with."""
    splits = classes(IMAGE)
    make = partial(CNN, batch_norm=False)
    settings = {"replicas": 2, "batch_size": 5, "epochs": 3, "schedule": COSINE, "optimizer": OPTIMIZERS["adam"]}
    plain, replays = fit(splits, make, **settings), []

    def record(function):
        return lambda: (replays.append(1), function())

    made = session.Session.__init__

    def as_on_a_gpu(self, *arguments):
        made(self, *arguments)
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]))
        self._take = captured.Captured(self._step)

    monkeypatch.setattr(captured, "record", record)
    monkeypatch.setattr(session.Session, "__init__", as_on_a_gpu)
    assert_same(fit(splits, make, **settings), plain, rtol=1e-5, atol=1e-7)  # a rate on the device is float32
    steps = 2 * 3 * 5
    last_of_an_epoch = 2 * 3  # two examples, another shape
    assert len(replays) == steps - 2 * captured.WARM_UP - last_of_an_epoch


def test_what_cannot_be_captured_runs_as_it_is(monkeypatch):
    calls = []
    monkeypatch.setattr(captured, "record", lambda function: None)
    step = captured.Captured(lambda x: calls.append(x.sum().item()))
    for number in range(6):
        step(torch.tensor([float(number)]))
    assert calls == [0, 1, 2, 3, 4, 5]


def test_the_footprint_of_a_linear_net():
    model = models.linear(input_shape=(3,), outputs=2)
    assert training.footprint(model, 10, (3,)) == 4 * (4 * 8 + 3 * 10 * (3 + 3 + 2))  # flatten gives 3, the layer 2
