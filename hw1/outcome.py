"""After the jobs: comparison, figures and words, from what is on disk, whatever the launcher and whatever failed."""

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hw1 import aligned, findings, latex, parts, results
from hw1 import report as pages
from hw1.drawn import Drawing, draw
from hw1.errors import one_line
from hw1.experiments import Conclusion
from hw1.files import read_table, write_json, write_table
from hw1.progress import PLAN, PROGRESS, RESULT, read_json, shown
from hw1.quantities import quantity
from hw1.report import Part
from hw1.results import Job, Sweep
from hw1.statistics import mean_interval

if TYPE_CHECKING:
    from hw1.sweep import Planned

OK, FAILED, BAD_INPUT = 0, 1, 2


@dataclass
class Concluded:
    """What an experiment, or several, said of tables, and the names of the figures that were drawn of them."""

    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)

    def __iadd__(self, other: "Concluded") -> "Concluded":
        self.questions += other.questions
        self.answers += other.answers
        self.sentences += other.sentences
        self.figures += other.figures
        return self


def settle(planned: "Planned", status: str) -> None:
    """Jobs that are still said to run are not: the launcher has returned, so their process was killed."""
    for folder in planned.folders:
        result = read_json(folder / RESULT)
        if result.get("status") == "running":
            error = "its process ended without a word (killed, out of memory, or its folder could not be written)"
            with contextlib.suppress(OSError):  # then it is still said to run, and counts as not done
                write_json(folder / RESULT, result | {"status": status, "error": error})
                (folder / PROGRESS).unlink(missing_ok=True)


def report(planned: "Planned", console: Console, briefly: bool = False) -> int:
    """Build and print what came of it; the exit code. `briefly`: the comparison alone, without conclusions, figures
    and page.
    """
    with contextlib.suppress(OSError):
        (planned.folder / pages.NAME).unlink(missing_ok=True)  # of an earlier end
    states = [read_json(folder / RESULT) for folder in planned.folders]
    part: Callable[[], Part] | None = None
    if planned.multirun:
        part = _compare_sweep(planned, console, briefly)
    elif states[0].get("status") == "ok":
        part = partial(_part_of_job, planned, states[0])
        for network in dict.fromkeys(run["network"] for run in states[0]["runs"].values()):
            console.print(network, markup=False, highlight=False, soft_wrap=True)
        _show_job(planned.folder, console)
    for sentence in [] if planned.multirun else states[0].get("findings", []):
        console.print(Text(sentence, style="bold"), soft_wrap=True)
    _say_training(states, console)
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        for folder, state in zip(planned.folders, states, strict=True):
            if state.get("status") == "failed":
                file = folder / "error.txt"  # which a killed one has not
                print(file.read_text(encoding="utf-8") if file.exists() else state["error"], file=sys.stderr)
    if not planned.multirun and states[0].get("status") == "failed":
        print(f"error: {states[0]['error']} (see {shown(planned.folder / 'error.txt')})", file=sys.stderr)
        return BAD_INPUT if states[0].get("bad_input") else FAILED
    if not planned.multirun and states[0].get("status") != "ok":
        console.print(states[0].get("status", "not started"), markup=False, highlight=False)
    console.print(f"results: {shown(planned.folder)}", markup=False, highlight=False, soft_wrap=True)
    if part and not briefly:
        page = write_page(planned.folder, [part], _command(planned))
        show_page(page, console, planned.jobs[0].config["open"])
    if all(state.get("status") == "ok" for state in states):
        return OK
    if planned.multirun:
        again = f"python -m hw1 resume={shown(planned.folder)} finishes the rest"
    else:
        again = "the same command again trains only what is missing"
    console.print(again, markup=False, highlight=False, soft_wrap=True)
    return FAILED


def _compare_sweep(planned: "Planned", console: Console, briefly: bool) -> Callable[[], Part]:
    written = results.write(planned.folder)
    latex.write(planned.folder, written.sweep)
    concluded = Concluded() if briefly else _conclude(planned, written)
    findings.render(written.sweep, console)
    sentences = [*findings.finding(written.sweep).splitlines(), *concluded.sentences]
    findings.keep(planned.folder, written.sweep, sentences)
    for line in sentences:
        console.print(Text(line, style="bold"), soft_wrap=True)
    return partial(_part_of_sweep, written.sweep, concluded, sentences)


def _conclude(planned: "Planned", written: results.Written) -> Concluded:
    """Derived tables and figures over all jobs; what they say."""
    sweep, concluded = written.sweep, Concluded()
    # A sweep over experiments has tables of each, and each draws its own.
    several = "experiment" in sweep.keys
    for name, job in {job.values.get("experiment"): job for job in planned.jobs}.items():
        own = {table: rows[rows["experiment"] == name] if several else rows for table, rows in written.tables.items()}
        own = {table: rows.dropna(axis=1, how="all") if several else rows for table, rows in own.items() if len(rows)}
        if own:
            experiment = parts.build(job.config["experiment"], allow=job.config["allow_targets"])
            drawing = Drawing(job.config["experiment"], experiment, own, sweep.keys, job.config["allow_targets"])
            concluded += conclude(planned.folder, drawing, Path(job.config["store"]))
    return concluded


def conclude(folder: Path, drawing: Drawing, store: Path | None, draws: bool = True) -> Concluded:
    """Write what an experiment concludes from the tables of several jobs, and its figures.

    What goes wrong in it is a warning on stderr: it must cost neither tables nor comparison.

    Args:
        drawing: with the tables without those of the conclusion.
        store: where it is known what was drawn before.
    """
    experiment = drawing.experiment
    try:
        conclusion = experiment.conclude(drawing.tables, list(drawing.swept))
    except Exception as error:
        conclusion = Conclusion()
        print(f"warning: no conclusion could be drawn: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
    for table, rows in conclusion.tables.items():
        write_table(folder / f"{table}.csv", rows)
    names: list[str] = []
    if draws:
        names, problem = draw(replace(drawing, tables=drawing.tables | conclusion.tables), folder, store)
        if problem:
            print(f"warning: a figure could not be drawn: {problem}", file=sys.stderr)
    answers = [conclusion.answer] if conclusion.answer else []
    return Concluded([experiment.question], answers, list(conclusion.sentences), names)


# The page


def write_page(folder: Path, made: Sequence[Callable[[], Part]], command: str, lost: Sequence[Job] = ()) -> Path | None:
    """Write report.html of the parts that are `made`. What goes wrong in it is a warning, and costs nothing else."""
    try:
        return pages.write(folder, [make() for make in made], command, lost)
    except Exception as error:
        print(f"warning: no report.html: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
    return None


def show_page(page: Path | None, console: Console, opens: bool) -> None:
    """Say where a page is, if there is one, and open it."""
    if page:
        console.print(f"report: {shown(page)}", markup=False, highlight=False, soft_wrap=True)
        if opens:
            _browse(page)


def _browse(page: Path) -> None:
    """In the person's browser, by a process of its own: it must neither be waited for nor cost anything."""
    seen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or os.environ.get("BROWSER")
    if sys.platform == "linux" and not seen:  # a browser in the terminal would take it over
        print("warning: there is no display to open the report on", file=sys.stderr)
        return
    with contextlib.suppress(OSError):
        subprocess.Popen(
            [sys.executable, "-m", "webbrowser", page.absolute().as_uri()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def _command(planned: "Planned") -> str:
    """What was typed, of a sweep once it is on disk."""
    words = planned.jobs[0].words
    return read_json(planned.folder / PLAN).get("command") or shlex.join(["python", "-m", "hw1", *words])


def _part_of_sweep(sweep: Sweep, concluded: Concluded, sentences: Sequence[str]) -> Part:
    members, _ = aligned.configured(sweep.jobs, sweep.keys, sweep.headline)
    question, answer = (found[0] if len(found) == 1 else "" for found in (concluded.questions, concluded.answers))
    if len(concluded.questions) > 1:
        question, answer = f"{len(concluded.questions)} experiments beside one another", ""
    return Part(sweep.folder, sweep, sweep.jobs, members, question, answer, sentences, concluded.figures)


def _part_of_job(planned: "Planned", state: dict[str, Any]) -> Part:
    config, folder = planned.jobs[0].config, planned.folder
    experiment = parts.find(config["experiment"]["_target_"], config["allow_targets"])
    job = Job(0, folder, {}, "ok", None, state["wall_seconds"], {"summary": read_table(folder / "summary.csv")}, state)
    headline = experiment.headline  # type: ignore[attr-defined]
    question = experiment.question  # type: ignore[attr-defined]
    members, _ = aligned.configured([job], (), headline)
    sweep = Sweep(folder, planned.experiment, "", (), headline, (job,))
    return Part(folder, sweep, [job], members, question, "", state["findings"], state.get("figures", []))


def _show_job(folder: Path, console: Console) -> None:
    summary = read_table(folder / "summary.csv")
    diverged = int((summary["status"] != "ok").sum())
    table = Table(box=None, show_header=False, pad_edge=False)
    for name in summary.columns.drop(["replica", "status"]):
        values = mean_interval(summary[name].to_numpy(), quantity(name).scale)
        table.add_row(Text(quantity(name).label), Text(values.text()), Text(quantity(name).definition, style="dim"))
    alive = len(summary) - diverged
    what = f"mean [95 % t-interval] over replicas, n={alive}" if alive > 1 else f"n={alive}: no interval"
    console.print(Text(what, style="bold"))
    console.print(table)
    if diverged:
        console.print(Text(f"{diverged} of {len(summary)} replicas diverged (loss NaN or infinite)", style="red"))


def _say_training(states: list[dict[str, Any]], console: Console) -> None:
    used = [run for state in states for run in state.get("runs", {}).values()]
    runs = {run["key"] for run in used}
    trained = len({run["key"] for run in used if run["trained"]})
    if runs and not trained and all(state.get("status") == "ok" for state in states):
        which = "the run was" if len(runs) == 1 else f"all {len(runs)} runs were"
        measured = any(state.get("measured", True) for state in states)
        tables = "" if measured else "; nothing measured: so were the tables"
        console.print(f"nothing trained: {which} in the store{tables}", markup=False, highlight=False)
    elif 0 < trained < len(runs):
        console.print(
            f"trained: {trained} of {len(runs)} runs; the others were in the store", markup=False, highlight=False
        )
