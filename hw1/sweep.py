"""From a command line to checked jobs: everything is composed and checked before a folder is made or a job started."""

import argparse
import contextlib
import itertools
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hw1 import __version__, checks, compose, files, launchers, parts
from hw1.errors import UserError, one_line, shortened, written
from hw1.files import clear_scratch, write_json
from hw1.job import variants
from hw1.progress import PLAN, RESULT, read_json
from hw1.recipe import Recipe, forget_datasets
from hw1.shares import SHARES


@dataclass(frozen=True)
class Job:
    """One planned job: its overrides as words and as values by key, the resolved config that comes of them, and its
    variants."""

    words: list[str]
    values: dict[str, Any]
    config: dict[str, Any]
    variants: dict[str, dict[str, Any]]  # the config of each run that the experiment needs

    def name(self, keys: Sequence[str]) -> str:
        """`batch_size=16, depth=2` of the swept keys."""
        return one_line(", ".join(f"{key}={written(self.values[key])}" for key in keys))


@dataclass(frozen=True)
class Planned:
    """What a command line asks for, checked."""

    experiment: str
    multirun: bool
    keys: list[str]  # swept keys, in the order of the command line
    jobs: list[Job]
    folder: Path  # of the job, or of the sweep
    arguments: list[str]  # for Hydra
    side_by_side: int
    named: bool  # whether the folder was typed

    def elsewhere(self, folder: Path) -> "Planned":
        """The same in another folder."""
        return replace(self, folder=folder, arguments=[*self.arguments, _folder_setting(self.multirun, folder)])

    @property
    def folders(self) -> list[Path]:
        """The folder of each job."""
        return [self.folder / str(n) for n in range(len(self.jobs))] if self.multirun else [self.folder]

    def left(self) -> dict[int, list[str]] | None:
        """Number → overrides of each job of a sweep that is not ok as yet; None for a job by itself."""
        if not self.multirun:
            return None
        states = (read_json(folder / RESULT).get("status") for folder in self.folders)
        return {number: self.jobs[number].words for number, state in enumerate(states) if state != "ok"}


def plan(arguments: argparse.Namespace) -> Planned:
    """Compose and check every job of a command line.

    Raises: UserError, one line, for whatever is wrong with it; nothing has been started or written then, but for the
        data set, which is unpacked once.
    """
    with compose.open_composer(arguments.config_dir) as composer:
        grid = composer.grid(arguments.overrides, arguments.multirun)
        jobs = [_job(composer, words, grid.typed) for words in grid.points]
    checks.check_together([(job.config, job.variants) for job in jobs], grid.typed, grid.folder)
    forget_datasets()  # the jobs load their own, side by side with this process
    to_hydra = ["--config-dir", arguments.config_dir] if arguments.config_dir else []
    to_hydra += [*(["-m"] if grid.multirun else []), *grid.words]
    to_hydra.append(_folder_setting(grid.multirun, grid.folder))
    named = bool({"hydra.run.dir", "hydra.sweep.dir"} & grid.typed)
    side_by_side = 1
    if grid.multirun:
        threads = [job.config["threads"] for job in jobs if job.config["threads"] != "auto"]
        wanted = jobs[0].config["jobs"]
        side_by_side, settings = launchers.arranged(
            grid.launcher, len(jobs), wanted, max(threads, default="auto"), grid.typed
        )
        to_hydra += [f"++hydra.launcher.{name}={value}" for name, value in settings.items()]
    return Planned(grid.experiment, grid.multirun, grid.keys, jobs, grid.folder, to_hydra, side_by_side, named)


def _folder_setting(multirun: bool, folder: Path) -> str:
    return f"hydra.{'sweep' if multirun else 'run'}.dir={compose.quoted(str(folder))}"


def _job(composer: compose.Composer, words: list[str], typed: set[str]) -> Job:
    """One job, checked on its own."""
    point = composer.point(words)
    checks.check_secrets(point.raw)
    checks.check_use(point.raw, typed)
    checks.check(point.resolved)
    checks.check_sizing(point.resolved["model"], typed)
    experiment = parts.build(point.resolved["experiment"], allow=point.resolved["allow_targets"])
    base = Recipe.from_config(point.resolved, "cpu")
    checks.check_overruled(experiment.recipes(base).values(), typed)
    found = dict(variants(point.config, experiment, base, words))
    for config in found.values():
        checks.check(config)
    return Job(words, point.values, point.resolved, found)


def taken_up(words: Sequence[str]) -> list[str] | None:
    """For `resume=FOLDER`: the command line that began that sweep, made to go on in its folder; None for others.

    Goes to the directory in which it was typed. `jobs=…`, a tracker and Hydra's own settings may be given anew.
    Raises: UserError for a folder without a plan, and for other words beside it.
    """
    folders = [word.partition("=")[2] for word in words if word.startswith("resume=")]
    if not folders:
        return None
    name = f"resume={shortened(folders[0])}"
    anew = ("resume=", "jobs=", "open=", "tracker=", "tracker.", "hydra/", "hydra.")
    others = [word for word in words if not word.startswith(anew)]
    if others or len(folders) > 1:
        raise UserError(f"{name}: goes on with what was asked for; leave out {shortened((others or ['the other'])[0])}")
    folder = Path(folders[0]).absolute()
    plan = read_json(folder / PLAN)
    if not _whole(plan):
        raise UserError(f"{name}: there is no {PLAN} of a sweep in it that can be gone on with")
    try:
        os.chdir(plan["directory"])
    except OSError as error:
        place = shortened(plan["directory"])
        raise UserError(f"{name}: it was begun in {place}: {error.strerror}") from error
    given = [word for word in words if not word.startswith("resume=")]
    keys = {word.partition("=")[0] for word in given} | {"hydra.sweep.dir"}
    kept = [word for word in plan["words"] if word.partition("=")[0] not in keys]
    if "tracker" in keys:  # the settings were those of another
        kept = [word for word in kept if not word.startswith("tracker.")]
    return [*kept, *given, f"hydra.sweep.dir={compose.quoted(str(folder))}"]


def _whole(plan: dict[str, Any]) -> bool:
    """Whether a plan from the disk, where anybody could have changed it, has the form of one that was written here."""
    words, jobs, keys = plan.get("words"), plan.get("jobs"), plan.get("keys", [])
    return (
        isinstance(words, list)
        and isinstance(keys, list)
        and isinstance(jobs, list)
        and all(isinstance(text, str) for text in [plan.get("directory"), *words, *keys])
        and "\0" not in plan["directory"]
        and all(isinstance(job, dict) and isinstance(job.get("overrides"), dict) for job in jobs)
    )


@contextlib.contextmanager
def held(planned: Planned) -> Iterator[Planned]:
    """The output folder made, of a sweep for oneself; gives the plan, with another folder if this one was taken.

    Raises: UserError if another process works in a folder that was named, or it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        try:
            planned = _with_folder(planned)
            if planned.multirun:
                stack.enter_context(files.lock(planned.folder / ".lock"))
        except files.Busy as error:
            raise UserError(f"{planned.folder}: another process is at work in this folder") from error
        except OSError as error:
            raise UserError(f"output folder {planned.folder}: {error.strerror} (errno {error.errno})") from error
        yield planned
        if planned.multirun:
            shutil.rmtree(planned.folder / SHARES, ignore_errors=True)


def _with_folder(planned: Planned) -> Planned:
    """Make the folder: one that was named may be there, one named after the time must be new."""
    for number in itertools.count(1):
        try:
            planned.folder.mkdir(parents=True, exist_ok=planned.named)
            break
        except FileExistsError:
            if planned.named or number > 1000:
                raise
            stem = planned.folder.name.partition("_")[0]
            planned = planned.elsewhere(planned.folder.with_name(f"{stem}_{number}"))
    return planned


def write_plan(planned: Planned, words: Sequence[str], resumed: bool = False) -> None:
    """Of a sweep write `sweep.json`: what was asked for, whatever becomes of it.

    In a folder that was used before, the planned jobs are no longer what they were; in one that is `resumed`, those
    that are done are, and job.execute passes them by. Raises: UserError if the folder holds another sweep's jobs.
    """
    clear_scratch(planned.folder)
    content = _plan_of(planned, words) if planned.multirun else {}
    if resumed and _conditions(read_json(planned.folder / PLAN)) != _conditions(content):
        raise UserError(f"{planned.folder}: its jobs are not those that the same command gives now; start anew")
    for folder in planned.folders:
        if not (resumed and read_json(folder / RESULT).get("status") == "ok"):
            (folder / RESULT).unlink(missing_ok=True)
            (folder / "error.txt").unlink(missing_ok=True)
    if planned.multirun and not resumed:
        write_json(planned.folder / PLAN, content)


def _conditions(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """What a plan's jobs differ in; where and how many at a time may be another matter each time."""
    return [{key: job["overrides"].get(key) for key in plan.get("keys", [])} for job in plan["jobs"]]


def _plan_of(planned: Planned, words: Sequence[str]) -> dict[str, Any]:
    config = planned.jobs[0].config
    jobs = [{"job": number, "overrides": job.values} for number, job in enumerate(planned.jobs)]
    experiment = parts.find(config["experiment"]["_target_"], config["allow_targets"])
    return {
        "experiment": planned.experiment,
        "command": shlex.join(["python", "-m", "hw1", *words]),
        "words": list(words),
        "directory": str(Path.cwd()),
        "keys": planned.keys,
        "headline": experiment.headline,  # type: ignore[attr-defined]
        "version": __version__,
        "jobs": jobs,
    }
