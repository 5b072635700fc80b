"""How long a training lasts, what it keeps, and the learning rate at each step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

HISTORY_ROWS = 200  # at most, where `evaluate_every` is not given


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the step: rate × (B / reference)^p × warm-up × decay.

    p is 0, 1 or ½ (`scaling` none, linear, sqrt); warm-up rises linearly over the first `warmup` of all steps; decay
    over the rest is 1, ½(1 + cos πt), or drop_factor^⌊t / drop_every⌋, with t in [0, 1).
    """

    kind: str
    warmup: float
    drop_every: float
    drop_factor: float
    scaling: str
    reference_batch_size: int
    hold: str

    def factor(self, step: int, steps: int, batch_size: int) -> float:
        """What the configured rate is multiplied by at a step, 0 ≤ step < steps."""
        exponent = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[self.scaling]
        scaled = (batch_size / self.reference_batch_size) ** exponent
        warm = round(self.warmup * steps)
        if step < warm:
            return scaled * (step + 1) / (warm + 1)
        t = (step - warm) / (steps - warm)
        if self.kind == "cosine":
            return scaled * 0.5 * (1 + math.cos(math.pi * t))
        if self.kind == "step" and self.drop_every > 0:
            # The tiny term keeps 0.3 / 0.1 from counting as two drops.
            return scaled * self.drop_factor ** math.floor(t / self.drop_every + 1e-9)
        return scaled

    @property
    def counted_by(self) -> int | None:
        """The batch size whose steps `epochs` stand for, whatever is trained with; None: each its own (hold=epochs)."""
        return self.reference_batch_size if self.hold == "steps" else None


@dataclass(frozen=True)
class Plan:
    """How many steps to take, and after which of them to evaluate and to keep the weights."""

    examples: int
    batch_size: int
    steps: int
    collect_every: int | None
    evaluate_every: int

    @classmethod
    def of(cls, examples: int, batch_size: int, epochs: int | None, steps: int | None,
           collect_every: int | None, evaluate_every: int | None, counted_by: int | None = None) -> "Plan":  # fmt: skip
        """The plan for `examples` training examples; exactly one of `epochs` and `steps` is given.

        `epochs` stand for epochs·⌈N/B⌉ steps, B the batch size or, where it is given, `counted_by`.
        """
        per_epoch = math.ceil(examples / batch_size)
        total = steps if steps is not None else (epochs or 0) * math.ceil(examples / (counted_by or batch_size))
        every = evaluate_every or max(1, math.ceil(total / per_epoch / HISTORY_ROWS))
        return cls(examples, batch_size, total, collect_every, every)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in a pass over the training split: ⌈N/B⌉, as the last batch takes what is left."""
        return math.ceil(self.examples / self.batch_size)

    def batches(self, epoch: int) -> Iterator[tuple[int, int]]:
        """First and last (exclusive) position in the epoch's order of each batch that is left to take in it."""
        left = self.steps - epoch * self.steps_per_epoch
        for start in range(0, min(self.examples, left * self.batch_size), self.batch_size):
            yield start, min(start + self.batch_size, self.examples)

    def epoch(self, step: int) -> int | float:
        """Passes over the training split after `step` steps; whole at an epoch's end."""
        whole, rest = divmod(step, self.steps_per_epoch)
        return whole if rest == 0 else step / self.steps_per_epoch

    def collected(self) -> list[int]:
        """Steps after which weights are kept: the last; with `collect_every` also the start and every n-th epoch."""
        every = (self.collect_every or 0) * self.steps_per_epoch
        return sorted({self.steps, *(range(0, self.steps, every) if every else ())})

    def evaluated(self) -> list[int]:
        """Steps after which the history gets a row: every n-th epoch, and wherever weights are kept."""
        every = self.evaluate_every * self.steps_per_epoch
        return sorted({*range(every, self.steps, every), *self.collected()})
