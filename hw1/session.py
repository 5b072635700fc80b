"""One pass through a training plan with one learner."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hw1.captured import Captured, make_capturable
from hw1.data import SPLITS
from hw1.fused import Update
from hw1.learner import Learner, treats_examples_singly
from hw1.losses import averages
from hw1.measures.performance import evaluate
from hw1.models import CONVOLUTIONS, is_plain
from hw1.resident import Splits, place
from hw1.schedule import Plan, Schedule
from hw1.seeds import MakeModel, data_order, initial_model, seed_of
from hw1.stacked import State
from hw1.watcher import Kept

MakeOptimizer = Callable[[Iterable[Tensor]], Optimizer]
SLICE = {"cpu": 64 * 784, "cuda": 65_536 * 784}  # numbers of inputs that go through a network at once; CPU: a thread's
DENSE = 16  # so many times as many go through a dense network on a CPU
AHEAD = 512 * 784  # numbers of inputs that are fetched at once: counted by replica, 64 MLPs held 273 MB, not 171


@dataclass(frozen=True)
class Task:
    """What is trained: the same for all replicas."""

    make_model: MakeModel
    make_optimizer: MakeOptimizer
    loss: nn.Module
    splits: Splits
    plan: Plan
    schedule: Schedule
    init_seed: int
    order_seed: int
    replicas: int
    precision: str = "highest"

    def model(self, replica: int) -> nn.Module:
        """A network before training, on the device."""
        made = initial_model(self.make_model, self.init_seed, replica)
        return place(made, self.splits.device, self.splits.dtype)


class Crew(Protocol):
    """Who sessions work with."""

    threads: int  # that each session has, inside torch

    def row(self, row: dict[str, Any]) -> None:
        """Told of every new row of the history."""

    def between_steps(self, session: "Session") -> None:
        """Called after every step, and wherever else a session is whole: may keep its state, may raise to end it."""

    def hurried(self) -> bool:
        """Whether something waits for the session to be whole."""


class Hurry(Exception):
    """Work between two steps is given up, to be done again."""


@dataclass
class Record:
    """What a session leaves, replicas in the order of the learner's."""

    status: list[str]
    history: list[dict[str, Any]] = field(default_factory=list)


class Session:
    """Some replicas' training, step by step.

    `weights` is where the weights of all sessions are collected: "<epoch>/<state_dict name>" → [replicas, …].
    """

    def __init__(self, task: Task, replicas: list[int], weights: State, crew: Crew) -> None:
        self.task, self.weights, self.crew = task, weights, crew
        seeds = [seed_of("dropout", task.order_seed, replica) for replica in replicas]
        models = [task.model(replica) for replica in replicas]
        self.learner = Learner(models, replicas, task.loss, seeds, task.splits.input_shape, task.precision)
        self.optimizer = task.make_optimizer(list(self.learner.parameters.values()))
        self.update = Update(self.optimizer)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.rate = self.rates[0]
        count, device = len(replicas), task.splits.device
        self.record = Record(["ok"] * count)
        self.collected, self.evaluated = set(task.plan.collected()), set(task.plan.evaluated())
        self.losses = torch.zeros(count, device=device, dtype=task.splits.dtype)  # read once an epoch
        self.step, self.closed = 0, False  # steps taken; whether what follows an epoch's last step has been done
        self.generators: State | None = None if is_plain(models[0]) else {}  # None: it needs none
        self.slice = self._slice(models[0])
        numbers = math.prod(task.splits.input_shape)
        self.ahead = max(1, AHEAD // (numbers * count * task.plan.batch_size))  # batches that are fetched at once
        self._take: Callable[..., None] = self._step
        if device.type == "cuda" and is_plain(models[0]):
            make_capturable(self.optimizer, device)
            self._take = Captured(self._step)

    def _slice(self, model: nn.Module) -> int:
        """Examples that go through the network at once; the gradient of a batch is the sum of its slices'.

        So what layers give fits each core's share of the cache: on one core, beside another that does the same, the
        small CNN trains 1.2 times as fast in slices of 64 as of 256, and memory stays flat. A dense network gives less
        for an example, and its products are faster the larger they are: the MLP at batch 1,024 takes 1.24 times as long
        in slices of 256 with two threads, 1.04 times with one.
        """
        if not treats_examples_singly(model) or not averages(self.task.loss):
            return self.task.plan.batch_size
        device = self.task.splits.device.type
        numbers = SLICE.get(device, SLICE["cuda"])
        if device == "cpu":
            dense = not any(isinstance(part, CONVOLUTIONS) for part in model.modules())
            numbers *= self.crew.threads * (DENSE if dense else 1)
        return max(32, numbers // math.prod(self.task.splits.input_shape))

    def run(self) -> None:
        """Take all steps, or as many as any replica survives."""
        with self._generators():
            if not self.closed and (
                self.step % self.task.plan.steps_per_epoch == 0 or self.step == self.task.plan.steps
            ):
                self._close()
            while self.step < self.task.plan.steps and "ok" in self.record.status:
                self._epoch()
                self._close()
        for missed in sorted(self.collected):
            if missed > self.step:
                self._collect(missed)

    @contextlib.contextmanager
    def _generators(self) -> Iterator[None]:
        """For modules that draw from the global generator themselves; ours do not."""
        device, task = self.task.splits.device, self.task
        if self.generators is None:
            yield
            return
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed_of("global", task.order_seed, *self.learner.replicas))
            for name, value in self.generators.items():
                if name == "generator/cpu":
                    torch.set_rng_state(value)
                else:
                    torch.cuda.set_rng_state(value, device)
            yield

    # Its state

    def state(self) -> Kept:
        """All that decides how this session goes on."""
        learner, device = self.learner, self.task.splits.device
        tensors = {"losses": self.losses}
        if self.generators is not None:
            tensors["generator/cpu"] = torch.get_rng_state()
            if device.type == "cuda":
                tensors["generator/cuda"] = torch.cuda.get_rng_state(device)
        tensors |= {f"model/{name}": value.detach() for name, value in learner.tensors().items()}
        rules: list[dict[str, Any]] = []
        for index, parameter in enumerate(learner.parameters.values()):
            entry = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer/{index}/{key}": value for key, value in entry.items() if torch.is_tensor(value)}
            rules.append({key: value for key, value in entry.items() if not torch.is_tensor(value)})
        notes = {"step": self.step, "closed": self.closed, "record": vars(self.record), "optimizer": rules}
        return Kept(tensors, notes)

    @torch.no_grad()
    def restore(self, kept: Kept) -> None:
        """Go back to a state that `state` gave in another process, with the same arguments."""
        learner, notes = self.learner, kept.notes
        self.step, self.closed, self.record = notes["step"], notes["closed"], Record(**notes["record"])
        self.losses.copy_(kept.tensors["losses"])
        for name, value in learner.tensors().items():
            value.copy_(kept.tensors[f"model/{name}"])
        on_device = any(group.get("capturable") or group.get("fused") for group in self.optimizer.param_groups)
        for index, parameter in enumerate(learner.parameters.values()):
            prefix = f"optimizer/{index}/"
            found = {name.removeprefix(prefix): v for name, v in kept.tensors.items() if name.startswith(prefix)}
            entry = {name: _beside(parameter, value, on_device) for name, value in found.items()}
            if entry | notes["optimizer"][index]:
                self.optimizer.state[parameter] = entry | notes["optimizer"][index]
        self.update = Update(self.optimizer)
        if self.generators is not None:
            self.generators = {name: v for name, v in kept.tensors.items() if name.startswith("generator/")}
        if self.step:
            self._set_rate(self.step - 1)  # which a row of the history may be about to name

    # Steps

    def _epoch(self) -> None:
        """Take the steps that are left of an epoch."""
        learner, splits, plan = self.learner, self.task.splits, self.task.plan
        epoch, taken = divmod(self.step, plan.steps_per_epoch)
        examples = len(splits.targets["train"])
        orders = [data_order(self.task.order_seed, r, epoch, examples) for r in learner.replicas]
        order = torch.stack(orders).to(splits.device)
        self.closed = False
        batches = list(plan.batches(epoch))
        # From the same places on after a restart: where a batch begins in memory decides its last bits.
        for chunk in range(taken - taken % self.ahead, len(batches), self.ahead):
            ahead = batches[chunk : chunk + self.ahead]
            first, last = ahead[0][0], ahead[-1][1]
            rows = order[:, first:last]
            xs = splits.inputs("train", rows).split(plan.batch_size, dim=1)
            ys = splits.answers("train", rows).split(plan.batch_size, dim=1)
            for x, y in islice(zip(xs, ys, strict=True), max(0, taken - chunk), None):
                self._set_rate(self.step)
                noise = learner.noise(self.step, x.shape[1], self.losses)
                self._take(x, y, *noise.values())
                self.step += 1
                self.crew.between_steps(self)

    def _step(self, x: Tensor, y: Tensor, *noise: Tensor) -> None:
        """One step on a batch (R, B, …), a slice of it at a time; no number of it goes to the CPU."""
        batch = x.shape[1]
        for parameter in self.learner.parameters.values():
            parameter.grad = None
        if batch <= self.slice:
            self._add_gradient(x, y, noise)
        else:
            for start in range(0, batch, self.slice):
                part = slice(start, min(start + self.slice, batch))
                share = (part.stop - start) / batch
                self._add_gradient(x[:, part], y[:, part], [values[:, part] for values in noise], share)
        self.update()

    def _add_gradient(self, x: Tensor, y: Tensor, noise: Sequence[Tensor], share: float = 1.0) -> None:
        masks = dict(zip(self.learner.mask_shapes, noise, strict=True))
        self.losses += self.learner.add_gradients(x, y, masks, share)

    def _set_rate(self, step: int) -> None:
        plan = self.task.plan
        factor = self.task.schedule.factor(step, plan.steps, plan.batch_size)
        self.rate = self.rates[0] * factor
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * factor)
            else:
                group["lr"] = rate * factor

    # Between epochs

    def _close(self) -> None:
        """What follows an epoch's last step, all of it or nothing: see who diverged, evaluate, keep weights."""
        while not self.closed:
            status, rows, losses = list(self.record.status), len(self.record.history), self.losses.clone()
            try:
                self._end_diverged(self.step)
                self._keep(self.step)
                self.closed = True
            except Hurry:  # the state is whole as far as the last step
                self.record.status[:] = status
                del self.record.history[rows:]
                self.losses.copy_(losses)
            self.crew.between_steps(self)

    def _end_diverged(self, step: int) -> None:
        """Look at the losses of the steps since last time: one NaN or infinity makes their sum one."""
        sums = self.losses.tolist()
        self.losses.zero_()
        for position, total in enumerate(sums):
            if self.record.status[position] == "ok" and not math.isfinite(total):
                self._diverge(position, step)

    def _diverge(self, position: int, step: int) -> None:
        self.record.status[position] = "diverged"
        self._add_row(position, step, dict.fromkeys(self._metrics(), math.nan))

    def _keep(self, step: int) -> None:
        if step in self.evaluated:
            for position, status in enumerate(self.record.status):
                if status == "ok":
                    self._evaluate(position, step)
        if step in self.collected:
            self._collect(step)

    def _metrics(self) -> list[str]:
        kinds = ("loss", "accuracy") if self.task.splits.task == "classification" else ("loss", "mae", "r2")
        return [f"{split}_{kind}" for kind in kinds for split in SPLITS]

    def _evaluate(self, position: int, step: int) -> None:
        network = self.learner.network(position)
        size = self.task.splits.slice_size
        found = {
            f"{split}_{name}": value
            for split in SPLITS
            for name, value in evaluate(network, self.learner.loss, self._slices(split, size)).items()
        }
        if math.isfinite(found["train_loss"]):
            self._add_row(position, step, {name: found[name] for name in self._metrics()})
        else:  # the steps' losses were finite until the last
            self._diverge(position, step)

    def _slices(self, split: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """A split to evaluate on. Raises: Hurry if this is not the time."""
        for part in self.task.splits.slices(split, size):
            if self.crew.hurried():
                raise Hurry
            yield part

    def _add_row(self, position: int, step: int, metrics: dict[str, float]) -> None:
        replica, epoch = self.learner.replicas[position], self.task.plan.epoch(step)
        place_in_time = {"replica": replica, "epoch": epoch, "step": step}
        row = place_in_time | metrics | {"learning_rate": self.rate, "status": self.record.status[position]}
        self.record.history.append(row)
        self.crew.row(row)

    def _collect(self, step: int) -> None:
        for position, status in enumerate(self.record.status):
            for name, value in self.learner.state(position).items():
                self._place(f"{self.task.plan.epoch(step):.10g}/{name}", position, value, status)

    def _place(self, label: str, position: int, value: Tensor, status: str) -> None:
        """Put a tensor where all replicas' will be: stacked at the end, all weights of all epochs were there twice."""
        if label not in self.weights:
            self.weights.setdefault(label, torch.empty(self.task.replicas, *value.shape, dtype=value.dtype))
        felled = status != "ok" and value.is_floating_point()
        self.weights[label][self.learner.replicas[position]] = torch.nan if felled else value


def _beside(parameter: Tensor, value: Tensor, on_device: bool) -> Tensor:
    """A tensor of an optimizer's state where it was: laid out as its parameter; a step's number, where it is read."""
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.to(parameter.device) if value.ndim or on_device else value.clone()
