"""Where experiments get their runs: from the store if they are there, else trained, once, and stored."""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
import yaml
from torch import Tensor, nn

from hw1 import parts, seeds, signals, training
from hw1.data import Dataset
from hw1.errors import UserError, system_words
from hw1.files import read_table
from hw1.machine import Machine, environment, give_back_memory
from hw1.models import architecture, parameter_count
from hw1.recipe import Recipe, check_fits, code_fingerprint, load_dataset, recipe_key
from hw1.resident import Splits, place
from hw1.schedule import Plan, Schedule
from hw1.store import READ_ONLY, Store, Writable
from hw1.watcher import Keeper, Kept, Watcher

log = logging.getLogger(__name__)

STORED_TYPES = {  # what a network's state may consist of → the format's name for it
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.complex64: "C64", torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass
class Run:
    """A stored run: trained networks of all replicas, and how they came about."""

    key: str
    folder: Path
    recipe: Recipe
    machine: Machine
    info: dict[str, Any] = field(repr=False)

    @cached_property
    def history(self) -> pd.DataFrame:
        """The history table: a row per replica and evaluated epoch."""
        return read_table(self.folder / "history.csv")

    @property
    def final(self) -> pd.DataFrame:
        """The last row of each replica's history, indexed by replica."""
        return self.history.drop_duplicates("replica", keep="last").set_index("replica")

    @property
    def status(self) -> list[str]:
        """Per replica, "ok" or "diverged"."""
        return list(self.info["status"])

    @cached_property
    def dataset(self) -> Dataset:
        """The data set in memory."""
        return load_dataset(self.recipe, self.machine.data_dir, self.machine.allow_targets)

    @cached_property
    def splits(self) -> Splits:
        """The data set on the device, as the networks saw it."""
        return resident(self.dataset, self.machine.device, self.recipe.dtype)

    @cached_property
    def epochs(self) -> list[str]:
        """Labels of the epochs whose weights are stored, in order."""
        return sorted({name.partition("/")[0] for name in self._tensors}, key=float)

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        # A map of the file: what is looked at is read, and what was read costs no memory that others need.
        return safetensors.torch.load_file(self.folder / "weights.safetensors")

    def weights(self, epoch: str | None = None) -> dict[str, Tensor]:
        """Stored tensors by state_dict name, [replicas, …], of an epoch (the last unless given)."""
        prefix = f"{epoch or self.epochs[-1]}/"
        return {name.removeprefix(prefix): value for name, value in self._tensors.items() if name.startswith(prefix)}

    def network(self, replica: int, epoch: str | None = None) -> nn.Module:
        """One trained network on the device, in evaluation mode."""
        model = self.initial(replica)
        model.load_state_dict({name: value[replica] for name, value in self.weights(epoch).items()})
        return model

    def initial(self, replica: int) -> nn.Module:
        """One network as it was before training, on the device, in evaluation mode."""
        make = make_model(self.recipe, self.dataset, self.machine)
        model = seeds.initial_model(make, self.recipe.init_seed, replica)  # leaves the global generator alone
        return place(model, torch.device(self.machine.device), getattr(torch, self.recipe.dtype)).eval()

    def loss(self) -> nn.Module:
        """The loss that it was trained with."""
        return parts.build(self.recipe.loss, allow=self.machine.allow_targets)


@dataclass
class Laboratory:
    """Gives runs to experiments. `used` lists the keys in order, with whether each had to be trained.

    Runs that it gave cannot be removed from the store until the end of a `with` block around it, or of the process.
    """

    store: Store
    machine: Machine
    watcher: Watcher = field(default_factory=Watcher)
    say: Callable[[str], None] = log.info
    command: Sequence[str] = ()  # recorded with a run, and no part of its key
    checkpoint_minutes: float | None = None  # between two kept states of a training
    user: str = ""  # who uses its runs, for whoever wants to remove one
    used: dict[str, bool] = field(default_factory=dict)
    leases: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    def __enter__(self) -> "Laboratory":
        return self

    def __exit__(self, *_: object) -> None:
        self.leases.close()

    def run(self, recipe: Recipe) -> Run:
        """The run of a recipe: the stored one, checked, or a new one.

        Raises: UserError for parts that cannot be built, a batch larger than the training split, or a store that
            cannot be read or written.
        """
        dataset = load_dataset(recipe, self.machine.data_dir, self.machine.allow_targets)
        check_fits(recipe, dataset)
        allow = self.machine.allow_targets
        key = recipe_key(recipe, dataset.sha256, code_fingerprint(recipe, allow), torch.__version__)
        try:
            self._have(key, recipe, dataset)
            if not self.used.setdefault(key, False):
                self.say(f"run {key[:8]} was in the store: nothing trained")
            return Run(key, self.store.path(key), recipe, self.machine, self.store.info(key))
        except OSError as error:
            raise UserError(system_words(error, self.store.folder)) from error

    def _have(self, key: str, recipe: Recipe, dataset: Dataset) -> None:
        """See to it that the store has a run, and that it stays there."""
        try:
            with self.store.lock(key, lambda: self.say(f"waiting for another job that trains run {key[:8]}")):
                if key not in self.used:
                    self.leases.enter_context(self.store.use(key, self.user))
                if not self.store.holds(key):
                    self._train(key, recipe, dataset)
                    give_back_memory()  # the weights of all epochs, which are read from the file from here on
                    self.used[key] = True
                self.store.drop_partial(key)
        except OSError as error:  # a store that cannot be written serves what it has
            if error.errno not in READ_ONLY or not self.store.sound(key):
                raise

    def _train(self, key: str, recipe: Recipe, dataset: Dataset) -> None:
        allow, machine = self.machine.allow_targets, self.machine
        make = make_model(recipe, dataset, machine)
        sample = seeds.initial_model(make, recipe.init_seed, 0)
        check_output(sample, dataset)
        shape = architecture(sample, dataset.input_shape)
        count = f"{recipe.replicas} replica{'s' * (recipe.replicas > 1)}"
        self.say(f"training run {key[:8]}: {shape}, {count}, batch size {recipe.batch_size}")
        schedule = Schedule(**recipe.schedule)
        plan = Plan.of(dataset.size("train"), recipe.batch_size, recipe.epochs, recipe.steps, recipe.collect_every,
                       recipe.evaluate_every, schedule.counted_by)  # fmt: skip
        # Not `use_deterministic_algorithms`, which imports torch's compiler: 1.6 s.
        torch.set_deterministic_debug_mode("error" if recipe.deterministic else "default")
        # A debugging aid, on by default with the above, that writes every buffer twice: 1.3 times the time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        keeper = StateKeeper(self.store, key, self.checkpoint_minutes, self.say)
        trained = training.train(
            make,
            lambda parameters: parts.build(recipe.optimizer, parameters, allow=allow),
            parts.build(recipe.loss, allow=allow),
            resident(dataset, machine.device, recipe.dtype),
            plan,
            schedule,
            init_seed=recipe.init_seed,
            order_seed=recipe.order_seed,
            replicas=recipe.replicas,
            vectorize=recipe.vectorize,
            watcher=self.watcher,
            keeper=keeper,
            threads=machine.threads,
            precision=recipe.precision,
            shares=machine.shares,
        )
        seconds = keeper.seconds()
        info = {
            "key": key,
            "status": trained.status,
            "architecture": shape,
            "parameters": parameter_count(sample),
            "steps": plan.steps,
            "steps_per_epoch": plan.steps_per_epoch,
            "examples": {split: dataset.size(split) for split in ("train", "validation", "test")},
            "data_sha256": dataset.sha256,
            "arrangement": str(trained.arrangement),
            "wall_seconds": round(seconds, 3),
            "examples_per_second": round(plan.steps * plan.batch_size * recipe.replicas / seconds, 1),
            "resumed_at_steps": keeper.resumed_at,
            **environment(machine),
            "command": list(self.command),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "nonce": os.urandom(8).hex(),
        }
        self._publish(key, recipe, trained, info)

    def _publish(self, key: str, recipe: Recipe, trained: training.Trained, info: dict[str, Any]) -> None:
        def write(folder: Path) -> None:
            text = yaml.safe_dump(recipe.as_dict(), sort_keys=False, allow_unicode=True)
            (folder / "recipe.yaml").write_text(text, encoding="utf-8")
            (folder / "run.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
            pd.DataFrame(trained.history).to_csv(folder / "history.csv", index=False)
            with (folder / "weights.safetensors").open("wb") as stream:
                write_tensors(stream, trained.weights)

        self.store.publish(key, write)


class StateKeeper(Keeper):
    """Keeps the state of a training in the store: every so often, and when a signal asks for it.

    What cannot be kept costs a warning, not the training. The state is a safetensors file whose metadata is its notes.
    """

    def __init__(self, store: Store, key: str, minutes: float | None, say: Callable[[str], None]) -> None:
        self.store, self.key, self.say = store, key, say
        self.wait = math.inf if minutes is None else 60 * minutes
        self.started = self.last = time.monotonic()
        self.seconds_before = 0.0  # in processes that have ended
        self.resumed_at: list[list[int]] = []  # steps of its groups of replicas

    def seconds(self) -> float:
        """What the training has taken, in all processes."""
        return self.seconds_before + time.monotonic() - self.started

    def kept(self) -> Kept | None:
        """The state to go on from, said if there is one."""
        content = self.store.partial(self.key)
        if content is None:
            return None
        length = int.from_bytes(content[:8], "little")
        notes = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["notes"])
        self.seconds_before, self.resumed_at = notes["seconds"], [*notes["resumed_at"], notes["steps"]]
        self.say(f"run {self.key[:8]} goes on from {_steps(notes)}")
        return Kept(safetensors.torch.load(content), notes)

    def steps(self) -> contextlib.AbstractContextManager[None]:
        """Let signals wait for the end of a step."""
        return signals.deferred()

    def hurried(self) -> bool:
        """Whether a signal came."""
        return signals.asked()

    def due(self) -> bool:
        """Whether it is time, or a signal came."""
        return signals.asked() or time.monotonic() - self.last >= self.wait

    def keep(self, state: Kept) -> None:
        """Write the state. Raises: KeyboardInterrupt if a signal asks to end."""
        try:
            notes = dict(state.notes) | {"seconds": self.seconds(), "resumed_at": self.resumed_at}
            metadata = {"notes": json.dumps(notes)}
            self.store.keep_partial(self.key, lambda stream: write_tensors(stream, state.tensors, metadata))
        except (OSError, TypeError, UserError) as error:  # TypeError: an optimizer with a state that JSON has not
            log.warning("the state of a training could not be kept, it goes on without: %s", error)
        self.last = time.monotonic()
        if signals.asked():
            self.say(f"state of run {self.key[:8]} kept at {_steps(state.notes)}")
        signals.obey()


def _steps(notes: Mapping[str, Any]) -> str:
    """ "step 70", or where several groups of replicas train "steps 70, 68, 0"."""
    steps = notes["steps"]
    return f"step{'s' * (len(steps) > 1)} {', '.join(map(str, steps))}"


def write_tensors(stream: Writable, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors: length of the header (8 bytes), header (JSON), the tensors' bytes.

    One tensor at a time: the library's `save` makes two further copies of all of them before any is written, and its
    `save_file` hides what the system said (disk full) in an error of its own.
    Raises: OSError; UserError for a type that stored weights cannot have.
    """
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())  # each begins at a multiple of its size
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in ordered:
        if tensor.dtype not in STORED_TYPES:
            raise UserError(f"model: {name} is of type {tensor.dtype}, which cannot be stored")
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": STORED_TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        stream.write(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)


@lru_cache(maxsize=1)
def resident(dataset: Dataset, device: str, dtype: str) -> Splits:
    """A data set on the device; the jobs of a process share it, and only the newest is kept there."""
    return Splits.of(dataset, torch.device(device), getattr(torch, dtype))


def make_model(recipe: Recipe, dataset: Dataset, machine: Machine) -> seeds.MakeModel:
    """What builds a freshly initialised network of a recipe, for the data set's inputs and outputs."""
    return partial(
        parts.build,
        recipe.model,
        allow=machine.allow_targets,
        input_shape=dataset.input_shape,
        outputs=dataset.outputs,
    )


def check_output(model: nn.Module, dataset: Dataset) -> None:
    """Raises: UserError if a network does not take the data set's inputs, or gives another number of outputs."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            given = tuple(model(torch.zeros(2, *dataset.input_shape)).shape)
    except Exception as error:  # a user's own module may raise anything, or give no tensor
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model: cannot take inputs of shape {dataset.input_shape}: {reason}") from error
    model.train(was_training)
    if given != (2, dataset.outputs):
        raise UserError(f"model: gives {given} for two examples; this data set needs (2, {dataset.outputs})")
