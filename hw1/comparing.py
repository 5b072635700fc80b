"""`python -m hw1.compare DIR…`: jobs and sweeps put together by what differs between their configs. Needs no torch.

Exit codes: 0 every job is in the comparison; 1 some job is broken or has not finished (the others are compared); 2 bad
input, one line.
"""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import yaml
from rich import box
from rich.table import Table
from rich.text import Text

from hw1 import aligned, differences, findings, latex, outcome, parts, results, schema
from hw1.aligned import Member, Section
from hw1.cli import complain, tell_caller
from hw1.console import Console
from hw1.differences import Difference
from hw1.drawn import Drawing
from hw1.errors import UserError, one_line, shortened, system_words, written
from hw1.experiments import SEEDS, Experiment, Tables
from hw1.files import write_table
from hw1.outcome import Concluded
from hw1.progress import shown
from hw1.quantities import quantity
from hw1.report import Against, Part
from hw1.results import Sweep
from hw1.signals import INTERRUPTED
from hw1.statistics import VERDICTS, rounded

EXPERIMENTS = "hw1.experiments."
_LISTED = 5  # names in a note before "…"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; what it returns is the exit code."""
    console = Console()
    try:
        arguments = _parser().parse_args(argv)
        words = sys.argv[1:] if argv is None else argv
        asked = replace(Asked.of(arguments), command=shlex.join(["python", "-m", "hw1.compare", *words]))
        return _compare(arguments.folders, asked, console)
    except UserError as error:
        return complain(error)
    except OSError as error:  # the disk of the results
        complain(UserError(system_words(error)))
        return outcome.FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python -m hw1.compare --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m hw1.compare",
        description="Compare jobs and sweeps, also of different dates, by what differs between their configs.",
        epilog="Example: python -m hw1.compare multirun/A multirun/B --baseline model.dropout=0",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folder of a job or of a sweep")
    parser.add_argument("--metric", action="append", default=[], help="show this metric, and test it (repeatable)")
    parser.add_argument("--by", default="", help="keys that make conditions, a,b; averaged over the others")
    parser.add_argument("--filter", action="append", default=[], metavar="KEY=VALUE", help="only jobs that have it")
    parser.add_argument(
        "--baseline", action="append", default=[], metavar="KEY=VALUE", help="compare the other conditions with these"
    )
    parser.add_argument("--out", help="folder for tables and figures (default: comparisons/<date>/<time>)")
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where it is known what was drawn before (default: runs, here)",
    )
    parser.add_argument("--open", action="store_true", help="show the report in a browser")
    parser.add_argument("--no-figures", action="store_true", help="tables alone, in a second")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="MODULE", help="where an experiment of your own is defined"
    )
    return parser


@dataclass(frozen=True)
class Asked:
    """What a command line asks for."""

    metrics: list[str]
    by: list[str]
    chosen: list[tuple[str, str]]
    baseline: list[tuple[str, str]]
    out: str | None
    draw: bool
    allow: list[str]
    store: Path = Path("runs")
    opens: bool = False
    command: str = "python -m hw1.compare"

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Asked":
        """As it was typed. Raises: UserError for what is no KEY=VALUE."""
        return cls(
            [name for text in arguments.metric for name in text.split(",")],
            [key for key in arguments.by.split(",") if key],
            _pairs("--filter", arguments.filter),
            _pairs("--baseline", arguments.baseline),
            arguments.out,
            not arguments.no_figures,
            arguments.allow,
            arguments.store,
            arguments.open,
        )


def _pairs(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    for text in texts:
        if not text.partition("=")[0] or "=" not in text:
            raise UserError(f"{option} {shortened(text)}: must be KEY=VALUE, such as model.dropout=0")
    return [(key, value) for key, _, value in (text.partition("=") for text in texts)]


@dataclass(frozen=True)
class View:
    """A section as it is shown: its jobs as they are, or averaged over the keys that `--by` leaves out."""

    section: Section
    sweep: Sweep
    metrics: list[str]  # asked for
    partner: dict[int, int | None] | None  # row of a condition → row of its baseline; None: no baseline here


def _compare(folders: Sequence[str], asked: Asked, console: Console) -> int:
    members, unknown = aligned.read([Path(folder) for folder in folders])
    members = aligned.chosen(members, asked.chosen) if members else []
    views = _views([section for section in aligned.sections(members, asked.by) if section.has_result], asked)
    if views:
        out = _made(asked.out)
        tell_caller(out)
        shown_parts = []
        for number, view in enumerate(views):
            if number:
                console.print()
            shown_parts.append(_show(view, out / view.section.name if len(views) > 1 else out, asked, console))
    compared = {job.number for view in views for job in view.section.sweep.jobs}
    bad = [job for job in (*(member.job for member in members), *unknown) if job.status != "ok"]
    _print_lines(findings.failures([job for job in bad if job.number not in compared]), console, "red")
    place = f"results: {shown(out.absolute())}" if views else "no job has a result: nothing to compare"
    console.print(place, markup=False, highlight=False, soft_wrap=True)
    if views:
        within = {member.job.number for view in views for member in view.section.members}
        lost = [job for job in bad if job.number not in within]
        page = outcome.write_page(out, shown_parts, asked.command, lost)
        outcome.show_page(page, console, asked.opens)
    return outcome.FAILED if bad else outcome.OK


def _views(sections: Sequence[Section], asked: Asked) -> list[View]:
    """Each section as it was asked for; what was asked for must be there in one of them. Raises: UserError."""
    for key in asked.by:
        known = list(dict.fromkeys(key for section in sections for key in section.sweep.condition_keys))
        if key in SEEDS:
            raise UserError(f"--by {key}: seeds replicate, they make no condition")
        if sections and key not in known:
            there = ", ".join(known) or "none does"
            raise UserError(f"--by {shortened(key)}: does not differ between these jobs; those that do: {there}")
    views = [_view(section, asked) for section in sections]
    known = list(dict.fromkeys(name for view in views for name in view.sweep.replicates.metrics))
    for name in asked.metrics:
        if views and name not in known:
            raise UserError(f"--metric {shortened(name)}: was not measured{schema.nearest(name, known)}")
    if views and asked.baseline and all(view.partner is None for view in views):
        differences.partners(views[0].sweep, asked.baseline)  # says why
    return views


def _view(section: Section, asked: Asked) -> View:
    by = [key for key in asked.by if key in section.sweep.condition_keys]
    sweep = aligned.averaged(section.sweep, by) if by else section.sweep
    metrics = [name for name in asked.metrics if name in sweep.replicates.metrics]
    sweep = replace(sweep, headline=metrics[0]) if metrics else sweep
    partner = None
    if asked.baseline:
        with contextlib.suppress(UserError):  # a baseline of another experiment's
            partner = differences.partners(sweep, asked.baseline)
    return View(section, sweep, metrics, partner)


def _made(out: str | None) -> Path:
    """The folder of the comparison; one that was not named is new. Raises: UserError for a job's."""
    if out is None:
        folder = Path("comparisons") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S-%f")
        folder.mkdir(parents=True)
        return folder
    folder = Path(out)
    if (folder / "result.json").exists():
        raise UserError(f"--out {shortened(out)}: holds a job's own tables; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# One experiment


def _show(view: View, folder: Path, asked: Asked, console: Console) -> Callable[[], Part]:
    """Write a section's tables and figures, and print its comparison; gives its part of the page."""
    section, sweep = view.section, view.sweep
    folder.mkdir(parents=True, exist_ok=True)
    saved = results.save(section.sweep, folder, conditions=sweep)
    write_table(folder / "jobs.csv", aligned.jobs_table(section))
    latex.write(folder, sweep, view.metrics)
    concluded = _concluded(section, saved.tables, folder, asked)
    against: list[Against] = []
    findings.render(sweep, console, view.metrics, against_first=view.partner is None)
    if sweep.condition_keys != section.sweep.condition_keys:
        _print_lines(findings.failures(section.sweep.jobs), console, "red")
    if view.partner is None:
        sentences = [*findings.finding(sweep).splitlines(), *concluded.sentences]
    else:
        said, against = _against_baseline(view, view.partner, folder, asked, console)
        sentences = [*said, *concluded.sentences]
    findings.keep(folder, sweep, sentences)
    notes = _notes(section, sweep)
    _print_lines(notes, console, "dim")
    _print_lines(sentences, console, "bold")
    jobs = [member.job for member in section.members]
    question, answer = (" ".join(found) for found in (concluded.questions, concluded.answers))
    return partial(Part, folder, sweep, jobs, section.members, question, answer, sentences, concluded.figures,
                   view.metrics, against, notes)  # fmt: skip


def _print_lines(lines: Sequence[str], console: Console, style: str) -> None:
    for line in lines:
        console.print(Text(line, style=style), soft_wrap=True)


def _concluded(section: Section, tables: Tables, folder: Path, asked: Asked) -> Concluded:
    """What the experiment concludes and draws from the tables, if it is hw1's or allowed."""
    try:
        experiment, node = _experiment(section.members[0], asked.allow)
    except (UserError, OSError, TypeError, ValueError, KeyError, yaml.YAMLError) as error:
        print(f"warning: no figures: {one_line(error)}", file=sys.stderr)
        return Concluded()
    tables = {name: rows for name, rows in tables.items() if len(rows)}
    drawing = Drawing(node, experiment, tables, section.sweep.keys, asked.allow)
    return outcome.conclude(folder, drawing, asked.store if asked.store.is_dir() else None, asked.draw)


def _experiment(member: Member, allow: Sequence[str]) -> tuple[Experiment, dict[str, Any]]:
    """What draws the tables: one of hw1's own experiments, or of the modules that were allowed on this command line.

    It is given plain values, which are returned as well. A key that it has not any more is left out, one that it has
    got since is None.
    """
    key, target = "experiment._target_", member.target
    if not target.startswith((EXPERIMENTS, *(f"{module}." for module in allow))):
        raise UserError(f"{key}={shortened(target)}: is none of hw1's; --allow MODULE names where it is defined")
    found, node = parts.find(target, allow, key), aligned.experiment_node(member)
    if not (isinstance(found, type) and issubclass(found, Experiment) and is_dataclass(found)):
        raise UserError(f"{key}={shortened(target)}: is no experiment")
    return found(**{field.name: node.get(field.name) for field in fields(found)}), node


def _notes(section: Section, sweep: Sweep) -> list[str]:
    """How the jobs were put together, where that is not plain from the table."""
    notes = []
    if others := [key for key in section.sweep.condition_keys if key not in sweep.condition_keys]:
        places = len(aligned.shared_values(section.sweep, sweep.condition_keys))
        which = "1 value" if places == 1 else f"the {places} values"
        notes.append(f"each replicate averaged over {which} of {', '.join(others)} that all conditions have")
    for same, of in ((True, "with the same numbers"), (False, "with other numbers (other code, versions or machine)")):
        repeats = [repeat for repeat in section.repeats if repeat.same == same]
        if repeats:
            pairs = [f"{one_line(repeat.job)} is {one_line(repeat.first)}" for repeat in repeats[:_LISTED]]
            more = ", …" if len(repeats) > _LISTED else ""
            jobs = "1 job repeats another" if len(repeats) == 1 else f"{len(repeats)} jobs repeat others"
            notes.append(f"{jobs} {of}, counted once: {', '.join(pairs)}{more}")
    for key, values in section.machine.items():
        notes.append(f"no condition, though it differs: {key} ({shortened(', '.join(map(written, values)))})")
    versions = aligned.versions(section)
    if len(versions) > 1:
        notes.append(f"made with different versions: {shortened('; '.join(versions), 160)}")
    return [one_line(note) for note in notes]


# Against a baseline


def _against_baseline(
    view: View, partner: dict[int, int | None], folder: Path, asked: Asked, console: Console
) -> tuple[list[str], list[Against]]:
    """Write differences.csv, print a table per metric that was asked for or is the headline; a sentence for each."""
    sweep = view.sweep
    sentences: list[str] = []
    tables: list[Against] = []
    keys = [key for key, _ in asked.baseline]
    comparable = [name for name in _measured(sweep) if not findings.changes_meaning(name, keys)]
    found = {name: differences.differences(sweep, partner, name) for name in comparable}
    kept = [name for name in comparable if name in view.metrics or (not view.metrics and quantity(name).better)]
    write_table(
        folder / "differences.csv",
        differences.table([each for name in kept for each in found[name]], sweep.condition_keys),
    )
    baseline = ", ".join(f"{key}={text}" for key, text in asked.baseline)
    for name in view.metrics or findings.main_metrics(sweep):
        if key := findings.changes_meaning(name, keys):
            sentences.append(f"{quantity(name).label}: {key} changes what it measures, so its values are not compared.")
        elif there := [each for each in found.get(name, []) if each.contrast.interval.n]:
            title = one_line(f"{quantity(name).label}, against {baseline}")
            tables.append(Against(title, _how(there), _telling(there, keys), there))
            _print_differences(tables[-1], console)
            sentences.append(_in_words(there, baseline))
        else:
            sentences.append(f"{quantity(name).label} against {baseline}: no condition and its baseline have it.")
    alone = [sweep.conditions[row] for row, base in partner.items() if base is None]
    if alone:
        listed = "; ".join(map(str, alone[:_LISTED])) + ("; …" if len(alone) > _LISTED else "")
        sentences.append(f"no baseline for {len(alone)} of {len(sweep.conditions)} conditions: {listed}.")
    return [one_line(sentence) for sentence in sentences], tables


def _telling(found: Sequence[Difference], baseline: Sequence[str]) -> list[str]:
    """The keys of the baseline, and of the others those that differ."""
    values = {key: {written(each.condition.values[key]) for each in found} for key in found[0].condition.values}
    return [key for key, there in values.items() if key in baseline or len(there) > 1]


def _measured(sweep: Sweep) -> list[str]:
    return [name for name, matrix in sweep.replicates.metrics.items() if np.isfinite(matrix).any()]


def _print_differences(against: Against, console: Console) -> None:
    console.print(Text(against.title, style="italic"), soft_wrap=True)
    kinds = dict.fromkeys(each.contrast.kind for each in against.found)
    table = Table(box=box.SIMPLE_HEAD)
    for head in (*against.keys, "baseline", "mean", f"{' or '.join(kinds)} [95 %]", "n", "verdict"):
        table.add_column(Text(findings.cell(head)), no_wrap=True)
    for each in against.found:
        n = f"{each.contrast.interval.n}{'' if each.contrast.paired else ' unpaired'}"
        cells = [findings.cell(each.condition.values[key]) for key in against.keys]
        cells += [rounded(each.baseline_mean), rounded(each.mean), each.contrast.text(), n, each.contrast.verdict]
        table.add_row(*map(Text, cells))
    console.print(table)
    _print_lines([against.how], console, "dim")


def _how(found: Sequence[Difference]) -> str:
    """What the intervals are, in a line."""
    ways = dict.fromkeys("paired by seed and replica" if each.contrast.paired else "unpaired (Welch)" for each in found)
    comparisons = found[0].comparisons
    together = f", simultaneous over {comparisons} comparisons (Bonferroni)" if comparisons > 1 else ""
    ratio = "; a ratio is of geometric means" if any(each.contrast.kind == "ratio" for each in found) else ""
    neutral = " or ".join(dict.fromkeys(f"{each.contrast.neutral:g}" for each in found))
    return f"{' or '.join(ways)}; 95 % t-intervals{together}; not resolved where {neutral} is in it{ratio}"


def _in_words(found: Sequence[Difference], baseline: str) -> str:
    """ "softmax sensitivity against model.dropout=0: lower in 2 of 3 conditions, not resolved in 1."."""
    verdicts = [each.contrast.verdict for each in found]
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS if verdict in verdicts}
    first, *others = (f"{verdict} in {count}" for verdict, count in counts.items())
    of = f" of {len(found)} conditions" if len(found) > 1 else " condition"
    return f"{quantity(found[0].metric).label} against {baseline}: {', '.join([first + of, *others])}."
