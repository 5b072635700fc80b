"""Cores that no job of a sweep needs any more, for those of its jobs that still have replicas to train."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from hw1 import files
from hw1.progress import RESULT, read_json

SHARES = ".shares"


class Shares:
    """A machine's cores in equal shares, as many as jobs run side by side on it.

    Three jobs on two cores leave one of them idle for a third of the time, if each job keeps to its own. Nothing is
    free before every job has begun. Who takes a free share holds a lock that ends with its process.
    """

    def __init__(self, sweep: Path, jobs: Sequence[Path], number: int) -> None:
        """Args:
        jobs: folders of all jobs of the sweep.
        number: of shares; each running job has one.
        """
        self.folder, self.number = sweep / SHARES, number
        self.jobs = list(jobs)  # that have not ended, as far as is known

    def free(self) -> int:
        """How many no job needs."""
        states = [read_json(job / RESULT).get("status") for job in self.jobs]
        if None in states:
            return 0
        self.jobs = [job for job, state in zip(self.jobs, states, strict=True) if state == "running"]
        return max(0, self.number - len(self.jobs))

    @contextlib.contextmanager
    def taken(self) -> Iterator[bool]:
        """Hold one of the free shares; False: there is none, or it cannot be known."""
        with contextlib.ExitStack() as stack:
            yield any(self._lock(stack, number) for number in range(self.free()))

    def _lock(self, stack: contextlib.ExitStack, number: int) -> bool:
        try:
            self.folder.mkdir(exist_ok=True)
            return stack.enter_context(files.lock(self.folder / str(number)))
        except (files.Busy, OSError):
            return False
