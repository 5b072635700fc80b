"""Stays with a sweep's jobs: passes signals on, launches again what a killed worker took along, ends in time."""

import contextlib
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hw1 import compose, signals
from hw1.errors import one_line, system_words
from hw1.files import write_json
from hw1.progress import RESULT, read_json

if TYPE_CHECKING:
    from hw1.sweep import Planned

PATIENCE = 1.4  # seconds that jobs have, after a signal to end, to keep their state
KILL, GIVE_UP = 1.9, 2.4  # seconds after it: workers are killed; what hangs is left
STRIKES = 2  # times that a job may be running when a worker is killed, before it is put last, and alone
LOST = "its process was killed (out of memory?), again when it ran alone"


class Supervisor:
    """The launch of planned jobs, from the first to the last."""

    def __init__(self, planned: "Planned", leave: Callable[[], None]) -> None:
        """Args:
        leave: what to do where a launcher does not come back after a signal to end; does not return.
        """
        self.planned, self.leave = planned, leave
        self.back = threading.Event()

    def run(self) -> None:
        """Launch all jobs that are not ok, and again those that are left when a worker was killed.

        Raises: KeyboardInterrupt, in time, if this process is told to end.
        """
        signals.install(self._tell)
        try:
            if self.planned.multirun:
                self._rounds()
            else:
                _launch(self.planned, None)
        finally:
            self.back.set()

    def _rounds(self) -> None:
        """A worker's end takes its whole pool along, and nobody says which of the running jobs it was.

        So all of them have another try; one to which that happens twice waits, and runs alone: then it is known.
        """
        strikes: Counter[int] = Counter()
        left = list(self.planned.left() or ())
        while left:
            ready = [number for number in left if strikes[number] < STRIKES]
            alone = not ready
            now = left[:1] if alone else ready
            _launch(self.planned, now)
            hit = [number for number in now if self._lost(number)]
            strikes.update(hit)
            if alone:
                self._give_up(hit)
            ended = [number for number in now if number not in hit and self._result(number)]
            if alone or not hit:
                ended = now  # what has not started was not kept from it by a kill
            left = [number for number in left if number not in ended]
            if hit and left and not alone:
                rest = f"{len(left)} jobs that are left" if len(left) > 1 else "job that is left"
                print(f"a worker was killed (out of memory?): going on with the {rest}", file=sys.stderr)

    def _result(self, number: int) -> dict[str, Any]:
        return read_json(self.planned.folders[number] / RESULT)

    def _lost(self, number: int) -> bool:
        """Whether a job's process was killed; one that lives could not write how its job ended, and would not again."""
        import psutil

        result = self._result(number)
        host, process = result.get("process", ("", 0))
        lives = host == platform.node() and psutil.pid_exists(process)
        return result.get("status") == "running" and not lives

    def _give_up(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            file = self.planned.folders[number] / RESULT
            write_json(file, read_json(file) | {"status": "failed", "error": LOST})

    # Signals

    def _tell(self, number: int) -> None:
        """Pass a signal on to the jobs, in other processes of this machine; one to end leaves them time for it."""
        ends = number in (signal.SIGINT, signal.SIGTERM)
        if ends:
            threading.Thread(target=self._watch, daemon=True).start()
        until = time.monotonic() + PATIENCE
        told = list(self._processes())
        for process in told:
            signals.send(process, signal.SIGINT if ends else number)  # submitit's processes do not hear SIGTERM
        while ends and told and time.monotonic() < until:
            time.sleep(0.02)
            told = list(self._processes())

    def _processes(self) -> Iterator[int]:
        """Other processes of this machine in which jobs are running."""
        for folder in self.planned.folders:
            result = read_json(folder / RESULT)
            if result.get("status") == "running":
                host, process = result.get("process", ("", 0))
                if host == platform.node() and process not in (0, os.getpid()):
                    yield process

    def _watch(self) -> None:
        """After a signal to end: kill what does not, and leave without a launcher that does not come back."""
        began = time.monotonic()
        if not self.back.wait(KILL):
            kill_children()
        if not self.back.wait(max(0.0, GIVE_UP - (time.monotonic() - began))):
            self.leave()


def _launch(planned: "Planned", numbers: Sequence[int] | None) -> None:
    """Launch some jobs of a sweep, or one by itself; what goes wrong around them is told, and no more."""
    jobs = None if numbers is None else {number: planned.jobs[number].words for number in numbers}
    try:
        compose.launch(planned.arguments, jobs, planned.side_by_side)
    except (Exception, SystemExit) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        if "TerminatedWorker" not in type(error).__name__:  # joblib's, of which we speak ourselves
            print(f"error: the launcher ended early: {_why(error)}", file=sys.stderr)


def _why(error: BaseException) -> str:
    """In one line; what the system said, if that is behind it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return one_line(system_words(cause))
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: {one_line(error).partition('. ')[0]}"


def kill_children() -> None:
    """Kill every process that this one has started, and theirs."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
