"""Several networks of one architecture as one: parameters [replicas, …], inputs (R, B, *shape), outputs (R, K, B)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hw1.models import Dropout, Sine

State = dict[str, Tensor]
ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.Identity, Sine)
MEANS = (nn.CrossEntropyLoss, nn.MSELoss, nn.L1Loss, nn.HuberLoss)  # unless told otherwise


class Stacked:
    """Networks that are called together, layer by layer: dense layers as batched products of matrices, what works on
    each number by itself as it is, anything else under `torch.vmap`.

    Dense layers take and give columns, (R, features, B): W·x + b, b a column too. So gradients come in the layout of
    what they are of; of x·Wᵀ they would be copied, a third of a step, as with all of it under `vmap`: stacking then
    gained nothing for MNIST. Biases and outputs as columns are 7 % of a step of ten networks of 571 parameters.
    """

    def __init__(self, models: list[nn.Module]) -> None:
        self.parameters, self.buffers = torch.func.stack_module_state(models)
        model, tensors = models[0], self.parameters | self.buffers
        children = dict(model.named_children()) if type(model) is nn.Sequential else {"": model}
        self.layers: list[tuple[nn.Module, State]] = []
        self._owners: dict[str, tuple[State, str]] = {}  # name of a tensor → the layer's tensors, its name there
        for name, child in children.items():
            prefix = f"{name}." if name else ""
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if type(child) is nn.Linear and "bias" in own:
                own["bias"] = self.parameters[f"{prefix}bias"] = _column(own["bias"])
            self.layers.append((child, own))
            self._owners |= {prefix + key: (own, key) for key in own}

    def put(self, buffers: Mapping[str, Tensor]) -> None:
        """Replace buffers, by their names in the network."""
        for name, value in buffers.items():
            own, key = self._owners[name]
            own[key] = value

    def __call__(self, x: Tensor) -> Tensor:
        columns = False
        for layer, own in self.layers:
            kind = type(layer)
            if kind in ELEMENTWISE:
                x = layer.forward(x)
            elif kind is nn.Linear and x.ndim == 3 and "bias" in own:
                x = torch.baddbmm(own["bias"], own["weight"], x if columns else x.mT)
                columns = True
            else:
                x, columns = x.mT if columns else x, False
                x = self._other(layer, own, x)
        return x if columns else x.mT

    @staticmethod
    def _other(layer: Any, own: State, x: Tensor) -> Tensor:
        if type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1):
            return x.flatten(2)
        if type(layer) is Dropout:
            return x * (own["noise"] >= layer.p) / (1 - layer.p)
        if type(layer) is nn.Linear and "bias" in own:
            own = own | {"bias": own["bias"].squeeze(2)}
        return torch.vmap(lambda tensors, one: torch.func.functional_call(layer, tensors, (one,)))(own, x)


def _column(bias: Tensor) -> Tensor:
    """Biases (R, features) as a parameter (R, features, 1)."""
    return bias.detach().unsqueeze(2).requires_grad_(bias.requires_grad)


def averages(loss: nn.Module) -> bool:
    """Whether a loss is known to be the mean of the losses of single examples."""
    return type(loss) in MEANS and loss.reduction == "mean" and getattr(loss, "weight", None) is None


def losses_of(loss: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """From outputs (R, K, B) and targets (R, B, …) to the mean loss of each replica (R,)."""
    if not averages(loss):
        return lambda outputs, targets: torch.vmap(loss)(outputs.mT, targets)
    keys = [key for key in ("label_smoothing", "delta") if hasattr(loss, key)]
    each = type(loss)(reduction="none", **{key: getattr(loss, key) for key in keys})
    if type(loss) is not nn.CrossEntropyLoss:
        return lambda outputs, targets: each(outputs, targets.mT).mean((1, 2))
    return lambda outputs, targets: each(outputs, targets).mean(1)
