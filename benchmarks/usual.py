"""What a user writes otherwise: torchvision's data set, a DataLoader, library defaults, one thing after another.

It runs in a process of its own, at the same time as ours waits: torch's settings there are those that it starts with.
"""

import multiprocessing
import multiprocessing.connection
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import datasets, transforms


def cnn() -> nn.Module:
    """8-16-64, 52,138 parameters: conf/model/cnn.yaml, as one would write it down."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    """784-128-10: conf/model/mlp.yaml."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def small() -> nn.Module:
    """1-12-13-13-13-1, 571 parameters: what conf/experiment/function.yaml asks for."""
    sizes = [1, 12, 13, 13, 13]
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(13, 1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"cnn": cnn, "mlp": mlp}


@cache
def mnist(data_dir: Path, train: bool = True) -> Dataset[tuple[Tensor, int]]:
    """MNIST with the usual transforms."""
    usual = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    return datasets.MNIST(str(data_dir), train=train, transform=usual)


def train(model: nn.Module, data: Dataset[tuple[Tensor, int]], batch_size: int, workers: int = 0) -> float:
    """An epoch of the usual loop with the usual sum of losses, by Adam; the mean loss."""
    start = "fork" if workers and sys.platform == "linux" else None  # as in a script; here spawn is the default
    loader = DataLoader(data, batch_size, shuffle=True, num_workers=workers, multiprocessing_context=start)
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    running = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        running += loss.item()
    return running / len(loader)


def fit(model: nn.Module, data: TensorDataset, batch_size: int, steps: int) -> None:
    """The same for a function."""
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)
    optimizer, taken = torch.optim.Adam(model.parameters(), lr=2e-2), 0
    while taken < steps:
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            taken += 1
            if taken == steps:
                return


def evaluate(model: nn.Module, data: Dataset[tuple[Tensor, int]], batch_size: int = 256) -> tuple[float, float]:
    """Mean loss and accuracy."""
    total, right, count = 0.0, 0, 0
    model.eval()
    with torch.no_grad():
        for x, y in DataLoader(data, batch_size=batch_size):
            output = model(x)
            total += nn.functional.cross_entropy(output, y, reduction="sum").item()
            right += (output.argmax(1) == y).sum().item()
            count += len(y)
    return total / count, right / count


def sensitivities(model: nn.Module, examples: Iterable[tuple[Tensor, int]]) -> tuple[float, float]:
    """Mean Frobenius norms of the Jacobians of softmax and logits, an example at a time."""
    model.eval()
    softmax, logit, count = 0.0, 0.0, 0
    for x, _ in examples:
        jacobian = torch.autograd.functional.jacobian
        logit += jacobian(model, x[None]).norm().item()
        softmax += jacobian(lambda image: model(image).softmax(1), x[None]).norm().item()
        count += 1
    return softmax / count, logit / count


def loss_gradients(model: nn.Module, examples: Iterable[tuple[Tensor, int]]) -> float:
    """Mean norm of the gradient of an example's own loss by its input."""
    model.eval()
    total, count = 0.0, 0
    for x, y in examples:
        image = x[None].requires_grad_()
        loss = nn.functional.cross_entropy(model(image), torch.tensor([y]))
        total += torch.autograd.grad(loss, image)[0].norm().item()
        count += 1
    return total / count


def noise_scale(model: nn.Module, data: Dataset[tuple[Tensor, int]], small: int = 100) -> float:
    """tr(Σ)/|G|² from the gradients of small batches and of their union."""
    model.eval()
    squares, batches, union = 0.0, 0, torch.zeros(sum(p.numel() for p in model.parameters()))
    for x, y in DataLoader(data, batch_size=small, shuffle=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        squares, batches, union = squares + gradient.square().sum().item(), batches + 1, union + gradient
    big = (union / batches).square().sum().item()
    return (squares / batches - big) / (1 / small - 1 / (small * batches)) / big


State = dict[str, Tensor]
Images = Dataset[tuple[Tensor, int]]


def interpolate(model: nn.Module, a: State, b: State, alpha: float, data: Images) -> tuple[float, float]:
    """Loss and accuracy at one α."""
    model.load_state_dict({name: (1 - alpha) * a[name] + alpha * b[name] for name in a})
    return evaluate(model, data)


# Seconds of one unit, each of a part that is large enough


def warm_up(data_dir: Path) -> float:
    """Of nothing: once all of it has been taken, and pages and libraries are where they are to be."""
    for name in NETWORKS:
        for batch_size in (16, 256):
            step_seconds(data_dir, name, batch_size, 0)
        sensitivity_seconds(data_dir, name, 2)
        evaluation_seconds(data_dir, name)
    return 0.0


def step_seconds(data_dir: Path, name: str, batch_size: int, workers: int) -> float:
    """Of a step."""
    steps = max(3, {"cnn": 2_048, "mlp": 4_096}[name] // batch_size)
    model, part = NETWORKS[name](), Subset(mnist(data_dir), range(steps * batch_size))
    start = time.perf_counter()
    train(model, part, batch_size, workers)
    return (time.perf_counter() - start) / steps


def fit_seconds(x: Tensor, y: Tensor, runs: int, batch_size: int) -> float:
    """Of a step of so many runs of the function's network, one after another."""
    steps, data = 40, TensorDataset(x, y)
    start = time.perf_counter()
    for _ in range(runs):
        fit(small(), data, batch_size, steps)
    return (time.perf_counter() - start) / steps


def sensitivity_seconds(data_dir: Path, name: str, count: int = 24) -> float:
    """Of an image."""
    model, part = NETWORKS[name](), Subset(mnist(data_dir, train=False), range(count))
    start = time.perf_counter()
    sensitivities(model, part)  # type: ignore[arg-type]
    return (time.perf_counter() - start) / count


def loss_gradient_seconds(data_dir: Path, name: str, count: int = 200) -> float:
    """Of an image."""
    model, part = NETWORKS[name](), Subset(mnist(data_dir, train=False), range(count))
    start = time.perf_counter()
    loss_gradients(model, part)  # type: ignore[arg-type]
    return (time.perf_counter() - start) / count


def noise_seconds(data_dir: Path, name: str, count: int = 2_000) -> float:
    """Of an image."""
    model, part = NETWORKS[name](), Subset(mnist(data_dir), range(count))
    start = time.perf_counter()
    noise_scale(model, part)
    return (time.perf_counter() - start) / count


def evaluation_seconds(data_dir: Path, name: str, count: int = 3_000) -> float:
    """Of an image at one α."""
    a, b = (NETWORKS[name]().state_dict() for _ in range(2))
    model, part = NETWORKS[name](), Subset(mnist(data_dir), range(count))
    start = time.perf_counter()
    interpolate(model, a, b, 0.5, part)
    return (time.perf_counter() - start) / count


Call = Callable[..., float]


@contextmanager
def elsewhere() -> Iterator[Callable[..., float]]:
    """Gives what runs one of the functions above in that other process, and its seconds."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,))
    process.start()

    def run(function: Call, *arguments: object) -> float:
        here.send((function, arguments))
        answer = here.recv()
        if isinstance(answer, BaseException):
            raise answer
        return float(answer)

    try:
        yield run
    finally:
        here.send(None)
        process.join(5)
        process.kill()


def _serve(pipe: "multiprocessing.connection.Connection") -> None:
    while (task := pipe.recv()) is not None:
        function, arguments = task
        try:
            pipe.send(function(*arguments))
        except Exception as error:
            pipe.send(error)
