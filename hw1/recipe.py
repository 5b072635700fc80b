"""A recipe: all that determines trained weights, and the key under which they are stored."""

import ast
import hashlib
import importlib.util
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw1 import design, parts
from hw1.errors import UserError

if TYPE_CHECKING:
    from hw1 import data

# Whose code decides what weights a recipe gives. Measures, tables and figures are not among them; nor are the loaders
# of data, whose arrays are in the key themselves.
TRAINING_MODULES = (
    "hw1.captured", "hw1.chain", "hw1.crew", "hw1.design", "hw1.fused", "hw1.learner", "hw1.losses",
    "hw1.measures.performance", "hw1.models", "hw1.resident", "hw1.schedule", "hw1.seeds", "hw1.session",
    "hw1.stacked", "hw1.training",
)  # fmt: skip
KEY_LENGTH = 32
LOSSES = {  # target → option, and the task that it is for
    "torch.nn.CrossEntropyLoss": ("cross_entropy", "classification"),
    "torch.nn.MSELoss": ("mse", "regression"),
    "torch.nn.L1Loss": ("l1", "regression"),
    "torch.nn.HuberLoss": ("huber", "regression"),
}


@dataclass(frozen=True)
class Recipe:
    """The part of a config that determines trained weights, as plain values; training is given nothing else.

    `device` is a resolved type ("cpu", "cuda", "mps"); `threads` is as requested, since "auto" is one setting whatever
    it comes to on a machine. Exactly one of `epochs` and `steps` is set.
    """

    dataset: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    loss: dict[str, Any]
    schedule: dict[str, Any]
    batch_size: int
    epochs: int | None
    steps: int | None
    init_seed: int
    order_seed: int
    replicas: int
    collect_every: int | None
    evaluate_every: int | None
    vectorize: bool | str
    dtype: str
    precision: str
    deterministic: bool
    device: str
    threads: int | str

    @classmethod
    def from_config(cls, config: Mapping[str, Any], device: str) -> "Recipe":
        """The recipe in a resolved and checked config; `steps`, where given, takes the place of `epochs`."""
        values = {field.name: config[field.name] for field in fields(cls) if field.name != "device"}
        if values["steps"] is not None:
            values["epochs"] = None
        return cls(**values, device=device)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for YAML and for the key."""
        return asdict(self)


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no NaN, integral floats as integers, strings in NFC."""
    return json.dumps(_canonical(value), sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {unicodedata.normalize("NFC", str(key)): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def recipe_key(recipe: Recipe, data_sha256: str, code: str, torch_version: str) -> str:
    """The name of a run: SHA-256 of everything that changes its weights, 32 hexadecimal digits of it.

    Args:
        data_sha256: of the arrays that are trained and evaluated on.
        code: `code_fingerprint` of what trains them.
        torch_version: full version; major.minor count.

    A data set's `path` is no part of it: the arrays are, wherever they lie.
    """
    described = recipe.as_dict()
    described["dataset"].pop("path", None)
    content = {
        "recipe": described,
        "data": data_sha256,
        "code": code,
        "torch": ".".join(torch_version.split(".")[:2]),
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:KEY_LENGTH]


def code_fingerprint(recipe: Recipe, allow: Sequence[str] = ()) -> str:
    """SHA-256 of the code that trains a recipe: our training modules without comments and docstrings, and the whole
    file of each of the user's own targets."""
    node = [recipe.model, recipe.optimizer, recipe.loss]
    own = sorted({file for target in parts.targets(node) if (file := parts.source_file(target, allow))})
    digests = [_module_digest(module) for module in TRAINING_MODULES]
    digests += [hashlib.sha256(file.read_bytes()).hexdigest() for file in own]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


@cache
def _module_digest(module: str) -> str:
    spec = importlib.util.find_spec(module)  # finds the file without running it: no torch needed
    assert spec is not None
    assert spec.origin is not None
    return source_digest(Path(spec.origin))


@cache
def source_digest(file: Path) -> str:
    """SHA-256 of a Python file's `bare_code`."""
    return hashlib.sha256(bare_code(file.read_text(encoding="utf-8")).encode()).hexdigest()


def bare_code(source: str) -> str:
    """Python source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and body
            and ast.get_docstring(node) is not None
        ):
            node.body = body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@lru_cache(maxsize=4)
def _dataset(node_json: str, data_dir: Path, allow: tuple[str, ...]) -> "data.Dataset":
    from hw1 import data  # with numpy: a tenth of a second that bad input need not wait for

    node = json.loads(node_json)
    splitting = {key: node.pop(key) for key in ("validation", "split_seed", "subset", "label_noise")}
    return data.load(partial(parts.build, node, allow=allow, data_dir=data_dir), **splitting)


def load_dataset(recipe: Recipe, data_dir: Path, allow: tuple[str, ...] = ()) -> "data.Dataset":
    """The data set that a recipe describes; jobs of one process share it."""
    return _dataset(json.dumps(recipe.dataset, sort_keys=True), data_dir, allow)  # exact: a path need not be in NFC


def forget_datasets() -> None:
    """Let go of the data sets that this process has loaded."""
    _dataset.cache_clear()


def check_fits(recipe: Recipe, dataset: "data.Dataset") -> None:
    """See whether batch, loss and network suit a data set, before anything is started; torch is not needed for it.

    Raises: UserError, one line with key, value and what is allowed.
    """
    size = dataset.size("train")
    if recipe.batch_size > size:
        raise UserError(f"batch_size={recipe.batch_size}: must be at most {size}, the size of the training split")
    if recipe.model.get("batch_norm") and (recipe.batch_size == 1 or size % recipe.batch_size == 1):
        raise UserError(f"batch_size={recipe.batch_size}: leaves a batch of 1 of {size} examples; batch norm needs 2")
    if recipe.optimizer.get("nesterov") and not recipe.optimizer.get("momentum"):
        momentum = recipe.optimizer.get("momentum")
        raise UserError(f"optimizer.momentum={momentum}: must be above 0 with optimizer.nesterov=true")
    if recipe.precision != "highest" and recipe.dtype != "float32":
        raise UserError(f"precision={recipe.precision}: is for dtype=float32, not {recipe.dtype}")
    option, task = LOSSES.get(str(recipe.loss.get("_target_")), ("", dataset.task))
    if task != dataset.task:
        fitting = " or ".join(f"loss={name}" for name, other in LOSSES.values() if other == dataset.task)
        raise UserError(f"loss={option}: is for {task}, and the data set for {dataset.task}; choose {fitting}")
    design.check_network(recipe.model, dataset.input_shape, dataset.outputs)
