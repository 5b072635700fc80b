"""What a person sees while jobs run: one live line per running job.

A job writes where it is into its folder; the process at the terminal reads these files. So the display is one, whether
jobs run in this process, in others, or on other machines that share the folder.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from hw1.files import write_json
from hw1.watcher import Progress as TrainingProgress
from hw1.watcher import Watcher

PROGRESS = ".progress.json"
RESULT = "result.json"
PLAN = "sweep.json"
POLL_SECONDS = 0.25


def duration(seconds: float) -> str:
    """`8 s`, `2 min 05 s` or `1 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def shown(folder: Path) -> str:
    """A folder as a person would type it: relative to where they are, if it lies below."""
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object that another process may be replacing; {} if it is not there or not whole."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _names(folder: Path) -> set[str]:
    """What is in a folder; nothing if it is not there, or cannot be read now."""
    try:
        return set(os.listdir(folder))  # noqa: PTH208 (three times as fast)
    except OSError:
        return set()


class _Name(ProgressColumn):
    """The job's name, the end of a long one left out."""

    def render(self, task: Task) -> Text:
        name = task.description
        return Text(name if len(name) <= 40 else name[:39] + "…")


class _Words(ProgressColumn):
    """What the job says, as much as fits into the line."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["words"], no_wrap=True, overflow="ellipsis")


class _Left(ProgressColumn):
    """Time left, by the share that is done since this display first saw the job."""

    def render(self, task: Task) -> Text:
        done, elapsed = task.percentage / 100, task.elapsed or 0.0
        if task.finished:
            return Text("")
        return Text(f"{duration(elapsed / done * (1 - done))} left" if done > 0 and elapsed > 1 else "", style="cyan")


class Display:
    """Watches the folders of jobs from a thread of its own, for the duration of a `with` block.

    On a terminal: a bar per running job. Elsewhere: one line per job as it ends.

    Args:
        jobs: folder → name of each job.
    """

    def __init__(self, jobs: Mapping[Path, str], console: Console) -> None:
        self.jobs, self.console = dict(jobs), console
        self.ended = 0
        self.left: dict[Path, dict[str, Path]] = {}  # not known to have ended, by place and name
        for folder in self.jobs:
            self.left.setdefault(folder.parent, {})[folder.name] = folder
        self.tasks: dict[Path, TaskID] = {}
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.progress = Progress(
            _Name(table_column=Column(no_wrap=True)),
            BarColumn(bar_width=12, table_column=Column(no_wrap=True, min_width=12)),
            _Left(table_column=Column(no_wrap=True)),
            _Words(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Display":
        if self.console.is_terminal:  # elsewhere some versions of rich print an empty line
            self.progress.start()
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop.set()
        self.thread.join()
        self._look()
        if self.console.is_terminal:
            self.progress.stop()

    def _watch(self) -> None:
        while not self.stop.wait(POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        for folder in self._begun():
            name, result = self.jobs[folder], read_json(folder / RESULT)
            if result.get("status") == "running":
                self._show(folder, name, read_json(folder / PROGRESS))
            elif result:
                self._end(folder, name, result)

    def _begun(self) -> list[Path]:
        """Folders that are there, of jobs that are not known to have ended.

        Most jobs of a long sweep have none as yet: a listing of the sweep's folder tells, not a look into each.
        """
        begun = []
        for place, folders in self.left.items():
            there = _names(place)
            begun += [folder for name, folder in folders.items() if name in there]
        return begun

    def _show(self, folder: Path, name: str, state: dict[str, Any]) -> None:
        if folder not in self.tasks:
            self.tasks[folder] = self.progress.add_task(name, total=1.0, words="starting")
        if state:
            self.progress.update(self.tasks[folder], completed=state["done"], words=state["words"])

    def _end(self, folder: Path, name: str, result: dict[str, Any]) -> None:
        self.ended += 1
        del self.left[folder.parent][folder.name]
        if folder in self.tasks:
            self.progress.remove_task(self.tasks.pop(folder))
        if len(self.jobs) == 1:
            return
        runs: Sequence[dict[str, Any]] = list(result.get("runs", {}).values())
        networks = "; ".join(dict.fromkeys(run["network"] for run in runs))
        stored = " (trained before)" if runs and not any(run["trained"] for run in runs) else ""
        how = result["status"] + (f": {result['error']}" if result.get("error") else stored)
        place = f"[{self.ended}/{len(self.jobs)}]"
        line = f"{place} {name}  {how}  {duration(result.get('wall_seconds', 0))}" + (
            f"  {networks}" if networks else ""
        )
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class Reporter(Watcher):
    """The other end: a training's watcher that writes progress into the job's folder and a line per epoch to a log."""

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        self.file, self.log, self.done = folder / PROGRESS, log, 0.0
        self.run, self.of_runs = 0, 1  # the run that is asked for now, of those that the job needs

    def progress(self, progress: TrainingProgress) -> None:
        """Write it where the display looks."""
        words = f"network {self.run + 1}/{self.of_runs}, " if self.of_runs > 1 else ""
        words += f"epoch {progress.epoch:.1f}/{progress.epochs:g}"
        for name, label in (("train_loss", "loss"), ("validation_accuracy", "accuracy"), ("validation_r2", "R²")):
            if name in progress.row:
                words += f", {label} {progress.row[name]:.4f}"
        words += f", {progress.examples_per_second:,.0f} examples/s"
        if progress.of_replicas > len(progress.replicas):
            words += f", replica {', '.join(str(r + 1) for r in progress.replicas)} of {progress.of_replicas}"
        self.done = (self.run + progress.done) / self.of_runs
        write_json(self.file, {"done": self.done, "words": words})

    def stage(self, words: str) -> None:
        """Say what comes next, in the log and where the display looks."""
        self.log(words)
        write_json(self.file, {"done": self.done, "words": words})

    def row(self, row: dict[str, Any]) -> None:
        """Write it into the log."""
        numbers = [f"{name} {value:.5g}" for name, value in row.items() if isinstance(value, float) and name != "epoch"]
        head = f"replica {row['replica']}, epoch {row['epoch']:g}, step {row['step']}"
        self.log(f"{head}: {', '.join(numbers)}, {row['status']}")
