"""`python -m tests.faults`: run the fault checks and print what came of them as a table."""

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: what is forked must not have begun other threads

from . import harness
from .harness import SEED, Row, Size

HEADS = ("injected", "times", "survived", "lost", "corrupt", "duplicated", "broken variants caught", "measured", "s")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; what it returns is the exit code: 0, or 1 if something was not as demanded."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.name) - set(harness.present()):
        parser.error(f"there is no check {', '.join(sorted(unknown))}; --list names them")
    console = Console(width=None if sys.stdout.isatty() else 160)
    if arguments.list:
        for name in harness.present():
            console.print(f"{name:<8} {(harness.module(name).__doc__ or '').partition(chr(10))[0]}", markup=False)
        return 0
    size, started, rows = Size(arguments.quick, arguments.seed), time.perf_counter(), []
    for name in arguments.name or harness.present():
        folder = arguments.folder and (arguments.folder / name).absolute()
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        done = harness.run(name, size, folder)
        for row in done:
            state = f"skipped: {row.skipped}" if row.skipped else "ok" if row.ok else "FAILED"
            console.print(f"{name}: {row.name}: {state}", markup=False, highlight=False, soft_wrap=True)
            if not row.ok:
                console.print(row.complaint(), style="red", markup=False, highlight=False, soft_wrap=True)
        rows += done
    command = "python -m tests.faults" + "".join(f" {word}" for word in _typed(arguments))
    console.print(_table(rows))
    footer = f"{command} (seed {size.seed}), {time.perf_counter() - started:.0f} s on {machine()}"
    console.print(footer, markup=False, highlight=False, soft_wrap=True)
    if arguments.markdown:
        arguments.markdown.write_text(_markdown(rows, footer), encoding="utf-8")
    return 0 if all(row.ok for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    what = "Inject faults into the store, into jobs and into command lines, and count what is lost."
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=what)
    parser.add_argument("name", nargs="*", help=f"checks to run, of {', '.join(harness.present())}; all unless given")
    parser.add_argument("--quick", action="store_true", help="the small sizes that the test suite runs")
    parser.add_argument("--seed", type=int, default=SEED, help=f"where the random numbers begin (default: {SEED})")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown, too")
    parser.add_argument("--folder", type=Path, help="work here, and leave everything for a look")
    return parser


def _typed(arguments: argparse.Namespace) -> list[str]:
    seed = [f"--seed {arguments.seed}"] if arguments.seed != SEED else []
    return [*arguments.name, *(["--quick"] if arguments.quick else []), *seed]


def _cells(row: Row) -> list[str]:
    if row.skipped:
        return [row.name, *["–"] * 6, f"skipped: {row.skipped}", "–"]
    counts = [row.injected, row.survived, row.lost, row.corrupt, row.duplicated]
    return [row.name, *(f"{count:,}" for count in counts), row.control, row.note, f"{row.seconds:.0f}"]


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in HEADS:
        table.add_column(head, justify="left" if head in ("injected", "measured") else "right")
    for row in rows:
        table.add_row(*(Text(cell, style="" if row.ok else "red") for cell in _cells(row)))
    return table


def _markdown(rows: Sequence[Row], footer: str) -> str:
    sides = ("---" if head in ("injected", "measured") else "---:" for head in HEADS)
    lines = [HEADS, sides, *(_cells(row) for row in rows)]
    table = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    head = "# Faults injected, and what came of them\n\nEach row is explained by `python -m tests.faults --list`.\n"
    return f"{head}\n{table}\n`{footer.partition(' (')[0]}` ({footer.partition(' (')[2]}.\n"


def machine() -> str:
    """The machine in a few words: cores, processor, system, Python, torch."""
    from importlib.metadata import version

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{cores} cores of {model or platform.machine()}", platform.system()]
    return ", ".join([*parts, f"Python {platform.python_version()}", f"torch {version('torch')}"])


if __name__ == "__main__":
    sys.exit(main())
