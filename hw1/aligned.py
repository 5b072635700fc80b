"""Jobs from any folders, put together as one sweep per experiment: its keys are what differs between their configs.

What is compared is each job's `.hydra/config.yaml`, so a key that one sweep typed and another had from its defaults is
the same key. Nothing read here is executed or built: folders may come from strangers.
"""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from hw1 import results
from hw1.errors import UserError, one_line, shortened, written
from hw1.experiments import SEEDS, flattened
from hw1.progress import shown
from hw1.results import Job, Sweep
from hw1.schema import nearest

# No conditions unless swept, or asked for: how numbers are computed, which changes them by rounding alone …
MACHINE = ("deterministic", "device", "threads", "vectorize")
# … and what changes none: the first R replicas are the same whatever R, and how often one looks changes no training.
ELSEWHERE = ("allow_targets", "checkpoint.minutes", "data_dir", "evaluate_every", "jobs", "open", "replicas", "store")
ABSENT = ""  # the value of a key that a config has not, as in the tables
LARGEST = 1_000_000  # bytes of a config; those of hw1 have some 2,000


@dataclass(frozen=True)
class Member:
    """A job with its config: its leaves by dotted key, as written (`raw`, with ${…}) and followed (`values`)."""

    job: Job
    swept: tuple[str, ...]  # by the sweep that it came from
    headline: str | None
    raw: dict[str, Any]
    values: dict[str, Any]

    @cached_property
    def typed(self) -> frozenset[str]:
        """The keys that were typed, of which none follows from an option of a group."""
        overrides = self.job.record.get("overrides")
        return frozenset(str(key).lstrip("+~") for key in overrides) if isinstance(overrides, dict) else frozenset()

    @cached_property
    def choices(self) -> dict[str, Any]:
        """Group → option, typed or by default; {} where Hydra's record is not there or broken."""
        try:
            text = (self.job.folder / ".hydra" / "hydra.yaml").read_text(encoding="utf-8")
            block = re.search(r"^    choices:\n((?:      .*\n)+)", text, re.MULTILINE)
            lines = re.sub(r"^      ", "", block[1], flags=re.MULTILINE) if block else ""
            return {key: value for key, value in _leaves(lines).items() if not re.match("hydra/|tracker$", key)}
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            return {}

    def value(self, key: str) -> Any:
        """Of a key, or of a group its option; ABSENT where there is neither."""
        return self.values[key] if key in self.values else self.choices.get(key, ABSENT)

    @property
    def target(self) -> str:
        """The class of its experiment, by name."""
        return str(self.values.get("experiment._target_", ABSENT))


@dataclass(frozen=True)
class Repeat:
    """A finished job that is left out, since `first` has its condition, its seeds and at least its replicas."""

    job: Job
    first: Job
    same: bool  # whether the numbers are the same


@dataclass(frozen=True)
class Section:
    """The jobs of one experiment as one sweep, and what is to be said of how they were put together."""

    name: str
    members: tuple[Member, ...]
    sweep: Sweep
    repeats: tuple[Repeat, ...]
    machine: dict[str, list[Any]]  # keys of MACHINE that differ without making a condition, and their values

    @property
    def has_result(self) -> bool:
        """Whether some job is ok."""
        return any(job.status == "ok" for job in self.sweep.jobs)


# Reading


def read(folders: Sequence[Path]) -> tuple[list[Member], list[Job]]:
    """Every job in these folders of jobs and of sweeps, each once; those that left no config apart.

    Raises: UserError for a folder that is neither.
    """
    members: list[Member] = []
    unknown: list[Job] = []
    seen: set[Path] = set()
    for folder in folders:
        jobs, swept, headline = _jobs(folder)
        new = []
        for job in jobs:
            place = job.folder.resolve()
            if place not in seen:
                seen.add(place)
                new.append(replace(job, number=len(seen) - 1, name=shown(job.folder)))
        found, without = configured(new, swept, headline)
        members += found
        unknown += without
    return members, unknown


def configured(jobs: Iterable[Job], swept: Sequence[str], headline: str | None) -> tuple[list[Member], list[Job]]:
    """Jobs of one sweep with their configs, and apart those that left none."""
    members, unknown = [], []
    for job in jobs:
        try:
            raw = _config(job.folder / ".hydra" / "config.yaml")
            members.append(Member(job, tuple(swept), headline, raw, _followed(raw)))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            unknown.append(_without_config(job, error))
    return members, unknown


def _jobs(folder: Path) -> tuple[Sequence[Job], tuple[str, ...], str | None]:
    """The jobs of a folder; of a sweep also its swept keys and its headline."""
    if not folder.is_dir():
        raise UserError(f"{shortened(folder)}: there is no such folder; give those of jobs or sweeps")
    if (folder / "result.json").is_file() and not (folder / "sweep.json").exists():
        return [results.read_job(folder, 0, {})], (), None
    try:
        sweep = results.read_sweep(folder)
    except UserError as error:
        raise UserError(f"{shortened(folder)}: holds neither a job (result.json) nor a sweep (sweep.json)") from error
    return sweep.jobs, sweep.keys, sweep.headline


def _without_config(job: Job, error: Exception) -> Job:
    if job.status != "ok":  # which is the reason
        return job
    return replace(job, status="failed", error=f".hydra/config.yaml: {shortened(one_line(error))}", tables={})


def _config(file: Path) -> dict[str, Any]:
    if file.stat().st_size > LARGEST:
        raise ValueError("too large for a config")
    leaves = _leaves(file.read_text(encoding="utf-8"))
    if "experiment._target_" not in leaves:
        raise ValueError("names no experiment")
    return {key: value for key, value in leaves.items() if not key.startswith("tracker.")}  # it decides no number


def _leaves(text: str) -> dict[str, Any]:
    """Dotted key → value of a YAML mapping as Hydra writes it.

    Read by top-level key, as the jobs of a sweep differ in few of these: that makes a thousand configs a matter of
    tenths of a second.
    """
    blocks = re.split(r"^(?=[^\s#-])", text, flags=re.MULTILINE)
    return {key: value for block in blocks if block.strip() for key, value in _block(block).items()}


class _Loader(yaml.SafeLoader):
    """Without aliases, which can expand without end. Not libyaml's, which a file nested deeply enough crashes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def _read_yaml(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


@lru_cache(maxsize=4096)
def _block(text: str) -> dict[str, Any]:
    content = _read_yaml(text)
    if not isinstance(content, dict):
        raise ValueError("is no mapping")
    return {key: results.scalar(value) for key, value in flattened(content)}


def _followed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """With each value that is `${another.key}` replaced by that key's."""
    return {key: _follow(raw, value) for key, value in raw.items()}


def _follow(raw: Mapping[str, Any], value: Any) -> Any:
    for _ in range(10):  # those of hw1 need two; a circle ends here
        found = re.fullmatch(r"\$\{([^${}]+)\}", value) if isinstance(value, str) else None
        if found is None or found[1] not in raw:
            break
        value = raw[found[1]]
    return value


# Choosing jobs


def chosen(members: Sequence[Member], wanted: Sequence[tuple[str, str]]) -> list[Member]:
    """Those whose config has, for each (key, values), one of the comma-separated values.

    Raises: UserError for a key that no config has, and for values that leave no job.
    """
    left = list(members)
    for key, text in wanted:
        if not any(key in member.values or key in member.choices for member in left):
            known = {name for member in left for name in (*member.values, *member.choices)}
            raise UserError(f"--filter {shortened(key)}: no config has this key{nearest(key, known)}")
        kept = [member for member in left if any(is_written(member.value(key), one) for one in text.split(","))]
        if not kept:
            raise UserError(f"--filter {shortened(f'{key}={text}')}: no job has it; {_there(left, key)}")
        left = kept
    return left


def is_written(value: Any, text: str) -> bool:
    """Whether a value is what was typed: 0.50 is 0.5, and null is null."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return written(value) == text


def _there(members: Iterable[Member], key: str) -> str:
    values = dict.fromkeys(written(member.value(key)) for member in members)
    return f"there are {shortened(', '.join(values))}"


# Aligning


def sections(members: Sequence[Member], wanted: Sequence[str] = ()) -> list[Section]:
    """The jobs by experiment, in the order in which they were found. `wanted` keys make conditions if they differ."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.target, []).append(member)
    return [_section(target, group, wanted) for target, group in groups.items()]


def _section(target: str, members: Sequence[Member], wanted: Sequence[str]) -> Section:
    name = re.sub(r"[^A-Za-z0-9_]", "_", target.split(".")[-2:][0]) or "experiment"
    differing = _differing(members)
    keys = _condition_keys(members, differing, wanted)
    every = (*keys, *_seeds(members))
    jobs = [replace(member.job, overrides={key: member.value(key) for key in every}) for member in members]
    kept, repeats = _counted_once(jobs, every)
    headline = next((member.headline for member in members if member.headline), None)
    sweep = Sweep(members[0].job.folder, name, "", every, headline, tuple(kept))
    machine = {key: list({m.value(key): 0 for m in members}) for key in MACHINE if key in differing and key not in keys}
    return Section(name, tuple(members), sweep, repeats, machine)


def _differ(values: Iterable[Hashable]) -> bool:
    return len({(isinstance(value, bool), value) for value in values}) > 1  # True is no 1 here


def _differing(members: Sequence[Member]) -> list[str]:
    """Leaves that differ, and not only because they are ${…} of another one that does."""
    leaves = dict.fromkeys(key for member in members for key in member.raw)
    return [
        key
        for key in leaves
        if _differ(member.raw.get(key, ABSENT) for member in members)
        and _differ(member.values.get(key, ABSENT) for member in members)
    ]


def _condition_keys(members: Sequence[Member], differing: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """What tells conditions apart: swept keys first, then groups, then the rest.

    A leaf that was typed nowhere and follows from the options of groups is left to the groups' names.
    """
    swept = dict.fromkeys(key for member in members for key in member.swept)
    unsaid = {*MACHINE, *ELSEWHERE} - {*swept, *wanted}
    typed = frozenset().union(*(member.typed for member in members))
    leaves = [key for key in differing if key not in SEEDS and key not in unsaid]
    untyped = [key for key in leaves if key not in typed]
    groups = _groups(members, untyped, wanted) if untyped or wanted else []
    following = {key for key in untyped if groups and _follows(members, key, groups)}
    telling = [*groups, *(key for key in leaves if key not in following or key in wanted)]
    return [key for key in dict.fromkeys([*swept, *telling]) if key in telling]


def _groups(members: Sequence[Member], untyped: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The groups whose options differ and set something that differs, in their own node or outside the others'."""
    names = [key for key in members[0].choices if all(key in member.choices for member in members)]

    def sets(group: str, key: str) -> bool:
        node = key.split(".")[0]
        return (node == group or node not in names) and _follows(members, key, [group])

    differing = [key for key in names if _differ(member.choices[key] for member in members)]
    return [group for group in differing if group in wanted or any(sets(group, key) for key in untyped)]


def _follows(members: Sequence[Member], key: str, groups: Sequence[str]) -> bool:
    """Whether the options of these groups decide a leaf's value."""
    decided: dict[tuple[Any, ...], Any] = {}
    for member in members:
        value = member.values.get(key, ABSENT)
        if decided.setdefault(tuple(member.choices[group] for group in groups), value) != value:
            return False
    return True


def _seeds(members: Sequence[Member]) -> list[str]:
    """The seeds that differ: `seed` where it sets both others everywhere, else those two, which decide."""
    two = ("init_seed", "order_seed")
    keys = two if any(_differ(m.raw.get(key, ABSENT) for m in members) for key in two) else ("seed",)
    return [key for key in keys if _differ(m.values.get(key, ABSENT) for m in members)]


def _counted_once(jobs: Sequence[Job], keys: Sequence[str]) -> tuple[list[Job], tuple[Repeat, ...]]:
    """Of finished jobs with the same condition and seeds only the one with most replicas, which has the others'."""
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        if job.status == "ok":
            groups.setdefault(tuple(job.overrides[key] for key in keys), []).append(job)
    repeats = {}
    for group in groups.values():
        first = max(group, key=lambda job: len(job.tables["summary"]))
        repeats.update({id(job): Repeat(job, first, _same(job, first)) for job in group if job is not first})
    return [job for job in jobs if id(job) not in repeats], tuple(repeats.values())


def _same(job: Job, first: Job) -> bool:
    """Whether the summaries agree, bit for bit, in what both have."""
    few, many = job.tables["summary"], first.tables["summary"].head(len(job.tables["summary"]))
    both = [name for name in few if name in many]
    return few[both].equals(many[both])


# Averaging


def averaged(sweep: Sweep, by: Sequence[str]) -> Sweep:
    """The sweep with the keys `by` alone as conditions: each replicate is its mean over the values of the other keys.

    So n stays the number of replicates. Only values of the other keys that all conditions have are averaged over, and
    a replicate that diverged at one of them has diverged.
    Raises: UserError if the conditions have no such value in common.
    """
    others = [key for key in sweep.condition_keys if key not in by]
    seeds = [key for key in sweep.keys if key in SEEDS]
    sweep = replace(sweep, keys=(*by, *seeds, *others))
    if not others:
        return sweep
    shared = shared_values(sweep, by)
    if not shared:
        raise UserError(f"--by {','.join(by)}: its conditions have no value of {', '.join(others)} in common")
    rows = _summaries(sweep)
    rows = rows[[place in shared for place in rows[others].itertuples(index=False, name=None)]]
    means = _means(rows, [*by, *seeds, "replica"], others, len(shared))
    jobs = [
        Job(number, sweep.folder, dict(zip([*by, *seeds], values, strict=True)), "ok", tables={"summary": part})
        for number, (values, part) in enumerate(means.groupby([*by, *seeds], sort=False, dropna=False))
    ]
    return replace(sweep, keys=(*by, *seeds), jobs=tuple(jobs))


def shared_values(sweep: Sweep, by: Sequence[str]) -> set[tuple[Any, ...]]:
    """The values of the other keys at which every condition of `by` has a finished job."""
    others = [key for key in sweep.condition_keys if key not in by]
    places: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    for job in sweep.jobs:
        if job.status == "ok":
            there = places.setdefault(tuple(job.overrides[key] for key in by), set())
            there.add(tuple(job.overrides[key] for key in others))
    return set.intersection(*places.values()) if places else set()


def _summaries(sweep: Sweep) -> pd.DataFrame:
    """The finished jobs' summaries under one another, with their values of the keys, and `ok` instead of a status."""
    jobs = [job for job in sweep.jobs if job.status == "ok"]
    tables = [job.tables["summary"] for job in jobs]
    rows = pd.concat(tables, ignore_index=True)
    for key in sweep.keys:  # also where a summary has such a column: a replica that diverged took fewer steps
        rows[key] = [job.overrides[key] for job, table in zip(jobs, tables, strict=True) for _ in range(len(table))]
    if "replica" not in rows:
        rows["replica"] = [number for table in tables for number in range(len(table))]
    rows["ok"] = rows.pop("status") == "ok" if "status" in rows else True
    return rows


def _means(rows: pd.DataFrame, one: Sequence[str], others: Sequence[str], places: int) -> pd.DataFrame:
    """A row per replicate, told apart by the columns `one`, that is there at all `places`: the means of its numbers."""
    groups = rows.groupby(list(one), sort=False, dropna=False)
    numbers = [name for name in rows.select_dtypes("number") if name not in (*one, *others)]
    means = groups[numbers].mean()
    means.insert(0, "status", groups["ok"].all().map({True: "ok", False: "diverged"}))
    return means[groups.size() == places].reset_index()


# Telling where it came from


def jobs_table(section: Section) -> pd.DataFrame:
    """A row per job that was found: its folder, whether it counts, and its values of the keys that differ."""
    counted = {job.number for job in section.sweep.jobs}
    first = {repeat.job.number: str(repeat.first) for repeat in section.repeats}
    jobs = [member.job for member in section.members]
    frame: dict[str, Any] = {
        "folder": [str(job) for job in jobs],
        "status": [job.status for job in jobs],
        "counted": [job.status == "ok" and job.number in counted for job in jobs],
        "repeats": [first.get(job.number, ABSENT) for job in jobs],
        "error": [job.error or ABSENT for job in jobs],
    }
    return pd.DataFrame(frame | {key: [m.value(key) for m in section.members] for key in section.sweep.keys})


def versions(section: Section) -> list[str]:
    """The different versions of hw1 and torch, with the device, that the jobs were done with: "hw1 0.1.0, torch …"."""
    found = []
    for member in section.members:
        there = member.job.record.get("environment")
        there = there if isinstance(there, dict) else {}
        of = there.get("versions")
        of = of if isinstance(of, dict) else {}
        commit = str(there.get("commit") or "")[:8]
        words = [*(f"{name} {of[name]}" for name in ("hw1", "torch") if name in of), commit, there.get("device_name")]
        found.append(", ".join(str(word) for word in words if word))
    return [text for text in dict.fromkeys(found) if text]


# What drew them


def experiment_node(member: Member) -> dict[str, Any]:
    """The `experiment` node of a job's config, `${…}` in it followed; as plain values, of which nothing was built.

    Raises: OSError, ValueError, or a yaml.YAMLError where the config is not what it was when it was read.
    """
    config = _read_yaml((member.job.folder / ".hydra" / "config.yaml").read_text(encoding="utf-8"))
    node = _put_in(config["experiment"], config)
    if not isinstance(node, dict):
        raise ValueError("experiment: is no mapping")
    return node


def _put_in(value: Any, config: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _put_in(inner, config) for key, inner in value.items()}
    if isinstance(value, list):
        return [_put_in(inner, config) for inner in value]
    found = re.fullmatch(r"\$\{(\w+)\}", value) if isinstance(value, str) else None  # a key of the root
    return config.get(found[1], value) if found else value
