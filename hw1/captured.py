"""What is done differently on a GPU: a whole training step is one CUDA graph, launched at once.

Small networks wait for launches, not for arithmetic: a step is hundreds of them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer, RMSprop

log = logging.getLogger(__name__)

WARM_UP = 3  # steps before the capture, in which libraries make their workspaces and the optimizer its state
WITH_FLAG = (Adam, AdamW, RMSprop)  # their `capturable` keeps the number of steps on the device


def make_capturable(optimizer: Optimizer, device: torch.device) -> None:
    """Keep rates, and numbers of steps, where a captured step reads them anew each time: on the device."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        if isinstance(optimizer, WITH_FLAG):
            group["capturable"] = True


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU, a stream of one's own for the duration of a block: on the usual one nothing can be captured."""
    if device.type != "cuda":
        yield
        return
    usual, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    own.wait_stream(usual)
    with torch.cuda.stream(own):
        yield
    usual.wait_stream(own)


@contextmanager
def tensor_float(device: torch.device, wanted: bool) -> Iterator[None]:
    """On a GPU, float32 products in TF32 (10 bits of mantissa) or not, for the duration of a block."""
    settings: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn] if device.type == "cuda" else []
    before = [setting.allow_tf32 for setting in settings]
    for setting in settings:
        setting.allow_tf32 = wanted
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value


class Captured:
    """A function of tensors of fixed shapes, recorded once and replayed. What it changes, it changes in place.

    Where it cannot be recorded it is called as it is, and the log says why.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function, self.calls = function, 0
        self.inputs: list[Tensor] = []
        self.replay: Callable[[], None] | None = None

    def __call__(self, *inputs: Tensor) -> None:
        """Call it, or replay it on other values of the same shapes; others than the first few calls' go without."""
        if self.calls == WARM_UP:
            self.inputs = [value.clone() for value in inputs]
            self.replay = record(lambda: self.function(*self.inputs))
        self.calls += 1
        if self.replay is None or not _alike(self.inputs, inputs):
            self.function(*inputs)
            return
        for mine, value in zip(self.inputs, inputs, strict=True):
            mine.copy_(value)
        self.replay()


def _alike(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return [value.shape for value in one] == [value.shape for value in other]


def record(function: Callable[[], None]) -> Callable[[], None] | None:
    """What replays a function, which is not run by this; None if it does something that a graph cannot hold."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            function()
    except (RuntimeError, AssertionError) as error:
        log.info("the steps are not captured in a CUDA graph: %s", error)
        return None
    return graph.replay
