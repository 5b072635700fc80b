"""A data set as tensors on the device, and networks placed beside it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hw1.data import SPLITS, Dataset


@dataclass(frozen=True)
class Splits:
    """What networks see and what they should say, on the device once and for all: a batch is an index.

    A DataLoader costs more than these networks do. Pixels stay bytes, a quarter of the memory of floats, until they are
    asked for: to choose 256 images by `index_select` and scale them takes 40 µs, of some 2,000 or more that a step
    takes; by indexing it took 160.
    """

    raw: dict[str, Tensor]  # split → (N, *shape): bytes as published, all else scaled already
    targets: dict[str, Tensor]  # split → (N,) int64 labels, or (N, K) values
    task: str  # "classification" or "regression"
    offset: Tensor
    factor: Tensor  # networks see (raw − offset)·factor, the inverse of the scale

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.offset.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type that networks see."""
        return self.offset.dtype

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.raw["train"].shape[1:])

    @property
    def slice_size(self) -> int:
        """Examples to evaluate at once: 250 MNIST images on a CPU, 4,000 on a GPU, as many numbers of others, ≥ 32.

        What layers give of so many fits a core's share of the cache: in slices of 1,000 the small CNN takes 1.4 times
        as long on one core, beside another that does the same, and 1.5 times with two threads. A function of shape and
        device alone, since the order of summation decides the last bits, and the same weights must give the same bits
        wherever they are evaluated.
        """
        return max(32, (250 if self.device.type == "cpu" else 4_000) * 784 // math.prod(self.input_shape))

    def inputs(self, split: str, rows: Tensor | slice) -> Tensor:
        """What networks see of some rows of a split: (*rows, *shape), the same bits however rows are grouped."""
        raw = self.raw[split]
        x = raw[rows] if isinstance(rows, slice) else _chosen(raw, rows)
        if x.is_floating_point():
            return x.clone() if isinstance(rows, slice) else x  # not a view of what is kept
        return x.to(self.offset.dtype).sub_(self.offset).mul_(self.factor)

    def answers(self, split: str, rows: Tensor) -> Tensor:
        """Labels (*rows) or values (*rows, K) of some rows of a split."""
        return _chosen(self.targets[split], rows)

    def slices(self, split: str, size: int | None = None, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets of a whole split, or its first `limit` examples, a slice (of `slice_size`) at a time."""
        targets, size = self.targets[split][:limit], size or self.slice_size
        for start in range(0, len(targets), size):
            rows = slice(start, min(start + size, len(targets)))
            yield lay_out(self.inputs(split, rows)), targets[rows]

    @classmethod
    def of(cls, dataset: Dataset, device: torch.device, dtype: torch.dtype) -> "Splits":
        """Move a data set onto a device; on the CPU bytes are shared with it."""
        raw, targets = {}, {}
        offset, factor = dataset.offset, 1 / np.asarray(dataset.scale, dtype=np.float64)
        for split in SPLITS:
            x = dataset.inputs[split]
            if (
                x.dtype != np.uint8
            ):  # scaled at once, in float64: a large mean must not cost the digits of a small spread
                x = ((x.astype(np.float64) - dataset.offset) / dataset.scale).astype(np.dtype(str(dtype)[6:]))
                offset, factor = 0.0, np.ones(())
            raw[split] = torch.from_numpy(x).to(device)
            y = torch.from_numpy(dataset.targets[split]).to(device)
            targets[split] = y.long() if dataset.task == "classification" else y.to(dtype).reshape(len(y), -1)
        scaling = [torch.as_tensor(value, dtype=dtype, device=device) for value in (offset, factor)]
        return cls(raw, targets, dataset.task, *scaling)


def _chosen(values: Tensor, rows: Tensor) -> Tensor:
    return values.index_select(0, rows.flatten()).view(*rows.shape, *values.shape[1:])


def lay_out(images: Tensor) -> Tensor:
    """Images with channels last in memory, on which convolutions run 1.3 to 2 times as fast; others as they are."""
    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


def place(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A network on the device, laid out as its inputs are."""
    model = model.to(device=device, dtype=dtype)
    return model.to(memory_format=torch.channels_last)  # touches 4-D weights alone
