"""Data on the device: what networks see of it, however it is asked for."""

import numpy as np
import pytest
import torch

from hw1.data import Source, split
from hw1.resident import Splits


def splits(x: np.ndarray, offset: float, scale: float, dtype: torch.dtype) -> tuple[Splits, np.ndarray]:
    y = np.arange(len(x)) % 2
    dataset = split(Source(x, y, x, y, offset, scale), validation=4, split_seed=0, subset=None, label_noise=0.0)
    return Splits.of(dataset, torch.device("cpu"), dtype), dataset.inputs["train"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_networks_see_offset_and_scale_applied(kind, dtype):
    x = (np.arange(20 * 6).reshape(20, 1, 2, 3) % 251).astype(kind)
    got, train = splits(x, 30.0, 7.0, dtype)
    before = {name: raw.clone() for name, raw in got.raw.items()}
    expected = torch.from_numpy((train.astype(np.float64) - 30.0) / 7.0).to(dtype)
    everything = got.inputs("train", slice(None))
    torch.testing.assert_close(everything, expected)
    rows = torch.tensor([[3, 1], [0, 5]])
    assert torch.equal(got.inputs("train", rows), everything[rows])  # the same bits in any grouping
    assert torch.equal(torch.cat([x for x, _ in got.slices("train", 3)]), everything)
    assert torch.equal(torch.cat([x for x, _ in got.slices("train", 3, limit=7)]), everything[:7])
    assert all(torch.equal(got.raw[name], raw) for name, raw in before.items())  # looking changes nothing


def test_a_large_mean_costs_no_digits():
    x = 1.7e9 + np.linspace(0, 1, 20).reshape(20, 1)  # time stamps: float32 knows them to 128 seconds
    got, train = splits(x, 1.7e9, 1.0, torch.float32)
    np.testing.assert_allclose(got.inputs("train", slice(None)).numpy(), train - 1.7e9, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 28, 28), 250), ((1,), 196_000), ((3, 32, 32), 63), ((3, 224, 224), 32)]
)
def test_slices_hold_about_the_same_amount_of_numbers(shape, size):
    found, _ = splits(np.zeros((70, *shape), dtype=np.float32), 0.0, 1.0, torch.float32)
    assert found.slice_size == size
    assert [len(x) for x, _ in found.slices("test")] == [size] * (70 // size) + [70 % size] * bool(70 % size)
    assert [len(x) for x, _ in found.slices("test", limit=40)] == [len(x) for x, _ in found.slices("test", size, 40)]
