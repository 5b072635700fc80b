"""What every key of a config may be: its type, its range, and one line for whoever got it wrong.

The dataclasses below are the schema. A node with a `_target_` is checked against the class that `PARTS` lists for it
(an experiment is its own schema), the root against `Config`. Checking comes after composition, so that a wrong value in
a YAML file, on the command line or in one job of a sweep meets the same words, before anything is started.
"""

import difflib
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hw1.errors import UserError, one_line, shortened, written

UNBOUNDED = 10**9  # bounds from here on are not worth naming


@dataclass(frozen=True)
class Range:
    """Closed interval that a number must lie in; None is no bound. `open_low` leaves the lower end out."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` lies in the range; never for NaN or an infinity."""
        if value != value or value in (float("inf"), float("-inf")):
            return False
        above = self.low is None or value > self.low or (value == self.low and not self.open_low)
        return above and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        low, high = _plain(self.low), _plain(self.high)
        if low and high and not self.open_low:
            return f" from {low} to {high}"
        bounds = ([f"{'above' if self.open_low else 'of at least'} {low}"] if low else []) + (
            [f"at most {high}"] if high else []
        )
        return " " + " and ".join(bounds) if bounds else ""


def _plain(bound: float | None) -> str:
    """A bound without powers of ten; "" for none, and for one that is only there to keep numbers finite."""
    return "" if bound is None or bound >= UNBOUNDED else f"{bound:.10g}"


Count = Annotated[int, Range(1, 1e9)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, 1e9, open_low=True)]
NonNegative = Annotated[float, Range(0, 1e9)]
Dropped = Annotated[float, Range(0, 0.999)]
OwnFunction = Annotated[dict[str, Any], "own function"]  # a node of which parts.build makes a callable
Activation = Literal["relu", "leaky_relu", "tanh", "gelu", "sine", "identity"]


@dataclass
class Schedule:
    """How the learning rate changes along training and with the batch size."""

    kind: Literal["constant", "cosine", "step"]
    warmup: Share  # part of all steps over which the rate rises linearly from 0
    drop_every: Share  # kind=step: part of all steps between two drops
    drop_factor: Share  # kind=step: the rate is multiplied by it at each drop
    scaling: Literal["none", "linear", "sqrt"]  # rate × (batch_size / reference)^(0, 1, ½)
    reference_batch_size: Count
    hold: Literal["epochs", "steps"]  # what `epochs` keep equal over batch sizes: passes, or steps


@dataclass
class Checkpoint:
    """How a training is kept before it has ended; no part of what it comes to."""

    minutes: NonNegative | None  # between two kept states; null: only when a signal asks for it


@dataclass
class Config:
    """Every top-level key that a config may set."""

    experiment: Any
    dataset: Any
    model: Any
    optimizer: Any
    loss: Any
    schedule: Schedule
    batch_size: Count  # examples a step
    epochs: Count | None  # passes over the training split
    steps: Count | None  # optimizer steps; set, it takes the place of epochs
    depth: Annotated[int, Range(1, 1000)] | None
    width: Annotated[int, Range(1, 1_000_000)] | None
    budget: Count | None
    alpha: Annotated[float, Range(-100, 100)] | list[Annotated[float, Range(-100, 100)]] | None
    seed: Seed
    init_seed: Seed
    order_seed: Seed
    replicas: Annotated[int, Range(1, 10_000)]
    collect_every: Count | None  # epochs between two kept states; null keeps the last alone
    evaluate_every: Count | None  # epochs between two rows of the history; null: at most 200 rows
    vectorize: bool | Literal["auto"]  # replicas stacked under vmap, or one after another
    dtype: Literal["float32", "float64"]
    precision: Literal["highest", "tf32", "bf16"]  # of the products in a training step
    deterministic: bool
    checkpoint: Checkpoint
    device: Annotated[str, "device"]
    threads: Annotated[int, Range(1, 1024)] | Literal["auto"]
    jobs: Annotated[int, Range(1, 1024)] | Literal["auto"]
    open: bool  # the report in a browser, once it is written
    tracker: Any
    store: str
    data_dir: str
    allow_targets: list[str]


@dataclass
class Split:
    """Keys that every data set has."""

    validation: Annotated[int, Range(1, 1e9)]
    split_seed: Seed
    subset: Count | None
    label_noise: Share


@dataclass
class Images(Split):
    standardize: bool


@dataclass
class Npz(Split):
    path: str
    standardize: bool


@dataclass
class Function(Split):
    target: Literal["sinc", "sign", "sine", "damped"] | OwnFunction
    points: Annotated[int, Range(3, 1e7)]
    test_points: Annotated[int, Range(2, 1e7)]
    low: Annotated[float, Range(-1e9, 1e9)]
    high: Annotated[float, Range(-1e9, 1e9)]
    noise: NonNegative
    frequency: Annotated[float, Range(-1e6, 1e6)]
    seed: Seed


@dataclass
class Linear:
    """Nothing to choose."""


@dataclass
class Mlp:
    depth: Annotated[int, Range(1, 1000)]
    width: Annotated[int, Range(1, 1_000_000)]
    widths: list[Count] | None
    budget: Count | None
    activation: Activation
    dropout: Dropped
    batch_norm: bool


@dataclass
class Cnn:
    depth: Annotated[int, Range(1, 12)]
    width: Annotated[int, Range(1, 4096)]
    hidden: Annotated[int, Range(1, 1_000_000)]
    kernel: Literal[1, 3, 5, 7, 9, 11]
    activation: Activation
    dropout: Dropped
    batch_norm: bool


@dataclass
class LeNet5:
    activation: Activation
    pooling: Literal["average", "max"]


@dataclass
class Optimizer:
    lr: Annotated[float, Range(0, 1000, open_low=True)]
    weight_decay: Annotated[float, Range(0, 1000)]


@dataclass
class Sgd(Optimizer):
    momentum: Annotated[float, Range(0, 0.99999)]
    nesterov: bool
    fused: bool


@dataclass
class Adam(Optimizer):
    betas: tuple[Annotated[float, Range(0, 0.9999999)], Annotated[float, Range(0, 0.9999999)]]
    eps: NonNegative
    fused: bool


@dataclass
class RmsProp(Optimizer):
    alpha: Share
    eps: NonNegative
    momentum: Annotated[float, Range(0, 0.99999)]


@dataclass
class CrossEntropy:
    label_smoothing: Share


@dataclass
class Plain:
    """A loss without keys."""


@dataclass
class Huber:
    delta: Positive


PARTS: dict[str, type] = {
    **{f"hw1.sources.{name}": Images for name in ("mnist", "fashion_mnist", "kmnist", "cifar10", "digits")},
    "hw1.sources.npz": Npz,
    "hw1.sources.function": Function,
    "hw1.models.linear": Linear,
    "hw1.models.mlp": Mlp,
    "hw1.models.cnn": Cnn,
    "hw1.models.lenet5": LeNet5,
    "torch.optim.SGD": Sgd,
    "torch.optim.Adam": Adam,
    "torch.optim.AdamW": Adam,
    "torch.optim.RMSprop": RmsProp,
    "torch.nn.CrossEntropyLoss": CrossEntropy,
    "torch.nn.MSELoss": Plain,
    "torch.nn.L1Loss": Plain,
    "torch.nn.HuberLoss": Huber,
}


@dataclass
class Tracker:
    name: str | None
    timeout: Annotated[float, Range(1, 86_400)]


@dataclass
class NoTracker:
    kind: Literal["none"]


@dataclass
class TensorBoard(Tracker):
    kind: Literal["tensorboard"]
    logdir: str


@dataclass
class MLflow(Tracker):
    kind: Literal["mlflow"]
    uri: str
    experiment: str


@dataclass
class WeightsAndBiases(Tracker):
    kind: Literal["wandb"]
    mode: Literal["offline", "online"]
    project: str
    entity: str | None


TRACKERS = {"none": NoTracker, "tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the closest known names, or all of them where there are few and none is close."""
    known = sorted(set(known))
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if not close and "." not in word:
        close = [name for name in known if name.rpartition(".")[2] == word][:3]
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; choose from: {', '.join(known)}" if 0 < len(known) <= 40 else ""


def check_keys(node: Mapping[str, Any], schema: type, prefix: str = "") -> None:
    """Check one node of a config against its dataclass.

    Raises: UserError, one line, for an unknown or missing key, a wrong type, or a value out of range.
    """
    hints = get_type_hints(schema, include_extras=True)
    names = [field.name for field in fields(schema)]
    for key in node:
        if key not in names and key != "_target_":
            raise UserError(f"unknown key {prefix}{_show(key)}{nearest(str(key), names)}")
    for name in names:
        if name not in node or node[name] == "???":
            raise UserError(f"{prefix}{name} is missing; it must be {allowed(hints[name])}")
        if is_dataclass(hints[name]) and isinstance(hints[name], type):
            if not isinstance(node[name], Mapping):
                raise UserError(f"{prefix}{name}={_show(node[name])}: must be a group of keys")
            check_keys(node[name], hints[name], f"{prefix}{name}.")
        elif not _fits(node[name], hints[name]):
            raise UserError(f"{prefix}{name}={_show(node[name])}: must be {allowed(hints[name])}")


def allowed(hint: Any) -> str:
    """The values that a type hint allows, in words: `a whole number of at least 1, or null`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = next((str(bound) for bound in arguments[1:] if isinstance(bound, Range)), "")
        if "own function" in arguments[1:]:
            return "a function of your own (see dataset=own_function)"
        return "auto, cpu, cuda, cuda:N or mps" if "device" in arguments[1:] else allowed(arguments[0]) + bounds
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments)) if len(arguments) > 1 else str(arguments[0])
    if origin in (Union, types.UnionType):
        return ", or ".join(allowed(part) for part in arguments)
    if origin is list:
        return f"a list, each of it {allowed(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}, each of it {allowed(arguments[0])}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    return names.get(hint, "anything")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if "device" in arguments[1:]:
            return isinstance(value, str) and (
                value in ("auto", "cpu", "cuda", "mps") or re.fullmatch(r"cuda:[0-9]{1,4}", value) is not None
            )
        if "own function" in arguments[1:]:
            return isinstance(value, Mapping) and "_target_" in value
        return _fits(value, arguments[0]) and all(b.holds(value) for b in arguments[1:] if isinstance(b, Range))
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in arguments)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in arguments)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if origin is tuple:  # a list in YAML
        return isinstance(value, list) and len(value) == len(arguments) and all(map(_fits, value, arguments))
    if hint is Any:
        return True
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is str:
        return isinstance(value, str) and value != "" and "\0" not in value
    return isinstance(value, (int, float) if hint is float else hint)


def _show(value: Any) -> str:
    return shortened(one_line(written(value)))
