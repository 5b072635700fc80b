"""What a job, a sweep or a comparison left in its folder, as an object with tables, figures and findings.

Needs no torch; reads nothing but text and pictures, so folders may come from strangers.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hw1.errors import UserError, one_line, shortened
from hw1.progress import PLAN, RESULT, read_json, shown

if TYPE_CHECKING:
    import pandas as pd

    from hw1.results import Sweep

Kind = Literal["job", "sweep", "comparison"]
COMPARISON, REPORT = "comparison.csv", "report.html"


class Tables(Mapping[str, "pd.DataFrame"]):
    """Tables by name; each is read from its file when it is first asked for."""

    def __init__(self, sources: Mapping[str, "Path | pd.DataFrame"]) -> None:
        self._sources = dict(sources)

    def __getitem__(self, name: str) -> "pd.DataFrame":
        if name not in self._sources:
            raise KeyError(f"no table {name!r}; there are: {', '.join(self) or 'none'}")
        source = self._sources[name]
        if isinstance(source, Path):
            source = self._sources[name] = _table(source)
        return source

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def __repr__(self) -> str:
        return f"<tables: {', '.join(self) or 'none'}>"


@dataclass(frozen=True)
class Figure:
    """A figure's files, each None where it is not there; shows itself in a notebook."""

    name: str
    svg: Path | None
    png: Path | None

    def _repr_svg_(self) -> str | None:
        return self.svg.read_text(encoding="utf-8") if self.svg else None

    def _repr_png_(self) -> bytes | None:
        return self.png.read_bytes() if self.png and not self.svg else None  # one of them: both would be stored

    def __repr__(self) -> str:
        return f"<figure {one_line(self.name)}: {shown(self.svg or self.png or Path())}>"


@dataclass(frozen=True)
class Result:
    """A job, a sweep or a comparison, as its folder has it; what is asked for is read then, once.

    Of one that is still running it holds what was there at that time; `hw1.load(result)` looks again.

    Attributes:
        folder: absolute.
        kind: "job", "sweep" or "comparison".
    """

    folder: Path
    kind: Kind

    @cached_property
    def parts(self) -> "dict[str, Result]":
        """Of a comparison of several experiments the comparison of each, by its name; else {}."""
        if self.kind != "comparison" or (self.folder / COMPARISON).exists():
            return {}
        return {file.parent.name: Result(file.parent, "comparison") for file in sorted(_comparisons(self.folder))}

    @cached_property
    def status(self) -> str:
        """ok, running, failed or interrupted, as recorded; "unfinished" where jobs are left that never started.

        Of several jobs the first of running, failed, interrupted that one of them is.
        """
        statuses = self._statuses
        if set(statuses) <= {"ok"}:
            return "ok"
        return next((status for status in ("running", "failed", "interrupted") if status in statuses), "unfinished")

    @cached_property
    def tables(self) -> Tables:
        """Data frames by name, such as "history": of a job, or of all jobs under one another, swept keys in front.

        With several experiments: "<experiment>/<table>". Of a job that failed: those that it wrote.
        """
        if self.parts:
            return Tables(
                {f"{name}/{table}": part.tables[table] for name, part in self.parts.items() for table in part.tables}
            )
        if self.kind == "sweep" and not self._settled:
            from hw1 import results

            return Tables(results.tables(self._sweep))
        return Tables({file.stem: file for file in sorted(self.folder.glob("*.csv")) if file.name != COMPARISON})

    @cached_property
    def comparison(self) -> "pd.DataFrame":
        """A row per condition: swept keys, status, diverged replicas, and of each metric mean, low, high (95 %) and n.

        Of a job the one row that it would be in a sweep. With several experiments their rows under one another, with
        the `experiment` in front.
        """
        import pandas as pd

        if self.parts:
            frames = [part.comparison.assign(experiment=name) for name, part in self.parts.items()]
            together = pd.concat(frames, ignore_index=True)
            return together[["experiment", *together.columns.drop("experiment")]]
        if self.kind == "comparison" or self._settled:
            return _table(self.folder / COMPARISON)
        from hw1 import results

        return results.comparison(self._sweep)

    @cached_property
    def findings(self) -> list[str]:
        """What the intervals support, a sentence each."""
        if self.parts:
            return [sentence for part in self.parts.values() for sentence in part.findings]
        said = self._record.get("findings")
        if isinstance(said, list) and (self.kind != "sweep" or self._settled):
            return [str(sentence) for sentence in said]
        if self.kind != "sweep":
            return []
        from hw1 import findings

        return findings.finding(self._sweep).splitlines()

    @cached_property
    def failures(self) -> list[str]:
        """A line for each job that is not ok, and why."""
        from hw1 import findings

        if self.parts:
            return [line for part in self.parts.values() for line in part.failures]
        if self.kind != "comparison":
            return [] if self.status == "ok" else findings.failures(self._sweep.jobs)
        jobs = self.tables.get("jobs")
        if jobs is None or not {"folder", "status", "error"} <= set(jobs):
            return []
        bad = jobs[jobs["status"] != "ok"]
        return [one_line(f"{row.folder} {row.status}: {row.error}") for row in bad.itertuples()]

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Figures by name; with several experiments: "<experiment>/<figure>"."""
        found = {
            f"{name}/{figure.name}": figure for name, part in self.parts.items() for figure in part.figures.values()
        }
        for name in sorted({file.stem for kind in ("svg", "png") for file in self.folder.glob(f"*.{kind}")}):
            svg, png = (self.folder / f"{name}.{kind}" for kind in ("svg", "png"))
            found[name] = Figure(name, svg if svg.exists() else None, png if png.exists() else None)
        return found

    @property
    def report(self) -> Path | None:
        """The page that says all of it, if there is one."""
        file = self.folder / REPORT
        return file if file.exists() else None

    @cached_property
    def experiment(self) -> str:
        """Its name; "" where that is not known."""
        if self.parts:
            return ", ".join(self.parts)
        return str(self._record.get("experiment") or (self._sweep.experiment if self.kind != "comparison" else ""))

    @property
    def headline(self) -> str | None:
        """The metric that the findings are about first, if there is one."""
        name = self._record.get("headline")
        return name if isinstance(name, str) else None

    @cached_property
    def _record(self) -> dict[str, Any]:
        if self.kind == "job":
            return read_json(self.folder / RESULT)
        from hw1 import findings

        plan = read_json(self.folder / PLAN) if self.kind == "sweep" else {}
        return plan | read_json(self.folder / findings.KEPT)

    @cached_property
    def _statuses(self) -> list[str]:
        """Of each job."""
        if self.parts:
            return [status for part in self.parts.values() for status in part._statuses]
        if self.kind == "comparison":
            table = self.tables.get("jobs")
            return [] if table is None or "status" not in table else [str(status) for status in table["status"]]
        if self.kind == "sweep":  # without the jobs' tables, which may be many
            jobs = self._record.get("jobs")
            if isinstance(jobs, list) and jobs and all(isinstance(job, dict) for job in jobs):
                records = (read_json(self.folder / str(job.get("job")) / RESULT) for job in jobs)
                return [str(record.get("status", "not started")) for record in records]
        return [job.status for job in self._sweep.jobs]

    @cached_property
    def _settled(self) -> bool:
        """Whether what a sweep's own tables say is all there is to say: while jobs run, they are of an earlier time."""
        return self.kind == "sweep" and self.status != "running" and (self.folder / COMPARISON).exists()

    @cached_property
    def _sweep(self) -> "Sweep":
        """The jobs with their tables; a job by itself is a sweep over nothing."""
        from hw1 import aligned, results

        if self.kind == "sweep":
            return results.read_sweep(self.folder)
        members, unknown = aligned.read([self.folder])
        name = str(members[0].choices.get("experiment", "")) if members else ""
        job = members[0].job if members else unknown[0]
        return results.Sweep(self.folder, name, "", (), None, (job,))

    def __fspath__(self) -> str:
        return os.fspath(self.folder)

    def __repr__(self) -> str:
        head = " ".join(filter(None, [one_line(self.experiment), self.kind]))
        counts = f"{len(self.tables)} tables, {len(self.figures)} figures"
        lines = [f"<hw1 {head}: {self.status}, {counts}, in {one_line(shown(self.folder))}>", *self.findings]
        return "\n".join(map(one_line, lines))

    def _repr_html_(self) -> str:
        from hw1 import notebook

        return notebook.html(self)


def load(path: str | os.PathLike[str]) -> Result:
    """The result of a job, a sweep (also one that is running or failed) or a comparison, from its folder.

    Raises: hw1.UserError for a folder that is none of them.
    """
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise UserError(f"{shortened(one_line(path))}: there is no such folder")
    return Result(folder, _kind(folder, path))


def _kind(folder: Path, path: object) -> Kind:
    if (folder / PLAN).exists():
        return "sweep"
    if (folder / RESULT).exists():
        return "job"
    if (folder / COMPARISON).exists():
        return "comparison"
    if any(file.parent.name.isdecimal() for file in folder.glob(f"*/{RESULT}")):
        return "sweep"  # whose plan is lost
    if _comparisons(folder):
        return "comparison"
    name = shortened(one_line(path))
    raise UserError(f"{name}: holds neither a job ({RESULT}) nor a sweep ({PLAN}) nor a comparison ({COMPARISON})")


def _comparisons(folder: Path) -> list[Path]:
    """Those of several experiments, in a folder each."""
    return [file for file in folder.glob(f"*/{COMPARISON}") if (file.parent / "jobs.csv").exists()]


def _table(file: Path) -> "pd.DataFrame":
    from hw1.files import read_table

    try:
        return read_table(file)
    except FileNotFoundError:
        raise UserError(f"{shown(file)}: is not there any more") from None
    except (ValueError, OSError) as error:  # pandas' parser errors and undecodable bytes are ValueErrors
        raise UserError(one_line(f"{shown(file)}: cannot be read as a table: {error}")) from error
