"""Training, with the replica as the leading dimension of everything it makes.

R replicas of one recipe are R trainings from R seeds. They train stacked, side by side in threads, or one after
another; the numbers agree within float tolerance. Replica r's initial weights, data order and dropout masks are
functions of (seed, r) alone: not of R, the batch size or the other replicas.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hw1.crew import Crew
from hw1.learner import stacks_well, work
from hw1.models import is_plain, outputs_of
from hw1.resident import Splits
from hw1.schedule import Plan, Schedule
from hw1.seeds import MakeModel
from hw1.session import MakeOptimizer, Task
from hw1.stacked import State
from hw1.watcher import Keeper, Watcher

if TYPE_CHECKING:
    from hw1.shares import Shares

SIDE_BY_SIDE_WORK = 500_000  # parameters × batch size: below, threads wait for one another in the interpreter


@dataclass(frozen=True)
class Arrangement:
    """How replicas share a machine: which of them are stacked, how many groups train at a time, on what each."""

    groups: list[list[int]]
    workers: int
    threads: int  # of each group, inside torch
    may_grow: bool = False  # whether more groups at a time are faster, if cores come free
    joined: int = 0  # groups that were trained on cores which came free

    @property
    def stacked(self) -> bool:
        """Whether any are."""
        return any(len(group) > 1 for group in self.groups)

    def __str__(self) -> str:
        stacks = f"stacked {'+'.join(str(len(group)) for group in self.groups)}, " if self.stacked else ""
        more = f", {self.joined} more on cores that came free" if self.joined else ""
        return f"{stacks}{self.workers} at a time, {self.threads} thread{'s' * (self.threads > 1)} each{more}"


@dataclass
class Trained:
    """What training gives."""

    weights: State  # "<epoch>/<state_dict name>" → [replicas, …]
    history: list[dict[str, Any]]  # a row per replica and evaluated epoch
    status: list[str]  # per replica, "ok" or "diverged"
    arrangement: Arrangement


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
    threads: int = 1,
    precision: str = "highest",
    shares: "Shares | None" = None,
) -> Trained:
    """Train `replicas` networks from their own seeds.

    Args:
        make_model: a freshly initialised network (B, *shape) → (B, K), drawn from torch's global generator.
        make_optimizer: from parameters to the optimizer; its rates are the base of `schedule`. Elementwise rules only
            where replicas are stacked (SGD, Adam, AdamW, RMSprop are).
        loss: mean over a batch.
        vectorize: True, False, or "auto" (`stacks_well`).
        keeper: keeps the state along the way; training goes on from the one that it has, and ends with the same bits.
        threads: CPU threads, shared by replicas that train side by side.
        precision: "highest", "tf32" (GPU) or "bf16": what products in a step are computed in.
        shares: of the machine, that other jobs may leave free while this one trains.
    A replica whose training loss is NaN or infinite ends there: its last row and its status say "diverged", and weights
    that it would have had later are NaN. The others go on.
    """
    task = Task(make_model, make_optimizer, loss, splits, plan, schedule, init_seed, order_seed, replicas, precision)
    arrangement = arrange(task, vectorize, threads)
    groups, workers, threads = arrangement.groups, arrangement.workers, arrangement.threads
    crew = Crew(task, groups, workers, threads, watcher, keeper or Keeper(), shares if arrangement.may_grow else None)
    records = crew.run()
    arrangement = replace(arrangement, joined=crew.joined)
    rows = sorted((row for record in records for row in record.history), key=lambda row: (row["replica"], row["step"]))
    return Trained(crew.weights, rows, [status for record in records for status in record.status], arrangement)


def arrange(task: Task, vectorize: bool | str, threads: int) -> Arrangement:
    """The fastest way to train replicas on so many cores, as measured (docs/speed.md).

    On a CPU replicas train side by side, as many as there are cores, each with its share of them: no thread waits for
    another within a step. Small dense networks are stacked, the replicas of each core. Networks that draw random
    numbers themselves, or whose steps are hardly more than calls, train one after another with all cores. On a GPU one
    stack holds all replicas.
    """
    model = task.model(0)
    device, replicas = task.splits.device.type, list(range(task.replicas))
    if vectorize == "auto":
        vectorize = stacks_well(model, task.make_optimizer(model.parameters()), task.plan.batch_size, device)
    busy = device == "cpu" and is_plain(model) and work(model, task.plan.batch_size) >= SIDE_BY_SIDE_WORK
    workers = min(threads, task.replicas) if busy else 1
    if vectorize:
        stacks = max(workers, math.ceil(task.replicas / most_at_once(model, task)))
        groups = [replicas[n::stacks] for n in range(stacks)]
    else:
        groups = [[replica] for replica in replicas]
    return Arrangement(groups, workers, max(1, threads // workers), busy)


def most_at_once(model: nn.Module, task: Task) -> int:
    """How many replicas one stack may hold: on a GPU those that half of its free memory holds.

    Of each: its parameters, gradients and two moments, and for a batch what its layers give, three times over.
    """
    if task.splits.device.type != "cuda":
        return task.replicas
    free, _ = torch.cuda.mem_get_info(task.splits.device)
    return max(1, int(0.5 * free) // footprint(model, task.plan.batch_size, task.splits.input_shape))


def footprint(model: nn.Module, batch_size: int, input_shape: tuple[int, ...]) -> int:
    """Bytes that training a network holds, about: 4 copies of its parameters, 3 of its layers' outputs for a batch."""
    numbers = 4 * work(model, 1) + 3 * batch_size * (math.prod(input_shape) + outputs_of(model, input_shape))
    return numbers * next(model.parameters()).element_size()
