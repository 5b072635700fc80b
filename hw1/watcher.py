"""What a training tells whoever watches it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


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
