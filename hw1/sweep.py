"""From a command line to checked jobs, and to Hydra that runs them. The one module that leans on Hydra's internals.

Everything is composed and checked here, each job of a sweep too, before a folder is made or a job started: Hydra alone
has types but no ranges, reports over several lines, and finds some mistakes only when a job runs.
"""

import argparse
import inspect
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import hydra
from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from yaml import YAMLError

from hw1 import __version__, parts, schema
from hw1.errors import UserError, one_line
from hw1.files import write_json
from hw1.job import cores, execute
from hw1.paths import conf_dir
from hw1.recipe import Recipe, check_fits, forget_datasets, load_dataset
from hw1.terminal import RESULT

BY_THE_MODEL = ("depth", "width", "budget", "alpha")  # top-level names that only some parts read
KINDS = {  # where hw1's own parts and those with a schema come from
    "experiment": "hw1.experiments.",
    "dataset": "hw1.sources.",
    "model": "hw1.models.",
    "optimizer": "torch.optim.",
    "loss": "torch.nn.",
}
FIXED = {  # settings of Hydra that hw1 makes
    "hydra.job.chdir": "jobs run where the command was typed",
    "hydra.job.name": "it names the log, hw1.log",
    "hydra.launcher.n_jobs": "use jobs=…",
    "hydra.mode": "use -m",
    "hydra.sweep.subdir": "the folders of jobs are numbered",
}
OFFERED = {"dataset": ("data_dir",), "model": ("input_shape", "outputs")}  # what a target is given beside its node
LONGEST = 80  # characters of a value in a message
MOST_JOBS = 10_000  # of a sweep: planning takes a tenth of a second for each
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
    arguments = parser.parse_intermixed_args(list(argv))
    for flag in ("config_name", "config_path", "experimental_rerun"):
        if getattr(arguments, flag) is not None:
            name = flag.replace("_", "-")
            _refuse(f"--{name}: is not for hw1; your own files are found with --config-dir <folder>")
    return arguments


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
        lengths = [override for override in overrides if override.key_or_group == "epochs"]
        if lengths and "steps" not in typed and lengths[-1].value() is not None:
            texts, overrides = [*texts, "steps=null"], [*overrides, *composer.parse(["steps=null"])]
        composer.check_names(overrides)
        first = composer.compose([_first(override) for override in overrides])
        hydra_config = first.hydra
        overrides = (
            composer.parse([f"{k}={v}" for k, v in (hydra_config.sweeper.get("params") or {}).items()]) + overrides
        )
        multirun = arguments.multirun or hydra_config.mode == RunMode.MULTIRUN
        swept = [override for override in overrides if override.is_sweep_override()]
        _check_sweeps(swept, multirun)
        if not str(hydra_config.sweeper._target_).endswith("BasicSweeper"):
            raise UserError(f"hydra/sweeper={hydra_config.runtime.choices['hydra/sweeper']}: hw1 plans its own grids")
        batches = BasicSweeper.split_arguments(overrides, None)[0]
        jobs = [composer.job(batch, typed) for batch in batches]
        folder = Path(hydra_config.sweep.dir if multirun else hydra_config.run.dir).absolute()
        experiment = hydra_config.runtime.choices.experiment
        launcher = hydra_config.runtime.choices["hydra/launcher"]
    _check_together(jobs, typed, folder)
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


def show(arguments: argparse.Namespace, argv: Sequence[str]) -> None:
    """Let Hydra print what its other flags ask for, such as `--cfg job`. Raises: UserError if it cannot."""
    with _composer(arguments.config_dir) as composer:
        if arguments.cfg:
            overrides = composer.parse(arguments.overrides)
            composer.check_names(overrides)
            config = composer.compose([_first(override) for override in overrides])
            if arguments.package and OmegaConf.select(config, arguments.package) is None:
                raise UserError(f"--package {arguments.package}: the configuration has no such part")
    try:
        flags = [word for word in argv if word not in ("-m", "--multirun", *arguments.overrides)]
        launch([*flags, *arguments.overrides])  # in the one order that Hydra takes
    except HydraException as error:
        raise UserError(_reason(error)) from error


def launch(arguments: Sequence[str]) -> None:
    """Let Hydra run `execute` for the jobs of a checked command line, or print what its other flags ask for.

    Raises: whatever went wrong with Hydra or a launcher, which Hydra by itself would print over many lines.
    """
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


def write_plan(planned: Planned, command: str) -> None:
    """Make the folder, and of a sweep write `sweep.json`: what was asked for, whatever becomes of it.

    In a folder that was used before, the planned jobs are no longer what they were.
    """
    planned.folder.mkdir(parents=True, exist_ok=True)
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


def _side_by_side(requested: int | str, jobs: int) -> int:
    return min(jobs, requested if isinstance(requested, int) else cores())


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


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
    values = list(islice(override.sweep_string_iterator(), MOST_JOBS + 1))
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
def _composer(config_dir: str | None) -> Iterator["_Composer"]:
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir}: there is no such folder")
    search = create_config_search_path(str(conf_dir()))
    if config_dir is not None:
        folder = f"file://{Path(config_dir).absolute()}"
        search.prepend("command-line", folder, anchor=SearchPathQuery(provider="schema"))
    version.setbase("1.3")
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2(task_name="hw1", config_search_path=search)
    try:
        yield _Composer()
    except YAMLError as error:
        raise UserError(_yaml_place(error)) from error
    except (HydraException, OmegaConfBaseException, OSError, ValueError, AssertionError) as error:
        raise UserError(_unloadable(config_dir, error) or _reason(error)) from error
    finally:
        GlobalHydra.instance().clear()


class _Composer:
    """Hydra's composition with our words for what can go wrong."""

    def __init__(self) -> None:
        found = GlobalHydra.instance().hydra
        assert found is not None
        self.loader = found.config_loader
        self.repository = self.loader.repository  # type: ignore[attr-defined]
        self.parser = OverridesParser.create(config_loader=self.loader)
        self.seen: dict[tuple[str, ...], DictConfig] = {}

    def parse(self, texts: Sequence[str]) -> list[Override]:
        """Overrides from words. Raises: UserError naming the word that is none."""
        parsed = []
        for text in texts:
            try:
                override = self.parser.parse_overrides([text])[0]
            except (HydraException, RecursionError) as error:
                raise UserError(_unreadable(text, error)) from error
            if len(override.key_or_group) > LONGEST:
                raise UserError(f"unknown key {_short(override.key_or_group)}")
            if not override.key_or_group:
                raise UserError(f"cannot read {_short(repr(text))}: must be key=value (see python -m hw1 --help)")
            parsed.append(override)
        return parsed

    def compose(self, texts: Sequence[str]) -> DictConfig:
        """The config of one job, Hydra's part with it."""
        key = tuple(texts)
        if key not in self.seen:
            self.seen[key] = hydra.compose("config", list(texts), return_hydra_config=True)
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
            if key in FIXED:
                raise UserError(f"{override.input_line}: is not to be set; {FIXED[key]}")
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
        options = [name for name in self.loader.get_group_options(group) if name != "schema"]
        # Options may live in folders (hydra/launcher has none of ours); a path with a slash is left to Hydra.
        chosen = _values(override) if override.is_sweep_override() else [override.value()]
        for option in chosen:
            name = "null" if option is None else str(option)
            if name not in options and "/" not in name:
                raise UserError(f"{group}={_short(name)}: there is no such option{schema.nearest(name, options)}")

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
            raise UserError(f"{name}={_short(node)}: must be a group with a _target_; choose {name}=…")
        if isinstance(node["_target_"], str) and node["_target_"] in schema.PARTS:
            _check_kind(name, node["_target_"])
            schema.check_keys(node, schema.PARTS[node["_target_"]], f"{name}.")
        else:
            _check_other(name, node, allow)


def _check_kind(name: str, target: str) -> None:
    if not target.startswith(KINDS[name]):
        raise UserError(f"{name}._target_={target}: is no {name}; those of hw1 are in {KINDS[name].rstrip('.')}")


def _check_other(name: str, node: Mapping[str, Any], allow: Sequence[str]) -> None:
    """Check a node whose target has no schema: an experiment, or a part of torch's or the user's own."""
    key = f"{name}._target_"
    if node["_target_"] == "???":
        raise UserError(f"{key} is missing: name your own, such as {key}=my_module.name allow_targets=[my_module]")
    found, *_ = [parts.find(target, allow, key) for target in parts.targets(node)]
    if node["_target_"].startswith("hw1."):
        _check_kind(name, node["_target_"])
    bases = [f"{base.__module__}.{base.__name__}" for base in getattr(found, "__mro__", ())]
    if name == "optimizer" and bases and "torch.optim.optimizer.Optimizer" not in bases:
        raise UserError(f"{key}={node['_target_']}: is no optimizer, such as torch.optim.SGD")
    if name == "experiment":
        if not (is_dataclass(found) and isinstance(found, type) and hasattr(found, "measure")):
            raise UserError(f"{key}={node['_target_']}: is no experiment: a dataclass with recipes, measure and draw")
        schema.check_keys(node, found, "experiment.")
        return
    if name == "dataset":
        schema.check_keys({k: node.get(k, "???") for k in SPLIT_KEYS}, schema.Split, "dataset.")
    _check_call(name, found, node, without=SPLIT_KEYS if name == "dataset" else ())


def _check_call(name: str, target: Callable[..., Any], node: Mapping[str, Any], without: Sequence[str] = ()) -> None:
    """See whether a target can be called with the keys of its node, as `parts.build` will."""
    try:
        signature = inspect.signature(target)
    except ValueError:  # some compiled ones have none
        return
    keys = {key: value for key, value in node.items() if key not in ("_target_", *without)}
    offered = {k: None for k in OFFERED.get(name, ()) if k in signature.parameters and k not in keys}
    try:
        signature.bind(*([None] if name == "optimizer" else []), **keys, **offered)
    except TypeError as error:
        raise UserError(f"{name}._target_={node['_target_']}: {error}") from error


SPLIT_KEYS = ("validation", "split_seed", "subset", "label_noise")


def _check_together(jobs: Sequence[Job], typed: set[str], folder: Path) -> None:
    """Check what needs a look at the data, the device or the disk.

    Raises: UserError.
    """
    if {"epochs", "steps"} <= typed and all(job.config["steps"] is not None for job in jobs):
        raise UserError("epochs and steps are both given: choose one")
    if any(job.config["epochs"] is None and job.config["steps"] is None for job in jobs):
        raise UserError("epochs=null and steps=null: one of them must be a whole number")
    for device in {job.config["device"] for job in jobs} - {"auto", "cpu"}:
        from hw1.laboratory import resolve_device  # torch: only for those who ask for a certain device

        resolve_device(device)
    for job in jobs:
        allow = tuple(job.config["allow_targets"])
        recipe = Recipe.from_config(job.config, "cpu")
        _check_writable("store", Path(job.config["store"]))
        dataset = load_dataset(recipe, Path(job.config["data_dir"]), allow)
        parts.build(job.config["experiment"], allow=allow).check(dataset)
        check_fits(recipe, dataset)
    _check_writable("output folder", folder)


def _check_writable(what: str, folder: Path) -> None:
    place = folder.absolute()
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
    except OSError as error:
        raise UserError(f"{what} {_short(folder)}: {error.strerror}") from error
    if not place.is_dir():
        raise UserError(f"{what} {folder}: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{what} {folder}: {place} cannot be written to")


def _check_secrets(raw: Mapping[str, Any]) -> None:
    for key, value in _leaves(raw):
        if (
            isinstance(value, str)
            and re.search(r"\$\{\s*(oc\.env|oc\.decode)\s*:", value)
            and key not in ("store", "data_dir", "jobs")
        ):
            raise UserError(
                f"{key}={_short(value)}: environment variables are not read into what is stored; type the value"
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
    return text or type(error).__name__


def _bare(error: BaseException) -> str:
    detail = r"\n\s+(?:full_key:|reference_type=|object_type=)|\s+See https://|\s+Config search path:"
    text = re.split(detail, str(error))[0]
    return _short(re.sub(r",? expecting \{.*", "", one_line(text)), 400)


def _unreadable(text: str, error: BaseException) -> str:
    """What to say of a word that is no override."""
    if "=" not in text and not text.startswith("~"):
        return f"cannot read {_short(repr(text))}: must be key=value (see python -m hw1 --help)"
    why = _bare(error).removeprefix(f"Error parsing override '{one_line(text)}'").strip()
    if "LexerNoViableAlt" in why:
        why = "special characters must stand in quotes within quotes, as in \"key='…'\""
    return f"cannot read {_short(repr(text))}: {_short(why)}"


def _short(value: Any, longest: int = LONGEST) -> str:
    text = str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"
