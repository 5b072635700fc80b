"""`python -m benchmarks`: run the rows, print the table, say what is not as it should be."""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hw1 import machine, packed_mnist
from hw1.launchers import cores
from hw1.machine import environment

from . import commands, rows, scaling, usual
from .timing import Row

WAYS = ("usual", "usual, 2 workers", "limit", "limit, by hand", "8 runs", "scikit-learn")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 if every row is as wanted, else 1."""
    arguments = _parser().parse_args(argv)
    device = torch.device(machine.resolve_device(arguments.device))
    packed_mnist.read(arguments.data_dir)
    machine.set_up_process(cores())
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # as in a job
    start, console, done = time.monotonic(), Console(width=None if sys.stdout.isatty() else 150), []
    with usual.elsewhere() as run:
        run(usual.warm_up, arguments.data_dir)
        setting = rows.Setting(arguments.data_dir, device, run, arguments.whole)
        every = [*rows.all_rows(setting), *scaling.all_rows(setting), *commands.all_rows(setting)]
        for row in every:
            if all(word in _name(row) for word in arguments.words):
                console.print(Text(_name(row), style="dim"), end=" ")
                began, found = time.monotonic(), row()
                console.print(Text(f"{time.monotonic() - began:.0f} s", style="dim"))
                done += found if isinstance(found, list) else [found]
    done += [_gpu(arguments.words)] if device.type != "cuda" else []
    console.print(_table(done))
    here = environment(machine.Machine(str(device), cores(), arguments.data_dir))
    console.print(f"{here['device_name']}, {cores()} cores, {platform.system()}, Python {platform.python_version()}, "
                  f"torch {torch.__version__}; {time.monotonic() - start:.0f} s")  # fmt: skip
    missed = [row.name for row in done if not row.skipped and not row.met]
    console.print(f"not as wanted: {'; '.join(missed)}" if missed else "every row is as wanted")
    if arguments.save:
        _frame(done).to_csv(arguments.save, index=False)
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Speed as ratios, measured in turn.")
    parser.add_argument("words", nargs="*", help="run the rows with all of these words in their names")
    parser.add_argument("--whole", action="store_true", help="the main job with all of its images, not a sixth")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write a CSV")
    parser.add_argument("--device", default="auto", help="where ours runs: auto, cpu, cuda")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of data sets")
    return parser


def _name(row: Callable[[], object]) -> str:
    part = row if isinstance(row, partial) else partial(row)
    words = [str(value) for value in part.args if isinstance(value, str | int)]
    return " ".join([part.func.__name__.strip("_"), *words])


def _gpu(words: Sequence[str]) -> Row:
    """A GPU runs the same rows, with `--device cuda`: data, replicas and captured steps there."""
    return Row("rows on a GPU", skipped="there is no CUDA device; with one: python -m benchmarks --device cuda")


def _table(done: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for head in ("", "ours", *WAYS, "wanted", ""):
        table.add_column(head, overflow="fold")
    for row in done:
        ours = f"{_middle(row):.3g} s a {row.unit}" if row.seconds and row.value is None else ""
        if row.value is not None:
            ours = f"{row.value:.3g} {row.unit if row.unit in ('s', 'exponent') else ''}"
        cells = [_ratio(row, way) if way in row.seconds else "" for way in WAYS]
        wanted = [f"{way} {least:g}" for way, least in row.wanted.items()] + ([f"≤ {row.most:g}"] if row.most else [])
        mark = "–" if row.skipped else "yes" if row.met else "NO"
        name = f"{row.name}\n  {row.skipped or row.words}" if row.skipped or row.words else row.name
        table.add_row(*(Text(cell) for cell in (name, ours, *cells, ", ".join(wanted), mark)))
    return table


def _middle(row: Row) -> float:
    seconds = sorted(row.seconds["ours"])
    return seconds[len(seconds) // 2]


def _ratio(row: Row, way: str) -> str:
    median, low, high = row.ratio(way)
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"


def _frame(done: Sequence[Row]) -> pd.DataFrame:
    lines = []
    for row in done:
        for way in [way for way in WAYS if way in row.seconds] or [""]:
            ratio = row.ratio(way) if way else (None, None, None)
            names = ("ratio", "ratio_25", "ratio_75")
            lines.append(
                {"row": row.name, "against": way, **dict(zip(names, ratio, strict=True)), "wanted": row.wanted.get(way),
                 "value": row.value, "most": row.most, "unit": row.unit,
                 "seconds": _middle(row) if row.seconds and row.value is None else None,
                 "met": None if row.skipped else row.met, "note": row.skipped or row.words}
            )  # fmt: skip
    return pd.DataFrame(lines)


if __name__ == "__main__":
    sys.exit(main())
