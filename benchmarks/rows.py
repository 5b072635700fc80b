"""The rows that run in this process: trainings, replicas, sensitivities, α, principal components."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import sklearn.decomposition
import torch
from torch import nn

from hw1 import data, models, session, sources, training
from hw1.launchers import cores
from hw1.measures import pca
from hw1.measures.interpolation import Probe, interpolated
from hw1.measures.sensitivity import SLICE, input_sensitivity
from hw1.resident import Splits, place
from hw1.schedule import Plan, Schedule
from hw1.watcher import Watcher

from . import limit, usual
from .timing import Row, in_turn, peak, timed

ROUNDS = 5
BATCHES = (16, 64, 256, 1024)
TRAIN = {"cnn": (2.5, 3.0, 3.5, 4.5), "mlp": (4.0, 7.0, 10.0, 12.0)}
SENSITIVITY = {"cnn": 6.0, "mlp": 30.0}
ALPHA = {"cnn": 3.0, "mlp": 20.0}
CONSTANT = Schedule("constant", 0.0, 0.3, 0.1, "none", 64, "epochs")
LAYERS = {"activation": "relu", "dropout": 0.0, "batch_norm": False}


@dataclass(frozen=True)
class Setting:
    """Where the data are, on what device ours runs, what runs a function of `usual` in its own process, and whether the
    main job is run with all of its images."""

    data_dir: Path
    device: torch.device
    usual: Callable[..., float]
    whole: bool = False

    def dataset(self) -> data.Dataset:
        """MNIST as the experiments have it."""
        return _mnist(self.data_dir)

    def splits(self) -> Splits:
        """The same on the device."""
        return _splits(self.data_dir, self.device)

    def images(self) -> limit.Images:
        """The same for the limit."""
        return _images(self.data_dir, self.device)


@cache
def _mnist(data_dir: Path) -> data.Dataset:
    load = functools.partial(sources.mnist, data_dir=data_dir)
    return data.load(load, validation=10_000, split_seed=0, subset=None, label_noise=0.0)


@cache
def _splits(data_dir: Path, device: torch.device) -> Splits:
    return Splits.of(_mnist(data_dir), device, torch.float32)


@cache
def _images(data_dir: Path, device: torch.device) -> limit.Images:
    splits = _splits(data_dir, device)
    return limit.Images(splits.inputs("train", slice(None)), splits.targets["train"])


def network(name: str) -> Callable[[], nn.Module]:
    """A network of ours by name."""
    if name == "small":
        sizes = {"input_shape": (1,), "outputs": 1, "widths": [12, 13, 13, 13], "depth": 4, "width": 1}
        return functools.partial(models.mlp, **sizes, **LAYERS | {"activation": "tanh"})
    shapes = {"input_shape": (1, 28, 28), "outputs": 10}
    if name == "mlp":
        return functools.partial(models.mlp, depth=1, width=128, **shapes, **LAYERS)
    if name == "lenet5":
        return functools.partial(models.lenet5, **shapes)
    return functools.partial(models.cnn, depth=2, width=8, hidden=64, kernel=3, **shapes, **LAYERS)


def adam(rate: float) -> session.MakeOptimizer:
    """As conf/optimizer/adam.yaml."""
    return lambda parameters: torch.optim.Adam(parameters, lr=rate, fused=True)


def train(splits: Splits, make: Callable[[], nn.Module], batch_size: int, steps: int, *, replicas: int = 1,
          threads: int | None = None, vectorize: bool | str = "auto",
          rate: float = 5e-3) -> training.Trained:  # fmt: skip
    """Steps of ours as a job takes them, without what follows an epoch: neither reference evaluates."""
    loss = nn.CrossEntropyLoss() if splits.task == "classification" else nn.MSELoss()
    plan = Plan.of(len(splits.targets["train"]), batch_size, None, steps, None, 10**9)
    keep, session.Session._keep = session.Session._keep, lambda self, step: None  # type: ignore[method-assign]
    try:
        return training.train(
            make, adam(rate), loss, splits, plan, CONSTANT, init_seed=0, order_seed=0, replicas=replicas,
            vectorize=vectorize, watcher=Watcher(), threads=threads or cores(),
        )  # fmt: skip
    finally:
        session.Session._keep = keep  # type: ignore[method-assign]


def training_rows(setting: Setting) -> Iterator[Callable[[], Row]]:
    """One network: ours against the usual loop, with and without workers of its loader, and against the limit."""
    for name, wanted in TRAIN.items():
        for batch_size, ratio in zip(BATCHES, wanted, strict=True):
            yield functools.partial(_training, setting, name, batch_size, ratio)


def _training(setting: Setting, name: str, batch_size: int, ratio: float) -> Row:
    examples = {"cnn": 3_072, "mlp": 40_960}[name]  # enough for what comes before the first step not to count
    steps = min(500, examples // batch_size)
    splits, images, make = setting.splits(), setting.images(), network(name)

    def plain(workers: int) -> float:
        return setting.usual(usual.step_seconds, setting.data_dir, name, batch_size, workers)

    def bare(function: Callable[..., None]) -> float:
        return timed(lambda: function(name, make().to(setting.device), images, batch_size, steps), steps)

    ways = {
        "ours": lambda: timed(lambda: train(splits, make, batch_size, steps), steps),
        "usual": lambda: plain(0),
        "usual, 2 workers": lambda: plain(2),
        "limit": lambda: bare(limit.train),
        "limit, by hand": lambda: bare(limit.train_by_hand),
    }
    wanted = {"usual": ratio, "limit": 0.95}
    return in_turn(f"train {name}, batch {batch_size}", "step", ways, wanted, ROUNDS)


def replica_rows(setting: Setting) -> Iterator[Callable[[], Row]]:
    """Several replicas: against as many runs."""
    yield functools.partial(_function_replicas, setting)
    for name, sizes in (("mlp", BATCHES), ("cnn", BATCHES), ("lenet5", (16, 256)), ("small", (16, 128))):
        for batch_size in sizes:
            yield functools.partial(
                _eight, setting, name, batch_size, 1.3 if (name, batch_size) == ("mlp", 16) else 1.0
            )


def function_splits(device: torch.device) -> Splits:
    """384 points of sinc to train on, and 128 to validate."""
    x = np.linspace(-5, 5, 512).reshape(-1, 1)
    y = np.sinc(x[:, 0])
    cut = data.split(data.Source(x, y, x, y), validation=128, split_seed=0, subset=None, label_noise=0.0)
    return Splits.of(cut, device, torch.float32)


def _function_replicas(setting: Setting) -> Row:
    splits, make, steps = function_splits(setting.device), network("small"), 250
    x, y = splits.inputs("train", slice(None)), splits.targets["train"]

    def bare(function: Callable[..., None]) -> float:
        return timed(lambda: function([usual.small() for _ in range(10)], x, y, 128, steps), steps)

    ways = {
        "ours": lambda: timed(lambda: train(splits, make, 128, steps, replicas=10, rate=2e-2), steps),
        "usual": lambda: setting.usual(usual.fit_seconds, x.cpu(), y.cpu(), 10, 128),
        "limit": lambda: bare(limit.fit_stacked),
        "limit, by hand": lambda: bare(limit.fit_stacked_by_hand),
    }
    return in_turn(
        "10 replicas of 571 parameters, batch 128", "step of all", ways, {"usual": 6.0, "limit": 0.9}, ROUNDS
    )


def _eight(setting: Setting, name: str, batch_size: int, ratio: float) -> Row:
    splits = function_splits(setting.device) if name == "small" else setting.splits()
    make, examples = network(name), {"mlp": 4_096, "cnn": 512, "lenet5": 256, "small": 3_200}[name]
    steps = max(2, examples // batch_size)

    def alone() -> None:
        for _ in range(8):
            train(splits, make, batch_size, steps)

    row = in_turn(
        f"8 replicas of {name}, batch {batch_size}", "step of all",
        {"ours": lambda: timed(lambda: train(splits, make, batch_size, steps, replicas=8), steps),
         "8 runs": lambda: timed(alone, steps)},
        {"8 runs": ratio}, ROUNDS - 2,
    )  # fmt: skip
    task = session.Task(
        make, adam(1e-3), nn.MSELoss(), splits, Plan.of(400, batch_size, None, 1, None, 1), CONSTANT, 0, 0, 8
    )
    row.words = str(training.arrange(task, "auto", cores()))
    return row


def sensitivity_rows(setting: Setting) -> Iterator[Callable[[], Row]]:
    """Softmax and logit sensitivity of one network; seconds are for 10,000 images."""
    for name in SENSITIVITY:
        yield functools.partial(_sensitivity, setting, name)


def _sensitivity(setting: Setting, name: str) -> Row:
    splits, images, count = setting.splits(), setting.images(), {"cnn": 1_000, "mlp": 10_000}[name]
    model = place(network(name)(), setting.device, torch.float32)
    by_hand = limit.sensitivities if name == "cnn" else limit.mlp_sensitivities
    loss = nn.CrossEntropyLoss(reduction="none")

    def ours() -> None:
        input_sensitivity(model, splits.slices("train", SLICE, count), loss)

    ways = {
        "ours": lambda: 10_000 * timed(ours, count),
        "usual": lambda: 10_000 * setting.usual(usual.sensitivity_seconds, setting.data_dir, name),
        "limit": lambda: 10_000 * timed(lambda: by_hand(model, images, count), count),
    }
    return in_turn(
        f"sensitivities of {name}, 10,000 images", "network", ways, {"usual": SENSITIVITY[name], "limit": 0.9}, ROUNDS
    )


def alpha_rows(setting: Setting) -> Iterator[Callable[[], Row]]:
    """Loss and accuracy between two networks; seconds are for one α on 60,000 images."""
    for name in ALPHA:
        yield functools.partial(_alpha, setting, name)


def _alpha(setting: Setting, name: str) -> Row:
    splits = setting.splits()
    model, other = (place(network(name)(), setting.device, torch.float32) for _ in range(2))
    a, b = ({key: value.clone() for key, value in net.state_dict().items()} for net in (model, other))
    probe = Probe(model, nn.CrossEntropyLoss(), splits)
    split, alphas = {"cnn": ("test", (0.4, 0.6)), "mlp": ("train", (0.2, 0.4, 0.6, 0.8))}[name]
    count = len(splits.targets[split])
    images = limit.Images(splits.inputs(split, slice(None)), splits.targets[split])

    def ours() -> None:
        list(probe.along((interpolated(a, b, alpha) for alpha in alphas), (split,)))

    def by_hand() -> None:
        for alpha in alphas:
            model.load_state_dict({key: torch.lerp(a[key], b[key], alpha) for key in a})
            limit.evaluate(model, images, 250 if name == "cnn" else 500)

    ways = {
        "ours": lambda: 60_000 * timed(ours, len(alphas) * count),
        "usual": lambda: 60_000 * setting.usual(usual.evaluation_seconds, setting.data_dir, name),
        "limit": lambda: 60_000 * timed(by_hand, len(alphas) * count),
    }
    return in_turn(f"α sweep of {name}, 60,000 images", "α", ways, {"usual": ALPHA[name], "limit": 0.9}, ROUNDS)


def component_rows(setting: Setting) -> Iterator[Callable[[], Row]]:
    """Principal components of paths of weights."""
    yield functools.partial(_components, setting)


def _components(setting: Setting) -> Row:
    epochs, networks, parameters = 11, 8, 1_000_000
    states = [torch.randn(networks, parameters) for _ in range(epochs)]
    centre = pca.centring("mean", epochs, networks)

    def ours() -> None:
        components = pca.Components.of(centre @ pca.gram(states) @ centre.T)
        pca.loadings(states, None, centre.T @ components.combination())

    def library() -> None:
        sklearn.decomposition.PCA(10).fit_transform(torch.cat(states).numpy())

    memory = peak(ours) / peak(library)
    ways = {"ours": lambda: timed(ours, 1), "scikit-learn": lambda: timed(library, 1)}
    row = in_turn("PCA of 88 rows of 1,000,000 weights", "analysis", ways, {"scikit-learn": 3.0}, ROUNDS - 2, warm=True)
    row.value, row.most = memory, 0.5
    row.words = f"peak memory {memory:.2f} of theirs"
    return row


def all_rows(setting: Setting) -> Iterator[Callable[[], Row]]:
    """All of them."""
    for rows in (training_rows, replica_rows, sensitivity_rows, alpha_rows, component_rows):
        yield from rows(setting)
