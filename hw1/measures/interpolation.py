"""Between the weights of two networks: states on the straight line, batch-norm statistics there, distances."""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from hw1.measures.performance import evaluate_each
from hw1.models import NORMS, evaluating, leaves_inputs
from hw1.resident import Splits

State = dict[str, Tensor]
Judged = dict[str, dict[str, float]]
TOGETHER = 4  # networks that are evaluated on the same slices: three quarters of the conversions are saved


@dataclass(frozen=True)
class Probe:
    """How a state is judged: loaded into `model`, its batch-norm statistics recalibrated if so asked, and evaluated.

    As training evaluates, on the same slices with the same loss: a trained state gives the bits of its history.
    """

    model: nn.Module  # on the device of the splits
    loss: nn.Module
    splits: Splits
    recalibrated: bool = False

    def __call__(self, state: State, splits: Sequence[str] = ("train", "test")) -> Judged:
        """Split → loss and accuracy, or loss, MAE and R² (`performance.evaluate`)."""
        (judged,) = self.along([state], splits)
        return judged

    def along(self, states: Iterable[State], splits: Sequence[str] = ("train", "test")) -> Iterator[Judged]:
        """The same of many states, in their order, to the same bits: `TOGETHER` at a time see the examples together.

        So pixels become floats once for several networks: with one thread 0.86 of the time for the MLP.
        """
        states, models = iter(states), [self.model]
        most = TOGETHER if leaves_inputs(self.model) else 1
        while count := self._load(models, islice(states, most)):
            found = [evaluate_each(models[:count], self.loss, self.splits.slices(split)) for split in splits]
            yield from (dict(zip(splits, judged, strict=True)) for judged in zip(*found, strict=True))

    def _load(self, models: list[nn.Module], states: Iterable[State]) -> int:
        """Load states into networks of their own, of which more are made if there are too few; how many."""
        count = 0
        for count, state in enumerate(states, start=1):
            if count > len(models):
                models.append(copy.deepcopy(self.model))
            models[count - 1].load_state_dict(state)
            if self.recalibrated:
                recalibrate(models[count - 1], self._calibration())
        return count

    def _calibration(self) -> Iterator[Tensor]:
        """The training split in slices of 500 MNIST images, or as many numbers of others, none of one example."""
        examples = len(self.splits.targets["train"])
        size = max(32, 500 * 784 // math.prod(self.splits.input_shape))
        while examples % size == 1:
            size += 1
        return (x for x, _ in self.splits.slices("train", size))


def interpolated(a: State, b: State, alpha: float) -> State:
    """θ_α = (1−α)·θ_A + α·θ_B over parameters and floating-point buffers; whole numbers (batch counters) are A's.

    At 0 and 1 the tensors are those of A and of B themselves, bit for bit, whatever the other network holds.
    """
    if alpha == 0:
        return dict(a)
    if alpha == 1:
        return dict(b)
    return {
        name: (1 - alpha) * value + alpha * b[name] if value.is_floating_point() else value for name, value in a.items()
    }


def has_statistics(model: nn.Module) -> bool:
    """Whether a network keeps running statistics, as batch norm does."""
    return bool(_with_statistics(model))


def _with_statistics(model: nn.Module) -> list[nn.modules.batchnorm._NormBase]:
    return [module for module in model.modules() if isinstance(module, NORMS) and module.track_running_stats]


def recalibrate(model: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Estimate all running means and variances anew, in one pass over `inputs` (B, *shape), in place; nothing to do in
    a network without them.

    Averages of the slices' means and (unbiased) variances, weighted by their sizes; every layer sees what the layers
    before it give with the statistics of the slice itself, as in training, but without dropout. Between two trained
    networks the interpolated statistics are not those of the interpolated weights' activations, and a barrier may be
    theirs alone (Jordan et al. 2023, arXiv:2211.08403).

    Args: inputs: slices of at least two examples, at least one.
    """
    norms = _with_statistics(model)
    if not norms:
        return
    kept = [module.momentum for module in norms]
    with evaluating(model), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
        seen = 0
        for x in inputs:
            seen += len(x)
            for norm in norms:
                norm.momentum = len(x) / seen  # of a running average over all examples so far
            model(x)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum


def layers_of(model: nn.Module) -> dict[str, list[str]]:
    """Layer → names of its tensors in the state dict; a batch norm belongs to the layer before it."""
    norms = {name for name, module in model.named_modules() if isinstance(module, NORMS)}
    found: dict[str, list[str]] = {}
    for key in model.state_dict():
        owner = key.rpartition(".")[0]
        layer = list(found)[-1] if owner in norms and found else owner or key
        found.setdefault(layer, []).append(key)
    return found


def with_layer(a: State, other: State, names: Iterable[str]) -> State:
    """A's state with the tensors of some `names` taken from another."""
    return a | {name: other[name] for name in names}


def distance(a: State, b: State, names: Iterable[str]) -> float:
    """‖θ_A − θ_B‖₂ over the tensors of these names, summed in float64."""
    return math.sqrt(sum((a[name].double() - b[name].double()).square().sum().item() for name in names))
