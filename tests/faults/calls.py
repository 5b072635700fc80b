"""An error of the operating system at every call that the store makes, then the same call again."""

import contextlib
import errno
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hw1.errors import UserError, one_line
from hw1.store import Store

from . import broken
from .deeds import DEEDS, Case, Finding, again, quietly, record, seen, train
from .harness import Row, Size, replaced, spread
from .jobs import import_all, tables, typed, wrong_output
from .lines import by_name
from .oscalls import ERRORS, READ_ERRORS, READS, Calls, unflushed

FAILING = (  # what is taken out of the store, the deed that then must fail, and the errors that show it
    (broken.unreadable_is_damaged, "find", (errno.EIO,)),
    (broken.errors_swallowed, "publish", (errno.ENOSPC,)),
    (broken.straight_publish, "publish", (errno.ENOSPC,)),
)
UNORDERED = (broken.unflushed, broken.flushed_late, broken.folder_unflushed)


def check(size: Size, folder: Path) -> list[Row]:
    """Every call and error; a store that may only be read; what is flushed before what; whole jobs."""
    rows = [_errors(size, folder / "errors"), _read_only(folder / "read only"), _order(folder / "order")]
    return [*rows, _jobs(size, folder / "jobs")]


def _errors(size: Size, folder: Path) -> Row:
    names = ", ".join(errno.errorcode[code] for code in ERRORS)
    row = Row(f"{names} at each OS call (ENFILE, ESTALE where it reads)")
    started = time.perf_counter()
    counted = 0
    for number, deed in enumerate(DEEDS):
        case = Case.of(deed, folder / str(number))
        made = calls_of(case, folder / "work0")
        counted += len(made)
        chosen = [(n, code) for n, call in enumerate(made, 1) for code in errors_of(call)]
        if size.quick:
            chosen = size.random("calls", deed).sample(chosen, min(25 if not deed.torch else 8, len(chosen)))
        for point, findings in zip(chosen, spread(partial(_failing_by, case, folder), chosen), strict=True):
            record(row, findings, f"{deed}, call {point[0]} {made[point[0] - 1]}, {errno.errorcode[point[1]]}")
    for number, (variant, name, codes) in enumerate(FAILING):
        with variant():
            case = Case.of(by_name(name), folder / f"control {number}")
            points = [(n, code) for n in range(1, len(calls_of(case, folder / "work0")) + 1) for code in codes]
            row.controls[variant.__name__] = any(_failing_by(case, folder, 0, point) for point in points)
    row.seconds = time.perf_counter() - started
    row.note = f"{len(DEEDS)} deeds, {counted} calls, {1000 * row.seconds / row.injected:.0f} ms an error"
    return row


def calls_of(case: Case, folder: Path) -> list[tuple[str, str, str]]:
    """The calls that a deed makes, undisturbed."""
    case.start(folder)
    with Calls(folder / "runs", folder / "job").watched() as calls:
        quietly(case.deed.act, folder)
    return calls.made


def errors_of(call: tuple[str, str, str]) -> tuple[int, ...]:
    """The errors that a call is to fail with."""
    if call[0] == "flock":
        return (errno.EIO, errno.ENOLCK)
    return ERRORS + READ_ERRORS * (call[0] in READS)


def _failing_by(case: Case, folder: Path, worker: int, point: tuple[int, int]) -> list[Finding]:
    place = case.start(folder / f"work{worker}")
    findings = attempt(case.deed.act, place, Calls(place / "runs", place / "job", fails=point[0], code=point[1]))
    return findings + case.judge_instant(place) + again(case, place)


def attempt(act: Callable[[Path], object], folder: Path, calls: Calls) -> list[Finding]:
    """Do a deed of which a call fails; what is wrong with what it says."""
    try:
        with calls.watched():
            quietly(act, folder)
    except (OSError, UserError) as error:
        return wrong_words(error, calls.code)
    except Exception as error:
        return [("other", f"raised {type(error).__name__}: {error}")]
    return []


def wrong_words(error: Exception, code: int) -> list[Finding]:
    """What is wrong with an error: several lines, or not what the system said."""
    text = one_line(error) if isinstance(error, OSError) else str(error)
    said = os.strerror(code) in text or (isinstance(error, OSError) and error.errno == code)
    return [] if said and "\n" not in text else [("other", f"says {text!r} of {os.strerror(code)!r}")]


def _read_only(folder: Path) -> Row:
    """A store that may only be read gives what it has, and says in a line why it cannot take more."""
    row = Row("a store that may only be read")
    started = time.perf_counter()
    Case.of(by_name("train"), folder)
    place = folder / "after"
    for code in (errno.EROFS, errno.EACCES):
        for stored in (True, False):
            record(row, _denied(place, code, stored), f"{errno.errorcode[code]}, stored: {stored}")
    with broken.lock_to_read():
        row.controls["lock_to_read"] = bool(_denied(place, errno.EROFS, True))
    row.seconds = time.perf_counter() - started
    return row


def _denied(place: Path, code: int, stored: bool) -> list[Finding]:
    before, used = seen(place), {}
    calls = Calls(place / "runs", code=code, read_only=True)
    findings = attempt(lambda folder: used.update(train(folder, init_seed=0 if stored else 7)), place, calls)
    if list(used.values()) != [False] * stored:
        findings.append(("other", f"used: {used} {calls.failed}"))
    return findings + [("corrupt", "the store changed")] * (seen(place) != before)


def _order(folder: Path) -> Row:
    """What becomes visible was on disk before, and that it did is put there, too."""
    row = Row("power failure: order of flush and rename")
    started = time.perf_counter()
    names = ("publish", "keep a state", "train")
    for name in names:
        case = Case.of(by_name(name), folder / name)
        record(row, [("other", text) for text in unflushed(calls_of(case, folder / "work"))], name)
    for variant in UNORDERED:
        case = Case.of(by_name("publish"), folder / variant.__name__)
        with variant():
            row.controls[variant.__name__] = bool(unflushed(calls_of(case, folder / "work")))
    row.seconds = time.perf_counter() - started
    return row


def _jobs(size: Size, folder: Path) -> Row:
    """A sample of errors at the calls that a whole job makes, results and record included."""
    row = Row("such an error in a whole job, by the command line")
    started = time.perf_counter()
    import_all()
    whole = folder / "whole"
    note = folder / "calls.txt"
    got = typed(whole, disturb=lambda: _watched(Calls(whole / "runs", whole / "out"), note))
    assert got["code"] == 0, got
    due = tables(whole)
    made = note.read_text(encoding="utf-8").splitlines()
    chance = size.random("jobs")
    kinds = chance.sample(sorted(set(made)), size.pick(30, 2))  # of all writes into a figure one
    points = [(chance.choice([n for n, call in enumerate(made, 1) if call == kind]),
               chance.choice(errors_of((kind.split()[0], "", "")))) for kind in kinds]  # fmt: skip
    disturbed = partial(_job, folder, due, size.quick)
    for point, findings in zip(points, spread(disturbed, points), strict=True):
        record(row, findings, f"call {point[0]} {made[point[0] - 1]}, {errno.errorcode[point[1]]}")
    with replaced(sys.modules["hw1.measured"], write_table=_write_tables_with_errors):
        row.controls["an error as a traceback"] = bool(_job(folder, due, True, 0, (0, 0)))
    row.note = f"of {len(made)} calls, {len(set(made))} kinds"
    row.seconds = time.perf_counter() - started
    return row


def _write_tables_with_errors(*_: object) -> None:
    print("Traceback (most recent call last):", file=sys.stderr)


def _watched(calls: Calls, note: Path | None = None) -> Callable[[], None]:
    """Let calls go by `calls` from here on, until what is given is called: it writes their names into a file."""
    watching = contextlib.ExitStack()
    watching.enter_context(calls.watched())

    def end() -> None:
        watching.close()
        if note:
            note.write_text("\n".join(f"{name} {Path(path).name}" for name, path, _ in calls.made), encoding="utf-8")

    return end


def _job(folder: Path, due: dict[str, bytes], once: bool, worker: int, point: tuple[int, int]) -> list[Finding]:
    place = folder / f"work{worker}"
    shutil.rmtree(place, ignore_errors=True)
    calls = Calls(place / "runs", place / "out", fails=point[0], code=point[1])
    got = typed(place, disturb=lambda: _watched(calls))
    findings = wrong_output(got, point[1])
    store = Store(place / "runs")
    findings += [("corrupt", f"run {key}") for key in store.list() if not store.sound(key)]
    if got["code"] == 0 and tables(place) != due:
        findings.append(("corrupt", "exit code 0 with other tables"))
    if not once and not findings:
        got = typed(place)
        if got["code"] != 0 or tables(place) != due:
            findings.append(("lost", f"again: {got}"))
    return findings
