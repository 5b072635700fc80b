"""What is disturbed: everything the store does, each as one call that can be repeated, and what may be seen of it.

At every instant each run, state and file is as it was before the deed or as it is after it, and nothing between; what
was damaged before may be absent on the way.
"""

import hashlib
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from hw1 import files
from hw1.measured import Measured
from hw1.store import FILES, SUMS, Store

from .harness import Row, in_child

KEY, OTHER, THIRD = ("0123456789abcdef" * 2, "0123" + "f" * 28, "89ab" + "c" * 28)
DOTTED = {".tmp", ".locks", ".measured", ".drawn", ".partial", ".quarantine"}  # what the store's docstring names
TABLES = ("measured.json", "summary.csv")
OLD, NEW = b"state of step 3\n" * 400, b"state of step 7\n" * 600
Finding = tuple[str, str]  # what it counts as (lost, corrupt, duplicated, other), and a sentence
ABSENT, DAMAGED = "absent", "damaged"


def content_of(key: str) -> dict[str, bytes]:
    """The four files of a run that took no training."""
    lines = {name: f"{name} of {key}\n".encode() * 9 for name in FILES}
    lines[FILES[3]] *= 40  # several pages, for a disk that is full in the middle of it
    return lines | {"run.json": b'{"key": "%s", "nonce": "1"}\n' % key.encode()}


def write_run(key: str, folder: Path) -> None:
    """Write them."""
    for name, content in content_of(key).items():
        (folder / name).write_bytes(content)


def obtain(store: Store, key: str, trainings: Path) -> None:
    """What a job does for a run, with a training that is a line in a file."""
    if not store.sound(key):
        with store.lock(key):
            if not store.holds(key):
                with trainings.open("a", encoding="utf-8") as stream:
                    stream.write(f"{key}\n")
                store.publish(key, lambda folder: write_run(key, folder))


@dataclass(frozen=True)
class Deed:
    """One thing that is done in a folder: what is there before, the call, and whether it trains."""

    name: str
    before: Callable[[Path], None]
    act: Callable[[Path], Any]
    torch: bool = False

    def __str__(self) -> str:
        return self.name


def _store(folder: Path) -> Store:
    return Store(folder / "runs")


def _publish(folder: Path, *keys: str) -> None:
    for key in keys:
        _store(folder).publish(key, lambda scratch, key=key: write_run(key, scratch))  # type: ignore[misc]


def _damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def _damaged_run(folder: Path) -> None:
    _publish(folder, KEY, OTHER)
    _damage(_store(folder).path(KEY) / FILES[3])


def _old_state(folder: Path) -> None:
    _store(folder).keep_partial(KEY, lambda stream: stream.write(OLD))


def _damaged_state(folder: Path) -> None:
    _old_state(folder)
    _damage(_store(folder).folder / ".partial" / KEY)


def _left_behind(folder: Path) -> None:
    """What killed processes leave: scratch, a lease that nobody holds, the state of a training that has ended."""
    _publish(folder, KEY)
    store = _store(folder)
    for key in (KEY, OTHER):
        store.keep_partial(key, lambda stream: stream.write(OLD))
    for name in (f"{KEY}.aa", f"{OTHER}.removed.bb"):
        write_run(KEY, _made(store.folder / ".tmp" / name))
    (_made(store.folder / ".tmp") / f"{OTHER}.cc").write_bytes(OLD)
    (_made(store.folder / ".locks") / f"{KEY}.{2**22}-dd.use").write_text("a job that was killed", encoding="utf-8")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _old_tables(folder: Path) -> None:
    _write_tables(_made(folder / "job").parent, 3)


def _write_tables(folder: Path, rows: int = 5) -> None:
    files.write_json(folder / "job" / "result.json", {"status": "ok", "rows": rows})
    files.write_table(folder / "job" / "table.csv", pd.DataFrame({"x": range(rows), "name": ["=cmd()"] * rows}))


def _keep_tables(folder: Path) -> None:
    def write(scratch: Path) -> None:
        for name in TABLES:
            (scratch / name).write_bytes(f"{name}\n".encode() * 9)

    Measured(folder / "runs").publish(KEY, write)


def _remove(folder: Path) -> None:
    if KEY in _store(folder).list():
        _store(folder).remove(KEY)


def _take_up(folder: Path) -> None:
    if _store(folder).partial(KEY) != NEW:
        _store(folder).keep_partial(KEY, lambda stream: stream.write(NEW))


def _find(folder: Path) -> None:
    with _store(folder).lock(KEY):
        _store(folder).holds(KEY)


def _use(folder: Path) -> None:
    with _store(folder).lock(KEY), _store(folder).use(KEY, "a job"):
        _store(folder).verify(KEY)


def _nothing(folder: Path) -> None:
    _made(folder)


@lru_cache(maxsize=1)
def recipe() -> Any:
    """A recipe whose training takes 13 ms."""
    from hw1 import compose
    from hw1.recipe import Recipe

    words = ["steps=3", "replicas=2", "threads=1", "depth=1", "width=2", "dataset.points=60", "dataset.test_points=20"]
    with compose.open_composer(None) as composer:
        grid = composer.grid([*words, "dataset.validation=20", "batch_size=10"], False)
        return Recipe.from_config(composer.point(grid.points[0]).resolved, "cpu")


@lru_cache(maxsize=1)
def warm() -> None:
    """Let this process import and look up what a training needs, so that its children begin at once."""
    import tempfile

    import torch

    torch.set_num_threads(1)  # a process that has begun threads is not to be forked
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder))
        in_child(train, Path(folder))


def train(folder: Path, **changes: Any) -> dict[str, bool]:
    """A real training in `folder`, or its run from the store there; which keys were trained."""
    from dataclasses import replace

    from hw1.laboratory import Laboratory
    from hw1.machine import Machine

    laboratory = Laboratory(_store(folder), Machine("cpu", 1, folder))
    laboratory.run(replace(recipe(), **changes))
    return laboratory.used


def _damaged_training(folder: Path) -> None:
    ended = in_child(train, folder)
    assert not ended.error, ended
    (key,) = ended.value
    _damage(_store(folder).path(key) / FILES[2])


DEEDS = (
    Deed("publish", lambda folder: _publish(folder, OTHER), lambda f: obtain(_store(f), KEY, f / "trainings")),
    Deed("publish in place of a damaged run", _damaged_run, lambda f: obtain(_store(f), KEY, f / "trainings")),
    Deed("keep tables", lambda folder: _publish(folder, KEY), _keep_tables),
    Deed("remove", lambda folder: _publish(folder, KEY, OTHER), _remove),
    Deed("find", lambda folder: _publish(folder, KEY), _find),
    Deed("use", lambda folder: _publish(folder, KEY), _use),
    Deed("keep a state", _old_state, lambda f: _store(f).keep_partial(KEY, lambda stream: stream.write(NEW))),
    Deed("go on from a damaged state", _damaged_state, _take_up),
    Deed("drop a state", _old_state, lambda f: _store(f).drop_partial(KEY)),
    Deed("clean", _left_behind, lambda f: _store(f).clean()),
    Deed("write tables", _old_tables, _write_tables),
    Deed("train", _nothing, train, torch=True),
    Deed("train in place of a damaged run", _damaged_training, train, torch=True),
)  # fmt: skip


# ---- what is seen of it ----


def seen(folder: Path) -> Counter[tuple[str, str]]:
    """Everything that a reader may believe, by name and state, read without the code under test."""
    found: list[tuple[str, str]] = []
    runs = folder / "runs"
    for entry in sorted(runs.iterdir()) if runs.exists() else []:
        if entry.name not in DOTTED:
            found.append((f"run {entry.name}", run_state(entry)))
    found += [(f"tables {entry.name}", run_state(entry, TABLES)) for entry in (runs / ".measured").glob("*")]
    for state in sorted((runs / ".partial").glob("*")):
        digest, _, content = state.read_bytes().partition(b"\n")
        whole = hashlib.sha256(f"{state.name}\n".encode() + content).hexdigest().encode() == digest
        found.append((f"state {state.name}", _digest([content]) if whole else DAMAGED))
    for file in sorted((folder / "job").glob("[!.]*")):
        found.append((file.name, _digest([file.read_bytes()])))
    aside = runs / ".quarantine"
    found += [(f"set aside {name.name.partition('.')[0]}", "") for name in (aside.iterdir() if aside.exists() else ())]
    return Counter(found)


def run_state(folder: Path, files: Sequence[str] = FILES) -> str:
    """A digest of a whole run (not of when it was made), or DAMAGED."""
    names = sorted(entry.name for entry in folder.iterdir())
    if names != sorted([*files, SUMS]) or not all((folder / name).is_file() for name in names):
        return DAMAGED
    contents = {name: (folder / name).read_bytes() for name in names}
    lines = "".join(f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in files)
    if contents[SUMS].decode("utf-8", "replace") != lines:
        return DAMAGED
    return _digest(contents[name] for name in files if name != "run.json")


def _digest(parts: Iterable[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


@dataclass(frozen=True)
class Case:
    """A deed with the folder as it is before, and what is seen before and after it, undisturbed."""

    deed: Deed
    template: Path
    before: Counter[tuple[str, str]]
    after: Counter[tuple[str, str]]
    trained: int

    @classmethod
    def of(cls, deed: Deed, folder: Path) -> "Case":
        """Prepare a deed in `folder`; nothing is disturbed here."""
        if deed.torch:
            warm()
        template, done = folder / "before", folder / "after"
        deed.before(_made(template))
        shutil.copytree(template, done)
        ended = in_child(quietly, deed.act, done)
        if ended.error:
            raise AssertionError(f"{deed}, undisturbed: {ended.error}\n{ended.trace}")
        return cls(deed, template, seen(template), seen(done), trainings(done))

    def start(self, folder: Path) -> Path:
        """A fresh copy of what is there before."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.template, folder)
        return folder

    def judge_instant(self, folder: Path) -> list[Finding]:
        """What a reader may not see after the deed was cut short."""
        now, findings = seen(folder), []
        for name in sorted({name for name, _ in now | self.before | self.after}):
            states = [_states(view, name) for view in (now, self.before, self.after)]
            allowed = states[1:] + [[]] * (DAMAGED in states[1])
            if states[0] not in allowed:
                kind = "lost" if not states[0] else "corrupt"
                findings.append((kind, f"{name} is {states[0] or ABSENT}, where {allowed} may be seen"))
        return findings

    def judge_end(self, folder: Path) -> list[Finding]:
        """What is not as it would have been undisturbed, after the deed was repeated."""
        findings, now = [], seen(folder)
        for name in sorted({name for name, _ in now | self.after}):
            got, due = _states(now, name), _states(self.after, name)
            if got != due:
                findings.append(
                    ("corrupt" if got else "lost", f"{name} ends as {got or ABSENT}, not as {due or ABSENT}")
                )
        store = _store(folder)
        for key in store.list():
            try:
                store.verify(key)
            except Exception as error:
                findings.append(("corrupt", f"verify: {error}"))
        return findings + leftovers(folder)


def _states(view: Counter[tuple[str, str]], name: str) -> list[str]:
    return sorted(state for (other, state), number in view.items() if other == name for _ in range(number))


def trainings(folder: Path) -> int:
    """How often a run was trained in a folder."""
    file = folder / "trainings"
    return len(file.read_text(encoding="utf-8").splitlines()) if file.exists() else 0


def leftovers(folder: Path) -> list[Finding]:
    """What is there that no page names, and what `clean` leaves of what killed processes left."""
    store, findings = _store(folder), []
    if store.folder.exists():
        odd = {entry.name for entry in store.folder.iterdir()} - DOTTED - set(store.list())
        findings += [("other", f"left in the store: {name}") for name in sorted(odd)]
        store.clean()
        left = [*store.folder.glob(".tmp/*"), *store.folder.glob(".locks/*.use")]
        findings += [("other", f"left after clean: {path.relative_to(folder)}") for path in left]
    files.clear_scratch(folder / "job")  # as the next start of a job does
    findings += [("other", f"left in the job's folder: {file.name}") for file in (folder / "job").glob(".*")]
    return findings


def quietly(act: Callable[[Path], Any], folder: Path) -> None:
    """A deed without what it logs, and without what it gives."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        act(folder)
    finally:
        logging.disable(level)


def again(case: Case, folder: Path) -> list[Finding]:
    """Do a deed again in this process, which knows nothing of the one before, and look."""
    then, trained = seen(folder), trainings(folder)
    findings: list[Finding] = []
    try:
        quietly(case.deed.act, folder)
    except Exception as error:
        findings.append(("other", f"again: {type(error).__name__}: {error}"))
    if then == case.after and trainings(folder) > trained:
        findings.append(("duplicated", "trained again, though the run was there"))
    return findings + case.judge_end(folder)


def record(row: Row, findings: Iterable[Finding], how: str) -> None:
    """Count one disturbed deed in a row."""
    row.injected += 1
    kinds = Counter(kind for kind, _ in findings)
    row.survived += not kinds
    row.lost += kinds["lost"]
    row.corrupt += kinds["corrupt"]
    row.duplicated += kinds["duplicated"]
    row.problems += [f"{how}: {kind}: {text}" for kind, text in findings]
