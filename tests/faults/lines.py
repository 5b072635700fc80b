"""SIGKILL at every executed line of the store's I/O, then the same call again in a new process."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from hw1 import files, store

from . import broken
from .deeds import DEEDS, Case, Deed, Finding, again, quietly, record
from .harness import Row, Size, in_child, spread

CONTROLS = (  # what is taken out of the store, and the deed that then must fail
    (broken.straight_publish, "publish"),
    (broken.remove_in_place, "remove"),
    (broken.straight_state, "keep a state"),
    (broken.straight_files, "write tables"),
    (broken.never_cleaned, "clean"),
)


def check(size: Size, folder: Path) -> Row:
    """All deeds, all lines (quick: a sample of them)."""
    row = Row("SIGKILL at each line of the store's I/O")
    started = time.perf_counter()
    for number, deed in enumerate(DEEDS):
        case = Case.of(deed, folder / str(number))
        chosen = points(case, size, size.pick(10**6, 4 if deed.torch else 8))
        killed = partial(_killed_by, case, folder)
        for line, findings in zip(chosen, spread(killed, chosen), strict=True):
            if findings is not None:
                record(row, findings, f"{deed}, killed at line event {line}")
    for number, (variant, name) in enumerate(CONTROLS):
        with variant():
            case = Case.of(by_name(name), folder / f"control {number}")
            lines = points(case, size, 10**6)
            row.controls[variant.__name__] = any(killed_at(case, line, folder / "work") for line in lines)
    row.note = f"{len(DEEDS)} calls, {1000 * (time.perf_counter() - started) / row.injected:.0f} ms a kill"
    return row


def _killed_by(case: Case, folder: Path, worker: int, line: int) -> list[Finding] | None:
    return killed_at(case, line, folder / f"work{worker}")


def by_name(name: str) -> Deed:
    """A deed."""
    return next(deed for deed in DEEDS if deed.name == name)


def points(case: Case, size: Size, most: int) -> Sequence[int]:
    """The line events of a deed, or a sample of so many, in random order."""
    number = events(case)
    return size.random("lines", case.deed).sample(range(1, number + 1), min(most, number))


def events(case: Case) -> int:
    """How many lines of the store's files a deed executes."""
    folder = case.start(case.template.parent / "counted")
    ended = in_child(_count, case.deed.act, folder)
    assert not ended.error, ended
    assert ended.value, "no line was seen"
    return int(ended.value)


def killed_at(case: Case, line: int, folder: Path) -> list[Finding] | None:
    """Kill a deed at a line event, look, do it again, look; None if there are not so many lines this time."""
    case.start(folder)
    ended = in_child(traced, case.deed.act, folder, line)
    if not (ended.killed or ended.error or ended.signal):
        return None
    if not ended.killed:
        return [("other", f"was not killed there: {ended}")]
    return case.judge_instant(folder) + again(case, folder)


def traced(act: Callable[[Path], Any], folder: Path, line: int) -> None:
    """Do a deed, and be killed just before it executes its n-th line of ours."""
    left = line

    def die() -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    _trace(die)
    quietly(act, folder)


def _count(act: Callable[[Path], Any], folder: Path) -> int:
    number = 0

    def one() -> None:
        nonlocal number
        number += 1

    _trace(one)
    quietly(act, folder)
    sys.settrace(None)
    return number


def _trace(at_line: Callable[[], None]) -> None:
    # The training itself is another check's matter: of the laboratory only what touches the store.
    laboratory = str(Path(store.__file__).with_name("laboratory.py"))
    ours = {files.__file__, store.__file__, laboratory, broken.__file__}

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename in ours else None

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            at_line()
        return local

    sys.settrace(enter)
