"""Hydra's composition and launch, with our words for what can go wrong. The one module that leans on its internals.

Hydra alone has types but no ranges, reports over several lines, and finds some mistakes only when a job runs.
"""

import argparse
import copy
import math
import os
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, cast

import hydra
from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, ValueNode, open_dict
from omegaconf.base import Metadata
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from yaml import YAMLError

from hw1 import checks, launchers, schema
from hw1.errors import LONGEST, UserError, one_line, shortened
from hw1.job import execute, plain
from hw1.paths import conf_dir

SUBDIR = "hydra.sweep.subdir"  # another one for each job
FIXED = {  # settings of Hydra that hw1 makes
    "hydra.job.chdir": "jobs run where the command was typed",
    "hydra.job.name": "it names the log, hw1.log",
    "hydra.launcher.n_jobs": "use jobs=…",
    "hydra.launcher.ray.init.num_cpus": "use jobs=…",
    "hydra.mode": "use -m",
    SUBDIR: "the folders of jobs are numbered",
    "hydra.output_subdir": "Hydra's record is in .hydra",
    "hydra.launcher._target_": "choose hydra/launcher=…",
    "hydra.launcher.submitit_folder": "its logs are in the sweep's folder",
    "hydra.launcher.temp_folder": "joblib has one of its own",
}
OPEN = (  # those that are for the user to make; any other could lead files elsewhere, or have something called
    "hydra.run.dir", "hydra.sweep.dir", "hydra.launcher", "hydra.sweeper.params", "hydra.verbose", "hydra.searchpath",
    "hydra.job.env_set", "hydra.job.env_copy",
)  # fmt: skip
SHOWING = ("cfg", "info", "hydra_help", "shell_completion", "package", "resolve", "config_dir")  # flags
WITH_OTHERS = ("--package", "--resolve", "--config-dir")
MOST_JOBS = 10_000  # of a sweep: planning takes some hundredths of a second for each
COMMAND_LINE = "command-line"  # what Hydra calls a folder that --config-dir names
KEPT = 32  # combinations of options that a loader has ready, 150 kB each


@dataclass(frozen=True)
class Grid:
    """A command line as Hydra understands it."""

    words: list[str]  # overrides for Hydra
    typed: set[str]  # keys that stand on the command line
    keys: list[str]  # the swept ones, in their order
    multirun: bool
    points: list[list[str]]  # overrides of each job
    folder: Path  # of the job, or of the sweep
    experiment: str
    launcher: dict[str, Any]  # its settings


@dataclass(frozen=True)
class Point:
    """One job of a grid: its overrides as values by key, and its config without Hydra's part, also raw and resolved."""

    values: dict[str, Any]
    config: DictConfig
    raw: dict[str, Any]
    resolved: dict[str, Any]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags and the overrides, in any order. Raises: UserError for an unknown flag."""
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    arguments = parser.parse_intermixed_args(list(argv))
    for flag in ("config_name", "config_path", "experimental_rerun"):
        if getattr(arguments, flag) is not None:
            name = flag.replace("_", "-")
            _refuse(f"--{name}: is not for hw1; your own files are found with --config-dir <folder>")
    return arguments


def _refuse(message: str) -> Any:
    raise UserError(f"{shortened(message, 400)} (see python -m hw1 --help)")


def show(arguments: argparse.Namespace) -> None:
    """Let Hydra print what its other flags ask for, such as `--cfg job`. Raises: UserError if it cannot."""
    given = {f"--{name.replace('_', '-')}": getattr(arguments, name) for name in SHOWING}
    asked = [flag for flag, value in given.items() if value and flag not in WITH_OTHERS]
    if len(asked) > 1:
        _refuse(f"{asked[0]} and {asked[1]}: choose one of them")
    if arguments.resolve and not arguments.cfg:
        _refuse("--resolve: is for --cfg")
    try:
        with open_composer(arguments.config_dir) as composer:
            if arguments.cfg or arguments.info:
                composer.show(arguments)
                return
        flags = [
            word for flag, value in given.items() if value for word in ([flag] if value is True else [flag, value])
        ]
        launch([*flags, *arguments.overrides])  # in the one order that Hydra takes
    except UserError:
        raise
    except Exception as error:  # its parts for show are less tested than the others
        raise UserError(f"{asked[0]}: {_reason(error)}") from error


def launch(arguments: Sequence[str], jobs: Mapping[int, Sequence[str]] | None = None, side_by_side: int = 1) -> None:
    """Let Hydra run `execute` for a checked command line, or print what its other flags ask for.

    Args:
        jobs: of a sweep, those to run: number → overrides; each in the folder of its number.
        side_by_side: how many of them at a time, for launchers that have no setting for it.
    Raises: whatever went wrong with Hydra or a launcher, which Hydra by itself would print over many lines.
    """
    if jobs is not None:
        return _launch_jobs(parse(arguments), jobs, side_by_side)
    GlobalHydra.instance().clear()
    words, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["hw1", *arguments], "1"
    try:
        hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(execute)()
    finally:
        sys.argv = words
        del os.environ["HYDRA_FULL_ERROR"]
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _launch_jobs(arguments: argparse.Namespace, jobs: Mapping[int, Sequence[str]], side_by_side: int) -> None:
    """What Hydra does with a sweep, but for composing every job once more, and all of them where some are left."""
    with _engine(arguments.config_dir) as engine:
        words = [*arguments.overrides, "hydra.mode=MULTIRUN"]
        config = engine.compose_config("config", words, RunMode.MULTIRUN, with_log_configuration=True)
        callbacks = Callbacks(config)
        callbacks.callbacks.insert(0, _Lighten())
        callbacks.on_multirun_start(config=config, config_name="config")
        context = HydraContext(config_loader=engine.config_loader, callbacks=callbacks)
        launcher = Plugins.instance().instantiate_launcher(context, execute, config)
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "multirun.yaml")
        # A launcher numbers what it is given from 0 on, whichever jobs of the sweep they are.
        points = [[*_of_task(words), f"{SUBDIR}={number}"] for number, words in jobs.items()]
        with launchers.attended(plain(config.hydra.launcher), side_by_side):
            for returned in launcher.launch(points, initial_job_idx=0) if points else []:
                _ = returned.return_value  # raises what went wrong around a job
        callbacks.on_multirun_end(config=config, config_name="config")


def _of_task(words: Sequence[str]) -> list[str]:
    """Overrides but for those of Hydra's own settings, which a launcher takes from the sweep's config."""
    return [word for word in words if not word.lstrip("+~").startswith(("hydra.", "hydra/"))]


class _Lighten(Callback):
    """Takes the configs out of what a job returns: the launcher would keep them all to the end of the sweep."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        job_return.cfg = job_return.hydra_cfg = None


class Loader(ConfigLoaderImpl):
    """Hydra's loader, for many configs: what a choice of options comes to is found once.

    Values are then put into a copy, by Hydra, so what comes of it is what Hydra's own gives, in a tenth of the time.
    A launcher's worker, which is sent the loader with every job, keeps what it has found for the next: a further tiny
    job of two at a time took 0.18 and 0.22 instead of 0.22 and 0.28 s.
    """

    # What loaders found that were sent here, by their marks.
    _sent: ClassVar[dict[str, dict[tuple[Any, ...], DictConfig]]] = {}

    def __init__(self, search: ConfigSearchPath) -> None:
        super().__init__(search)
        self.mark = os.urandom(16).hex()
        self.composed: dict[tuple[Any, ...], DictConfig] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"composed": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.mark not in self._sent:
            self._sent.clear()  # of sweeps before
        self.composed = self._sent.setdefault(self.mark, {})

    def _load_configuration_impl(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        rest = (run_mode, from_shell, validate_sweep_overrides)
        try:
            config = self._with_values(config_name, overrides, *rest)
        except (HydraException, OmegaConfBaseException):
            config = None  # of two mistakes Hydra speaks of the first
        return super()._load_configuration_impl(config_name, overrides, *rest) if config is None else config

    def _with_values(self, config_name: str | None, overrides: list[str], *rest: Any) -> DictConfig | None:
        """A choice of options with values put in; None where there may be more options than are known here."""
        parsed = OverridesParser.create().parse_overrides(overrides=overrides)
        values: list[Override] = []
        options: list[str] = []
        for override in parsed:
            if self._is_value(override):
                values.append(override)
            else:
                options.append(str(override.input_line))
        config = self._chosen(config_name, options, *rest)
        if not values:
            return config
        if config.hydra.searchpath:
            return None
        self._apply_overrides_to_config(values, config)
        own, of_hydra = ([o for o in parsed if o.is_hydra_override() is which] for which in (False, True))
        config.hydra.overrides.task = [override.input_line for override in own]
        config.hydra.overrides.hydra = [override.input_line for override in of_hydra]
        config.hydra.job.override_dirname = get_overrides_dirname(own, **config.hydra.job.config.override_dirname)
        return config

    def _chosen(self, config_name: str | None, options: list[str], *rest: Any) -> DictConfig:
        key = (config_name, *options, *rest, str(Path.cwd()))
        if key not in self.composed:
            if len(self.composed) == KEPT:
                del self.composed[next(iter(self.composed))]
            self.composed[key] = super()._load_configuration_impl(config_name, options, *rest)
        return copy.deepcopy(self.composed[key])

    def _is_value(self, override: Override) -> bool:
        """Whether it has no part in the choice of options, nor in what Hydra notes of itself."""
        key = override.key_or_group
        if override.is_sweep_override() or (override.is_hydra_override() and key != SUBDIR):
            return False
        return not self.repository.group_exists(key)


def _set_state(state: dict[str, Any], given: Callable[[dict[str, Any]], None] = Singleton.set_state) -> None:
    """What a launcher's worker does before each job, but without looking for all of Hydra's plugins each time anew.

    A further tiny job, two at a time, took 0.16, 0.18 and 0.16 s instead of 0.19, 0.20 and 0.19 (126 jobs, in turn).
    """
    if known := Singleton._instances.get(Plugins):
        state["instances"].setdefault(Plugins, known)
    given(state)


Singleton.set_state = _set_state  # type: ignore[method-assign]


def _copy_metadata(self: Metadata, memo: dict[int, Any]) -> Metadata:
    """What copy.deepcopy makes of what OmegaConf notes of a node, without asking each of its fields what it is."""
    copied = object.__new__(type(self))
    copied.__dict__.update(self.__dict__)
    copied.flags = dict(self.flags or {})
    copied.resolver_cache = copy.deepcopy(self.resolver_cache, memo) if self.resolver_cache else defaultdict(dict)
    return copied


def _copy_value(self: ValueNode, memo: dict[int, Any]) -> ValueNode:
    """What copy.deepcopy makes of a value in a config, without validating it once more."""
    copied = object.__new__(type(self))
    copied.__dict__.update(self.__dict__, _metadata=copy.deepcopy(self._metadata, memo), _flags_cache=None)
    return copied


# Hydra makes some ten copies of a job's config: each in 2.9 instead of 12.4 ms. A further tiny job, two at a time,
# takes 0.117 instead of 0.139 s (84 jobs against 4, in turn).
Metadata.__deepcopy__ = _copy_metadata  # type: ignore[attr-defined]
for _kind in ValueNode.__subclasses__():
    _kind.__deepcopy__ = _copy_value  # type: ignore[attr-defined]


@contextmanager
def _engine(config_dir: str | None) -> Iterator[Hydra]:
    """Hydra, set up to compose from conf/ and a folder of the user's own."""
    search = create_config_search_path(str(conf_dir()))
    _make_room_for_presets()
    if config_dir is not None:
        folder = f"file://{Path(config_dir).absolute()}"
        search.prepend(COMMAND_LINE, folder, anchor=SearchPathQuery(provider="schema"))
    version.setbase("1.3")
    GlobalHydra.instance().clear()
    engine = Hydra(task_name="hw1", config_loader=Loader(search))
    GlobalHydra.instance().initialize(engine)
    try:
        yield engine
    finally:
        GlobalHydra.instance().clear()


def _make_room_for_presets() -> None:
    """Put aside what plugins call by the names of our presets: Hydra would check ours against theirs, and warn."""
    stored = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
    for file in (conf_dir() / launchers.GROUP).glob("*.yaml"):
        stored.pop(file.name, None)


def quoted(text: str) -> str:
    """A text as a value in the grammar of overrides: quotes and references escaped, and backslashes before these."""
    escaped = re.sub(r"(\\*)('|\$\{|\Z)", lambda found: found[1] * 2 + ("\\" + found[2] if found[2] else ""), text)
    return f"'{escaped}'"


def _first(override: Override) -> str:
    """An override with the first value of its sweep."""
    if not override.is_sweep_override():
        return str(override.input_line)
    return f"{override.get_key_element()}={_values(override)[0]}"


def _values(override: Override) -> list[str]:
    """The values of a sweep, in their order. Raises: UserError if it is endless, empty or in no order."""
    line = override.input_line
    if not override.is_discrete_sweep():
        raise UserError(f"{line}: has no end; list the values, such as {override.key_or_group}=0.1,0.2")
    if getattr(override.value(), "shuffle", False):
        raise UserError(f"{line}: jobs run in the order given; leave shuffle out")
    try:
        values = list(islice(override.sweep_string_iterator(), MOST_JOBS + 1))
    except ArithmeticError as error:  # range(nan)
        raise UserError(f"{line}: is no range; list the values, such as {override.key_or_group}=1,2") from error
    if not values:
        raise UserError(f"{line}: is an empty sweep; list the values, such as {override.key_or_group}=1,2")
    return values


def _check_sweeps(swept: Sequence[Override], multirun: bool) -> None:
    for override in swept:
        if not multirun:
            raise UserError(f"{override.input_line} is a sweep: add -m")
        if override.key_or_group.startswith("hydra"):
            raise UserError(f"{override.input_line}: settings of Hydra's own cannot be swept")
    jobs = math.prod(len(_values(override)) for override in swept)
    if jobs > MOST_JOBS:
        raise UserError(f"{swept[0].input_line}: makes a sweep of {jobs:,} jobs or more; at most {MOST_JOBS:,}")


@contextmanager
def open_composer(config_dir: str | None) -> Iterator["Composer"]:
    """Hydra, ready to compose from conf/ and a folder of the user's own. Raises: UserError for what it objects to."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {shortened(config_dir)}: there is no such folder")
    if config_dir is not None:
        checks.check_files(Path(config_dir))
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning), _engine(config_dir) as engine:
            yield Composer(engine)
    except YAMLError as error:
        raise UserError(_yaml_place(error)) from error
    except (HydraException, OmegaConfBaseException, OSError, ValueError, AssertionError) as error:
        raise UserError(_unloadable(config_dir, error) or _reason(error)) from error
    except RecursionError as error:
        place = f"--config-dir {shortened(config_dir)}" if config_dir is not None else "the command line"
        raise UserError(f"{place}: something in it is nested too deeply, or names itself as its default") from error


class Composer:
    """Hydra's composition with our words for what can go wrong."""

    def __init__(self, engine: Hydra) -> None:
        self.engine = engine
        self.loader = engine.config_loader
        self.repository = self.loader.repository  # type: ignore[attr-defined]
        self.parser = OverridesParser.create(config_loader=self.loader)

    def parse(self, texts: Sequence[str]) -> list[Override]:
        """Overrides from words. Raises: UserError naming the word that is none."""
        parsed = []
        for text in texts:
            if re.search("[\ud800-\udfff]", text):
                raise UserError(f"cannot read {shortened(repr(text))}: is no text in UTF-8")
            try:
                override = self.parser.parse_overrides([text])[0]
            except (HydraException, RecursionError) as error:
                raise UserError(_unreadable(text, error)) from error
            if len(override.key_or_group) > LONGEST:
                raise UserError(f"unknown key {shortened(override.key_or_group)}")
            if not override.key_or_group:
                raise UserError(f"cannot read {shortened(repr(text))}: must be key=value (see python -m hw1 --help)")
            parsed.append(override)
        return parsed

    def compose(self, texts: Sequence[str]) -> DictConfig:
        """The config of one job, Hydra's part with it."""
        return self.engine.compose_config("config", list(texts), RunMode.RUN)

    def show(self, arguments: argparse.Namespace) -> None:
        """Print a config, or how it comes about, from what the check has composed: by `launch` --cfg job takes 1.1
        times as long. Raises: UserError for what is wrong with the overrides or the package."""
        words, overrides = list(arguments.overrides), self.parse(arguments.overrides)
        self.check_names(overrides)
        for override in overrides:
            if override.is_sweep_override():
                line = shortened(override.input_line)
                raise UserError(f"{line}: is a sweep; give one value to see what comes of it")
        if arguments.package and OmegaConf.select(self.compose(words), arguments.package) is None:
            raise UserError(f"--package {arguments.package}: the configuration has no such part")
        if arguments.cfg:
            self.engine.show_cfg("config", words, arguments.cfg, arguments.package, arguments.resolve)
        else:
            self.engine.show_info(arguments.info, "config", words)

    def check_names(self, overrides: Sequence[Override]) -> None:
        """Refuse groups, options and keys that do not exist, with the nearest that do."""
        groups = [o for o in overrides if self._is_group(o)]
        for override in groups:
            self._check_options(override)
        config = self.compose([_first(override) for override in groups])
        known = list(_dotted(OmegaConf.to_container(config, resolve=False)))
        for override in overrides:
            key = override.key_or_group
            if key in FIXED:
                raise UserError(f"{shortened(override.input_line)}: is not to be set; {FIXED[key]}")
            if key == "hydra" or (key.startswith("hydra.") and not checks.under(key, OPEN)):
                raise UserError(f"{shortened(override.input_line)}: is not to be set; only {', '.join(OPEN)} are")
            if key.startswith("hydra.launcher.") and not override.is_sweep_override():
                launchers.check_value(key, OmegaConf.select(config, key), override.value())
            if override.is_delete() and key in schema.Config.__dataclass_fields__:
                raise UserError(f"~{key}: cannot be left out; give another value with {key}=…")
            if override.is_add() or self._is_group(override) or key in known or key.startswith("hydra."):
                continue
            names = known + self.loader.list_groups("")
            raise UserError(f"unknown key {key}{schema.nearest(key, [n for n in names if not n.startswith('hydra')])}")

    def _is_group(self, override: Override) -> bool:
        return self.repository.group_exists(override.key_or_group.partition("@")[0].lstrip("/"))

    def _check_options(self, override: Override) -> None:
        group = override.key_or_group.partition("@")[0]
        if override.is_delete():
            raise UserError(f"~{group}: cannot be left out; choose another with {group}=…")
        if group.startswith("hydra/") and (override.package or group not in (launchers.GROUP, "hydra/sweeper")):
            line = shortened(override.input_line)
            raise UserError(f"{line}: is not to be set; of Hydra's groups only {launchers.GROUP} is")
        if group == launchers.GROUP and not override.is_sweep_override():
            launchers.check_installed(str(override.value()))
        options = [name for name in self.loader.get_group_options(group) if name != "schema"]
        # Options may live in folders (hydra/launcher has some of Hydra's); a path with a slash is left to Hydra.
        chosen = _values(override) if override.is_sweep_override() else [override.value()]
        for option in chosen:
            name = "null" if option is None else str(option)
            beyond = name.startswith("/") or ".." in name.split("/")  # of the folders that options are looked for in
            if beyond or (name not in options and "/" not in name):
                raise UserError(f"{group}={shortened(name)}: there is no such option{schema.nearest(name, options)}")

    def grid(self, words: Sequence[str], multirun: bool) -> Grid:
        """What a command line's overrides ask for, names and sweeps checked. Raises: UserError."""
        words = list(words)
        overrides = self.parse(words)
        typed = {override.get_key_element().lstrip("+~") for override in overrides}
        lengths = [override for override in overrides if override.key_or_group == "epochs"]
        if lengths and "steps" not in typed and lengths[-1].value() is not None:
            words.append("steps=null")  # an experiment that counts steps gives way to epochs that were typed
            overrides += self.parse(words[-1:])
        widths = [override for override in overrides if override.key_or_group == "model.widths"]
        if widths and not {"budget", "model.budget"} & typed and widths[-1].value() is not None:
            words.append("budget=null")  # likewise one that solves widths for a budget
            overrides += self.parse(words[-1:])
        self.check_names(overrides)
        of_hydra = self.compose([_first(override) for override in overrides]).hydra
        self._check_settings(of_hydra)
        params = of_hydra.sweeper.get("params") or {}
        overrides = self.parse([f"{key}={value}" for key, value in params.items()]) + overrides
        multirun = multirun or of_hydra.mode == RunMode.MULTIRUN
        swept = [override for override in overrides if override.is_sweep_override()]
        _check_sweeps(swept, multirun)
        choices = of_hydra.runtime.choices
        if launchers.GROUP in typed and not multirun:
            raise UserError(f"{launchers.GROUP}={choices[launchers.GROUP]}: is for the jobs of a sweep; add -m")
        if not str(of_hydra.sweeper._target_).endswith("BasicSweeper"):
            raise UserError(f"hydra/sweeper={choices['hydra/sweeper']}: hw1 plans its own grids")
        return Grid(
            words,
            typed,
            list(dict.fromkeys(override.get_key_element().lstrip("+") for override in swept)),
            multirun,
            BasicSweeper.split_arguments(overrides, None)[0],
            Path(of_hydra.sweep.dir if multirun else of_hydra.run.dir).absolute(),
            choices.experiment,
            plain(of_hydra.launcher),
        )

    def _check_settings(self, of_hydra: DictConfig) -> None:
        """Refuse settings of Hydra that a config file makes and that are not for it to make."""
        places = [place.provider for place in self.loader.get_search_path().get_path()]
        usual = _raw(self.compose([]).hydra) if COMMAND_LINE in places or of_hydra.searchpath else None
        checks.check_hydra(_raw(of_hydra), usual, OPEN)
        target = of_hydra.launcher.get("_target_")
        if target not in Plugins.instance().class_name_to_class:
            raise UserError(f"hydra.launcher._target_={shortened(target)}: is no launcher; choose {launchers.GROUP}=…")

    def point(self, words: Sequence[str]) -> Point:
        """One job of a grid. Raises: UserError if its config cannot be resolved."""
        config = self.compose(words)
        with open_dict(config):
            del config["hydra"]
        try:
            resolved = plain(config)
        except OmegaConfBaseException as error:
            raise UserError(_reason(error)) from error
        values = {override.get_key_element().lstrip("+"): _value(override) for override in self.parse(words)}
        return Point(values, config, _raw(config), resolved)


def _value(override: Override) -> Any:
    value = override.value()
    return value if isinstance(value, str | int | float | bool | None) else str(override.get_value_element_as_str())


def _raw(node: DictConfig) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=False))


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


def _unloadable(config_dir: str | None, error: BaseException) -> str | None:
    """The file of a user's own that cannot be read, for an error of a kind that names none."""
    nameless = [type(e) for e in (error, error.__cause__) if isinstance(e, GrammarParseError | UnicodeDecodeError)]
    if not nameless or config_dir is None:
        return None
    for file in sorted(Path(config_dir).rglob("*.yaml")):
        try:
            OmegaConf.load(file)
        except nameless[0] as found:
            return f"{file}: {_reason(found)}"
        except (YAMLError, OmegaConfBaseException, OSError, ValueError):
            continue
    return None


def _reason(error: BaseException) -> str:
    """What Hydra or OmegaConf says, without its lines of detail, and with the key and the cause that it leaves out."""
    text, cause = _bare(error), error.__cause__
    key = getattr(error, "full_key", None)
    if key and key not in text:
        text = f"{key}: {text}"
    if isinstance(cause, OmegaConfBaseException) and _bare(cause) not in text:
        text += f": {_bare(cause)}"
    return shortened(text, 500) or type(error).__name__


def _bare(error: BaseException) -> str:
    detail = r"\n\s+(?:full_key:|reference_type=|object_type=)|\s+See https://|\s+Config search path:"
    text = re.split(detail, str(error))[0]
    return shortened(re.sub(r",? expecting \{.*", "", one_line(text)), 400)


def _unreadable(text: str, error: BaseException) -> str:
    """What to say of a word that is no override."""
    if "=" not in text and not text.startswith("~"):
        return f"cannot read {shortened(repr(text))}: must be key=value (see python -m hw1 --help)"
    why = _bare(error).removeprefix(f"Error parsing override '{one_line(text)}'").strip()
    if "LexerNoViableAlt" in why:
        why = "special characters must stand in quotes within quotes, as in \"key='…'\""
    return f"cannot read {shortened(repr(text))}: {shortened(why)}"
