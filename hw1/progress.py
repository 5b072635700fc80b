"""What a job says of itself: files in its folder that others read while it runs and after it, and words for them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hw1.files import write_json
from hw1.watcher import Progress as TrainingProgress
from hw1.watcher import Watcher

PROGRESS = ".progress.json"
RESULT = "result.json"
PLAN = "sweep.json"


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


class Reporter(Watcher):
    """A training's watcher that writes progress into the job's folder and a line per epoch to a log."""

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
