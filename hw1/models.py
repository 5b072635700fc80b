"""The networks a config names by `_target_`, and what can be asked of any network: its size, its dropout layers.

Each builder maps (N, *input_shape) to (N, outputs): logits or values. Its initialisation is PyTorch's default for
the layers, drawn from the global torch generator.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from hw1 import design
from hw1.errors import UserError

Choice = TypeVar("Choice")


class Sine(nn.Module):
    """sin(x), elementwise."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class Dropout(nn.Module):
    """Dropout whose mask is decided by numbers given from outside: x · 1[noise >= p] / (1 - p) in training mode.

    Masks must depend on (seed, replica) alone and be equal whether replicas train stacked under `torch.vmap` or one
    after another, so the layer draws nothing itself. The training loop puts uniform [0, 1) numbers of the shape of x,
    (B, *features), into the buffer `noise`, which is no part of the state dict.

    Raises: RuntimeError in training mode while `noise` is empty.
    """

    noise: Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.register_buffer("noise", torch.empty(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.noise.numel() == 0:
            raise RuntimeError("dropout in training mode without noise: the training loop fills the buffer `noise`")
        return x * (self.noise >= self.p) / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class MaxPool2x2(nn.MaxPool2d):
    """2×2 max pooling, floor(H/2) × floor(W/2) outputs; a NaN in a window is its maximum.

    Where no gradient is asked for, by maxima of rows and of columns that lie channels last: torch's kernel notes where
    each maximum was, for a gradient. The small CNN is evaluated 1.2 times as fast, to the same bits.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.ndim != 4 or x.stride(1) != 1:
            return super().forward(x)
        height, width = (side // 2 * 2 for side in x.shape[2:])
        pixels = x.permute(0, 2, 3, 1)
        rows = torch.maximum(pixels[:, 0:height:2, :width], pixels[:, 1:height:2, :width])
        return torch.maximum(rows[:, :, 0::2], rows[:, :, 1::2]).permute(0, 3, 1, 2)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "sine": Sine,
    "identity": nn.Identity,  # for deep linear nets
}
MONOTONE = ("relu", "leaky_relu", "tanh", "identity")
CONVOLUTIONS = (nn.modules.conv._ConvNd,)
NORMS = (nn.modules.batchnorm._NormBase,)  # in training mode what these say of one example depends on the others
RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.MultiheadAttention, nn.RNNBase)  # or unknown to vmap
POOLINGS: dict[str, Callable[[], nn.Module]] = {"average": lambda: nn.AvgPool2d(2), "max": MaxPool2x2}


def linear(*, input_shape: tuple[int, ...], outputs: int) -> nn.Sequential:
    """One dense layer: linear or softmax regression."""
    return _named(flatten=nn.Flatten(), output=nn.Linear(math.prod(input_shape), outputs))


def mlp(
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    depth: int,
    width: int,
    widths: Sequence[int] | None = None,
    budget: int | None = None,
    activation: str,
    dropout: float,
    batch_norm: bool,
) -> nn.Sequential:
    """Dense net; each hidden layer is Linear → (BatchNorm1d) → activation → (Dropout).

    Args:
        depth, width: number and width of the hidden layers.
        widths: their widths one by one; goes before depth and width.
        budget: number of weights and biases the widths of `depth` layers are solved for (`design.solve_widths`); goes
            before width. Batch-norm parameters are not counted in it.
        dropout: probability of dropping a hidden unit; no layer is made for 0.
    Raises: UserError for an unknown activation, sizes out of range, or `widths` together with `budget`.
    """
    inputs = math.prod(input_shape)
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    sizes = [inputs, *_hidden_widths(inputs, outputs, depth, width, widths, budget)]
    for i, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
        layers.append((f"hidden{i}", nn.Linear(n_in, n_out)))
        if batch_norm:
            layers.append((f"norm{i}", nn.BatchNorm1d(n_out)))
        layers.append((f"activation{i}", _activation(activation)))
        layers += _dropout(dropout, f"dropout{i}")
    return _named(**dict(layers), output=nn.Linear(sizes[-1], outputs))


def cnn(
    *,
    input_shape: tuple[int, ...],
    outputs: int,
    depth: int,
    width: int,
    hidden: int,
    kernel: int,
    activation: str,
    dropout: float,
    batch_norm: bool,
) -> nn.Sequential:
    """`depth` blocks Conv2d → (BatchNorm2d) → activation → 2×2 max pooling, then one dense hidden layer.

    A non-decreasing activation stands behind the pooling instead: max a(x) = a(max x), with a quarter of the work
    (training is about 1.1 times as fast).

    Args:
        width: channels of the first block; doubled at every further one.
        hidden: units of the dense layer, the only one with dropout.
        kernel: side of the square kernels, in pixels, odd; zero padding keeps the image size.
    Raises: UserError if the inputs are no images, or too small for `depth` poolings.
    """
    channels, height, breadth = _image(input_shape, "cnn")
    _positive(depth=depth, width=width, **{"model.hidden": hidden, "model.kernel": kernel})
    if depth > design.cnn_max_depth(input_shape):
        raise UserError(
            f"depth={depth}: {height}×{breadth} images allow at most {design.cnn_max_depth(input_shape)} poolings"
        )
    layers: list[tuple[str, nn.Module]] = []
    for i in range(1, depth + 1):
        n_out = width * 2 ** (i - 1)
        layers.append((f"conv{i}", nn.Conv2d(channels, n_out, kernel, padding=kernel // 2)))
        if batch_norm:
            layers.append((f"norm{i}", nn.BatchNorm2d(n_out)))
        last = [(f"activation{i}", _activation(activation)), (f"pool{i}", MaxPool2x2())]
        layers += reversed(last) if activation in MONOTONE else last
        channels, height, breadth = n_out, height // 2, breadth // 2
    layers += [("flatten", nn.Flatten()), ("hidden", nn.Linear(channels * height * breadth, hidden))]
    layers += [("activation", _activation(activation)), *_dropout(dropout, "dropout")]
    return _named(**dict(layers), output=nn.Linear(hidden, outputs))


def lenet5(
    *, input_shape: tuple[int, ...], outputs: int, activation: str = "tanh", pooling: str = "average"
) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) with plain pooling, a fully connected C3 and a linear output layer.

    6@5×5, pooling, 16@5×5, pooling, 120, 84, outputs: 61,706 parameters for 10 outputs and one channel. The original's
    C3 saw some of the channels only, its pooling had coefficients, and its output units were Gaussian.
    Raises: UserError unless the input is an image of 28×28 pixels (padded by 2, as in the paper) or 32×32.
    """
    channels, height, breadth = _image(input_shape, "lenet5")
    if (height, breadth) not in {(28, 28), (32, 32)}:
        raise UserError(f"model=lenet5 needs images of 28×28 or 32×32 pixels, dataset gives {height}×{breadth}")
    pool = _choose("model.pooling", pooling, POOLINGS)
    return _named(
        conv1=nn.Conv2d(channels, 6, 5, padding=(32 - height) // 2),
        activation1=_activation(activation),
        pool1=pool(),
        conv2=nn.Conv2d(6, 16, 5),
        activation2=_activation(activation),
        pool2=pool(),
        flatten=nn.Flatten(),
        hidden1=nn.Linear(16 * 5 * 5, 120),
        activation3=_activation(activation),
        hidden2=nn.Linear(120, 84),
        activation4=_activation(activation),
        output=nn.Linear(84, outputs),
    )


def parameter_count(model: nn.Module) -> int:
    """Number of trained scalars, batch-norm scales and shifts included."""
    return sum(parameter.numel() for parameter in model.parameters())


def architecture(model: nn.Module, input_shape: tuple[int, ...]) -> str:
    """One line for people: "mlp 1-13-12-13-13-1, 573 parameters", from the layers in the order they are run in."""
    layers = [module for _, module, _ in _trace(model, input_shape, (nn.Linear, *CONVOLUTIONS))]
    convolutions = [m for m in layers if isinstance(m, CONVOLUTIONS)]
    dense = [m for m in layers if isinstance(m, nn.Linear)]
    parts = []
    if convolutions:
        channels = [convolutions[0].in_channels, *(m.out_channels for m in convolutions)]
        parts.append("conv " + "-".join(map(str, channels)))
    if dense:
        kind = "dense" if convolutions else "mlp" if len(dense) > 1 else "linear"
        parts.append(f"{kind} " + "-".join(map(str, [dense[0].in_features, *(m.out_features for m in dense)])))
    return ", ".join([*(parts or [type(model).__name__]), f"{parameter_count(model):,} parameters"])


def dropout_shapes(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Name of every `Dropout` module → shape of what it sees of one example; leaves the model as it was."""
    return {name: shape for name, _, shape in _trace(model, input_shape, (Dropout,))}


def is_plain(model: nn.Module) -> bool:
    """Whether all modules are torch's or ours, and none draws random numbers itself.

    Only such networks may train side by side: torch's global generator is one for all threads.
    """
    parts = list(model.modules())
    known = all(type(part).__module__.startswith(("torch.nn.", "hw1.models")) for part in parts)
    return known and not any(isinstance(part, RANDOM) for part in parts)


def leaves_inputs(model: nn.Module) -> bool:
    """Whether it is known that a network changes nothing in what it is given."""
    return is_plain(model) and not any(getattr(part, "inplace", False) for part in model.modules())


def outputs_of(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """How many numbers all layers together give for one example."""
    leaves = tuple({type(module) for module in model.modules() if not list(module.children())})
    return sum(math.prod(shape) for _, _, shape in _trace(model, input_shape, leaves))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode for the duration of the block; then every module is in the mode it was in before."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


def _trace(
    model: nn.Module, input_shape: tuple[int, ...], kinds: tuple[type[nn.Module], ...]
) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """(name, module, output shape of one example) of modules of these kinds, in the order they run; one probe, eval."""
    seen: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, _, output: seen.append((name, module, tuple(output.shape[1:])))

    wanted = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    hooks = [module.register_forward_hook(note(name)) for name, module in wanted]
    like = next(model.parameters(), torch.empty(0))
    try:
        with evaluating(model), torch.no_grad():
            model(torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _hidden_widths(
    inputs: int, outputs: int, depth: int, width: int, widths: Sequence[int] | None, budget: int | None
) -> tuple[int, ...]:
    if widths is not None and budget is not None:
        raise UserError(f"model.widths={list(widths)} and model.budget={budget} contradict each other: give one")
    if budget is not None:
        return design.solve_widths(budget, depth, inputs, outputs)
    if widths is None:
        _positive(depth=depth, width=width)
        return (width,) * depth
    if any(n < 1 for n in widths):
        raise UserError(f"model.widths={list(widths)}: every width must be at least 1")
    return tuple(widths)


def _activation(name: str) -> nn.Module:
    return _choose("model.activation", name, ACTIVATIONS)()


def _dropout(p: float, name: str) -> list[tuple[str, nn.Module]]:
    """The layer, or none for p = 0: an idle layer would still cost its noise at every step."""
    if not 0 <= p < 1:
        raise UserError(f"model.dropout={p}: must be at least 0 and below 1")
    return [(name, Dropout(p))] if p > 0 else []


def _image(input_shape: tuple[int, ...], model: str) -> tuple[int, int, int]:
    if len(input_shape) != 3:
        raise UserError(f"model={model} needs images, dataset gives inputs of shape {tuple(input_shape)}")
    channels, height, width = input_shape
    return channels, height, width


def _choose(key: str, name: str, choices: dict[str, Choice]) -> Choice:
    if name not in choices:
        raise UserError(f"{key}={name}: choose from {', '.join(choices)}")
    return choices[name]


def _positive(**values: int) -> None:
    for key, value in values.items():
        if value < 1:
            raise UserError(f"{key}={value}: must be at least 1")


def _named(**layers: nn.Module) -> nn.Sequential:
    """A sequence whose layers, and with them the parameters, go by these names in tables and figures."""
    return nn.Sequential(OrderedDict(layers))
