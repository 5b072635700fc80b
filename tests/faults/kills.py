"""SIGKILL at random instants of trainings and sweeps (launchers basic and joblib, real torch), each then gone on with.

Killed are the process that was started, one that works for it, or all of them. Demanded: the next command ends with
exit code 0; tables, weights and histories are those of an undisturbed sweep, byte for byte; jobs and runs that were
finished before the kill are as they were; the store verifies; no process and no file is left but what the docs name.
"""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from . import harness
from .harness import Row, Size

TRAINING = ["experiment=bare", "model.dropout=0.2", "steps=300", "batch_size=32", "replicas=2", "vectorize=false",
            "dataset.points=400", "threads=1", "checkpoint.minutes=0.0002"]  # fmt: skip
CONFIG = """# @package _global_
defaults:
  - override /dataset: function
  - override /model: mlp
  - override /loss: mse
experiment:
  _target_: faults.bare.Bare
allow_targets: [faults.bare]
depth: 2
budget: 300
"""
NAMED = (".lock", ".hydra", ".slots")  # in folders of results; the docs name them
PATIENCE = 60.0  # seconds that a start may take
TRAINS = 0.3  # seconds in which one is surely in training still
AGAIN = 3  # commands until one ends with 0; more than one counts as a problem


@dataclass(frozen=True)
class Kind:
    """What is started, what goes on with it, and who is killed."""

    name: str
    words: list[str]
    again: list[str]
    killed: tuple[str, ...]


def _kinds(conf: Path) -> list[Kind]:
    given = ["--config-dir", str(conf), *TRAINING]
    sweep = [*given, "-m", "seed=0,1,2", "hydra.sweep.dir=out"]
    again = ["resume=out"]
    job = [*given, "hydra.run.dir=out"]
    return [
        Kind("a training", job, job, ("all",)),
        Kind("a sweep, basic launcher", [*sweep, "hydra/launcher=basic"], again, ("all",)),
        Kind("a sweep, joblib, two workers", [*sweep, "jobs=2"], again, ("all", "parent", "worker")),
    ]


def check(size: Size, folder: Path) -> list[Row]:
    """A row for each kind of start."""
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "experiment" / "bare.yaml").write_text(CONFIG, encoding="utf-8")
    rows = []
    for kind, full, quick in zip(_kinds(folder / "conf"), (130, 60, 30), (3, 1, 0), strict=True):
        if size.pick(full, quick):
            place = folder / kind.name.replace(" ", "_")
            rows.append(_row(kind, size.pick(full, quick), size, place))
    rows[0].controls = _controls(_kinds(folder / "conf"), size, folder)
    return rows


def _row(kind: Kind, kills: int, size: Size, folder: Path) -> Row:
    row = Row(f"SIGKILL at a random instant of {kind.name}")
    began = time.monotonic()
    wanted, seconds = _undisturbed(kind, folder / "whole")

    def one(worker: int, number: int) -> dict[str, Any]:
        place = folder / str(number)
        trial = _trial(kind, size.random(kind.name, number), seconds, place)
        trial.problems += _differences(wanted, place)
        shutil.rmtree(place, ignore_errors=True)
        return vars(trial)

    for number, values in enumerate(harness.spread(one, range(kills), timeout=7200)):
        trial = Trial(**values)
        row.injected += trial.hit
        row.lost += trial.lost
        row.duplicated += trial.duplicated
        row.corrupt += bool(trial.problems)
        row.survived += trial.hit and not (trial.problems or trial.lost or trial.duplicated)
        row.problems += [f"kill {number}: {problem}" for problem in trial.problems[:3]]
    row.note = f"undisturbed {seconds:.1f} s; {kills - row.injected} came too late to kill"
    row.seconds = time.monotonic() - began
    return row


def _undisturbed(kind: Kind, folder: Path) -> tuple[dict[str, bytes], float]:
    """What it comes to, and how long it takes."""
    began = time.monotonic()
    done = harness.command_line(kind.words, folder, _search)
    assert done["code"] == 0, done
    return _results(folder), time.monotonic() - began


@dataclass
class Trial:
    """What came of one kill."""

    hit: bool  # whether there was still something to kill
    lost: int
    duplicated: int
    problems: list[str]


def _trial(kind: Kind, random: Random, seconds: float, folder: Path, once: str = "") -> Trial:
    """Start, kill within some seconds, go on; `once`: counted from when there is a file of this pattern."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryFile() as out:
        child = harness.start(harness._typed, kind.words, folder, (out.fileno(), out.fileno()), _alone)
        late = time.monotonic() + PATIENCE
        while once and not any(folder.glob(once)) and time.monotonic() < late:
            time.sleep(0.002)
        time.sleep(random.uniform(0, seconds))
        hit = _kill(child[0], random.choice(kind.killed), folder)
        harness.finish(child)
    before = _finished(folder)
    problems = _still_there(child[0])
    words = kind.again if (folder / "out" / "sweep.json").exists() else kind.words  # killed before it had a plan
    for attempt in range(AGAIN):
        done = harness.command_line(words, folder, _search)
        if done["code"] == 0:
            break
        problems.append(f"command {attempt + 1} after it: exit code {done['code']}: {done['err'][-300:]}")
    after = _finished(folder)
    lost = sum(name not in after for name in before)
    duplicated = sum(name in after and after[name] != content for name, content in before.items())
    return Trial(hit, lost, duplicated, problems)


def _search() -> None:
    """Let workers find this package, too."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
    os.environ["OMP_NUM_THREADS"] = "1"


def _alone() -> None:
    os.setsid()
    _search()


def _kill(process: int, whom: str, folder: Path) -> bool:
    """Whether somebody was there to be killed."""
    import psutil

    try:
        workers = psutil.Process(process).children(recursive=True)
        alive = psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    if whom == "worker" and workers:
        victims = [workers[0].pid]
    elif whom == "parent":
        victims = [process]
    else:
        victims = [process, *(worker.pid for worker in workers)]
    for victim in victims:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return alive


def _still_there(session: int) -> list[str]:
    """Processes of a session that go on although the one that began it is gone."""
    import psutil

    late = time.monotonic() + 20
    while True:
        left = []
        for process in psutil.process_iter(["status", "cmdline"]):
            with contextlib.suppress(ProcessLookupError, psutil.Error):
                if os.getsid(process.pid) == session and process.info["status"] != psutil.STATUS_ZOMBIE:
                    left.append(f"still there: {' '.join(process.info['cmdline'])[-80:]}")
        if not left or time.monotonic() > late:
            return left
        time.sleep(0.1)


def _finished(folder: Path) -> dict[str, bytes]:
    """Jobs and runs that are done, each with something that says by whom."""
    from hw1.terminal import read_json

    jobs = {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("out/**/result.json")
            if read_json(file).get("status") == "ok"}  # fmt: skip
    runs = {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("runs/[0-9a-f]*/run.json")}
    return runs if (folder / "out" / "result.json").exists() else jobs | runs


def _results(folder: Path) -> dict[str, bytes]:
    """All that must be the same whatever happened on the way."""
    tables = {str(file.relative_to(folder)): file.read_bytes() for file in folder.glob("out/**/*.csv")}
    names = ("weights.safetensors", "history.csv", "recipe.yaml")
    runs = {f"{key.name}/{name}": (key / name).read_bytes() for key in folder.glob("runs/[0-9a-f]*") for name in names}
    return tables | runs


def _differences(wanted: dict[str, bytes], folder: Path) -> list[str]:
    from hw1 import drawn
    from hw1.measured import Measured
    from hw1.store import Damaged, Store

    found = _results(folder)
    problems = [f"{name} is missing" for name in sorted(set(wanted) - set(found))]
    problems += [f"{name} should not be there" for name in sorted(set(found) - set(wanted))]
    problems += [f"{name} differs" for name in sorted(wanted) if name in found and found[name] != wanted[name]]
    stores = Store(folder / "runs"), Measured(folder / "runs")
    for store in stores:
        for key in store.list():
            try:
                store.verify(key)
            except Damaged as damage:
                problems.append(str(damage))
    stores[0].clean()
    drawn.clean(folder / "runs")
    there = (".measured", drawn.PLACE)
    left = [file for file in folder.glob("runs/.*/*") if file.suffix != ".lock" and file.parent.name not in there]
    left += (folder / "runs" / drawn.PLACE).glob(".*")
    left += [file for file in folder.glob("out/**/.*") if not any(part in NAMED for part in file.parts)]
    return problems + [f"left behind: {file.relative_to(folder)}" for file in left]


def _controls(kinds: Sequence[Kind], size: Size, folder: Path) -> dict[str, bool]:
    """Variants with something missing, which some of a few kills must show."""
    from hw1 import launchers, session, sweep

    restore, write_plan = session.Session.restore, sweep.write_plan

    def forgetful(one: Any, kept: Any) -> None:
        restore(one, kept)
        one.optimizer.state.clear()

    def anew(planned: Any, words: Any, resumed: bool = False) -> None:
        write_plan(planned, words, resumed=False)

    def shows(kind: Kind, name: str, owner: Any, once: str = "", **values: Callable[..., Any]) -> bool:
        wanted, seconds = _undisturbed(kind, folder / name / "whole")
        with harness.replaced(owner, **values):
            for number in range(12):
                place = folder / name / str(number)
                trial = _trial(kind, size.random(name, number), TRAINS if once else seconds, place, once)
                if trial.lost or trial.duplicated or trial.problems or _differences(wanted, place):
                    return True
        return False

    kept = "runs/.partial/*"  # most of a training's seconds go before its first step
    found = {
        "goes on without the optimizer's state": shows(kinds[0], "forgetful", session.Session, kept, restore=forgetful),
        "resume that begins anew": shows(kinds[1], "anew", sweep, write_plan=anew),
    }
    if not size.quick:
        orphaned = replace(kinds[2], killed=("parent",))
        found["workers that outlive their sweep"] = shows(
            orphaned, "orphans", launchers, _joblib=contextlib.nullcontext
        )
    return found
