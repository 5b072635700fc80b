"""What jobs left on disk, whatever failed: their tables under one another, and one row per condition.

Jobs that differ only in a seed are replication, so they are one condition; a replicate is (seeds, replica). Every
metric becomes a matrix (conditions, replicates) with NaN where a replicate diverged or its job has no result.
"""

import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hw1.errors import UserError, one_line, shortened
from hw1.experiments import SEEDS
from hw1.files import read_table, write_table
from hw1.quantities import quantity
from hw1.statistics import Array, mean_interval

STATUSES = ("ok", "running", "failed", "interrupted")
BATCH = 200_000  # bytes of tables parsed as one file; less than pandas takes at once, so that types are certain
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Job:
    """One planned job and what it left. `tables` (by file stem) only if ok; `error` is one line, only if not ok.

    `record` is its result.json, {} where there is none; `name` is how it is told from jobs of other sweeps.
    """

    number: int
    folder: Path
    overrides: dict[str, Any]
    status: str
    error: str | None = None
    wall_seconds: float | None = None
    tables: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    record: dict[str, Any] = field(default_factory=dict, repr=False)
    name: str = ""

    def __str__(self) -> str:
        return self.name or f"job {self.number}"


@dataclass(frozen=True)
class Condition:
    """Jobs that differ in seeds only; `values` are the other swept overrides."""

    values: dict[str, Any]
    jobs: tuple[Job, ...]

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.values.items()) or "all seeds"

    @property
    def status(self) -> str:
        """ok, or the job's status, or of several jobs "1 of 3 failed, 1 of 3 not started"."""
        bad = [job.status for job in self.jobs if job.status != "ok"]
        if len(self.jobs) == 1:
            return self.jobs[0].status
        return ", ".join(f"{bad.count(status)} of {len(self.jobs)} {status}" for status in dict.fromkeys(bad)) or "ok"


@dataclass(frozen=True)
class Replicates:
    """What every replicate of every condition measured, aligned over conditions.

    Attributes:
        metrics: name -> (conditions, replicates) values, NaN where diverged or absent.
        present: (conditions, replicates) whether the replicate has a row at all.
        diverged: (conditions, replicates) whether that row says so.
        labels: what each replicate is called, "replica 0" or "seed=1, replica 0".
    """

    metrics: dict[str, Array]
    present: Flags
    diverged: Flags
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """The planned jobs of a sweep with what they left, in the order of their numbers.

    Also jobs of several sweeps, once they are aligned: a sweep is what one command planned, or what was put together.
    """

    folder: Path
    experiment: str
    command: str
    keys: tuple[str, ...]
    headline: str | None
    jobs: tuple[Job, ...]

    @property
    def condition_keys(self) -> tuple[str, ...]:
        """Swept keys that make conditions; the seeds replicate."""
        return tuple(key for key in self.keys if key not in SEEDS)

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """Jobs that differ in nothing but seeds, together, in the order of the sweep."""
        groups: dict[tuple[Any, ...], list[Job]] = {}
        for job in self.jobs:
            groups.setdefault(tuple(job.overrides[key] for key in self.condition_keys), []).append(job)
        return tuple(
            Condition(dict(zip(self.condition_keys, values, strict=True)), tuple(jobs))
            for values, jobs in groups.items()
        )

    @cached_property
    def replicates(self) -> Replicates:
        return _replicates(self)


@dataclass(frozen=True)
class Written:
    """What `write` put into the sweep's folder: all that drawing and the report need."""

    sweep: Sweep
    comparison: pd.DataFrame
    tables: dict[str, pd.DataFrame]


# Reading


def read_sweep(folder: Path) -> Sweep:
    """Read a sweep's plan and every job's result; what is missing or broken becomes that job's status and reason.

    A broken or missing sweep.json is replaced by what the numbered job folders say.
    Raises: UserError if the folder holds neither.
    """
    folder = Path(folder)
    try:
        plan = _plan(_json(folder / "sweep.json"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        plan = _plan_from_jobs(folder)
        if not plan["jobs"]:
            raise UserError(f"{folder}: not a sweep's folder: sweep.json: {one_line(error)}") from None
    numbers = sorted(plan["jobs"])
    read = _together([file for number in numbers for file in (folder / str(number)).glob("*.csv")])
    jobs = [read_job(folder / str(number), number, plan["jobs"][number], read) for number in numbers]
    return Sweep(folder, plan["experiment"], plan["command"], plan["keys"], plan["headline"], tuple(jobs))


def _plan(record: dict[str, Any]) -> dict[str, Any]:
    """sweep.json with its jobs as {number: overrides of the swept keys}; raises on any other form."""
    keys = tuple(str(key) for key in record["keys"])
    jobs = {int(job["job"]): _swept(keys, job["overrides"]) for job in record["jobs"]}
    headline = record.get("headline")
    return {
        "experiment": str(record.get("experiment", "")),
        "command": str(record.get("command", "")),
        "keys": keys,
        "headline": None if headline is None else str(headline),
        "jobs": jobs,
    }


def _plan_from_jobs(folder: Path) -> dict[str, Any]:
    """The plan as far as the job folders tell it: keys are the overrides that differ between jobs."""
    found: dict[int, dict[str, Any]] = {}
    for path in folder.glob("*/result.json"):
        if path.parent.name.isdecimal():
            try:
                found[int(path.parent.name)] = dict(_json(path)["overrides"])
            except (OSError, ValueError, TypeError, KeyError, RecursionError):
                found[int(path.parent.name)] = {}
    names = dict.fromkeys(key for number in sorted(found) for key in found[number])
    keys = [key for key in names if len({scalar(overrides.get(key)) for overrides in found.values()}) > 1]
    jobs = [{"job": number, "overrides": overrides} for number, overrides in found.items()]
    return _plan({"keys": keys, "jobs": jobs})


def _swept(keys: Sequence[str], overrides: dict[str, Any]) -> dict[str, Any]:
    return {key: scalar(overrides[key]) if key in overrides else "" for key in keys}


def scalar(value: Any) -> Any:
    """A swept value as one table cell: numbers, booleans and strings as they are, the rest as JSON."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, default=str)


def read_job(
    folder: Path, number: int, overrides: dict[str, Any], read: Mapping[Path, pd.DataFrame] | None = None
) -> Job:
    """Read a job's result and tables, but for those already `read`; what is broken becomes its status and reason."""
    try:
        result = _json(folder / "result.json")
    except FileNotFoundError:
        return Job(number, folder, overrides, "not started", "no result.json")
    except (OSError, ValueError, RecursionError) as error:
        return Job(number, folder, overrides, "failed", f"result.json: {one_line(error)}")
    status, wall = result.get("status"), result.get("wall_seconds")
    wall = float(wall) if isinstance(wall, int | float) else None
    if status not in STATUSES:
        reason = f"result.json: unknown status {shortened(repr(status))}"
        return Job(number, folder, overrides, "failed", one_line(reason), wall, record=result)
    if status != "ok":
        unsaid = "ended without recording a result" if status == "running" else "no reason recorded"
        reason = result.get("error") or unsaid
        return Job(number, folder, overrides, status, one_line(reason), wall, record=result)
    try:
        return Job(number, folder, overrides, "ok", None, wall, _read_tables(folder, read or {}), result)
    except (OSError, ValueError) as error:
        return Job(number, folder, overrides, "failed", one_line(error), wall, record=result)


def _json(path: Path) -> dict[str, Any]:
    record = json.loads(path.read_bytes())
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, got {type(record).__name__}")
    return record


def _read_tables(folder: Path, read: Mapping[Path, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """All tables of a finished job by file stem. Raises ValueError naming the file that is broken or missing."""
    tables = {}
    for path in sorted(folder.glob("*.csv")):
        try:
            tables[path.stem] = read[path] if path in read else read_table(path)
        except ValueError as error:  # pandas' parser errors and undecodable bytes are ValueErrors
            raise ValueError(f"{path.name}: {error}") from None
    if "summary" not in tables or tables["summary"].empty:
        raise ValueError(f"summary.csv: {'no rows' if 'summary' in tables else 'missing'}")
    return tables


def _together(files: Sequence[Path]) -> dict[Path, pd.DataFrame]:
    """Tables of many jobs, those of one name and header parsed as one file: most of the time of a parse is its start.

    What cannot be read so, for whatever reason, is left out: read by itself, it says what is wrong with it.
    """
    batches: dict[tuple[str, bytes], list[tuple[Path, bytes]]] = {}
    found: dict[Path, pd.DataFrame] = {}
    for file in files:
        try:
            header, _, body = file.read_bytes().partition(b"\n")
        except OSError:
            continue
        batch = batches.setdefault((file.name, header), [])
        if sum(len(other) for _, other in batch) + len(body) > BATCH:
            found |= _parsed(header, batch)
            batch.clear()
        batch.append((file, body))
    for (_, header), batch in batches.items():
        found |= _parsed(header, batch)
    return found


def _parsed(header: bytes, batch: Sequence[tuple[Path, bytes]]) -> dict[Path, pd.DataFrame]:
    """The tables of a batch; none where lines are not rows in each of them, or nothing is gained."""
    ends = list(itertools.accumulate(body.count(b"\n") for _, body in batch))
    if len(batch) < 2 or not all(body.endswith(b"\n") for _, body in batch):
        return {}
    try:
        text = io.BytesIO(b"".join([header, b"\n", *(body for _, body in batch)]))
        frame = read_table(text)
    except ValueError:
        return {}
    if len(frame) != ends[-1]:  # a line break within quotes, an empty line, a quote without end
        return {}
    begins = [0, *ends[:-1]]
    rows = (frame.iloc[begin:end].reset_index(drop=True) for begin, end in zip(begins, ends, strict=True))
    return {file: table for (file, _), table in zip(batch, rows, strict=True)}


# Tables


def tables(sweep: Sweep) -> dict[str, pd.DataFrame]:
    """Each table of the ok jobs, the jobs' rows under one another in job order, swept overrides as first columns."""
    names = sorted({name for job in sweep.jobs for name in job.tables})
    return {name: _concatenated(sweep, name) for name in names}


def _concatenated(sweep: Sweep, name: str) -> pd.DataFrame:
    jobs = [job for job in sweep.jobs if name in job.tables]
    # an empty table has no types, and would take them from the others' columns
    full = [job for job in jobs if not job.tables[name].empty] or jobs
    body = pd.concat([job.tables[name] for job in full], ignore_index=True)
    rows = np.repeat(np.arange(len(full)), [len(job.tables[name]) for job in full])
    for position, key in enumerate(sweep.keys):
        column = pd.Series([job.overrides[key] for job in full]).iloc[rows].reset_index(drop=True)
        if key in body.columns:
            own = body.pop(key)
            column = own if own.notna().all() else own.where(own.notna(), column)
        body.insert(position, key, column)
    return body


def _replicates(sweep: Sweep) -> Replicates:
    """Spread the summaries' rows over (conditions, replicates); the same replicate twice counts once."""
    place = {job.number: row for row, condition in enumerate(sweep.conditions) for job in condition.jobs}
    jobs = [job for job in sweep.jobs if "summary" in job.tables]
    shape = (len(sweep.conditions), 0)
    if not jobs:
        return Replicates({}, np.zeros(shape, bool), np.zeros(shape, bool))
    summary = pd.concat([job.tables["summary"] for job in jobs], ignore_index=True)
    lengths = [len(job.tables["summary"]) for job in jobs]
    rows = np.repeat([place[job.number] for job in jobs], lengths)
    columns, identities = _identities(sweep, jobs, lengths, summary)
    width = len(identities)
    ok = (summary["status"] == "ok").to_numpy() if "status" in summary else np.ones(len(summary), bool)

    def spread(values: np.ndarray, empty: Any) -> np.ndarray:
        matrix = np.full((len(sweep.conditions), width), empty, dtype=values.dtype)
        matrix[rows, columns] = values
        return matrix

    metrics = {
        name: spread(np.where(ok, summary[name].to_numpy(float, na_value=math.nan), math.nan), math.nan)
        for name in _metric_names(summary, sweep.keys)
    }
    seeds = [key for key in sweep.keys if key in SEEDS]
    labels = tuple(
        ", ".join([*(f"{key}={value}" for key, value in zip(seeds, of, strict=True)), f"replica {replica}"])
        for of, replica in identities
    )
    return Replicates(metrics, spread(np.ones(len(summary), bool), False), spread(~ok, False), labels)


def _identities(
    sweep: Sweep, jobs: Sequence[Job], lengths: Sequence[int], summary: pd.DataFrame
) -> tuple[np.ndarray, list[tuple[tuple[Any, ...], Any]]]:
    """The number of every summary row's replicate, and which there are: (values of the swept seeds, replica)."""
    seeds = [tuple(job.overrides[key] for key in sweep.keys if key in SEEDS) for job in jobs]
    within = np.concatenate([np.arange(length) for length in lengths])  # where a summary has no replica column
    replica = summary["replica"].to_numpy() if "replica" in summary else within
    numbers: dict[tuple[tuple[Any, ...], Any], int] = {}
    per_row = (seed for seed, length in zip(seeds, lengths, strict=True) for _ in range(length))
    columns = [numbers.setdefault(identity, len(numbers)) for identity in zip(per_row, replica, strict=True)]
    return np.array(columns), list(numbers)


def _metric_names(summary: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Numeric columns that are neither labels nor swept."""
    labels = {"replica", "status", *SEEDS, *keys}
    numeric = summary.select_dtypes("number").columns
    return [str(name) for name in numeric if name not in labels]


def comparison(sweep: Sweep) -> pd.DataFrame:
    """One row per condition, in job order: swept overrides, status, diverged, and each metric's mean, low, high, n.

    diverged counts replicas (of the ok jobs). A condition without an ok job has empty metrics.
    """
    replicates = sweep.replicates
    frame: dict[str, Any] = {key: [c.values[key] for c in sweep.conditions] for key in sweep.condition_keys}
    frame["status"] = [condition.status for condition in sweep.conditions]
    seen = replicates.present.sum(axis=1) > 0
    frame["diverged"] = _counts(replicates.diverged.sum(axis=1), seen)
    for name, matrix in replicates.metrics.items():
        intervals = [mean_interval(row, quantity(name).scale) for row in matrix]
        for part in ("mean", "low", "high"):
            frame[f"{name}_{part}"] = [getattr(interval, part) for interval in intervals]
        frame[f"{name}_n"] = _counts([interval.n for interval in intervals], seen)
    return pd.DataFrame(frame)


def _counts(values: Sequence[int] | np.ndarray, seen: np.ndarray) -> pd.Series:
    """Whole numbers, empty where there was nothing to count."""
    return pd.Series(values, dtype="Int64").where(pd.Series(seen, dtype=bool))


# Writing


def write(folder: Path) -> Written:
    """Read a sweep, write comparison.csv and its concatenated tables into `folder`, each by atomic replace."""
    return save(read_sweep(folder), folder)


def save(sweep: Sweep, folder: Path, conditions: Sweep | None = None) -> Written:
    """Write the concatenated tables of a sweep and comparison.csv into `folder`, each by atomic replace.

    `conditions`: what comparison.csv has a row for each of, if not the sweep's own.
    """
    written = Written(sweep, comparison(conditions or sweep), tables(sweep))
    for name, frame in [*written.tables.items(), ("comparison", written.comparison)]:
        write_table(folder / f"{name}.csv", frame)
    return written
