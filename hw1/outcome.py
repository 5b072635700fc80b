"""After the jobs: comparison, figures and words, from what is on disk, whatever the launcher and whatever failed."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hw1 import findings, parts, results
from hw1.errors import one_line
from hw1.experiments import Conclusion, Experiment, Tables
from hw1.files import read_table, write_json, write_table
from hw1.quantities import quantity
from hw1.statistics import mean_interval
from hw1.terminal import PROGRESS, RESULT, read_json, shown

if TYPE_CHECKING:
    from hw1.sweep import Planned

OK, FAILED, BAD_INPUT = 0, 1, 2


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
    """Build and print what came of it; the exit code. `briefly`: the comparison without conclusions and figures."""
    states = [read_json(folder / RESULT) for folder in planned.folders]
    if planned.multirun:
        _compare_sweep(planned, console, briefly)
    elif states[0].get("status") == "ok":
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
    if all(state.get("status") == "ok" for state in states):
        return OK
    if planned.multirun:
        again = f"python -m hw1 resume={shown(planned.folder)} finishes the rest"
    else:
        again = "the same command again trains only what is missing"
    console.print(again, markup=False, highlight=False, soft_wrap=True)
    return FAILED


def _compare_sweep(planned: "Planned", console: Console, briefly: bool) -> None:
    written = results.write(planned.folder)
    sentences = [] if briefly else _conclude(planned, written)
    findings.render(written.sweep, console)
    for line in [*findings.finding(written.sweep).splitlines(), *sentences]:
        console.print(Text(line, style="bold"), soft_wrap=True)


def _conclude(planned: "Planned", written: results.Written) -> list[str]:
    """Derived tables and figures over all jobs; what they say."""
    sweep, sentences = written.sweep, []
    # A sweep over experiments has tables of each, and each draws its own.
    several = "experiment" in sweep.keys
    for name, job in {job.values.get("experiment"): job for job in planned.jobs}.items():
        own = {table: rows[rows["experiment"] == name] if several else rows for table, rows in written.tables.items()}
        own = {table: rows.dropna(axis=1, how="all") if several else rows for table, rows in own.items() if len(rows)}
        if own:
            experiment = parts.build(job.config["experiment"], allow=job.config["allow_targets"])
            sentences += conclude(planned.folder, experiment, own, list(sweep.keys))
    return sentences


def conclude(folder: Path, experiment: Experiment, tables: Tables, swept: list[str], draw: bool = True) -> list[str]:
    """Write what an experiment concludes from the tables of several jobs, and its figures; its sentences.

    What goes wrong in it is a warning on stderr: it must cost neither tables nor comparison.
    """
    try:
        conclusion = experiment.conclude(tables, swept)
    except Exception as error:
        conclusion = Conclusion()
        print(f"warning: no conclusion could be drawn: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
    for table, rows in conclusion.tables.items():
        write_table(folder / f"{table}.csv", rows)
    if draw:
        from hw1 import figures  # with matplotlib, half a second

        if problem := figures.draw(folder, experiment, tables | conclusion.tables, swept):
            print(f"warning: a figure could not be drawn: {problem}", file=sys.stderr)
    return list(conclusion.sentences)


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
