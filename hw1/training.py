"""The training loop, with the replica as the leading dimension of everything it makes.

R replicas of one recipe are R trainings from R seeds. They train together, parameters stacked under `torch.vmap`, or
one after another; the loop is the same, and the numbers agree within float tolerance. Replica r's initial weights, data
order and dropout masks are functions of (seed, r) alone: not of R, the batch size or the other replicas.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from hw1.data import SPLITS
from hw1.measures.performance import evaluate, slice_size
from hw1.models import Dropout, dropout_shapes
from hw1.resident import Splits, lay_out, place
from hw1.schedule import Plan, Schedule
from hw1.watcher import Keeper, Kept, Progress, Watcher

MakeModel = Callable[[], nn.Module]
MakeOptimizer = Callable[[Iterable[Tensor]], Optimizer]
State = dict[str, Tensor]
REPORT_SECONDS = 0.3
STACKED_WORK = 500_000  # parameters × batch size
ELEMENTWISE = (SGD, Adagrad, Adam, AdamW, RMSprop)  # an entry's update depends on its own gradients alone
SLOW_STACKED = (nn.modules.conv._ConvNd,)
RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.MultiheadAttention, nn.RNNBase)  # or unknown to vmap


@dataclass
class Trained:
    """What training gives."""

    weights: State  # "<epoch>/<state_dict name>" → [replicas, …]
    history: list[dict[str, Any]]  # a row per replica and evaluated epoch
    status: list[str]  # per replica, "ok" or "diverged"
    stacked: bool


def seed_of(purpose: str, *numbers: int) -> int:
    """A 63-bit seed that depends on its purpose and numbers alone, the same in every process and on every machine."""
    text = ":".join([purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def initial_model(make_model: MakeModel, init_seed: int, replica: int) -> nn.Module:
    """A network with the initial weights of (init_seed, replica); the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("initialisation", init_seed, replica))
        return make_model()


def data_order(order_seed: int, replica: int, epoch: int, examples: int) -> Tensor:
    """The permutation (N,) in which a replica sees the training split in an epoch; a function of its arguments."""
    generator = torch.Generator().manual_seed(seed_of("order", order_seed, replica, epoch))
    return torch.randperm(examples, generator=generator)


def stacks_well(model: nn.Module, optimizer: Optimizer, batch_size: int) -> bool:
    """Whether replicas of a network train faster together than one after another, with the same results.

    So it is for small dense networks, where a step costs less than the calls that make it up: 10 replicas of 571
    parameters take 0.4 of the time at batch 128, 3 of them 0.8; from `STACKED_WORK` on nothing is gained. Convolutions
    gain nothing under vmap (its grouped convolutions lose the memory layout), a module that is not torch's or ours may
    draw random numbers, or mix examples, in a way that vmap would change, and an optimizer that looks at a whole
    matrix would look across replicas.
    """
    known = all(type(part).__module__.startswith(("torch.nn.", "hw1.models")) for part in model.modules())
    odd = any(isinstance(part, (*SLOW_STACKED, *RANDOM)) for part in model.modules())
    shares = len(list(model.parameters())) < len(list(model.named_parameters(remove_duplicate=False)))
    small = sum(parameter.numel() for parameter in model.parameters()) * batch_size <= STACKED_WORK
    return small and known and not odd and not shares and type(optimizer) in ELEMENTWISE


def train(
    make_model: MakeModel,
    make_optimizer: MakeOptimizer,
    loss: nn.Module,
    splits: Splits,
    plan: Plan,
    schedule: Schedule,
    *,
    init_seed: int,
    order_seed: int,
    replicas: int,
    vectorize: bool | str,
    watcher: Watcher,
    keeper: Keeper | None = None,
) -> Trained:
    """Train `replicas` networks from their own seeds.

    Args:
        make_model: a freshly initialised network (B, *shape) → (B, K), drawn from torch's global generator.
        make_optimizer: from parameters to the optimizer; its rates are the base of `schedule`. Elementwise rules only
            where replicas are stacked (SGD, Adam, AdamW, RMSprop are).
        loss: mean over a batch.
        vectorize: True, False, or "auto" (`stacks_well`).
        keeper: keeps the state along the way; training goes on from the one that it has, and ends with the same bits.
    A replica whose training loss is NaN or infinite ends there: its last row and its status say "diverged", and weights
    that it would have had later are NaN. The others go on.
    """
    models = [place(initial_model(make_model, init_seed, r), splits.device, splits.dtype) for r in range(replicas)]
    if vectorize == "auto":
        vectorize = stacks_well(models[0], make_optimizer(models[0].parameters()), plan.batch_size)
    stacked = replicas > 1 and bool(vectorize)
    groups = [list(range(replicas))] if stacked else [[r] for r in range(replicas)]
    keeper = keeper or Keeper()
    kept = keeper.kept()
    records = [_Record(**record) for record in kept.notes["done"]] if kept else []
    weights = {label: kept.tensors[f"weights/{label}"] for label in kept.notes["labels"]} if kept else {}
    for group in groups[len(records) :]:
        learner = _Learner([models[r] for r in group], group, loss, order_seed, splits.input_shape)
        session = _Session(
            learner, make_optimizer, splits, plan, schedule, order_seed, replicas, watcher, keeper, records, weights
        )
        if kept:
            session.restore(kept)
            kept = None
        records.append(session.run())
    history = sorted(
        (row for record in records for row in record.history), key=lambda row: (row["replica"], row["step"])
    )
    return Trained(weights, history, [status for record in records for status in record.status], stacked)


class _Learner:
    """Networks that take their steps together: one as it is, or several with stacked parameters under vmap."""

    def __init__(
        self, models: list[nn.Module], replicas: list[int], loss: nn.Module, order_seed: int, shape: tuple[int, ...]
    ) -> None:
        self.replicas, self.loss, self.model = replicas, loss, models[0]
        self.model.train()
        self.stacked = len(models) > 1
        dropout = any(isinstance(part, Dropout) for part in self.model.modules())
        self.mask_shapes = dropout_shapes(self.model, shape) if dropout else {}
        self.mask_seeds = [seed_of("dropout", order_seed, replica) for replica in replicas]
        if self.stacked:
            self.parameters, self.buffers = torch.func.stack_module_state(models)
        else:
            self.parameters, self.buffers = dict(self.model.named_parameters()), dict(self.model.named_buffers())

    def losses(self, x: Tensor, y: Tensor, step: int) -> Tensor:
        """Loss of each replica (R,) on its own batch, x (R, B, *shape), y (R, B, …)."""
        noise = self._noise(step, x.shape[1], x)
        if not self.stacked:
            for name, values in noise.items():
                self.model.get_submodule(name).noise = values[0]
            return self.loss(self.model(lay_out(x[0])), y[0]).reshape(1)
        buffers = self.buffers | {f"{name}.noise": values for name, values in noise.items()}
        return torch.vmap(self._one)(self.parameters, buffers, x, y)

    def _one(self, parameters: State, buffers: State, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(torch.func.functional_call(self.model, (parameters, buffers), (x,)), y)

    def _noise(self, step: int, batch: int, like: Tensor) -> State:
        """Uniform numbers (R, B, …) for every dropout layer: a function of (order seed, replica, step) alone."""
        if not self.mask_shapes:
            return {}
        noise: dict[str, list[Tensor]] = {name: [] for name in self.mask_shapes}
        for seed in self.mask_seeds:
            generator = torch.Generator(like.device).manual_seed((seed + step) % 2**63)
            for name, shape in self.mask_shapes.items():
                drawn = torch.rand(batch, *shape, generator=generator, device=like.device, dtype=like.dtype)
                noise[name].append(drawn)
        return {name: torch.stack(values) for name, values in noise.items()}

    def tensors(self) -> State:
        """Parameters and buffers by name, as they are now, not copied; without the noise, which is drawn anew."""
        model = self.model
        named = dict(model.named_parameters()) | dict(model.named_buffers())
        tensors = self.parameters | self.buffers if self.stacked else named
        return {name: value for name, value in tensors.items() if name.rpartition(".noise")[0] not in self.mask_shapes}

    def state(self, position: int) -> State:
        """The state_dict of one replica, on the CPU, copied."""
        if not self.stacked:
            return {name: _plain(value) for name, value in self.model.state_dict().items()}
        everything = self.parameters | self.buffers
        return {name: _plain(everything[name][position]) for name in self.model.state_dict()}

    def network(self, position: int) -> nn.Module:
        """One replica as a network of its own, for evaluation; valid until the next call."""
        if self.stacked:
            self.model.load_state_dict(self.state(position))
        return self.model


def _beside(parameter: Tensor, value: Tensor) -> Tensor:
    """A tensor of an optimizer's state where it was: laid out as its parameter, or, a step's number, on the CPU."""
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.to(parameter.device) if value.ndim else value.clone()


def _plain(value: Tensor) -> Tensor:
    """A copy on the CPU, in the ordinary memory layout."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


@dataclass
class _Record:
    """What a session leaves, replicas in the order of the learner's."""

    status: list[str]
    history: list[dict[str, Any]] = field(default_factory=list)


class _Session:
    """One pass through the plan with one learner."""

    def __init__(
        self, learner: _Learner, make_optimizer: MakeOptimizer, splits: Splits, plan: Plan, schedule: Schedule,
        order_seed: int, of_replicas: int, watcher: Watcher, keeper: Keeper, done: list["_Record"], weights: State,
    ) -> None:  # fmt: skip
        self.learner, self.splits, self.plan, self.schedule = learner, splits, plan, schedule
        self.order_seed, self.of_replicas, self.watcher, self.keeper = order_seed, of_replicas, watcher, keeper
        self.done, self.weights = done, weights  # of the sessions before this one, and where weights are collected
        self.optimizer = make_optimizer(list(learner.parameters.values()))
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        count = len(learner.replicas)
        self.record = _Record(["ok"] * count)
        self.collected, self.evaluated = set(plan.collected()), set(plan.evaluated())
        self.losses = torch.zeros(count, device=splits.device, dtype=splits.dtype)  # read once an epoch
        self.step, self.closed = 0, False  # steps taken; whether what follows an epoch's last step has been done
        self.generators: State = {}
        self.reported = (time.monotonic(), 0)

    def run(self) -> _Record:
        """Take all steps, or as many as any replica survives."""
        device = self.splits.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            # For modules that draw from the global generator themselves; ours do not.
            torch.manual_seed(seed_of("global", self.order_seed, *self.learner.replicas))
            self._restore_generators()
            if not self.closed and (self.step % self.plan.steps_per_epoch == 0 or self.step == self.plan.steps):
                self._close()
            with self.keeper.steps():
                while self.step < self.plan.steps and "ok" in self.record.status:
                    self._epoch()
                    self._close()
        for missed in sorted(self.collected):
            if missed > self.step:
                self._collect(missed)
        return self.record

    def state(self) -> Kept:
        """All that decides how this session goes on."""
        learner, device = self.learner, self.splits.device
        tensors = {"losses": self.losses, "generator/cpu": torch.get_rng_state()}
        if device.type == "cuda":
            tensors["generator/cuda"] = torch.cuda.get_rng_state(device)
        tensors |= {f"weights/{label}": value for label, value in self.weights.items()}
        tensors |= {f"model/{name}": value.detach() for name, value in learner.tensors().items()}
        rules: list[dict[str, Any]] = []
        for index, parameter in enumerate(learner.parameters.values()):
            entry = self.optimizer.state.get(parameter, {})
            tensors |= {f"optimizer/{index}/{key}": value for key, value in entry.items() if torch.is_tensor(value)}
            rules.append({key: value for key, value in entry.items() if not torch.is_tensor(value)})
        notes = {
            "step": self.step,
            "closed": self.closed,
            "done": [vars(record) for record in self.done],
            "record": vars(self.record),
            "optimizer": rules,
            "labels": list(self.weights),
        }
        return Kept(tensors, notes)

    @torch.no_grad()
    def restore(self, kept: Kept) -> None:
        """Go back to a state that `state` gave in another process, with the same arguments."""
        learner, notes = self.learner, kept.notes
        self.step, self.closed, self.record = notes["step"], notes["closed"], _Record(**notes["record"])
        self.losses.copy_(kept.tensors["losses"])
        for name, value in learner.tensors().items():
            value.copy_(kept.tensors[f"model/{name}"])
        for index, parameter in enumerate(learner.parameters.values()):
            prefix = f"optimizer/{index}/"
            found = {name.removeprefix(prefix): v for name, v in kept.tensors.items() if name.startswith(prefix)}
            entry = {name: _beside(parameter, value) for name, value in found.items()} | notes["optimizer"][index]
            if entry:
                self.optimizer.state[parameter] = entry
        self.generators = {name: v for name, v in kept.tensors.items() if name.startswith("generator/")}
        if self.step:
            self._set_rate(self.step - 1)  # which a row of the history may be about to name
        self.reported = (time.monotonic(), self.step)

    def _restore_generators(self) -> None:
        for name, value in self.generators.items():
            if name == "generator/cpu":
                torch.set_rng_state(value)
            else:
                torch.cuda.set_rng_state(value, self.splits.device)

    def _keep_if_due(self) -> None:
        if self.keeper.due():
            self.keeper.keep(self.state())

    def _epoch(self) -> None:
        """Take the steps that are left of an epoch."""
        learner, splits, targets = self.learner, self.splits, self.splits.targets["train"]
        epoch, taken = divmod(self.step, self.plan.steps_per_epoch)
        orders = [data_order(self.order_seed, r, epoch, len(targets)) for r in learner.replicas]
        order = torch.stack(orders).to(splits.device)
        self.closed = False
        for start, end in islice(self.plan.batches(epoch), taken, None):
            self._set_rate(self.step)
            batch = order[:, start:end]
            losses = learner.losses(splits.inputs("train", batch), targets[batch], self.step)
            self.optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()  # replicas share no parameter: the gradient of the sum is each one's own
            self.optimizer.step()
            self.losses += losses.detach()
            self.step += 1
            self._report(self.step)
            self._keep_if_due()

    def _close(self) -> None:
        """What follows an epoch's last step, all of it or nothing: see who diverged, evaluate, keep weights."""
        status, rows = list(self.record.status), len(self.record.history)
        losses = self.losses.clone()
        try:
            with self.keeper.between_steps():
                self._end_diverged(self.step)
                self._keep(self.step)
        except KeyboardInterrupt:  # here the state is whole, as far as the last step
            self.record.status[:] = status
            del self.record.history[rows:]
            self.losses.copy_(losses)
            self.keeper.keep(self.state())
            raise
        self.closed = True
        self._keep_if_due()

    def _set_rate(self, step: int) -> None:
        factor = self.schedule.factor(step, self.plan.steps, self.plan.batch_size)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def _end_diverged(self, step: int) -> None:
        finite = self.losses.isfinite().tolist()
        self.losses.zero_()
        for position, fine in enumerate(finite):
            if not fine and self.record.status[position] == "ok":
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
        kinds = ("loss", "accuracy") if self.splits.task == "classification" else ("loss", "mae", "r2")
        return [f"{split}_{kind}" for kind in kinds for split in SPLITS]

    def _evaluate(self, position: int, step: int) -> None:
        network, splits = self.learner.network(position), self.splits
        size = slice_size(splits.input_shape)
        found = {
            f"{split}_{name}": value
            for split in SPLITS
            for name, value in evaluate(network, self.learner.loss, splits.slices(split, size)).items()
        }
        if math.isfinite(found["train_loss"]):
            self._add_row(position, step, {name: found[name] for name in self._metrics()})
        else:  # the steps' losses were finite until the last
            self._diverge(position, step)

    def _add_row(self, position: int, step: int, metrics: dict[str, float]) -> None:
        place_in_time = {"replica": self.learner.replicas[position], "epoch": self.plan.epoch(step), "step": step}
        rate = {"learning_rate": self.optimizer.param_groups[0]["lr"], "status": self.record.status[position]}
        row = place_in_time | metrics | rate
        self.record.history.append(row)
        self.watcher.row(row)

    def _collect(self, step: int) -> None:
        for position, status in enumerate(self.record.status):
            for name, value in self.learner.state(position).items():
                self._place(f"{self.plan.epoch(step):.10g}/{name}", position, value, status)

    def _place(self, label: str, position: int, value: Tensor, status: str) -> None:
        """Put a tensor where all replicas' will be: stacked at the end, all weights of all epochs were there twice."""
        if label not in self.weights:
            self.weights[label] = torch.empty(self.of_replicas, *value.shape, dtype=value.dtype)
        felled = status != "ok" and value.is_floating_point()
        self.weights[label][self.learner.replicas[position]] = torch.nan if felled else value

    def _report(self, step: int) -> None:
        then, last = self.reported
        now = time.monotonic()
        if now - then < REPORT_SECONDS and step != self.plan.steps:
            return
        self.reported = (now, step)
        plan, replicas = self.plan, self.learner.replicas
        speed = (step - last) * plan.batch_size * len(replicas) / max(now - then, 1e-9)
        done = (replicas[0] + len(replicas) * step / plan.steps) / self.of_replicas
        row = self.record.history[-1] if self.record.history else {}
        epochs = plan.epoch(step), plan.epoch(plan.steps)
        self.watcher.progress(Progress(replicas, self.of_replicas, *epochs, speed, done, row))
