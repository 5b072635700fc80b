"""Random damage to every file of a run and of a training's state, and files that cannot be read now."""

import contextlib
import errno
import logging
import os
import random
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hw1.errors import UserError
from hw1.store import FILES, SUMS, Store

from . import broken
from .deeds import KEY, NEW, OLD, OTHER, Case, Finding, leftovers, record, run_state, seen, train
from .harness import Row, Size, spread
from .lines import by_name
from .oscalls import READS, Calls

RUN = (*FILES, SUMS)
RUN_CONTROLS = (broken.no_checksum, broken.sums_unchecked)


def check(size: Size, folder: Path) -> list[Row]:
    """A run: named, set aside, trained again to the same bits. A state: named, and the training begins anew."""
    case = Case.of(by_name("train"), folder / "run")
    whole = folder / "run" / "after"
    return [_runs(size, whole, folder), _states(size, folder), _unreadable(whole, case)]


# ---- damages ----


def truncated(file: Path, chance: random.Random) -> None:
    """Some bytes at the end are gone."""
    os.truncate(file, chance.randrange(file.stat().st_size))


def emptied(file: Path, chance: random.Random) -> None:
    """All bytes are gone."""
    os.truncate(file, 0)


def flipped(file: Path, chance: random.Random) -> None:
    """One bit is another."""
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def removed(file: Path, chance: random.Random) -> None:
    """The file is gone."""
    file.unlink()


def appended(file: Path, chance: random.Random) -> None:
    """There are more bytes."""
    with file.open("ab") as stream:
        stream.write(chance.choice([b"\n", b"\0", chance.randbytes(40)]))


def zeroed(file: Path, chance: random.Random) -> None:
    """A stretch reads as zeros, as after a power failure."""
    content = file.read_bytes()
    start = chance.randrange(len(content))
    file.write_bytes((content[:start] + bytes(len(content)))[: len(content)])


def made_a_folder(file: Path, chance: random.Random) -> None:
    """A folder stands in its place."""
    file.unlink()
    file.mkdir()


def swapped(file: Path, chance: random.Random) -> None:
    """It has changed places with another one."""
    other = chance.choice([path for path in sorted(file.parent.iterdir()) if path != file and path.is_file()])
    aside = file.with_name("aside")
    file.rename(aside)
    other.rename(file)
    aside.rename(other)


DAMAGES = (truncated, emptied, flipped, removed, appended, zeroed, made_a_folder, swapped)


def inflict(file: Path, number: int, size: Size) -> str:
    """Damage a file by the n-th damage; which it was. It is another file afterwards."""
    how = DAMAGES[number % len(DAMAGES)]
    before = contents_of(file)
    for attempt in range(20):  # a stretch that was zeros before is no damage
        how(file, size.random("damage", number, attempt))
        if contents_of(file) != before:
            break
    return how.__name__.replace("_", " ")


def contents_of(file: Path) -> bytes | None:
    """A file's bytes; None if there is no file."""
    return file.read_bytes() if file.is_file() else None


# ---- runs ----


def _runs(size: Size, whole: Path, folder: Path) -> Row:
    row = Row("damaged files of a run")
    started = time.perf_counter()
    numbers = list(range(size.pick(600, 64)))
    for number, findings in zip(numbers, spread(partial(_damaged_run, size, whole, folder), numbers), strict=True):
        record(row, findings, f"damage {number}")
    clean = sum(not Store(whole / "runs").sound(key) for _ in range(50) for key in Store(whole / "runs").list())
    row.problems += [f"a whole run was called damaged {clean} times"] * bool(clean)
    for variant in RUN_CONTROLS:
        with variant():
            tried = range(len(DAMAGES) * len(RUN))
            row.controls[variant.__name__] = any(_damaged_run(size, whole, folder, 0, number) for number in tried)
    row.note = f"{len(DAMAGES)} kinds, {len(RUN)} files; trained again"
    row.seconds = time.perf_counter() - started
    return row


def _damaged_run(size: Size, whole: Path, folder: Path, worker: int, number: int) -> list[Finding]:
    place = _fresh(whole, folder / f"work{worker}")
    (key,) = Store(place / "runs").list()
    name = RUN[number // len(DAMAGES) % len(RUN)]
    how = inflict(Store(place / "runs").path(key) / name, number, size)
    findings: list[Finding] = []
    used: dict[str, bool] = {}
    with logged() as messages:
        try:
            used = train(place)
        except Exception as error:
            findings.append(("other", f"{name} {how}: {type(error).__name__}: {error}"))
    if False in used.values():
        findings.append(("corrupt", f"{name} {how}: believed"))
    if not any(str(place / "runs" / key) in text and "set aside" in text for text in messages):
        findings.append(("other", f"{name} {how}: not said, or what was damaged is not named: {messages}"))
    if name != SUMS and how != "swapped" and not any(name in text for text in messages):
        findings.append(("other", f"{name} {how}: the file is not named: {messages}"))
    if run_state(place / "runs" / key) != run_state(whole / "runs" / key):
        findings.append(("corrupt", f"{name} {how}: trained again to something else"))
    if len(list((place / "runs" / ".quarantine").glob("*"))) != 1:
        findings.append(("other", f"{name} {how}: not one run was set aside"))
    return findings + leftovers(place)


def _fresh(whole: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    return place


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """What is warned of in a block."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger, level = logging.getLogger("hw1"), logging.root.manager.disable
    logging.disable(logging.NOTSET)
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logging.disable(level)


# ---- states ----


def _states(size: Size, folder: Path) -> Row:
    row = Row("damaged states of a training")
    started = time.perf_counter()
    for number in range(size.pick(200, 24)):
        record(row, _damaged_state(size, folder / "state", number), f"damage {number}")
    with broken.state_unchecked():
        caught = any(_damaged_state(size, folder / "state", number) for number in range(len(DAMAGES)))
        row.controls["state_unchecked"] = caught
    row.note = f"{len(DAMAGES)} kinds; the training begins anew"
    row.seconds = time.perf_counter() - started
    return row


def _damaged_state(size: Size, place: Path, number: int) -> list[Finding]:
    shutil.rmtree(place, ignore_errors=True)
    store = Store(place / "runs")
    for key, content in ((KEY, OLD), (OTHER, NEW)):
        store.keep_partial(key, lambda stream, content=content: stream.write(content))  # type: ignore[misc]
    assert (store.partial(KEY), store.partial(OTHER)) == (OLD, NEW)
    file = store.folder / ".partial" / KEY
    how = inflict(file, number, size)
    findings: list[Finding] = []
    with logged() as messages:
        found = store.partial(KEY)
    if found is not None:
        findings.append(("corrupt", f"{how}: believed"))
    if not messages and how != "removed":
        findings.append(("other", f"{how}: not said"))
    if any(str(file) not in text for text in messages):
        findings.append(("other", f"{how}: the file is not named: {messages}"))
    if file.exists():
        findings.append(("other", f"{how}: still there"))
    if how != "swapped" and store.partial(OTHER) != NEW:
        findings.append(("lost", f"{how}: another training's state"))
    store.keep_partial(KEY, lambda stream: stream.write(NEW))
    if store.partial(KEY) != NEW:
        findings.append(("lost", f"{how}: the next state"))
    return findings


# ---- what cannot be read now ----


def _unreadable(whole: Path, case: Case) -> Row:
    """Every reading call of a job that finds its run: what cannot be read now is said, and left alone."""
    row = Row("files that cannot be read now")
    started = time.perf_counter()
    codes = (errno.EIO, errno.EACCES, errno.ESTALE, errno.ENFILE)
    with Calls(whole / "runs").watched() as calls:
        train(whole)
    points = [(n, code) for n, call in enumerate(calls.made, 1) for code in codes if call[0] in READS]
    for point in points:
        record(row, _cannot_read(whole, *point), f"call {point[0]} {calls.made[point[0] - 1]}, {point[1]}")
    with broken.unreadable_is_damaged():
        work = _fresh(whole, whole.with_name("control"))
        row.controls["unreadable_is_damaged"] = any(_cannot_read(work, *point) for point in points)
    row.note = f"{len(points)} reads; nothing is set aside"
    row.seconds = time.perf_counter() - started
    return row


def _cannot_read(place: Path, number: int, code: int) -> list[Finding]:
    before, findings = seen(place), []
    calls = Calls(place / "runs", fails=number, code=code)
    used: dict[str, bool] = {}
    try:
        with logged(), calls.watched():
            used = train(place)
    except UserError as error:
        if os.strerror(code) not in str(error) or "\n" in str(error):
            findings.append(("other", f"says {error}"))
    if True in used.values():
        findings.append(("duplicated", f"trained again, {calls.failed}"))
    if seen(place) != before:
        findings.append(("lost", f"what was there is not as it was, {calls.failed}"))
    return findings
