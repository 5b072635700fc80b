"""What is random in a training, as functions of seeds and numbers alone: the same in every process."""

import hashlib
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn

MakeModel = Callable[[], nn.Module]
_drawing = threading.Lock()  # torch's global generator is one for all threads


def seed_of(purpose: str, *numbers: int) -> int:
    """A 63-bit seed that depends on its purpose and numbers alone."""
    text = ":".join([purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def initial_model(make_model: MakeModel, init_seed: int, replica: int) -> nn.Module:
    """A network with the initial weights of (init_seed, replica); the global generator stays as it was."""
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("initialisation", init_seed, replica))
        return make_model()


def data_order(order_seed: int, replica: int, epoch: int, examples: int) -> Tensor:
    """The permutation (N,) in which a replica sees the training split in an epoch; a function of its arguments."""
    generator = torch.Generator().manual_seed(seed_of("order", order_seed, replica, epoch))
    return torch.randperm(examples, generator=generator)
