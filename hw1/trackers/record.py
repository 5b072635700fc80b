"""What is sent of a job or of a sweep, read from what it left on disk."""

import contextlib
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hw1 import results
from hw1.errors import written
from hw1.experiments import flattened
from hw1.files import read_table
from hw1.progress import PLAN, RESULT, read_json, shown
from hw1.quantities import quantity
from hw1.statistics import Interval, mean_interval

ENDS = ("mean", "low", "high")  # of an interval
Points = list[tuple[int, float]]  # (step, value)
Series = dict[tuple[str, int | None], Points]


@dataclass(frozen=True)
class Record:
    """What is sent of a job, or of a sweep as a whole.

    Attributes:
        config: by dotted key; of a sweep what all its jobs share.
        values: those swept or typed, by key.
        series: (metric, replica) → its (step, value) pairs; replica None is the mean over replicas, whose interval
            stands at the last step as t_interval/metric_low and t_interval/metric_high.
        text: what is said of it, in Markdown.
        began, ended: seconds since the epoch.
    """

    name: str
    folder: Path
    status: str
    began: float
    ended: float
    of_sweep: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    series: Series = field(default_factory=dict)
    text: str = ""
    comparison: pd.DataFrame | None = None

    @property
    def last_step(self) -> int:
        return max((points[-1][0] for points in self.series.values() if points), default=0)

    @property
    def figures(self) -> list[Path]:
        return sorted(self.folder.glob("*.png"))

    def flat(self) -> dict[str, Points]:
        """All series by one name each."""
        return {(name if r is None else f"replica_{r}/{name}"): points for (name, r), points in self.series.items()}


def job_record(told: Mapping[str, Any], job: Mapping[str, Any]) -> Record:
    """A job that has ended, as its folder has it."""
    folder = Path(job["folder"])
    left = results.read_job(folder, 0, {})
    ended = (folder / RESULT).stat().st_mtime
    config = dict(flattened(job["config"]))
    series: Series = {}
    for prefix, table in _histories(left, Path(job["config"]["store"])):
        series |= _series(table, prefix)
    said = [str(sentence) for sentence in left.record.get("findings") or []]
    if "summary" in left.tables:
        final = _final(left.tables["summary"])
        series = _ended(series, final)
        said.append(_markdown_of_job(final))
    return Record(
        name=job["name"] or name_of(told),
        folder=folder,
        status=left.status,
        began=ended - (left.wall_seconds or 0.0),
        ended=ended,
        config=config,
        values=job["values"],
        tags=_tags(job["values"].get("experiment", told["experiment"]), folder, left.status, left.record)
        | ({"hw1.error": left.error} if left.error else {}),
        series=series,
        text="\n\n".join(said),
    )


def sweep_record(told: Mapping[str, Any]) -> Record:
    """A sweep as a whole: its comparison and what its jobs share."""
    folder = Path(told["folder"])
    files = [Path(job["folder"]) / RESULT for job in told["jobs"]]
    found = [(read_json(file), file.stat().st_mtime) for file in files if file.exists()]
    states = [result.get("status", "not started") for result, _ in found]
    states += ["not started"] * (len(files) - len(found))
    ok = states.count("ok")
    configs = [dict(flattened(job["config"])) for job in told["jobs"]]
    comparison = read_table(folder / "comparison.csv") if (folder / "comparison.csv").exists() else None
    said = read_json(folder / "findings.json").get("findings") or []
    status = "ok" if ok == len(states) else f"{ok} of {len(states)} ok"
    return Record(
        name=name_of(told),
        folder=folder,
        status=status,
        began=min((end - (result.get("wall_seconds") or 0.0) for result, end in found), default=time.time()),
        ended=max((end for _, end in found), default=time.time()),
        config={k: v for k, v in configs[0].items() if all(config.get(k) == v for config in configs)},
        tags=_tags(told["experiment"], folder, status, {})
        | {"hw1.command": read_json(folder / PLAN).get("command", "")},
        series={("jobs", None): [(0, len(states))], ("jobs_ok", None): [(0, ok)]},
        text="\n\n".join([*map(str, said), *([_markdown(comparison)] if comparison is not None else [])]),
        comparison=comparison,
        of_sweep=True,
    )


def name_of(told: Mapping[str, Any]) -> str:
    """Of the job by itself, or of the sweep."""
    place = Path(shown(Path(told["folder"])))
    below = place.name if place.is_absolute() else re.sub(r"^(outputs|multirun)/", "", str(place))
    return str(told["tracker"]["name"] or f"{told['experiment']} {below}")


def _tags(experiment: str, folder: Path, status: str, result: Mapping[str, Any]) -> dict[str, str]:
    runs = result.get("runs") or {}
    there = result.get("environment") or {}
    versions = there.get("versions") or {}
    facts = {
        "experiment": experiment,
        "folder": shown(folder),
        "status": status,
        "runs": ", ".join(run["key"] for run in runs.values()),
        "network": "; ".join(dict.fromkeys(run["network"] for run in runs.values())),
        "version": versions.get("hw1"),
        "torch": versions.get("torch"),
        "device": there.get("device_name") or there.get("device"),
        "commit": there.get("commit"),
    }
    return {f"hw1.{name}": str(value) for name, value in facts.items() if value}


def _histories(left: results.Job, store: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """The histories of a job's runs, each with what its metrics' names begin with: nothing where there is one run."""
    table = left.tables.get("history")
    if table is not None and not {"replica", "epoch", "step"} <= set(table):
        table = None  # of somebody's own, and another kind of history
    if table is not None and "network" not in table:
        yield "", table
    elif table is not None:
        for network, rows in table.groupby("network", sort=False):
            yield f"{network}/", rows
    elif left.status == "ok":  # some experiments leave it in the store
        runs = left.record.get("runs") or {}
        for name, run in runs.items():
            with contextlib.suppress(OSError, ValueError):  # which may have been tidied up
                yield f"{name}/" if len(runs) > 1 else "", read_table(store / run["key"] / "history.csv")


def _series(history: pd.DataFrame, prefix: str) -> Series:
    """Each metric's values by step: of every replica, and of the mean where all replicas have one."""
    steps = history.drop_duplicates("step").sort_values("step")
    found: Series = {(f"{prefix}epoch", None): _points(steps["step"], steps["epoch"])}
    for metric in history.select_dtypes("number").columns.drop(["replica", "epoch", "step"]):
        name = plain(prefix + metric)
        wide = history.pivot_table(index="step", columns="replica", values=metric)
        for replica in wide.columns:
            found[name, int(replica)] = _points(wide.index, wide[replica])
        full = wide[np.isfinite(wide).all(axis=1)]
        means = [mean_interval(row, quantity(metric).scale).mean for row in full.to_numpy(float)]
        found[name, None] = _points(full.index, means)
    return {key: points for key, points in found.items() if points}


def _points(steps: Iterable[Any], values: Iterable[Any]) -> Points:
    """Without what is no number: that a replica diverged is said by itself."""
    return [(int(step), float(value)) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]


def _ended(series: Series, final: Mapping[tuple[str, int | None], float]) -> Series:
    """The series, at whose last step the summary has the last word."""
    last = max((points[-1][0] for points in series.values()), default=0)
    for key, value in final.items():
        if math.isfinite(value):
            series[key] = [*(point for point in series.get(key, []) if point[0] < last), (last, float(value))]
    return series


def _final(summary: pd.DataFrame) -> dict[tuple[str, int | None], float]:
    """What a summary says of each metric: of the replicas that did not diverge, and of every one by itself."""
    ok = (summary["status"] == "ok").to_numpy() if "status" in summary else np.ones(len(summary), bool)
    replicas = summary["replica"] if "replica" in summary else range(len(summary))
    found: dict[tuple[str, int | None], float] = {("diverged", None): (~ok).sum(), ("replicas", None): len(summary)}
    for metric in summary.select_dtypes("number").columns.drop("replica", errors="ignore"):
        values, name = summary[metric].to_numpy(float, na_value=math.nan), plain(metric)
        interval = mean_interval(np.where(ok, values, math.nan), quantity(metric).scale)
        found |= {(name, int(replica)): value for replica, value in zip(replicas, values, strict=True)}
        found[name, None] = interval.mean
        found |= {(f"t_interval/{name}_{end}", None): getattr(interval, end) for end in ENDS[1:]}
    return found


def _markdown(comparison: pd.DataFrame) -> str:
    """A comparison as a table of means with their intervals; the longer of both, conditions or metrics, goes down."""
    names = [str(name) for name in comparison]
    metrics = [name.removesuffix("_mean") for name in names if name.endswith("_mean")]
    keys = [name for name in names if not re.fullmatch(r".*_(mean|low|high|n)", name)]
    rows = [[*keys, *metrics]] + [
        [*(written(row[key]) for key in keys), *(_text(*(row[f"{m}_{end}"] for end in ENDS)) for m in metrics)]
        for row in comparison.to_dict("records")
    ]
    turned = [[line[at] for line in rows] for at in range(len(rows[0]))] if len(metrics) > len(comparison) else rows
    return _table(turned[0], turned[1:])


def _markdown_of_job(final: Mapping[tuple[str, int | None], float]) -> str:
    """A job's metrics as a table of means with their intervals."""
    metrics = [name for name, replica in final if replica is None and (f"t_interval/{name}_low", None) in final]
    ends = [[final[m, None], *(final[f"t_interval/{m}_{end}", None] for end in ENDS[1:])] for m in metrics]
    return _table(["metric", "mean [95 % t-interval]"], [[m, _text(*of)] for m, of in zip(metrics, ends, strict=True)])


def _text(mean: float, low: float, high: float) -> str:
    return Interval(mean, low, high, 1 if math.isfinite(mean) else 0).text()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def plain(name: str) -> str:
    """A name that every tracker takes."""
    return re.sub(r"[^\w./ :=,-]", "_", name, flags=re.ASCII)
