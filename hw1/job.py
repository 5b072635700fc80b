"""One job: from a composed config to a folder with tables, figures and a result."""

import logging
import os
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hw1 import parts
from hw1.errors import UserError, one_line
from hw1.files import write_json, write_table
from hw1.recipe import Recipe, load_dataset
from hw1.store import Store
from hw1.terminal import PROGRESS, RESULT, Reporter

log = logging.getLogger(__name__)


def execute(config: DictConfig) -> None:
    """Run one job in Hydra's output folder, and leave in `result.json` how it ended.

    Nothing that goes wrong in a job is raised: under some launchers that would end the others. Ctrl-C is.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    side_by_side = int(hydra.launcher.get("n_jobs") or 1) if hydra.mode == RunMode.MULTIRUN else 1
    result: dict[str, Any] = {
        "status": "running",
        "overrides": dict(word.split("=", 1) for word in hydra.overrides.task if "=" in word),
        "runs": {},
        "error": None,
    }
    started = time.perf_counter()
    write_json(folder / RESULT, result)
    try:
        _perform(OmegaConf.to_container(config, resolve=True), folder, side_by_side, result)  # type: ignore[arg-type]
        result["status"] = "ok"
    except KeyboardInterrupt:
        result["status"], result["error"] = "interrupted", "stopped by Ctrl-C"
        raise
    except (Exception, SystemExit) as error:
        result["status"] = "failed"
        result["bad_input"] = isinstance(error, UserError)
        result["error"] = (
            one_line(error) if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
        )
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        log.info("failed", exc_info=error)
    finally:
        result["wall_seconds"] = round(time.perf_counter() - started, 3)
        write_json(folder / RESULT, result)
        (folder / PROGRESS).unlink(missing_ok=True)


def _perform(config: Mapping[str, Any], folder: Path, side_by_side: int, result: dict[str, Any]) -> None:
    experiment = parts.build(config["experiment"], allow=config["allow_targets"])
    from hw1 import figures, laboratory, machine  # with torch and matplotlib: seconds that bad input need not wait for

    here = machine.Machine(
        machine.resolve_device(config["device"]),
        threads_of(config["threads"], side_by_side),
        Path(config["data_dir"]),
        tuple(config["allow_targets"]),
    )
    result["environment"] = machine.environment(here)
    reporter = Reporter(folder, log.info)
    store = Store(Path(config["store"]))
    command = ["python", "-m", "hw1", *HydraConfig.get().overrides.task]
    lab = laboratory.Laboratory(store, here, reporter, reporter.stage, command)
    base = Recipe.from_config(config, here.device.partition(":")[0])
    load_dataset(base, here.data_dir, here.allow_targets)  # while freed memory still goes back to the system
    machine.set_up_process(here.threads)
    runs = {name: lab.run(recipe) for name, recipe in experiment.recipes(base).items()}
    result["runs"] = {
        name: {"key": run.key, "trained": lab.used[run.key], "network": run.info["architecture"]}
        for name, run in runs.items()
    }
    reporter.stage("measuring")
    tables = experiment.measure(runs)
    for name, table in tables.items():
        write_table(folder / f"{name}.csv", table)
    if problem := figures.draw(folder, experiment, tables, []):
        log.warning("a figure could not be drawn: %s", problem)


def threads_of(requested: int | str, side_by_side: int) -> int:
    """CPU threads of a job: as requested, or with "auto" its share of the cores that this process may use."""
    return requested if isinstance(requested, int) else max(1, cores() // side_by_side)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
