"""From a config's `_target_` to an object, of allowed origin only."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hw1.errors import UserError, shortened

ALLOWED = ("hw1.experiments", "hw1.models", "hw1.sources", "torch.nn", "torch.optim")
OURS = ("_target_", "_partial_")  # keys of a node that its target does not get


def _under(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def find(target: Any, allow: Sequence[str] = (), key: str = "_target_") -> Callable[..., Any]:
    """The class or function that a dotted `target` names.

    Both the name and the module in which the found object was defined must lie under one of ALLOWED or of `allow`:
    `hw1.sources.np.load` begins well, and is numpy's. Of hw1 not all is allowed: a node could remove runs. Of numpy's
    ufuncs, which do not say where they were defined and can do nothing but compute, the name suffices.

    Raises: UserError where the name is not allowed, cannot be imported, or is no class or function.
    """
    prefixes = (*ALLOWED, *allow)
    permitted = f"allowed are {', '.join(prefixes)} (add your own with allow_targets=[…])"
    if not isinstance(target, str) or "." not in target or not _under(target, prefixes):
        raise UserError(f"{key}={shortened(target)}: {permitted}")
    found = _resolve(target, key)
    if not callable(found) or not (inspect.isclass(found) or inspect.isroutine(found)):
        from numpy import ufunc  # with all of numpy: only for what may be one

        if isinstance(found, ufunc):
            return found
        raise UserError(f"{key}={target}: is not a class or a function")
    if not _under(getattr(found, "__module__", None) or "", prefixes):
        raise UserError(f"{key}={target}: is defined in {getattr(found, '__module__', '?')}; {permitted}")
    return found


def _resolve(target: str, key: str) -> Any:
    names = target.split(".")
    for cut in range(len(names) - 1, 0, -1):
        module = ".".join(names[:cut])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            # Only the absence of what was asked for means "look one level up"; a missing import inside it is news.
            if not error.name or not _under(module, [error.name]):
                raise UserError(f"{key}={target}: importing {module} failed: {error}") from error
            continue
        except Exception as error:
            raise UserError(f"{key}={target}: importing {module} failed: {type(error).__name__}: {error}") from error
        try:
            for name in names[cut:]:
                found = getattr(found, name)
        except AttributeError as error:
            raise UserError(f"{key}={target}: {error}") from error
        return found
    raise UserError(f"{key}={target}: there is no module {names[0]} on the Python path")


def build(node: Mapping[str, Any], *args: Any, allow: Sequence[str] = (), **given: Any) -> Any:
    """Call what `node["_target_"]` names with the node's other keys; with `_partial_: true` give a functools.partial.

    Args:
        node: a resolved config node; nested nodes with a `_target_` are built first.
        args: positional arguments that go in front (an optimizer's parameters).
        allow: further prefixes that a target may come from.
        given: values that are offered by name and passed to a target that has a parameter of that name; one that
            needs no `input_shape` is not bothered with it. A key of the node wins.
    """
    target = find(node.get("_target_"), allow)
    keys = {key: _nested(value, allow) for key, value in node.items() if key not in OURS}
    if is_partial(node):
        return functools.partial(target, *args, **keys)
    try:
        signature = inspect.signature(target)
        given = {name: value for name, value in given.items() if name in signature.parameters and name not in keys}
        signature.bind(*args, **keys, **given)
    except (TypeError, ValueError) as error:  # ValueError: a compiled function that does not tell its signature
        raise UserError(f"{node['_target_']}: {error}") from error
    try:
        return target(*args, **keys, **given)
    except ValueError as error:  # what torch says of values that it does not take
        raise UserError(f"{node['_target_']}: {error}") from error


def _nested(value: Any, allow: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return build(value, allow=allow) if "_target_" in value else {k: _nested(v, allow) for k, v in value.items()}
    return [_nested(item, allow) for item in value] if isinstance(value, list) else value


def is_partial(node: Mapping[str, Any], key: str = "_partial_") -> bool:
    """Whether a node asks for a function, some of whose arguments it sets, instead of for what it gives."""
    if not isinstance(node.get("_partial_", False), bool):
        raise UserError(f"{key}={shortened(node['_partial_'])}: must be true or false")
    return bool(node.get("_partial_", False))


def nodes(tree: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node with a `_target_` in a tree of plain containers that stands at `key`, by its own; outermost first."""
    if isinstance(tree, Mapping) and "_target_" in tree:
        yield key, tree
    inner = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in inner:
        yield from nodes(value, f"{key}.{name}".removeprefix("."))


def targets(tree: Any) -> list[str]:
    """Every `_target_` in a tree of plain containers, outermost first."""
    return [node["_target_"] for _, node in nodes(tree)]


def source_file(target: str, allow: Sequence[str]) -> Path | None:
    """The file in which a user's own target is written; None for hw1's, torch's and compiled ones."""
    if _under(target, ALLOWED):
        return None
    try:
        file = inspect.getsourcefile(find(target, allow))
    except TypeError:
        return None
    return Path(file) if file else None
