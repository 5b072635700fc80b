"""What the fault checks share: how large they are, where they work, processes that may die, and the row they report."""

import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from hw1.errors import one_line

ROOT = Path(__file__).resolve().parent.parent.parent
CHECKS = ("lines", "calls", "second", "races", "damage", "disk", "steps", "kills", "inputs", "scale")
SEED = 20240607
SHOWN = 3  # problems that a report spells out


@dataclass(frozen=True)
class Size:
    """How much a check does, and where its random numbers begin."""

    quick: bool = False
    seed: int = SEED

    def pick(self, full: int, quick: int) -> int:
        """The number for this size."""
        return quick if self.quick else full

    def random(self, *salt: object) -> random.Random:
        """A generator that depends on the seed and `salt` alone, so that a failure can be repeated."""
        return random.Random(f"{self.seed} {' '.join(map(str, salt))}")


@dataclass
class Row:
    """What came of one kind of fault. `ok` says whether all is as demanded.

    Attributes:
        name: what was injected.
        injected: how many faults, kills, inputs or races.
        survived: how many of them ended as demanded.
        lost: finished runs, jobs or rows that were gone afterwards.
        corrupt: things that were not what was written, and visible or believed.
        duplicated: trainings, jobs or rows that were there twice.
        controls: deliberately broken variants by name, and whether the check noticed; one that it did not is a failure.
        note: measured figures, in a few words.
        problems: what went wrong, a line each, with what is needed to repeat it.
        skipped: why nothing was tried here, else empty.
        seconds: wall time; filled in by the runner for a check of one row.
    """

    name: str
    injected: int = 0
    survived: int = 0
    lost: int = 0
    corrupt: int = 0
    duplicated: int = 0
    controls: dict[str, bool] = field(default_factory=dict)
    note: str = ""
    problems: list[str] = field(default_factory=list)
    skipped: str = ""
    seconds: float = 0.0

    @property
    def control(self) -> str:
        """`3 of 3` broken variants caught."""
        return f"{sum(self.controls.values())} of {len(self.controls)}" if self.controls else "–"

    @property
    def ok(self) -> bool:
        """Whether something was injected, all survived, and every broken variant was caught; true if skipped."""
        harmless = self.survived == self.injected > 0 and not (self.lost or self.corrupt or self.duplicated)
        return bool(self.skipped) or (harmless and all(self.controls.values()) and not self.problems)

    def complaint(self) -> str:
        """Why the row is not ok, in a few lines."""
        uncaught = [f"control not caught: {name}" for name, caught in self.controls.items() if not caught]
        more = [f"… and {len(self.problems) - SHOWN} more"] if len(self.problems) > SHOWN else []
        counts = f"{self.name}: {self.survived} of {self.injected} survived, {self.lost} lost, {self.corrupt} corrupt, "
        return "\n  ".join([counts + f"{self.duplicated} duplicated", *uncaught, *self.problems[:SHOWN], *more])


def present() -> list[str]:
    """The checks whose modules are there, in the order of the table."""
    return [name for name in CHECKS if (Path(__file__).parent / f"{name}.py").exists()]


def module(name: str) -> ModuleType:
    """A check's module, with `check(size, folder)`; its docstring's first line says what it injects."""
    return importlib.import_module(f".{name}", __package__)


def run(name: str, size: Size, folder: Path | None = None) -> list[Row]:
    """Run one check in a folder of its own, which is taken away, or in `folder`, which is kept."""
    check: Callable[[Size, Path], Row | list[Row]] = module(name).check
    with contextlib.nullcontext(folder) if folder else workplace() as place:
        started = time.perf_counter()
        try:
            rows = check(size, place)
        except Exception:
            rows = Row(name, problems=["the check itself failed: " + traceback.format_exc()])
        seconds = time.perf_counter() - started
    if isinstance(rows, Row):
        rows = [rows]
    if len(rows) == 1 and not rows[0].seconds:
        rows[0].seconds = seconds
    return rows


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder, in memory if this machine has such a file system.

    Kills and errors do not depend on the disk below, and a flush to a real one would take most of the time.
    """
    memory = Path("/dev/shm")
    fits = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    with tempfile.TemporaryDirectory(prefix="hw1-faults-", dir=memory if fits else None) as name:
        yield Path(name)


# ---- processes that may die ----


@dataclass(frozen=True)
class Ended:
    """How a forked child ended: killed by `signal` (0: not), with `value`, or with an exception."""

    signal: int
    value: Any = None
    error: str = ""  # type and message, in one line
    trace: str = ""

    @property
    def killed(self) -> bool:
        """Whether it was killed outright."""
        return self.signal == signal.SIGKILL


def start(function: Callable[..., Any], *arguments: Any, timeout: int = 120) -> tuple[int, int]:
    """Fork a child that calls a function; `finish` waits for it. One that hangs is ended after `timeout` seconds."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    try:
        os.close(reading)
        signal.alarm(timeout)
        try:
            answer = {"value": function(*arguments)}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {one_line(error)}", "trace": traceback.format_exc()}
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:
            json.dump(answer, pipe)
    finally:
        os._exit(0)


def finish(child: tuple[int, int]) -> Ended:
    """Wait for a child of `start`."""
    process, reading = child
    with os.fdopen(reading, encoding="utf-8") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return Ended(os.WTERMSIG(status))
    return Ended(0, **json.loads(answer)) if answer else Ended(0, error="ended without an answer")


def in_child(function: Callable[..., Any], *arguments: Any, timeout: int = 120) -> Ended:
    """Call a function in a forked child, which may die of it; what it returns must be plain values."""
    return finish(start(function, *arguments, timeout=timeout))


def spread(function: Callable[[int, Any], Any], items: Sequence[Any], timeout: int = 600) -> list[Any]:
    """`function(worker, item)` of every item, in its order, by as many forked workers as there are cores.

    What it takes and gives must be plain values. Raises: AssertionError if a worker did not come to its end.
    """
    workers = min(len(items), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)

    def share(worker: int) -> list[Any]:
        return [function(worker, item) for item in items[worker::workers]]

    children = [start(share, worker, timeout=timeout) for worker in range(workers)]
    results: list[Any] = [None] * len(items)
    for worker, ended in enumerate([finish(child) for child in children]):
        how = ended.error or (ended.signal and f"ended by signal {ended.signal}")
        assert not how, f"worker {worker}: {how}\n{ended.trace}"
        results[worker::workers] = ended.value
    return results


@contextlib.contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Attributes of a module or class with other values for a while."""
    before = {name: vars(owner)[name] for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def command_line(
    words: Sequence[str], folder: Path, disturb: Callable[[], Any] | None = None, timeout: int = 120
) -> dict[str, Any]:
    """`python -m hw1 words…` typed in `folder`, in a forked child: half a second where a fresh process takes four.

    Args:
        disturb: called in the child before the program; a function that it gives is called at the end.
    Returns: `code` (−N if signal N ended it, None if an exception came through), `out` and `err`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        ended = in_child(_typed, list(words), folder, (out.fileno(), err.fileno()), disturb, timeout=timeout)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
    code = -ended.signal if ended.signal else ended.value
    return {"code": code, "out": texts[0], "err": texts[1] + ended.trace}


def _typed(words: list[str], folder: Path, streams: tuple[int, int], disturb: Callable[[], Any] | None) -> int:
    from hw1 import cli

    os.chdir(folder)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    sys.argv = ["hw1", *words]
    at_end = disturb() if disturb else None
    try:
        return cli.main(words)
    finally:
        if callable(at_end):
            at_end()
        sys.stdout.flush()
        sys.stderr.flush()


# ---- looking ----


def contents(folder: Path, without: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file below a folder by its relative path, but those whose name is in `without`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in without)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def totals(rows: Sequence[Row]) -> Mapping[str, int]:
    """The sums of the table's counts."""
    names = ("injected", "survived", "lost", "corrupt", "duplicated")
    return {name: sum(getattr(row, name) for row in rows) for name in names}
