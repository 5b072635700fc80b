"""One job: from a composed config to a folder with tables, figures and a result."""

import contextlib
import logging
import os
import platform
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hw1 import launchers, machine, parts, signals
from hw1.drawn import Drawing, draw
from hw1.errors import UserError, one_line, shortened, system_words
from hw1.experiments import Experiment, Tables, flattened
from hw1.files import clear_scratch, write_json, write_table
from hw1.measured import Known, Measured, Measurement, stored_runs
from hw1.progress import PLAN, PROGRESS, RESULT, Reporter, read_json, shown
from hw1.recipe import Recipe, load_dataset
from hw1.schema import nearest
from hw1.shares import Shares
from hw1.store import Damaged, Store

log = logging.getLogger(__name__)


def execute(config: DictConfig) -> None:
    """Run one job in Hydra's output folder, and leave in `result.json` how it ended.

    Nothing that goes wrong in a job is raised: under some launchers that would end the others. Ctrl-C is.
    """
    machine.collect_rarely()
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
    with signals.at_work():
        try:
            _execute(config)
        except OSError as error:  # not even its result can be written: there is nowhere else to say so
            log.error("%s", system_words(error))


def _execute(config: DictConfig) -> None:
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    launcher = plain(settings.launcher) if settings.mode == RunMode.MULTIRUN else {}
    os.chdir(settings.runtime.cwd)  # Ray's processes start where Ray was started
    result: dict[str, Any] = {
        "status": "running",
        "process": [platform.node(), os.getpid()],
        "overrides": dict(word.split("=", 1) for word in settings.overrides.task if "=" in word),
        "runs": {},
        "findings": [],
        "error": None,
    }
    if read_json(folder / RESULT).get("status") == "ok":
        return  # a sweep that is resumed
    if signals.ending():  # a worker takes no further job
        raise KeyboardInterrupt
    clear_scratch(folder)
    started = time.perf_counter()
    write_json(folder / RESULT, result)
    try:
        _perform(config, folder, launcher, result)
        result["status"] = "ok"
    except (KeyboardInterrupt, signals.Requeued) as end:
        result["status"], result["error"] = "interrupted", _why(end)
        raise
    except (Exception, SystemExit) as error:
        result["status"] = "failed"
        result["bad_input"] = isinstance(error, UserError)
        result["error"] = _words(error)
        with contextlib.suppress(OSError):  # on a full disk the line above says enough
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        log.info("failed", exc_info=error)
    finally:
        result["wall_seconds"] = round(time.perf_counter() - started, 3)
        write_json(folder / RESULT, result)
        (folder / PROGRESS).unlink(missing_ok=True)


def _shares(sweep: Path, launcher: Mapping[str, Any]) -> Shares | None:
    """Of a sweep whose jobs run side by side in processes of one machine."""
    number = launchers.shares(launcher)
    jobs = read_json(sweep / PLAN).get("jobs", []) if number > 1 else []
    return Shares(sweep, [sweep / str(job["job"]) for job in jobs], number) if jobs else None


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return one_line(system_words(error))
    return one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"


def _why(end: BaseException) -> str:
    if isinstance(end, signals.Requeued):
        return "the scheduler took the machine away and put the job into the queue again"
    return "stopped by SIGTERM" if signals.exit_code() == signals.TERMINATED else "stopped by Ctrl-C"


def _perform(composed: DictConfig, folder: Path, launcher: dict[str, Any], result: dict[str, Any]) -> None:
    config = plain(composed)
    experiment: Experiment = parts.build(config["experiment"], allow=config["allow_targets"])
    here = machine.Machine(
        machine.resolve_device(config["device"]),
        launchers.threads_of(config["threads"], launcher),
        Path(config["data_dir"]),
        tuple(config["allow_targets"]),
        _shares(folder.parent, launcher),
    )
    result["environment"] = machine.environment(here)
    words = list(HydraConfig.get().overrides.task)
    device = here.device.partition(":")[0]
    base = Recipe.from_config(config, device)
    recipes = {
        name: Recipe.from_config(variant, device) for name, variant in variants(composed, experiment, base, words)
    }
    load_dataset(base, here.data_dir, here.allow_targets)  # while freed memory still goes back to the system
    # Jobs of a sweep may need the same runs: each begins with another one, not to wait for its neighbour's training.
    first = HydraConfig.get().job.num % len(recipes) if launchers.side_by_side(launcher) else 0
    work = _Work(config, experiment, recipes, first, here, folder, result)
    tables = work.recall()
    if tables is None:
        tables = work.measure(words)
    conclusion = experiment.conclude(tables, [])
    result["findings"] = list(conclusion.sentences)
    for name, table in conclusion.tables.items():
        write_table(folder / f"{name}.csv", table)
    drawing = Drawing(config["experiment"], experiment, tables | conclusion.tables, [], here.allow_targets)
    result["figures"], problem = draw(drawing, folder, Path(config["store"]))
    if problem:
        log.warning("a figure could not be drawn: %s", problem)


@dataclass(frozen=True)
class _Work:
    """How a job gets its tables; `result` gets what it says of runs."""

    config: Mapping[str, Any]
    experiment: Experiment
    recipes: Mapping[str, Recipe]
    first: int  # of them, to begin with
    machine: machine.Machine
    folder: Path
    result: dict[str, Any]

    @cached_property
    def reporter(self) -> Reporter:
        return Reporter(self.folder, log.info)

    def recall(self) -> Tables | None:
        """The tables, if the store has them and the runs: without torch, whose import takes longer than the rest."""
        measured = Measured(Path(self.config["store"]))
        try:
            runs = stored_runs(measured.folder, self.recipes, self.machine)
            tables = measured.recall(self._measurement(runs), self.folder, self.reporter.stage)
        except (Damaged, OSError):
            return None  # whoever would train and measure sees to it, and says so
        if tables is not None:
            self._used(runs, {})
            self.result["measured"] = False
        return tables

    def measure(self, words: Sequence[str]) -> Tables:
        """The tables of runs that are in the store, or are trained by the command line of these words."""
        from hw1 import laboratory  # with torch

        machine.set_up_process(self.machine.threads)
        reporter, names = self.reporter, list(self.recipes)
        reporter.of_runs = len(names)
        found = {}
        with laboratory.Laboratory(
            Store(Path(self.config["store"])), self.machine, reporter, reporter.stage,
            ["python", "-m", "hw1", *words], self.config["checkpoint"]["minutes"], f"the job in {shown(self.folder)}",
        ) as lab:  # fmt: skip
            for reporter.run, name in enumerate(names[self.first :] + names[: self.first]):
                found[name] = lab.run(self.recipes[name])
            runs = {name: found[name] for name in names}
            self._used(runs, lab.used)
            tables, self.result["measured"] = Measured(lab.store.folder).obtain(
                self._measurement(runs), self.folder, self.result["environment"], reporter.stage
            )
        return tables

    def _measurement(self, runs: Mapping[str, Known]) -> Measurement:
        return Measurement(self.config["experiment"], self.experiment, runs, self.machine.allow_targets)

    def _used(self, runs: Mapping[str, Known], trained: Mapping[str, bool]) -> None:
        self.result["runs"] = {
            name: {
                "key": run.key,
                "trained": trained.get(run.key, False),
                "network": run.info["architecture"],
                "data_sha256": run.info["data_sha256"],
            }
            for name, run in runs.items()
        }


def plain(config: DictConfig) -> dict[str, Any]:
    """A config as resolved plain containers."""
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))


def variants(
    config: DictConfig, experiment: Experiment, base: Recipe, words: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The config of each run that an experiment needs, by its name for it: `config`, which comes of `words`, varied.

    Raises: UserError for a key that the config has not; whatever Hydra raises for an option that there is not.
    """
    for name, overrides in experiment.recipes(base).items():
        yield name, plain(_varied(config, overrides, words) if overrides else config)


def _varied(config: DictConfig, overrides: Mapping[str, Any], words: Sequence[str]) -> DictConfig:
    """A config with further overrides, an option of a group among them: it behaves as if they had been typed last."""
    changes = dict(flattened(overrides))
    if changes.get("epochs") is not None:
        changes.setdefault("steps", None)  # which would go before it
    groups = {key: value for key, value in changes.items() if isinstance(value, str) and _is_node(config, key)}
    if groups:  # anew, as the option may set more than its node
        kept = [word for word in words if word.partition("=")[0] not in groups]
        config = hydra.compose("config", [*kept, *(f"{key}={value}" for key, value in groups.items())])
    else:
        config = config.copy()
    for key, value in changes.items():
        if key in groups:
            continue
        if OmegaConf.select(config, key, default=config) is config:
            hint = nearest(key, [str(name) for name in config])
            raise UserError(f"unknown key {shortened(key)} for one of the experiment's networks{hint}")
        OmegaConf.update(config, key, value)
    return config


def _is_node(config: DictConfig, key: str) -> bool:
    return isinstance(OmegaConf.select(config, key), DictConfig)
