"""Principal components of the paths that weights take in training, and what chance alone would make of them.

Rows are states of R networks at T epochs, row t·R + r that of network r at epoch t; columns are parameters, of which
there are many more (P ≫ R·T). So all is read off the rows' inner products: an (R·T)² matrix, to which every group of
parameters adds its own.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 20  # numbers of a block of columns that are held at once, in float64


def gram(states: Sequence[Tensor], networks: Sequence[int] | None = None) -> Tensor:
    """Inner products G = X̃X̃ᵀ (T·R, T·R) of the rows X minus their mean, in float64.

    Every centring of rows is a matrix C with C·1 = 0, so that the Gram matrix of the centred rows is C·G·Cᵀ
    (`centring`); the one of several groups of parameters is the sum of theirs. The rows are copied a block of columns
    at a time.

    Args:
        states: per epoch the same parameters of all networks, (≥ R, …).
        networks: those of them that count, all unless given.
    """
    rows = len(states) * (len(states[0]) if networks is None else len(networks))
    total = torch.zeros(rows, rows, dtype=torch.float64)
    for block in _blocks(states, networks):
        total += block @ block.T
    return total


def loadings(states: Sequence[Tensor], networks: Sequence[int] | None, combination: Tensor) -> Tensor:
    """Principal axes V = X̃ᵀ·A (P, k) of these parameters, each column over all parameters of unit length.

    Args: combination: A = Cᵀ·`Components.combination` (T·R, k).
    """
    rows = combination.T.contiguous()  # X̃ᵀ·A reads down the columns: all of it then takes 1.7 times as long
    return torch.cat([rows @ block for block in _blocks(states, networks)], dim=1).T


def _blocks(states: Sequence[Tensor], networks: Sequence[int] | None) -> Iterator[Tensor]:
    """The rows (T·R, b) minus their mean, in float64, some columns at a time; each valid until the next."""
    flat = [state.reshape(len(state), -1) for state in states]  # views: stored weights are contiguous
    chosen = slice(None) if networks is None else list(networks)
    rows, parameters = len(flat[0][:, 0][chosen]), flat[0].shape[1]
    width = min(parameters, max(1, BLOCK // (len(flat) * rows)))
    space = torch.empty(len(flat), rows, width, dtype=torch.float64)  # one for all: half of the time was allocation
    for start in range(0, parameters, width):
        block = space[:, :, : min(width, parameters - start)]
        for row, state in zip(block, flat, strict=True):
            row.copy_(state[:, start : start + width][chosen])
        block = block.flatten(0, 1)
        yield block.sub_(block.mean(0))


def centring(kind: str, epochs: int, networks: int) -> Tensor:
    """The matrix C (T·R, T·R) that centres rows: C·X.

    "mean": each row minus the mean of all (classic PCA). "final": minus its network's own last row (Li et al. 2018,
    arXiv:1712.09913). Raises: ValueError for another kind.
    """
    rows = epochs * networks
    if kind == "mean":
        away = torch.full((rows, rows), 1 / rows, dtype=torch.float64)
    elif kind == "final":
        away = torch.eye(networks, dtype=torch.float64).repeat(epochs, 1)
        away = torch.cat([torch.zeros(rows, rows - networks, dtype=torch.float64), away], dim=1)
    else:
        raise ValueError(f"unknown centring {kind!r}; choose from final, mean")
    return torch.eye(rows, dtype=torch.float64) - away


@dataclass(frozen=True)
class Components:
    """Principal components of centred rows, from their Gram matrix C·G·Cᵀ = U·S²·Uᵀ; equal to those of the rows' SVD.

    The sign of a component is such that its largest score (in magnitude; the first of equal ones) is positive.
    """

    values: Tensor  # S² (N,), largest first; those that are rounding are 0
    vectors: Tensor  # U (N, N), a column each
    distances: Tensor  # (N,) ‖w − c‖ of each row

    @classmethod
    def of(cls, centred: Tensor) -> "Components":
        """From a Gram matrix (N, N) of centred rows."""
        values, vectors = torch.linalg.eigh((centred + centred.T) / 2)
        values, vectors = values.flip(0), vectors.flip(1)
        rounding = len(values) * torch.finfo(values.dtype).eps * values[0].clamp_min(0)
        largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
        vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
        return cls(values.where(values > rounding, 0), vectors, centred.diagonal().clamp_min(0).sqrt())

    @cached_property
    def ratio(self) -> Tensor:
        """(N,) share of the variance in each component; NaN if nothing varies."""
        return self.values / self.values.sum()

    @cached_property
    def scores(self) -> Tensor:
        """(N, N) coordinates U·S of the rows along the components, in units of weight."""
        return self.vectors * self.values.sqrt()

    def residuals(self, components: int = 2) -> Tensor:
        """(N,) distance of each row from the plane (or line …) of the first components: ‖w − projection‖."""
        inside = self.scores[:, :components].square().sum(1)
        return (self.distances.square() - inside).clamp_min(0).sqrt()

    def combination(self, components: int = 2) -> Tensor:
        """U/S (N, k): what makes axes of centred rows, V = (C·X)ᵀ·U/S; 0 for components without variance."""
        sizes = self.values[:components].sqrt()
        return self.vectors[:, :components] * torch.where(sizes > 0, 1 / sizes, 0)


@dataclass(frozen=True)
class Lengths:
    """How far networks start from one another, and how far they move between two collected epochs.

    spread: d₀², mean squared distance of the initial rows from their centre, unbiased: Σ_r‖w_r0 − w̄_0‖²/(R − 1); 0 for
        one network.
    steps: (T − 1, R) ‖w_t − w_(t−1)‖² of each network.
    ends: (R,) ‖w_T − w_0‖².
    """

    spread: float
    steps: Tensor
    ends: Tensor

    @classmethod
    def of(cls, products: Tensor, epochs: int, networks: int) -> "Lengths":
        """From the Gram matrix (T·R, T·R) of rows, centred in whatever way is the same for all."""
        blocks = products.reshape(epochs, networks, epochs, networks)
        own = blocks.diagonal(dim1=1, dim2=3)  # (T, T, R)
        squares = own.diagonal(dim1=0, dim2=1).T  # (T, R)
        cross = own[torch.arange(epochs - 1), torch.arange(1, epochs)]
        steps = squares[1:] + squares[:-1] - 2 * cross
        ends = squares[-1] + squares[0] - 2 * own[0, -1]
        first = blocks[0, :, 0]
        spread = (first.trace() - first.sum() / networks) / max(1, networks - 1)
        return cls(max(spread.item(), 0.0), steps.clamp_min(0), ends.clamp_min(0))


@dataclass(frozen=True)
class Walk:
    """What a random walk with the measured lengths is made of, for one tensor of parameters.

    parameters: their number P; infinity for the limit in which all directions of chance are orthogonal.
    spread: d₀², expected squared distance of a start from their common centre; 0 for walks from one start.
    steps: d_s², expected squared lengths of the T − 1 steps; zeros for starts that never move.
    """

    parameters: float
    spread: float
    steps: Sequence[float]


def chance(walks: Sequence[Walk], networks: int, centre: Tensor, draws: int, seed: int = 0) -> Tensor:
    """Explained variance that chance alone gives: of `networks` independent Gaussian random walks, (draws, N).

    The entries of every tensor start and move independently of one another: row (t, r) is Σ_{s ≤ t} d_s·z_sr with z_sr
    normal of variance 1/P. Drawn are not the walks but their Gram matrices D·W·Dᵀ, W a Wishart matrix of P degrees of
    freedom (by Bartlett's decomposition). As P → ∞, W → 1, one draw tells all, and there are closed forms: 6/π² and
    6/(2π)² for one long walk of equal steps (Antognini & Sohl-Dickstein 2018, arXiv:1806.08805), 1/(R − 1) each for R
    starts that never move. With as few as 1,000 parameters the largest components of chance are well above these.

    Args:
        walks: one for each tensor of parameters.
        centre: the matrix (N, N) that centres the rows, N = T·R.
    Returns: the shares of all components, largest first; NaN where nothing moves.
    """
    if all(math.isinf(walk.parameters) for walk in walks):
        draws = 1
    random = np.random.default_rng(seed)
    epochs = len(walks[0].steps) + 1
    total = torch.zeros(draws, epochs * networks, epochs * networks, dtype=torch.float64)
    for walk in walks:
        lengths = torch.tensor([walk.spread, *walk.steps], dtype=torch.float64).sqrt()
        sums = torch.tril(lengths.expand(epochs, epochs))  # from increments to rows
        rows = centre @ torch.kron(sums, torch.eye(networks, dtype=torch.float64))
        root = rows @ _wishart_root(random, draws, len(rows), walk.parameters)
        total += root @ root.mT
    values = torch.linalg.eigvalsh(total).flip(-1).clamp_min(0)
    return values / values.sum(-1, keepdim=True)


def _wishart_root(random: np.random.Generator, draws: int, rows: int, parameters: float) -> Tensor:
    """A (draws, rows, min(rows, P)) with A·Aᵀ = ZZᵀ/P in distribution, Z (rows, P) standard normal."""
    if math.isinf(parameters):
        return torch.eye(rows, dtype=torch.float64)[None]
    if parameters < rows:
        normal = random.standard_normal((draws, rows, int(parameters)))
        return torch.from_numpy(normal / math.sqrt(parameters))
    root = np.tril(random.standard_normal((draws, rows, rows)), -1)
    root[:, range(rows), range(rows)] = np.sqrt(random.chisquare(parameters - np.arange(rows), (draws, rows)))
    return torch.from_numpy(root / math.sqrt(parameters))
