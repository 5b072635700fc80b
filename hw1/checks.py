"""What a composed config must satisfy beyond Hydra: keys, targets, use of names, and fit with data, device and disk.

No Hydra here and no torch, unless a part of torch's or the user's own must be looked at. Every error is a UserError.
"""

import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from hw1 import parts, schema
from hw1.errors import UserError, shortened
from hw1.experiments import Experiment, flattened
from hw1.recipe import Recipe, check_fits, load_dataset

BY_THE_MODEL = ("depth", "width", "budget", "alpha")  # top-level names that only some parts read
KINDS = {  # where hw1's own parts and those with a schema come from
    "experiment": "hw1.experiments.",
    "dataset": "hw1.sources.",
    "model": "hw1.models.",
    "optimizer": "torch.optim.",
    "loss": "torch.nn.",
}
OFFERED = {"dataset": ("data_dir",), "model": ("input_shape", "outputs")}  # what a target is given beside its node
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MOST_FOLDERS = 1_000  # of a --config-dir that are looked at
MOST_VALUES = 100_000  # that the anchors of a YAML file may stand for
OF_HYDRA = (  # what Hydra itself says of a composition, and what is checked by itself
    "hydra.runtime.choices", "hydra.runtime.config_sources", "hydra.runtime.cwd", "hydra.runtime.version",
    "hydra.overrides", "hydra.job.override_dirname", "hydra.job.config_name", "hydra.mode", "hydra.sweeper",
)  # fmt: skip
SPLIT_KEYS = ("validation", "split_seed", "subset", "label_noise")


def check(config: Mapping[str, Any]) -> None:
    """Check a resolved config: the root, then each node against the schema of its target.

    Raises: UserError.
    """
    schema.check_keys(config, schema.Config)
    check_texts(config)
    if config["schedule"]["hold"] == "steps" and config["steps"] is not None:
        raise UserError(f"schedule.hold=steps: has no use beside steps={config['steps']}; give epochs instead")
    check_tracker(config["tracker"])
    allow = config["allow_targets"]
    for name in ("experiment", "dataset", "model", "optimizer", "loss"):
        node = config[name]
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise UserError(f"{name}={shortened(node)}: must be a group with a _target_; choose {name}=…")
        if isinstance(node["_target_"], str) and node["_target_"] in schema.PARTS:
            _check_kind(name, node["_target_"])
            schema.check_keys(node, schema.PARTS[node["_target_"]], f"{name}.")
        else:
            _check_other(name, node, allow)
        _check_nested(name, node, allow)


def check_tracker(node: Any) -> None:
    """Check what a tracker is told, and that its library is there. Raises: UserError."""
    kind = node.get("kind") if isinstance(node, Mapping) else None
    if not isinstance(kind, str) or kind not in schema.TRACKERS:
        raise UserError(f"tracker={shortened(node)}: must be a group with a kind; choose tracker=…")
    schema.check_keys(node, schema.TRACKERS[kind], "tracker.")
    if kind != "none":
        from hw1 import trackers

        trackers.check(node)


def check_texts(config: Mapping[str, Any]) -> None:
    """Refuse control characters, which would break lines of tables, figures and the terminal. Raises: UserError."""
    for key, value in _leaves(config):
        if CONTROL.search(key) or (isinstance(value, str) and CONTROL.search(value)):
            raise UserError(f"{key}={shortened(value)}: must be without control characters and line breaks")


def _check_nested(name: str, node: Mapping[str, Any], allow: Sequence[str]) -> None:
    """See whether the targets within a node can be had."""
    for place, inner in parts.nodes(node, name):
        if place != name:
            _check_given(f"{place}._target_", inner)
            parts.find(inner["_target_"], allow, f"{place}._target_")
            parts.is_partial(inner, f"{place}._partial_")


def _check_given(key: str, node: Mapping[str, Any]) -> None:
    if node["_target_"] == "???":
        raise UserError(f"{key} is missing: name your own, such as {key}=my_module.name allow_targets=[my_module]")


def _check_kind(name: str, target: str) -> None:
    if not target.startswith(KINDS[name]):
        raise UserError(f"{name}._target_={target}: is no {name}; those of hw1 are in {KINDS[name].rstrip('.')}")


def _check_other(name: str, node: Mapping[str, Any], allow: Sequence[str]) -> None:
    """Check a node whose target has no schema: an experiment, or a part of torch's or the user's own."""
    key = f"{name}._target_"
    _check_given(key, node)
    found = parts.find(node["_target_"], allow, key)
    if node["_target_"].startswith("hw1."):
        _check_kind(name, node["_target_"])
    bases = [f"{base.__module__}.{base.__name__}" for base in getattr(found, "__mro__", ())]
    if name == "optimizer" and bases and "torch.optim.optimizer.Optimizer" not in bases:
        raise UserError(f"{key}={node['_target_']}: is no optimizer, such as torch.optim.SGD")
    if name == "experiment":
        if not (is_dataclass(found) and isinstance(found, type) and issubclass(found, Experiment)):
            raise UserError(
                f"{key}={node['_target_']}: is no experiment: a dataclass that is a hw1.experiments.Experiment"
            )
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


def check_together(jobs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], typed: set[str], folder: Path) -> None:
    """Check what needs a look at the data, the device or the disk.

    Args:
        jobs: of each its config, and by name those of the runs that its experiment needs.
    Raises: UserError.
    """
    configs = [config for config, _ in jobs]
    if {"epochs", "steps"} <= typed and all(config["steps"] is not None for config in configs):
        raise UserError("epochs and steps are both given: choose one")
    if any(config["epochs"] is None and config["steps"] is None for config in configs):
        raise UserError("epochs=null and steps=null: one of them must be a whole number")
    if any(config["tracker"] != configs[0]["tracker"] for config in configs):
        raise UserError("tracker: is one for all jobs of a sweep; it is not to be swept")
    for device in {config["device"] for config in configs} - {"auto", "cpu"}:
        from hw1.machine import resolve_device  # torch: only for those who ask for a certain device

        resolve_device(device)
    for config, variants in jobs:
        _check_writable("store", Path(config["store"]), or_there=True)  # hits are of use where nothing can be written
        _check_data(config, {name: Recipe.from_config(variant, "cpu") for name, variant in variants.items()})
    _check_writable("output folder", folder)


def _check_data(config: Mapping[str, Any], recipes: Mapping[str, Recipe]) -> None:
    data_dir, allow = Path(config["data_dir"]), tuple(config["allow_targets"])
    experiment = parts.build(config["experiment"], allow=allow)
    for recipe in recipes.values():
        dataset = load_dataset(recipe, data_dir, allow)
        experiment.check(dataset, recipes)
        check_fits(recipe, dataset)


def _check_writable(what: str, folder: Path, or_there: bool = False) -> None:
    place = folder.absolute()
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
    except OSError as error:
        raise UserError(f"{what} {shortened(folder)}: {error.strerror}") from error
    if not place.is_dir():
        raise UserError(f"{what} {folder}: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK) and not (or_there and place == folder.absolute()):
        raise UserError(f"{what} {folder}: {place} cannot be written to")


def check_files(folder: Path) -> None:
    """Refuse YAML files whose anchors stand for themselves, or for more values than a memory holds.

    Only these: what else is wrong with a file is said when it is read. Raises: UserError naming the file.
    """
    for place, _, names in islice(os.walk(folder), MOST_FOLDERS):
        for file in (Path(place, name) for name in names if name.endswith(".yaml")):
            try:
                content = file.read_bytes() if file.is_file() else b""
                tree = yaml.compose(content, yaml.SafeLoader) if b"&" in content and b"*" in content else None
            except (OSError, ValueError, yaml.YAMLError, RecursionError):
                continue
            if tree is not None and _values_in(tree, {}) > MOST_VALUES:
                raise UserError(f"{file}: its anchors stand for more than {MOST_VALUES:,} values, or for themselves")


def _values_in(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for, aliases written out; infinitely many in one that is part of itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        inner = [node.value] if isinstance(node, yaml.ScalarNode) else node.value
        parts_of = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_values_in(part, known) for part in parts_of if isinstance(part, yaml.Node))
    return known[id(node)]


def under(key: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted key is one of `prefixes` or below one."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def check_hydra(raw: Mapping[str, Any], usual: Mapping[str, Any] | None, free: Sequence[str]) -> None:
    """Check Hydra's own settings, which may lead files out of the output folder or have something called.

    Args:
        raw: Hydra's part of a composed config, not resolved.
        usual: the same without a user's command line and files; None if there are no files.
        free: keys that a user may set.
    Raises: UserError.
    """
    for name in ("launcher", "sweeper"):
        if not isinstance(raw[name], Mapping):
            raise UserError(f"hydra.{name}={shortened(raw[name])}: must be a group of keys")
        for place, _ in parts.nodes(dict(raw[name]), f"hydra.{name}"):
            if place != f"hydra.{name}":
                raise UserError(f"{place}._target_: is not to be set; settings of a {name} are plain values")
    for name in ("run", "sweep"):
        if CONTROL.search(str(raw[name]["dir"])):
            raise UserError(f"hydra.{name}.dir={shortened(raw[name]['dir'])}: must be without control characters")
    if not isinstance(raw["sweeper"].get("params") or {}, Mapping):
        raise UserError(f"hydra.sweeper.params={shortened(raw['sweeper']['params'])}: must be a group of keys")
    if usual is None:
        return
    before = {(key, repr(value)) for key, value in _leaves(usual, "hydra")}
    for key, value in _leaves(raw, "hydra"):
        if not under(key, (*free, *OF_HYDRA)) and (key, repr(value)) not in before:
            raise UserError(f"{key}={shortened(value)}: is not to be set; only {', '.join(free)} are")


def check_secrets(raw: Mapping[str, Any]) -> None:
    """Refuse environment variables in a raw config: what they hold would be stored with the run."""
    for key, value in _leaves(raw):
        if (
            isinstance(value, str)
            and re.search(r"\$\{\s*(oc\.env|oc\.decode)\s*:", value)
            and key not in ("store", "data_dir", "jobs", "tracker.uri")
        ):
            raise UserError(
                f"{key}={shortened(value)}: environment variables are not read into what is stored; type the value"
            )


def check_use(raw: Mapping[str, Any], typed: set[str]) -> None:
    """Refuse a typed top-level name that no chosen part reads."""
    model = raw["model"] if isinstance(raw["model"], Mapping) else {}
    name = str(model.get("_target_", "model")).rpartition(".")[2]
    for key in BY_THE_MODEL:
        readers = [place for place, value in _leaves(raw) if isinstance(value, str) and f"${{{key}}}" in value]
        if key in typed and not readers:
            owner = "experiment" if key == "alpha" else f"model {name}"
            raise UserError(f"{key} is not used: the chosen {owner} has no {key}")


def check_overruled(variants: Iterable[Mapping[str, Any]], typed: set[str]) -> None:
    """Refuse a typed key that every variant which an experiment asks for sets anew."""
    for key in set.intersection(*({key for key, _ in flattened(variant)} for variant in variants)) & typed:
        raise UserError(f"{key} is not used: the experiment sets it anew for each of its networks")


def check_sizing(model: Mapping[str, Any], typed: set[str]) -> None:
    """Refuse a typed size that another size overrules."""
    if model.get("widths") is not None and (given := sorted({"depth", "width"} & typed)):
        raise UserError(f"{given[0]} is not used: model.widths={model['widths']} decides it")
    if model.get("budget") is not None and "width" in typed:
        raise UserError(f"width is not used: budget={model['budget']} decides the widths; add budget=null")


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list):
        for item in node:
            yield from _leaves(item, prefix)
    else:
        yield prefix, node
