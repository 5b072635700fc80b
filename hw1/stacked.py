"""Several networks of one architecture as one: parameters [replicas, …], inputs (R, B, *shape), outputs (R, K, B)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hw1.chain import Back, Layer, Recorded, add_gradient, dropout, elementwise, reshaped, watched
from hw1.models import Dropout, evaluating

State = dict[str, Tensor]


class Stacked:
    """Networks that are called together, layer by layer: dense layers as batched products of matrices, what works on
    each number by itself as it is, anything else under `torch.vmap`.

    Dense layers take and give columns, (R, features, B): W·x + b, b a column too. So gradients come in the layout of
    what they are of; of x·Wᵀ they would be copied, a third of a step, as with all of it under `vmap`: stacking then
    gained nothing for MNIST. Biases and outputs as columns are 7 % of a step of ten networks of 571 parameters.

    Args:
        shape: of one example.
    """

    def __init__(self, models: list[nn.Module], shape: tuple[int, ...]) -> None:
        self.parameters, self.buffers = torch.func.stack_module_state(models)
        self.layers: list[tuple[Layer, list[Tensor]]] = []  # with the parameters of each, for a `Chain`
        self._owners: dict[str, tuple[State, str]] = {}  # name of a tensor → the layer's tensors, its name there
        model, tensors, columns = models[0], self.parameters | self.buffers, False
        like = next(model.parameters(), torch.empty(0))
        one = torch.zeros(1, *shape, dtype=like.dtype, device=like.device)
        for name, child in dict(model.named_children() if type(model) is nn.Sequential else {"": model}).items():
            prefix = f"{name}." if name else ""
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if _is_dense(child, own) and one.ndim == 2:
                own["bias"] = self.parameters[f"{prefix}bias"] = _column(own["bias"])
                layer, becomes = _dense(own["weight"], own["bias"]), True
            elif by_number := elementwise(child):
                layer, becomes = by_number, columns
            else:
                layer, becomes = _rows(child, own), False
            if becomes != columns:
                self.layers.append((_transposed, []))
            self.layers.append((layer, [own[key] for key, _ in child.named_parameters()]))
            self._owners |= {prefix + key: (own, key) for key in own}
            columns = becomes
            with evaluating(child), torch.no_grad():
                one = child(one)
        if not columns:
            self.layers.append((_transposed, []))

    def put(self, buffers: Mapping[str, Tensor]) -> None:
        """Replace buffers, by their names in the network."""
        for name, value in buffers.items():
            own, key = self._owners[name]
            own[key] = value


def _is_dense(part: nn.Module, own: State) -> bool:
    usual = type(part) is nn.Linear and "bias" in own and not watched(part)
    return usual and own["weight"].requires_grad and own["bias"].requires_grad


def _column(bias: Tensor) -> Tensor:
    """Biases (R, features) as a parameter (R, features, 1)."""
    return bias.detach().unsqueeze(2).requires_grad_()


def _dense(weight: Tensor, bias: Tensor) -> Layer:
    """Columns (R, n, B) to columns (R, m, B): weight (R, m, n), bias (R, m, 1)."""

    def layer(x: Tensor, wanted: bool) -> tuple[Tensor, Back]:
        def back(gradient: Tensor) -> Tensor | None:
            add_gradient(weight, gradient.bmm(x.mT))
            add_gradient(bias, gradient.sum(2, keepdim=True))
            return weight.mT.bmm(gradient) if wanted else None

        return torch.baddbmm(bias, weight, x), back

    return layer


def _transposed(x: Tensor, wanted: bool) -> tuple[Tensor, Back]:
    """Rows as columns, and the other way round."""
    return x.mT, lambda gradient: gradient.mT if wanted else None


def _rows(part: Any, own: State) -> Layer:
    """Rows (R, B, *shape) to rows, by any layer."""
    if type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1):
        return reshaped(lambda x: x.flatten(2))
    if type(part) is Dropout:
        return dropout(part.p, lambda: own["noise"])
    each = torch.vmap(lambda tensors, one: torch.func.functional_call(part, tensors, (one,)))
    return Recorded.module(part, lambda x: each(own, x))
