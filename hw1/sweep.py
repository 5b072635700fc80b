"""From a command line to checked jobs: everything is composed and checked before a folder is made or a job started."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw1 import __version__, checks, compose, parts
from hw1.errors import UserError, written
from hw1.files import write_json
from hw1.job import cores, variants
from hw1.recipe import Recipe, forget_datasets
from hw1.terminal import RESULT


@dataclass(frozen=True)
class Job:
    """One planned job: its overrides as values by key, the resolved config that comes of them, and its variants."""

    values: dict[str, Any]
    config: dict[str, Any]
    variants: dict[str, dict[str, Any]]  # the config of each run that the experiment needs

    def name(self, keys: Sequence[str]) -> str:
        """`batch_size=16, depth=2` of the swept keys."""
        return ", ".join(f"{key}={written(self.values[key])}" for key in keys)


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

    @property
    def folders(self) -> list[Path]:
        """The folder of each job."""
        return [self.folder / str(n) for n in range(len(self.jobs))] if self.multirun else [self.folder]


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
    to_hydra.append(f"hydra.{'sweep' if grid.multirun else 'run'}.dir={compose.quoted(str(grid.folder))}")
    side_by_side = 1
    if grid.launcher == "joblib":
        requested = jobs[0].config["jobs"]
        side_by_side = min(len(jobs), cores() if requested == "auto" else requested)
        to_hydra.append(f"hydra.launcher.n_jobs={side_by_side}")
    return Planned(grid.experiment, grid.multirun, grid.keys, jobs, grid.folder, to_hydra, side_by_side)


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
    return Job(point.values, point.resolved, found)


def write_plan(planned: Planned, command: str) -> None:
    """Make the folder, and of a sweep write `sweep.json`: what was asked for, whatever becomes of it.

    In a folder that was used before, the planned jobs are no longer what they were.
    """
    try:
        planned.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output folder {planned.folder}: {error.strerror} (errno {error.errno})") from error
    for folder in planned.folders:
        (folder / RESULT).unlink(missing_ok=True)
        (folder / "error.txt").unlink(missing_ok=True)
    if planned.multirun:
        config = planned.jobs[0].config
        plan = {
            "experiment": planned.experiment,
            "command": command,
            "keys": planned.keys,
            "headline": parts.find(config["experiment"]["_target_"], config["allow_targets"]).headline,  # type: ignore[attr-defined]
            "version": __version__,
            "jobs": [{"job": number, "overrides": job.values} for number, job in enumerate(planned.jobs)],
        }
        write_json(planned.folder / "sweep.json", plan)


def typed_command(argv: Sequence[str]) -> str:
    """The command that was typed, quoted for a shell."""
    return shlex.join(["python", "-m", "hw1", *argv])
