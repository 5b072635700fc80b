"""How time and memory grow: exponents of a power law fitted to a few sizes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from hw1 import models
from hw1.measures.interpolation import Probe, interpolated
from hw1.resident import place

from .rows import LAYERS, Setting, function_splits, network, train
from .timing import Row, exponent, held, peak, timed

MOST = 1.05


def all_rows(setting: Setting) -> Iterator[Callable[[], Row]]:
    """Of each a row for time and one for memory."""
    sizes = (1, 4, 16, 64)
    make = partial(_replicas, setting)
    yield partial(_grown, "replicas", sizes, make, "571 parameters, batch 128, a step of all", exact=True)
    yield partial(_grown, "replicas of mlp", sizes, partial(_mlp_replicas, setting), "batch 16, a step of all")
    alphas = (1, 11, 101, 1001)
    yield partial(_grown, "α", alphas, partial(_alphas, setting), "mlp on 500 images", exact=True, flat=True)
    yield partial(_grown, "batch size", (8, 64, 512, 8192), partial(_batches, setting), "cnn, a step", exact=True)
    counts = (10**3, 10**4, 10**5, 10**6, 10**7)
    yield partial(_grown, "parameters", counts, partial(_parameters, setting), "mlp, batch 64, a step")


def _grown(
    name: str, sizes: Sequence[int], make: Callable[[int], Callable[[], object]], words: str,
    exact: bool = False, flat: bool = False,
) -> list[Row]:  # fmt: skip
    """Time and peak memory of one piece of work at each size, the less of two times each.

    Memory is that of the process above what it had before; `exact`, of its tensors (work of one thread).
    """
    seconds, memory, tensors = [], [], []
    for size in sizes:
        work = make(size)
        if exact:
            tensors.append(held(work))
        else:
            work()  # what the first time leaves in the process is not counted
        memory.append(peak(work))
        seconds.append(min(timed(work, 1) for _ in range(2)))
    labels = f"{sizes[0]:,} to {sizes[-1]:,}"
    time = Row(
        f"time against {name}, {labels}", "exponent", {"ours": seconds}, value=exponent(sizes, seconds), most=MOST
    )
    time.words = f"{words}: {', '.join(f'{1000 * value:.3g}' for value in seconds)} ms"
    value, most = exponent(sizes, tensors if exact else memory), 0.1 if flat else MOST
    space = Row(f"memory against {name}, {labels}", "exponent", value=value, most=most)
    space.words = f"process {_megabytes(memory, 1)} above what there was"
    space.words += f"; its tensors {_megabytes(tensors, 2)}" if exact else ""
    space.seconds = {"ours": memory}
    return [time, space]


def _megabytes(values: Sequence[float], digits: int) -> str:
    return f"{', '.join(f'{value / 2**20:.{digits}f}' for value in values)} MB"


def _replicas(setting: Setting, count: int) -> Callable[[], object]:
    splits = function_splits(setting.device)
    return lambda: train(splits, network("small"), 128, 50, replicas=count, threads=1)


def _mlp_replicas(setting: Setting, count: int) -> Callable[[], object]:
    return lambda: train(setting.splits(), network("mlp"), 16, 20, replicas=count)


def _alphas(setting: Setting, count: int) -> Callable[[], object]:
    splits = setting.splits()
    raw, targets = ({name: values[:500] for name, values in part.items()} for part in (splits.raw, splits.targets))
    model, other = (place(network("mlp")(), setting.device, torch.float32) for _ in range(2))
    a, b = ({key: value.clone() for key, value in net.state_dict().items()} for net in (model, other))
    probe = Probe(model, nn.CrossEntropyLoss(), replace(splits, raw=raw, targets=targets))

    def work() -> None:
        for _ in probe.along((interpolated(a, b, (number + 1) / (count + 1)) for number in range(count)), ("test",)):
            pass

    return work


def _batches(setting: Setting, size: int) -> Callable[[], object]:
    return lambda: train(setting.splits(), network("cnn"), size, 3)


def _parameters(setting: Setting, count: int) -> Callable[[], object]:
    width = max(1, round(count / 795))
    make = partial(models.mlp, input_shape=(1, 28, 28), outputs=10, depth=1, width=width, **LAYERS)
    return lambda: train(setting.splits(), make, 64, 5)
