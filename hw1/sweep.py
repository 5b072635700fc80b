"""From a command line to checked jobs, and to Hydra that runs them. The one module that leans on Hydra's internals.

Everything is composed and checked here, each job of a sweep too, before a folder is made or a job started: Hydra alone
has types but no ranges, reports over several lines, and finds some mistakes only when a job runs.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hw1 import __version__, parts, schema
from hw1.errors import UserError, one_line
from hw1.files import write_json
from hw1.job import cores, execute
from hw1.paths import conf_dir
from hw1.recipe import Recipe, check_fits, forget_datasets, load_dataset

BY_THE_MODEL = ("depth", "width", "budget", "alpha")  # top-level names that only some parts read
SEEDS = ("seed", "init_seed", "order_seed")


@dataclass(frozen=True)
class Job:
    """One planned job: what Hydra is told, the same as values by key, and the resolved config that comes of it."""

    overrides: list[str]
    values: dict[str, Any]
    config: dict[str, Any]

    def name(self, keys: Sequence[str]) -> str:
        """`batch_size=16, depth=2` of the swept keys."""
        return ", ".join(f"{key}={self.values[key]}" for key in keys)


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


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags and the overrides, in any order. Raises: UserError for an unknown flag."""
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(list(argv))


def _refuse(message: str) -> Any:
    raise UserError(f"{message} (see python -m hw1 --help)")


def plan(arguments: argparse.Namespace) -> Planned:
    """Compose and check every job of a command line.

    Raises: UserError, one line, for whatever is wrong with it; nothing has been started or written then, but for the
        data set, which is unpacked once.
    """
    texts = list(arguments.overrides)
    with _composer(arguments.config_dir) as composer:
        overrides = composer.parse(texts)
        typed = {override.get_key_element().lstrip("+~") for override in overrides}
        if "epochs" in typed and "steps" not in typed:
            texts, overrides = [*texts, "steps=null"], [*overrides, *composer.parse(["steps=null"])]
        composer.check_names(overrides)
        first = composer.compose([_first(override) for override in overrides])
        hydra_config = first.hydra
        overrides = (
            composer.parse([f"{k}={v}" for k, v in (hydra_config.sweeper.get("params") or {}).items()]) + overrides
        )
        multirun = arguments.multirun or hydra_config.mode == RunMode.MULTIRUN
        swept = [override for override in overrides if override.is_sweep_override()]
        if swept and not multirun:
            raise UserError(f"{swept[0].input_line} is a sweep: add -m")
        if not str(hydra_config.sweeper._target_).endswith("BasicSweeper"):
            raise UserError(f"hydra/sweeper={hydra_config.runtime.choices['hydra/sweeper']}: hw1 plans its own grids")
        batches = BasicSweeper.split_arguments(overrides, None)[0]
        jobs = [composer.job(batch, typed) for batch in batches]
        folder = Path(hydra_config.sweep.dir if multirun else hydra_config.run.dir).absolute()
        experiment = hydra_config.runtime.choices.experiment
        launcher = hydra_config.runtime.choices["hydra/launcher"]
    check_together(jobs, typed, folder)
    forget_datasets()  # the jobs load their own, side by side with this process
    keys = list(dict.fromkeys(override.get_key_element().lstrip("+") for override in swept))
    side_by_side = _side_by_side(jobs[0].config["jobs"], len(jobs)) if launcher == "joblib" else 1
    to_hydra = [*(["-m"] if multirun else []), *texts]
    if arguments.config_dir:
        to_hydra = ["--config-dir", arguments.config_dir, *to_hydra]
    to_hydra.append(f"hydra.{'sweep' if multirun else 'run'}.dir={_quoted(str(folder))}")
    if launcher == "joblib":
        to_hydra.append(f"hydra.launcher.n_jobs={side_by_side}")
    return Planned(experiment, multirun, keys, jobs, folder, to_hydra, side_by_side)


def launch(arguments: Sequence[str]) -> None:
    """Let Hydra run `execute` for the jobs of a checked command line, or print what its other flags ask for."""
    GlobalHydra.instance().clear()
    before, sys.argv = sys.argv, ["hw1", *arguments]
    try:
        hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(execute)()
    finally:
        sys.argv = before


def write_plan(planned: Planned, command: str) -> None:
    """Make the folder, and of a sweep write `sweep.json`: what was asked for, whatever becomes of it."""
    planned.folder.mkdir(parents=True, exist_ok=True)
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


def _side_by_side(requested: int | str, jobs: int) -> int:
    return min(jobs, requested if isinstance(requested, int) else cores())


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _first(override: Override) -> str:
    """An override with the first value of its sweep."""
    if not override.is_sweep_override() or not override.is_discrete_sweep():
        return str(override.input_line)
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


@contextmanager
def _composer(config_dir: str | None) -> Iterator["_Composer"]:
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder")
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="hw1"):
        try:
            yield _Composer(config_dir)
        except HydraException as error:
            raise UserError(_reason(error)) from error


class _Composer:
    """Hydra's composition with our words for what can go wrong."""

    def __init__(self, config_dir: str | None) -> None:
        found = GlobalHydra.instance().hydra
        assert found is not None
        self.loader = found.config_loader
        self.repository = self.loader.repository  # type: ignore[attr-defined]
        self.search = (
            [f"hydra.searchpath=[{_quoted('file://' + str(Path(config_dir).absolute()))}]"] if config_dir else []
        )
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.seen: dict[tuple[str, ...], DictConfig] = {}

    def parse(self, texts: Sequence[str]) -> list[Override]:
        """Overrides from words. Raises: UserError naming the word that is none."""
        parsed = []
        for text in texts:
            try:
                parsed += self.parser.parse_overrides([text])
            except HydraException as error:
                raise UserError(
                    f"cannot read {text!r}: expected key=value ({_reason(error.__cause__ or error)})"
                ) from error
        return parsed

    def compose(self, texts: Sequence[str]) -> DictConfig:
        """The config of one job, Hydra's part with it."""
        key = tuple(texts)
        if key not in self.seen:
            try:
                self.seen[key] = hydra.compose("config", [*self.search, *texts], return_hydra_config=True)
            except YAMLError as error:
                raise UserError(_yaml_place(error)) from error
            except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
                raise UserError(_reason(error)) from error
        return self.seen[key]

    def check_names(self, overrides: Sequence[Override]) -> None:
        """Refuse groups, options and keys that do not exist, with the nearest that do."""
        groups = [o for o in overrides if self._is_group(o)]
        for override in groups:
            self._check_options(override)
        config = self.compose([_first(override) for override in groups])
        known = list(_dotted(OmegaConf.to_container(config, resolve=False)))
        for override in overrides:
            key = override.key_or_group
            if override.is_add() or self._is_group(override) or key in known or key.startswith("hydra."):
                continue
            names = known + self.loader.list_groups("")
            raise UserError(f"unknown key {key}{schema.nearest(key, [n for n in names if not n.startswith('hydra')])}")

    def _is_group(self, override: Override) -> bool:
        return self.repository.group_exists(override.key_or_group.partition("@")[0].lstrip("/"))

    def _check_options(self, override: Override) -> None:
        group = override.key_or_group.partition("@")[0]
        if override.is_delete():
            raise UserError(f"~{group}: hw1 needs a {group}; choose another with {group}=…")
        options = [name for name in self.loader.get_group_options(group) if name != "schema"]
        # Options may live in folders (hydra/launcher has none of ours); a path with a slash is left to Hydra.
        chosen = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
        for option in chosen:
            name = "null" if option is None else str(option)
            if name not in options and "/" not in name:
                raise UserError(f"{group}={name}: there is no such option{schema.nearest(name, options)}")

    def job(self, texts: Sequence[str], typed: set[str]) -> Job:
        """One job, checked on its own."""
        texts = list(texts)
        config = self.compose(texts)
        raw = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
        values = {o.get_key_element().lstrip("+"): _value(o) for o in self.parse(texts)}
        hydra_free = {key: value for key, value in raw.items() if key != "hydra"}
        _check_secrets(hydra_free)
        _check_use(hydra_free, typed)
        try:
            plain = OmegaConf.masked_copy(config, list(hydra_free))
            resolved = cast("dict[str, Any]", OmegaConf.to_container(plain, resolve=True))
        except OmegaConfBaseException as error:
            raise UserError(_reason(error)) from error
        check(resolved)
        _check_sizing(resolved["model"], typed)
        return Job(texts, values, resolved)


def check(config: Mapping[str, Any]) -> None:
    """Check a resolved config: the root, then each node against the schema of its target.

    Raises: UserError.
    """
    schema.check_keys(config, schema.Config)
    allow = config["allow_targets"]
    for name in ("experiment", "dataset", "model", "optimizer", "loss"):
        node = config[name]
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise UserError(f"{name}={node}: must be a group with a _target_; choose {name}=…")
        target = node["_target_"]
        expected = schema.PARTS.get(target)
        if expected is None:
            for each in parts.targets(node):
                found = parts.find(each, allow, f"{name}._target_")
            if name == "experiment":
                expected = found  # type: ignore[assignment]
        if expected is not None:
            schema.check_keys(node, expected, f"{name}.")
        elif name == "dataset":
            schema.check_keys({key: node.get(key, "???") for key in SPLIT_KEYS}, schema.Split, "dataset.")


SPLIT_KEYS = ("validation", "split_seed", "subset", "label_noise")


def check_together(jobs: Sequence[Job], typed: set[str], folder: Path) -> None:
    """Check what needs a look at the data, the device or the disk.

    Raises: UserError.
    """
    if {"epochs", "steps"} <= typed and all(job.config["steps"] is not None for job in jobs):
        raise UserError("epochs and steps are both given: choose one")
    for device in {job.config["device"] for job in jobs} - {"auto", "cpu"}:
        from hw1.laboratory import resolve_device  # torch: only for those who ask for a certain device

        resolve_device(device)
    for job in jobs:
        allow = tuple(job.config["allow_targets"])
        recipe = Recipe.from_config(job.config, "cpu")
        _check_writable("store", Path(job.config["store"]))
        check_fits(recipe, load_dataset(recipe, Path(job.config["data_dir"]), allow))
    _check_writable("output folder", folder)


def _check_writable(what: str, folder: Path) -> None:
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{what} {folder}: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{what} {folder}: {place} cannot be written to")


def _check_secrets(raw: Mapping[str, Any]) -> None:
    for key, value in _leaves(raw):
        if (
            isinstance(value, str)
            and re.search(r"\$\{\s*(oc\.env|oc\.decode)\s*:", value)
            and key not in ("store", "data_dir")
        ):
            raise UserError(
                f"{key}={value}: environment variables are not read into a recipe, which is stored; give the value"
            )


def _check_use(raw: Mapping[str, Any], typed: set[str]) -> None:
    """Refuse a typed top-level name that no chosen part reads."""
    model = raw["model"] if isinstance(raw["model"], Mapping) else {}
    name = str(model.get("_target_", "model")).rpartition(".")[2]
    for key in BY_THE_MODEL:
        readers = [place for place, value in _leaves(raw) if isinstance(value, str) and f"${{{key}}}" in value]
        if key in typed and not readers:
            owner = "experiment" if key == "alpha" else f"model {name}"
            raise UserError(f"{key} is not used: the chosen {owner} has no {key}")


def _check_sizing(model: Mapping[str, Any], typed: set[str]) -> None:
    """Refuse a typed size that another size overrules."""
    if model.get("widths") is not None and (given := sorted({"depth", "width"} & typed)):
        raise UserError(f"{given[0]} is not used: model.widths={model['widths']} decides it")
    if model.get("budget") is not None and "width" in typed:
        raise UserError(f"width is not used: budget={model['budget']} decides the widths; add budget=null")


def _value(override: Override) -> Any:
    value = override.value()
    return value if isinstance(value, str | int | float | bool | None) else str(override.get_value_element_as_str())


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list):
        for item in node:
            yield from _leaves(item, prefix)
    else:
        yield prefix, node


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            path = f"{prefix}.{key}" if prefix else str(key)
            yield path
            yield from _dotted(value, path)


def _yaml_place(error: YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or _reason(error)
    return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else _reason(error)


def _reason(error: BaseException) -> str:
    """What Hydra or OmegaConf says, with the cause that it leaves out."""
    text, cause = one_line(error), error.__cause__
    if isinstance(cause, OmegaConfBaseException) and one_line(cause.msg or "") not in text:
        text += f": {one_line(cause.msg or cause)}"
    return text or type(error).__name__
