"""`report.html`: a job, a sweep or a comparison as one file that needs nothing else, made from what is on disk.

The page reads with scripts off; a script sorts, filters, highlights, and changes the metric and the axis of the chart.
Whatever comes from a config, a command line or a table is text in it: the template escapes, and a content security
policy allows no script but the page's own and no request at all.
"""

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hw1 import findings
from hw1.aligned import Member
from hw1.differences import Difference
from hw1.errors import one_line, written
from hw1.files import write_atomically
from hw1.progress import duration
from hw1.quantities import Quantity, quantity
from hw1.report import chart, graphic
from hw1.results import Job, Sweep
from hw1.statistics import mean_interval, rounded

NAME = "report.html"
ASSETS = Path(__file__).resolve().parent.parent / "assets"
CHARTED = 60  # conditions in the chart; the table has all
FEW = {1: 5, 2: 3}  # number of keys → conditions up to which two charts fit beside the answer
MARKED = 300  # conditions up to which every metric's best is marked: each takes a test against every other
COLUMNS = 4  # metrics that the table shows before somebody asks for more
SAID = 4  # sentences that stand at the top
KEYS = 60  # run keys that are listed
GRAPHICS = 2_400_000  # bytes of all figures of a page


@dataclass(frozen=True)
class Against:
    """The differences of one metric to a baseline, what they are called, and how they were computed."""

    title: str
    how: str
    keys: Sequence[str]
    found: Sequence[Difference]


@dataclass(frozen=True)
class Part:
    """What a page shows of one experiment: all of it was computed, or is in `folder`, before.

    Attributes:
        folder: with the figures and, if the jobs are more than one, comparison.csv.
        sweep: what is compared; a job by itself is a sweep of one.
        jobs: as they ended, those that are not in the sweep's means among them.
        members: those of them that left a config.
        question: what the experiment asks.
        answer: its answer in a sentence, if the experiment has one.
        sentences: what was found.
        figures: names of the figures, in their order.
        metrics: those that were asked for.
        against: differences to a baseline.
        notes: how the jobs were put together.
    """

    folder: Path
    sweep: Sweep
    jobs: Sequence[Job]
    members: Sequence[Member]
    question: str = ""
    answer: str = ""
    sentences: Sequence[str] = ()
    figures: Sequence[str] = ()
    metrics: Sequence[str] = ()
    against: Sequence[Against] = ()
    notes: Sequence[str] = ()


def write(folder: Path, parts: Sequence[Part], command: str, lost: Sequence[Job] = ()) -> Path:
    """Write the page of these parts into `folder`, atomically; `lost` are jobs that belong to none of them.

    Raises: OSError if it cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (ASSETS / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    room = GRAPHICS
    shown = []
    for number, part in enumerate(parts):
        shown.append(_Shown(part, number, room, Markup))
        room = shown[-1].room
    names = dict.fromkeys(name for each in shown for name in each.metric_names)
    page = environment.get_template("report.html").render(
        parts=shown,
        title=_title(parts),
        command=command,
        failures=findings.failures(lost),
        definitions=[_card(quantity(name)) for name in names],
        style=Markup((ASSETS / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        policy="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'",
        legend=findings.LEGEND,
    )
    file = folder / NAME
    write_atomically(file, page)
    return file


def _title(parts: Sequence[Part]) -> str:
    if len(parts) == 1:
        return parts[0].question or f"{parts[0].sweep.experiment or 'hw1'}: results"
    return f"Comparison of {len(parts)} experiments: {', '.join(part.sweep.experiment for part in parts)}"


def _card(what: Quantity) -> dict[str, str]:
    scales = {
        "linear": "on the linear scale",
        "log": "on the log scale",
        "logit": "on the logit scale",
        "unexplained": "of 1 − R² on the log scale",
    }
    better = f"{what.better} is better" if what.better else "neither direction is better"
    return {
        "name": what.name,
        "label": what.label,
        "definition": what.definition,
        "caveat": what.caveat,
        "reading": f"{better}; interval computed {scales[what.scale]}",
    }


class _Shown:
    """A part as the template reads it."""

    def __init__(self, part: Part, number: int, room: int, markup: type[str]) -> None:
        self.part, self.number, self.room, self._markup = part, number, room, markup
        self.id = f"p{number}"
        self.sweep = part.sweep
        self.keys = list(part.sweep.condition_keys)
        self.graphics = [self._graphic(place, name) for place, name in enumerate(part.figures)]

    # What is said

    @cached_property
    def single(self) -> bool:
        """One condition: a job by itself, or its seeds."""
        return len(self.sweep.conditions) < 2

    @cached_property
    def answer(self) -> str:
        """In one sentence: the experiment's own, or what the baseline or the marks of the headline say."""
        if self.single:
            return self.part.answer or findings.values(self.sweep)
        if self.part.against:
            first = one_line(self.part.sentences[0])
            return first[0].upper() + first[1:]
        return self.part.answer or findings.answer(self.sweep)

    @cached_property
    def said(self) -> tuple[list[str], list[str]]:
        """The sentences that stand at the top, and those that do not."""
        sentences = [one_line(sentence) for sentence in self.part.sentences]
        sentences = [sentence for sentence in sentences if sentence.lower() != self.answer.lower()]
        return sentences[:SAID], sentences[SAID:]

    # Numbers

    @cached_property
    def conditions(self) -> list[dict[str, Any]]:
        """Label, values of the keys, status, replicas and colour of each condition."""
        values = [{key: one_line(written(each.values[key])) for key in self.keys} for each in self.sweep.conditions]
        key, found = chart.families(values, self.keys)
        replicates = self.sweep.replicates
        return [
            {
                "number": number,
                "label": ", ".join(f"{name}={value}" for name, value in each.items()) or "this job",
                "values": each,
                "raw": condition.values,
                "status": condition.status,
                "n": int((replicates.present[number] & ~replicates.diverged[number]).sum()),
                "diverged": int(replicates.diverged[number].sum()),
                "family": found.index(each[key]) if key else 0,
            }
            for number, (each, condition) in enumerate(zip(values, self.sweep.conditions, strict=True))
        ]

    @cached_property
    def metric_names(self) -> list[str]:
        """Those asked for, then by importance."""
        return list(dict.fromkeys([*self.part.metrics, *findings.by_importance(self.sweep)]))

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Every metric with all conditions."""
        all_marked = len(self.sweep.conditions) <= MARKED
        found = []
        for place, name in enumerate(self.metric_names):
            matrix = self.sweep.replicates.metrics[name]
            marks = findings.marks(self.sweep, name) if all_marked or place == 0 else [""] * len(matrix)
            found.append(chart.of_metric(name, matrix, marks))
        return found

    @property
    def charted(self) -> list[dict[str, Any]]:
        """The conditions that the chart shows."""
        return self.conditions[:CHARTED]

    @property
    def columns(self) -> int:
        """Metrics that the table shows at first."""
        return max(COLUMNS, len(self.part.metrics))

    @cached_property
    def matrix(self) -> dict[str, Any] | None:
        """Conditions of several keys by row and column."""
        return chart.grid([each["values"] for each in self.conditions], self.keys)

    @cached_property
    def families(self) -> tuple[str, list[str]]:
        """The key whose values have a colour each, and these."""
        return chart.families([each["values"] for each in self.conditions], self.keys)

    @property
    def compares(self) -> bool:
        """Whether there is something for a chart of conditions."""
        return not self.single and bool(self.metric_names)

    @property
    def leads_with_chart(self) -> bool:
        """Whether the chart stands beside the answer; places on a path are better seen in their figure."""
        return self.compares and not ("alpha" in self.keys and self.graphics)

    @property
    def leading(self) -> list[int]:
        """The metrics whose charts stand beside the answer: of few conditions there is room for two."""
        main = [name for name in findings.main_metrics(self.sweep) if name in self.metric_names]
        places = [self.metric_names.index(name) for name in [*self.part.metrics, *main]]
        return list(dict.fromkeys(places))[: 2 if len(self.conditions) <= FEW.get(len(self.keys), 0) else 1] or [0]

    @cached_property
    def data(self) -> dict[str, Any]:
        """What the script needs."""
        kept = ("name", "label", "axes", "shown", "values", "intervals", "texts", "marks", "shades", "definition")
        metrics = [
            {name: each[name][:CHARTED] if isinstance(each[name], list) else each[name] for name in kept}
            for each in self.metrics
        ]
        if self.matrix:  # of which every cell changes with the metric
            metrics = [
                shown | {name: each[name] for name in ("texts", "marks", "shades")}
                for shown, each in zip(metrics, self.metrics, strict=True)
            ]
        return {
            "conditions": [
                {"label": each["label"], "values": each["values"], "n": each["n"]} for each in self.conditions
            ],
            "replicates": list(self.sweep.replicates.labels),
            "metrics": metrics if self.compares else [],
        }

    @cached_property
    def against(self) -> list[dict[str, Any]]:
        """Tables of differences to a baseline."""
        place = {id(condition): number for number, condition in enumerate(self.sweep.conditions)}
        return [
            {
                "title": each.title,
                "how": each.how,
                "keys": each.keys,
                "kinds": " or ".join(dict.fromkeys(one.contrast.kind for one in each.found)),
                "rows": [
                    {
                        "number": place.get(id(one.condition)),
                        "values": [one_line(written(one.condition.values[key])) for key in each.keys],
                        "baseline": rounded(one.baseline_mean),
                        "mean": rounded(one.mean),
                        "effect": one.contrast.text(),
                        "n": f"{one.contrast.interval.n}{'' if one.contrast.paired else ' unpaired'}",
                        "verdict": one.contrast.verdict,
                    }
                    for one in each.found
                ],
            }
            for each in self.part.against
        ]

    # Figures and files

    def _graphic(self, place: int, name: str) -> dict[str, Any]:
        """A figure; instead of one that cannot be shown the reason. `room` is what is left for those that follow."""
        caption = name.replace("_", " ").replace(".", ", ")
        try:
            found = graphic.inline(self.part.folder / f"{name}.svg", f"{self.id}f{place}-")
            if len(found.markup) > self.room:
                raise ValueError("no room left on this page")
        except (OSError, ValueError) as error:
            return {"name": name, "caption": caption, "problem": one_line(error), "markup": None}
        self.room -= len(found.markup)
        return {
            "name": name,
            "caption": " ".join(found.title.split()) or caption,
            "markup": self._markup(found.markup),
            "ratio": found.ratio,
        }

    @cached_property
    def download(self) -> tuple[str, str] | None:
        """The table as a file to download: its name, and its very bytes as an address."""
        for name in ("comparison.csv", "summary.csv"):
            file = self.part.folder / name
            if file.is_file():
                return name, "data:text/csv;base64," + base64.b64encode(file.read_bytes()).decode()
        return None

    # Where it came from

    @cached_property
    def common(self) -> list[tuple[str, str]]:
        """The keys of the configs that all jobs have alike."""
        return [(key, values[0]) for key, values in self._config.items() if len(values) == 1]

    @cached_property
    def differing(self) -> list[tuple[str, str]]:
        """The others, with their values."""
        return [
            (key, ", ".join(values[:12]) + (f", … ({len(values)} in all)" if len(values) > 12 else ""))
            for key, values in self._config.items()
            if len(values) > 1
        ]

    @cached_property
    def _config(self) -> dict[str, list[str]]:
        """Each key's values; as written where that is ${…} of another key, and the same in all jobs."""
        found = {}
        for key in dict.fromkeys(key for member in self.part.members for key in member.raw):
            raw = _different(member.raw.get(key, "—") for member in self.part.members)
            values = _different(member.values.get(key, "—") for member in self.part.members)
            found[key] = values if len(raw) > 1 or len(values) == 1 else raw
        return found

    @cached_property
    def failures(self) -> list[str]:
        """A line for each job that is not ok."""
        return findings.failures(self.part.jobs)

    @cached_property
    def provenance(self) -> list[tuple[str, list[str]]]:
        """What the jobs were made with, and how to find what they were made of."""
        there = [_mapping(job.record.get("environment")) for job in self.part.jobs]
        versions = [_mapping(each.get("versions")) for each in there]
        runs = [_mapping(run) for job in self.part.jobs for run in _mapping(job.record.get("runs")).values()]
        keys = _texts(run.get("key") for run in runs)
        walls = [job.wall_seconds for job in self.part.jobs if job.wall_seconds and math.isfinite(job.wall_seconds)]
        trained = {run.get("key") for run in runs if run.get("trained")}
        rows = [
            ("versions", _texts(", ".join(f"{name} {of}" for name, of in each.items()) for each in versions)),
            ("commit", _texts(each.get("commit") for each in there)),
            ("device", _texts(_device(each) for each in there)),
            ("platform", _texts(each.get("platform") for each in there)),
            ("data, SHA-256", _texts(run.get("data_sha256") for run in runs)),
            ("networks", _texts(run.get("network") for run in runs)),
            ("trained", [f"{len(trained)} of {len(keys)} runs; what was not trained was in the store"] if keys else []),
            ("wall time", [f"{duration(sum(walls))} over {len(walls)} jobs"] if len(walls) > 1 else
             [duration(wall) for wall in walls]),
            ("run keys", keys[:KEYS] + ([f"… and {len(keys) - KEYS} more"] if len(keys) > KEYS else [])),
        ]  # fmt: skip
        return [(name, found) for name, found in rows if found]

    @cached_property
    def summary(self) -> list[dict[str, Any]]:
        """Of a single condition: each quantity with its interval and its replicas."""
        found = []
        for name in self.metric_names:
            matrix = self.sweep.replicates.metrics[name]
            shown = chart.of_metric(name, matrix, [""])
            interval = mean_interval(matrix[0], quantity(name).scale)
            dots = [
                f"{label}: {rounded(value)}"
                for label, value in zip(self.sweep.replicates.labels, matrix[0], strict=True)
            ]
            found.append({**shown, "text": interval.text(), "n": interval.n, "dots": dots})
        return found


def _different(values: Iterable[Any]) -> list[str]:
    """Each value once, as it is typed; true is no 1 here."""
    found = {(isinstance(value, bool), value): value for value in values}
    return list(dict.fromkeys(one_line(written(value)) for value in found.values()))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _texts(values: Iterable[Any]) -> list[str]:
    """Those that are there, each once."""
    return list(dict.fromkeys(one_line(value) for value in values if value))


def _device(environment: Mapping[str, Any]) -> str:
    threads = environment.get("threads")
    words = [environment.get("device"), environment.get("device_name")]
    return ", ".join(str(word) for word in [*words, threads and f"threads: {threads}"] if word)
