"""What a training tells whoever watches it, and what it leaves with whoever keeps its state."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """Where a training is, for whoever watches."""

    replicas: Sequence[int]  # those in training now
    of_replicas: int
    epoch: float
    epochs: float
    examples_per_second: float
    done: float  # share of all steps of all replicas
    row: dict[str, Any]  # newest row of the history, {} before the first


class Watcher:
    """Told how a training goes; this one does not listen."""

    def progress(self, progress: Progress) -> None:
        """Called a few times a second."""

    def row(self, row: dict[str, Any]) -> None:
        """Called with every new row of the history."""


@dataclass(frozen=True)
class Kept:
    """The state of a training between two steps: all that decides how it goes on."""

    tensors: "Mapping[str, Tensor]"
    notes: Mapping[str, Any]  # what is no tensor, as JSON has it


class Keeper:
    """Keeps the state of a training, so that one that was killed can go on; this one keeps nothing."""

    def kept(self) -> Kept | None:
        """The state to go on from."""
        return None

    def steps(self) -> contextlib.AbstractContextManager[None]:
        """Entered while steps are taken: what wants to end the training is to wait until `due` was asked."""
        return contextlib.nullcontext()

    def hurried(self) -> bool:
        """Whether what wants to end the training waits for `due` to be asked: then nobody should be long."""
        return False

    def due(self) -> bool:
        """Asked after every step: whether to keep the state now."""
        return False

    def keep(self, state: Kept) -> None:
        """Keep a state in place of an older one. Whoever wants the training to end now may raise."""
