"""`python -m hw1`: the order of things, messages and exit codes. Imports no torch, and the rest only when needed."""

import os
import re
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hw1 import __version__
from hw1.errors import UserError, one_line, system_words
from hw1.paths import conf_dir
from hw1.signals import INTERRUPTED, TERMINATED

if TYPE_CHECKING:
    from hw1.console import Console
    from hw1.sweep import Planned

OK, FAILED, BAD_INPUT = 0, 1, 2
FOLDER_FILE = "HW1_FOLDER_FILE"  # environment variable
NAMES = (
    "experiment dataset model optimizer loss control batch_size epochs steps depth width alpha seed init_seed "
    "order_seed replicas device threads jobs"
)
EXAMPLES = (
    ("python -m hw1", "the default experiment: fit a function, in seconds"),
    ("python -m hw1 experiment=sensitivity batch_size=16,64,256 -m", "three batch sizes beside one another"),
    ("python -m hw1 experiment=sensitivity model=mlp model.dropout=0,0.5 dataset.subset=5000 -m", "any key, any group"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; what it returns is the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("--help", "-h") for word in words):
        print(help_text())
        return OK
    if "--version" in words:
        print(f"hw1 {__version__}")
        return OK
    try:
        code = _run(words)
    except UserError as error:
        return complain(error)
    except OSError as error:  # the disk of the results, before or after the jobs
        complain(UserError(system_words(error)))
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    if argv is None and code in (INTERRUPTED, TERMINATED):
        _leave(code)
    return code


def complain(error: Exception) -> int:
    """Say what is wrong in one line on stderr, or with HYDRA_FULL_ERROR=1 where; the exit code of bad input."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    print(f"error: {one_line(error)}", file=sys.stderr)
    return BAD_INPUT


def _run(words: list[str]) -> int:
    from hw1 import machine

    machine.collect_rarely()  # before what is imported next, which is many objects
    from hw1 import compose, sweep

    taken_up = sweep.taken_up(words)
    if taken_up:
        words = taken_up
    arguments = compose.parse(words)
    if arguments.cfg or arguments.info or arguments.hydra_help or arguments.shell_completion:
        compose.show(arguments)
        return OK
    planned = sweep.plan(arguments)
    with sweep.held(planned) as planned:
        sweep.write_plan(planned, words, resumed=taken_up is not None)
        tell_caller(planned.folder)
        return _launch(planned)


def tell_caller(folder: Path) -> None:
    """Write where the results will be into the file that this process's caller named, if one did (hw1.api)."""
    if file := os.environ.pop(FOLDER_FILE, ""):  # its own children are not meant
        from hw1.files import write_atomically

        write_atomically(Path(file), str(folder.absolute()))


def _launch(planned: "Planned") -> int:
    from hw1 import supervise
    from hw1.console import Console
    from hw1.progress import shown
    from hw1.terminal import Display

    console = Console()
    if planned.multirun:
        jobs = f"{len(planned.jobs)} jobs, {planned.side_by_side} at a time" if len(planned.jobs) > 1 else "1 job"
        console.print(f"{planned.experiment}: {jobs}, in {shown(planned.folder)}", markup=False, soft_wrap=True)
    names = [job.name(planned.keys) or planned.experiment for job in planned.jobs]
    supervisor = supervise.Supervisor(planned, lambda: _leave(_settle(planned, console)))
    try:
        with Display(dict(zip(planned.folders, names, strict=True)), console):
            supervisor.run()
    except KeyboardInterrupt:
        pass
    return _settle(planned, console)


def _settle(planned: "Planned", console: "Console") -> int:
    """Say what came of the jobs; the exit code."""
    from hw1 import outcome, signals  # with scipy: memory that the jobs may need before

    outcome.settle(planned, "interrupted" if signals.ending() else "failed")
    finished = outcome.report(planned, console, briefly=signals.ending())
    if planned.jobs[0].config["tracker"]["kind"] != "none" and not signals.ending():
        from hw1 import trackers

        trackers.send(planned)
    return signals.exit_code() if signals.ending() else finished


def _leave(code: int) -> NoReturn:
    """End this process and all that it started, without waiting for anything: after a signal there is no time."""
    from hw1 import supervise

    supervise.kill_children()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def help_text() -> str:
    """What `--help` prints: experiments, names to sweep, examples; read from the config files, without Hydra."""
    lines = ["hw1: controlled experiments on how small neural networks train and generalise.", "", "Experiments:"]
    files = sorted((conf_dir() / "experiment").glob("*.yaml"))
    for file in files:
        lines.append(f"  {'experiment=' + file.stem:<27} {question(file)}")
    lines += ["", "Names to set or sweep (a,b,c and -m); all else by its group, such as model.dropout or optimizer.lr:"]
    lines += [*(f"  {line}" for line in textwrap.wrap(NAMES, 110)), ""]
    for group in ("dataset", "model", "optimizer", "loss", "control", "tracker"):
        options = ", ".join(sorted(file.stem for file in (conf_dir() / group).glob("*.yaml")))
        lines.append(f"  {group:<10} {options}")
    lines += ["", "Examples:"]
    lines += [f"  {command}\n      {meaning}" for command, meaning in EXAMPLES]
    lines += [
        "",
        "  python -m hw1 --cfg job                      the whole configuration",
        "  python -m hw1 resume=multirun/<date>/<time>  finish what a crash, a kill or a failure left of a sweep",
        "  python -m hw1 … -m hydra/launcher=slurm      on a cluster: slurm or ray; docs/clusters.md",
        "  python -m hw1.compare DIR…                   jobs and sweeps of any dates in one table, redrawn",
        "  python -m hw1.runs --help                    the store of trained networks: list, show, verify, rm, clean",
        "",
        "Results: outputs/<date>/<time>, or multirun/<date>/<time> with -m. Exit codes: 0 all jobs ok, 1 some failed,",
        "2 bad input (nothing started), 130 interrupted, 143 terminated. HYDRA_FULL_ERROR=1 shows tracebacks.",
    ]
    return "\n".join(lines)


def question(file: Path) -> str:
    """The question that an experiment's config file asks: its first comment that is no directive."""
    for line in file.read_text(encoding="utf-8").splitlines():
        text = re.match(r"#\s+(?!@package)(.+)", line)
        if text:
            return text.group(1)
    return ""
