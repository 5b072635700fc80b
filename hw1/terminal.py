"""What a person sees while jobs run: one live line per running job.

A job writes where it is into its folder; the process at the terminal reads these files. So the display is one, whether
jobs run in this process, in others, or on other machines that share the folder.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from hw1.progress import PROGRESS, RESULT, duration, read_json

POLL_SECONDS = 0.25


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
