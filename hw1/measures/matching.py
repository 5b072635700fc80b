"""Weight matching: which hidden unit of one network is which of another's, so that their weights can be averaged.

The hidden units of a layer may be renamed without changing the function, so that two networks may be further apart than
they need be. `match` renames the units of one to bring it as near to the other as it can (Ainsworth et al. 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from hw1.models import Dropout, MaxPool2x2, Sine

State = dict[str, Tensor]
Permutations = dict[str, Tensor]  # name of a layer → (units,): new unit i is the old unit at place i

WEIGHTED = (nn.Linear, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
BY_UNIT = (  # they treat every unit alike and on its own
    nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.SiLU, nn.ELU, nn.Softplus, Sine,
    Dropout, nn.Dropout, nn.MaxPool2d, MaxPool2x2, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """A layer with weights, by its name in the state dict, and the batch norms that follow it."""

    name: str
    units: int
    norms: tuple[str, ...] = ()


class NotAChainError(ValueError):
    """Weight matching is not available for this architecture; the message says why, and begins with `not available`."""


def chain(model: nn.Module, input_shape: Sequence[int]) -> list[Layer]:
    """The weighted layers of a plain feed-forward network, in their order.

    Args: input_shape: of one example, (features,) or (channels, height, width).
    Raises: NotAChainError for anything but an nn.Sequential of linear and convolutional layers, batch norm, elementwise
        activations, dropout, pooling and flattening, in an order in which units keep their identity.
    """
    layers: list[Layer] = []
    dimensions = len(input_shape)
    for name, module in _modules(model):
        if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            dimensions = 1
        elif type(module) in WEIGHTED:
            if dimensions != (1 if isinstance(module, nn.Linear) else 3):
                raise NotAChainError(f"not available: layer {name} sees {dimensions} dimensions of an example")
            layers.append(_layer(name, module, layers[-1] if layers else None))
        elif type(module) in NORMS:
            if layers:
                if module.num_features != layers[-1].units:
                    raise NotAChainError(f"not available: batch norm {name} stands behind a flattening")
                layers[-1] = Layer(layers[-1].name, layers[-1].units, (*layers[-1].norms, name))
        elif type(module) not in BY_UNIT:
            raise NotAChainError(f"not available: {type(module).__name__} is no part of a plain chain of layers")
    if len(layers) < 2:
        raise NotAChainError("not available: there are no hidden units to rename")
    return layers


def _modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules in the order in which they run. Raises: NotAChainError where that is not known."""
    if type(model).forward is not nn.Sequential.forward:
        raise NotAChainError(f"not available: {type(model).__name__} is no nn.Sequential")
    found = []
    for name, module in model.named_children():
        inner = isinstance(module, nn.Sequential)
        found += [(f"{name}.{rest}", part) for rest, part in _modules(module)] if inner else [(name, module)]
    return found


def _layer(name: str, module: nn.Module, before: Layer | None) -> Layer:
    if isinstance(module, nn.Conv2d):
        if module.groups != 1:
            raise NotAChainError(f"not available: layer {name} is a convolution in groups")
        return Layer(name, module.out_channels)
    assert isinstance(module, nn.Linear)
    if before and module.in_features % before.units:
        raise NotAChainError(f"not available: the columns of layer {name} are no multiple of the units before it")
    return Layer(name, module.out_features)


def permuted(state: State, layers: Sequence[Layer], permutations: Permutations) -> State:
    """A state dict with renamed hidden units: the same function, but for the order of floating-point sums.

    Args: permutations: of the hidden layers, by name; the last layer's units are the outputs and keep their places.
    """
    found = dict(state)
    for before, layer in zip([None, *layers], layers, strict=False):
        weight = _by_unit(state[f"{layer.name}.weight"], before)
        if before:
            weight = weight[:, permutations[before.name]]
        found[f"{layer.name}.weight"] = weight.reshape(state[f"{layer.name}.weight"].shape)
    for layer in layers[:-1]:
        for key in _keys(state, layer):
            found[key] = found[key][permutations[layer.name]]
    return found


def match(reference: State, state: State, layers: Sequence[Layer]) -> tuple[State, Permutations]:
    """`state` with hidden units renamed to bring it near `reference`, and the permutations: Ainsworth et al. 2023,
    arXiv:2209.04836, Algorithm 1.

    It maximises ⟨θ_A, πθ_B⟩ over all parameters, which minimises ‖θ_A − πθ_B‖, by coordinate ascent: the best
    permutation of one layer, others fixed, is a linear assignment. The paper starts from the identity and visits layers
    in random order. Here layers are visited in their order, so that the same networks give the same answer, and there
    are two starts: the identity, and layer by layer from the input by incoming weights and biases alone, which finds a
    renamed copy exactly. The nearer result counts, the identity's where they tie: it is never further away than the
    network as it was. A local optimum, as the problem is NP-hard.

    Args:
        reference, state: state dicts of networks of one architecture, finite.
        layers: of that architecture, from `chain`.
    """
    a = {key: value.double() for key, value in reference.items()}
    b = {key: value.double() for key, value in state.items()}
    starts = [{layer.name: torch.arange(layer.units) for layer in layers[:-1]}, _from_input(a, b, layers)]
    ends = [_ascend(a, b, layers, start) for start in starts]
    _, best = max(ends, key=lambda end: end[0])  # the first of equals
    return permuted(state, layers, best), best


def moved(permutations: Permutations) -> int:
    """How many hidden units are not where they were."""
    return sum(int((places != torch.arange(len(places))).sum()) for places in permutations.values())


def _from_input(a: State, b: State, layers: Sequence[Layer]) -> Permutations:
    """The permutation of each layer by its incoming weights and biases, given those before it."""
    found: Permutations = {}
    for before, layer in zip([None, *layers], layers[:-1], strict=False):
        found[layer.name] = _assigned(_incoming(a, b, before, layer, found))
    return found


def _ascend(a: State, b: State, layers: Sequence[Layer], start: Permutations) -> tuple[float, Permutations]:
    """Coordinate ascent until a pass over all layers gains nothing more; the objective and where it was reached."""
    found, reached = dict(start), _objective(a, b, layers, start)
    while True:
        for before, layer, after in zip([None, *layers], layers, layers[1:], strict=False):
            gain = _incoming(a, b, before, layer, found) + _outgoing(a, b, layer, after, found)
            found[layer.name] = _assigned(gain)
        objective = _objective(a, b, layers, found)
        if objective <= reached + 1e-12 * abs(reached):  # rounding could go on for ever
            return reached, start
        reached, start = objective, dict(found)


def _incoming(a: State, b: State, before: Layer | None, layer: Layer, found: Permutations) -> Tensor:
    """(units, units): what unit i of A and unit j of B have in common in weights, biases and batch norm."""
    weight = _by_unit(b[f"{layer.name}.weight"], before)
    if before:
        weight = weight[:, found[before.name]]
    common = a[f"{layer.name}.weight"].flatten(1) @ weight.flatten(1).T
    for key in _keys(a, layer):
        if a[key].ndim == 1 and not key.endswith(("running_mean", "running_var")):  # statistics are no parameters
            common = common + torch.outer(a[key], b[key])
    return common


def _outgoing(a: State, b: State, layer: Layer, after: Layer, found: Permutations) -> Tensor:
    """(units, units): what unit i of A and unit j of B have in common in the weights of the layer after them."""
    columns_a, columns_b = (_by_unit(state[f"{after.name}.weight"], layer) for state in (a, b))
    if after.name in found:
        columns_b = columns_b[found[after.name]]
    return columns_a.transpose(0, 1).flatten(1) @ columns_b.transpose(0, 1).flatten(1).T


def _objective(a: State, b: State, layers: Sequence[Layer], found: Permutations) -> float:
    """⟨θ_A, πθ_B⟩."""
    total = 0.0
    for before, layer in zip([None, *layers], layers, strict=False):
        common = _incoming(a, b, before, layer, found)
        places = found.get(layer.name, torch.arange(layer.units))
        total += common[torch.arange(layer.units), places].sum().item()
    return total


def _assigned(gain: Tensor) -> Tensor:
    """The permutation p with the largest Σ_i gain[i, p_i]."""
    return torch.from_numpy(linear_sum_assignment(gain.cpu().numpy(), maximize=True)[1])


def _by_unit(weight: Tensor, before: Layer | None) -> Tensor:
    """(units out, units in, weights of each pair): pixels of a kernel, or behind a flattening places of a channel."""
    return weight.reshape(len(weight), before.units if before else weight.shape[1], -1)


def _keys(state: State, layer: Layer) -> list[str]:
    """Names of a layer's tensors, and of its batch norms', that have an entry or a row for each unit."""
    keys = [f"{layer.name}.weight", f"{layer.name}.bias"]
    keys += [f"{norm}.{kind}" for norm in layer.norms for kind in ("weight", "bias", "running_mean", "running_var")]
    return [key for key in keys if key in state]
