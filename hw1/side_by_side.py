"""The same for several things, as many at a time as a job has cores."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from hw1.machine import Machine

LOOK_SECONDS = 1.0  # between two looks for cores that have come free
WAKE_SECONDS = 0.1  # to hear signals

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Sequence[Item], machine: "Machine") -> list[Result]:
    """What `function` gives for each item, in their order; on a GPU one after another.

    In threads that share the job's: torch lets go of the interpreter while it computes, and two networks beside one
    another use two cores better than torch does inside one. On two, a job's sensitivities and noise scales of three
    small CNNs take 0.8 of the time, its curves between MLPs 0.85. Cores that no job of the sweep needs any more join.

    Args: function: draws nothing from global generators, and changes nothing that another item needs.
    Raises: what `function` raises, of the item that did first; items that nobody has begun are left.
    """
    workers = max(1, min(machine.threads, len(items)))
    if machine.device != "cpu" or (workers == 1 and machine.shares is None):
        return [function(item) for item in items]
    return _Hands(function, items, machine, workers).run()


class _Hands:
    """Threads at work on items."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any], machine: "Machine", workers: int) -> None:
        self.function, self.shares = function, machine.shares
        self.workers, self.threads = workers, machine.threads // workers
        self.results: list[Any] = [None] * len(items)
        self.left = iter(enumerate(items))
        self.failures: list[BaseException] = []
        self.over = threading.Event()  # nothing is left to begin

    def run(self) -> list[Any]:
        """Do all items."""
        helpers = self.shares.number - 1 if self.shares and len(self.results) > self.workers else 0
        try:
            _together([self._work] * self.workers + [self._help] * helpers)
        finally:
            self.over.set()
        if self.failures:
            raise self.failures[0]
        return self.results

    def _work(self) -> None:
        import torch

        torch.set_num_threads(self.threads)  # of this thread; OpenMP counts them apart
        try:
            for number, item in self.left:
                self.results[number] = self.function(item)
                if self.over.is_set():
                    break
        except BaseException as error:
            self.failures.append(error)
        finally:
            self.over.set()

    def _help(self) -> None:
        """Do as the others on a share of the machine, as soon as one is free."""
        while not self.over.wait(LOOK_SECONDS):
            with self.shares.taken() as got:  # type: ignore[union-attr]
                if got:
                    _together([self._work] * self.workers)


def _together(tasks: Sequence[Callable[[], None]]) -> None:
    """Do them all, each in a thread that does not keep the process from ending."""
    hands = [threading.Thread(target=task, daemon=True) for task in tasks]
    for hand in hands:
        hand.start()
    for hand in hands:
        while hand.is_alive():
            hand.join(WAKE_SECONDS)
