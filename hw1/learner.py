"""Networks that take their training steps together, and what their modules allow to be done with them."""

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from hw1.chain import Chain, chain_of
from hw1.losses import loss_of, losses_of
from hw1.models import CONVOLUTIONS, NORMS, Dropout, dropout_shapes, is_plain
from hw1.resident import lay_out
from hw1.stacked import Stacked, State

STACKED_WORK = 16_000_000  # parameters × batch size
RULES = (SGD, Adagrad, Adam, AdamW, RMSprop)  # an entry's update depends on its own gradients alone


def treats_examples_singly(model: nn.Module) -> bool:
    """Whether the gradient of a batch is the sum of the gradients of its parts."""
    return is_plain(model) and not any(isinstance(part, NORMS) for part in model.modules())


def stacks_well(model: nn.Module, optimizer: Optimizer, batch_size: int, device: str = "cpu") -> bool:
    """Whether replicas of a network train faster stacked than one after another, with the same results.

    On a CPU so it is for small dense networks, where a step costs little more than the calls that make it up, up to
    `STACKED_WORK`. Convolutions gain nothing (grouped ones lose the memory layout); on a GPU they do. An optimizer that
    looks at a whole matrix would look across replicas, and parameters that are shared would be stacked twice.
    """
    shares = len(list(model.parameters())) < len(list(model.named_parameters(remove_duplicate=False)))
    small = work(model, batch_size) <= STACKED_WORK and not any(isinstance(p, CONVOLUTIONS) for p in model.modules())
    return (small or device != "cpu") and is_plain(model) and not shares and type(optimizer) in RULES


def work(model: nn.Module, batch_size: int) -> int:
    """How much a step has to do, roughly: parameters × batch size."""
    return sum(parameter.numel() for parameter in model.parameters()) * batch_size


class Learner:
    """Networks that take their steps together: one as it is, or several stacked."""

    def __init__(
        self,
        models: list[nn.Module],
        replicas: list[int],
        loss: nn.Module,
        mask_seeds: list[int],
        shape: tuple[int, ...],
        precision: str = "highest",
    ) -> None:
        self.replicas, self.loss, self.model, self.mask_seeds = replicas, loss, models[0], mask_seeds
        self.model.train()
        dropout = any(isinstance(part, Dropout) for part in self.model.modules())
        self.mask_shapes = dropout_shapes(self.model, shape) if dropout else {}
        self.stacked = Stacked(models, shape) if len(models) > 1 else None
        layers, rule = (self.stacked.layers, losses_of) if self.stacked else (chain_of(self.model), loss_of)
        bf16 = precision == "bf16"
        self.chain = Chain(layers, rule(loss, by_hand=not bf16), bf16)
        if self.stacked:
            self.parameters, self.buffers = self.stacked.parameters, self.stacked.buffers
        else:
            self.parameters, self.buffers = dict(self.model.named_parameters()), dict(self.model.named_buffers())

    def add_gradients(self, x: Tensor, y: Tensor, noise: State, share: float = 1.0) -> Tensor:
        """Add `share` times the gradient of each replica's loss to its parameters'; the losses, (R,) or of one ().

        Args: x (R, B, *shape) and y (R, B, …), each replica's own examples; noise, for its dropout.
        """
        if self.stacked:
            self.stacked.put({f"{name}.noise": values for name, values in noise.items()})
            return self.chain.add_gradients(x, y, share)
        for name, values in noise.items():
            self.model.get_submodule(name).noise = values[0]
        return self.chain.add_gradients(lay_out(x[0]), y[0], share)

    def noise(self, step: int, batch: int, like: Tensor) -> State:
        """Uniform numbers (R, B, …) for every dropout layer: a function of (seed, step) alone, seed by replica."""
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
        named = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        tensors = self.parameters | self.buffers if self.stacked else named
        return {name: value for name, value in tensors.items() if name.rpartition(".noise")[0] not in self.mask_shapes}

    def state(self, position: int) -> State:
        """The state_dict of one replica, on the CPU, copied."""
        if not self.stacked:
            return {name: _plain(value) for name, value in self.model.state_dict().items()}
        everything = self.parameters | self.buffers
        own = self.model.state_dict()  # for its shapes: biases are columns in a stack
        return {name: _plain(everything[name][position].view_as(value)) for name, value in own.items()}

    def network(self, position: int) -> nn.Module:
        """One replica as a network of its own, for evaluation; valid until the next call."""
        if self.stacked:
            self.model.load_state_dict(self.state(position))
        return self.model


def _plain(value: Tensor) -> Tensor:
    """A copy on the CPU, in the ordinary memory layout."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)
