"""What must be true of every split whatever the sizes and seeds, and what is said of arrays that do not fit."""

import dataclasses

import numpy as np
import pytest
from data_helpers import message
from hypothesis import given, settings
from hypothesis import strategies as st

from hw1 import data

quick = settings(max_examples=60, deadline=None)

DEFAULTS = {"validation": 30, "split_seed": 0, "subset": None, "label_noise": 0.0}


def numbered(labels: np.ndarray, test_labels: np.ndarray) -> data.Source:
    """A source whose inputs are the examples' own numbers; test examples go on counting where training ends."""
    numbers = np.arange(len(labels) + len(test_labels), dtype=np.float64)[:, None]
    return data.Source(numbers[: len(labels)], labels, numbers[len(labels) :], test_labels)


def cut(source: data.Source, **changes) -> data.Dataset:
    return data.split(source, **DEFAULTS | changes)


def members(dataset: data.Dataset, split: str) -> np.ndarray:
    return dataset.inputs[split][:, 0].astype(int)


def labelled(count: int, classes: int, seed: int = 0) -> np.ndarray:
    """Unequal classes, each present."""
    random = np.random.default_rng(seed).integers(0, classes, count) * np.random.default_rng(seed + 1).random(count)
    return np.concatenate([np.arange(classes), random.astype(int)])[:count]


@pytest.fixture(scope="module")
def source() -> data.Source:
    return numbered(labelled(300, 7), labelled(90, 7, seed=5))


def assert_proportional(chosen: np.ndarray, of: np.ndarray, classes: int) -> None:
    expected = np.bincount(of, minlength=classes) * len(chosen) / len(of)
    assert np.abs(np.bincount(chosen, minlength=classes) - expected).max() < 1


@quick
@given(count=st.integers(9, 200), classes=st.integers(1, 9), seed=st.integers(0, 2**63 - 1), data_=st.data())
def test_splits_are_disjoint_complete_and_stratified(count, classes, seed, data_):
    labels, test_labels = labelled(count, classes), labelled(50, classes, seed=9)
    validation = data_.draw(st.integers(1, count - 1))
    subset = data_.draw(st.none() | st.integers(1, count - validation))
    whole = cut(numbered(labels, test_labels), validation=validation, split_seed=seed)
    train, held_out = members(whole, "train"), members(whole, "validation")
    assert sorted([*train, *held_out]) == list(range(count))
    assert list(train) == sorted(train)
    assert list(members(whole, "test")) == list(range(count, count + 50))
    np.testing.assert_array_equal(whole.targets["train"], labels[train])
    assert_proportional(whole.targets["validation"], labels, classes)
    assert_proportional(whole.targets["train"], labels, classes)

    thin = cut(numbered(labels, test_labels), validation=validation, split_seed=seed, subset=subset)
    for split in data.SPLITS:
        assert thin.size(split) == min(whole.size(split), subset or whole.size(split))
        assert set(members(thin, split)) <= set(members(whole, split))
        assert_proportional(thin.targets[split], whole.targets[split], classes)


def test_seed_zero_differs_from_seed_one_and_equals_itself(source):
    assert cut(source).sha256 == cut(source).sha256
    assert cut(source).sha256 != cut(source, split_seed=1).sha256


@quick
@given(fraction=st.floats(0, 1), seed=st.integers(0, 1000))
def test_noise_replaces_the_stated_share_of_training_labels_only(fraction, seed):
    labels = labelled(4000, 10)
    clean = cut(numbered(labels, labels[:20]), split_seed=seed)
    noisy = cut(numbered(labels, labels[:20]), split_seed=seed, label_noise=fraction)
    for split in data.SPLITS:
        np.testing.assert_array_equal(noisy.inputs[split], clean.inputs[split])
    for split in ("validation", "test"):
        np.testing.assert_array_equal(noisy.targets[split], clean.targets[split])
    changed = (noisy.targets["train"] != clean.targets["train"]).sum()
    replaced = round(fraction * clean.size("train"))  # a uniform draw over 10 classes hits the true one in 1 of 10
    assert changed <= replaced
    assert abs(changed - 0.9 * replaced) <= 5 * np.sqrt(0.09 * replaced)


def test_full_noise_draws_every_class_equally():
    labels = labelled(20030, 10)
    counts = np.bincount(cut(numbered(labels, labels[:20]), label_noise=1.0).targets["train"], minlength=10)
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(2000 * 0.9)


def test_noise_depends_on_the_split_seed_alone(source):
    """The label of an example depends on no size; more noise adds to less."""
    half = cut(source, label_noise=0.5)
    labels = dict(zip(members(half, "train"), half.targets["train"], strict=True))
    thin = cut(source, label_noise=0.5, subset=50)
    assert all(labels[i] == y for i, y in zip(members(thin, "train"), thin.targets["train"], strict=True))
    np.testing.assert_array_equal(members(thin, "train"), members(cut(source, subset=50), "train"))
    full = [cut(source, label_noise=1.0, validation=count) for count in (30, 100)]
    first, second = (dict(zip(members(d, "train"), d.targets["train"], strict=True)) for d in full)
    assert all(first[i] == second[i] for i in first.keys() & second.keys())
    clean = dict(enumerate(source.y_train))
    assert all(labels[i] in (clean[i], first[i]) for i in labels)
    assert not np.array_equal(cut(source, label_noise=0.5, split_seed=1).targets["train"], half.targets["train"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validation": 0}, ("dataset.validation=0", "1 to 299")),
        ({"validation": 300}, ("dataset.validation=300", "1 to 299")),
        ({"subset": 271}, ("dataset.subset=271", "1 to 270")),
        ({"subset": 0}, ("dataset.subset=0", "1 to 270")),
    ],
)
def test_more_examples_than_there_are_is_refused_with_what_is_allowed(source, changes, words):
    text = message(cut, source, **changes)
    for word in words:
        assert word in text


def test_regression_is_cut_at_random_and_takes_no_label_noise(source):
    smooth = dataclasses.replace(source, y_train=source.x_train * 2, y_test=source.x_test[:, 0:1] * 2)
    dataset = cut(smooth)
    assert (dataset.task, dataset.outputs) == ("regression", 1)
    np.testing.assert_array_equal(dataset.targets["validation"], dataset.inputs["validation"] * 2)
    assert len(set(np.diff(members(dataset, "validation")))) > 3  # not every tenth point
    assert "label_noise=0.1" in message(cut, smooth, label_noise=0.1)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("uint8", "uint8"),
        ("bool", "float32"),
        ("int16", "float32"),
        (">f4", "float32"),
        ("float16", "float32"),
        ("int64", "float64"),
        ("float64", "float64"),
    ],
)
def test_input_types(source, dtype, stored):
    small = dataclasses.replace(source, x_train=(source.x_train % 2).astype(dtype), x_test=source.x_test.astype(dtype))
    assert cut(small).inputs["train"].dtype == stored
    assert cut(small).inputs["train"].dtype.isnative


def test_sha256_sees_every_array_and_scaling(source):
    base = cut(source)
    seen = {base.sha256}
    for part in ("inputs", "targets"):
        for split in data.SPLITS:
            arrays = {name: array.copy() for name, array in getattr(base, part).items()}
            arrays[split][-1] += 1
            seen.add(dataclasses.replace(base, **{part: arrays}).sha256)
    seen.add(dataclasses.replace(base, inputs={n: a.astype(np.float32) for n, a in base.inputs.items()}).sha256)
    seen.add(dataclasses.replace(base, offset=1.0).sha256)
    seen.add(dataclasses.replace(base, scale=2.0).sha256)
    seen.add(dataclasses.replace(base, outputs=8).sha256)
    assert len(seen) == 11
    assert dataclasses.replace(base, unit="other words").sha256 == base.sha256


# ---- arrays that a user brings ----


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.normal(3, 2, (40, 4)),
        "y_train": np.arange(40) % 3,
        "x_test": rng.normal(3, 2, (9, 4)),
        "y_test": np.arange(9) % 3,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y_train": np.arange(39) % 3}, ("y_train", "39", "40")),
        ({"x_test": np.zeros((9, 5))}, ("(4,)", "(5,)")),
        ({"x_train": np.full((40, 4), np.nan)}, ("x_train", "finite")),
        ({"x_train": np.zeros((1, 4)), "y_train": np.zeros(1, int)}, ("at least 2",)),
        ({"x_test": np.zeros((0, 4)), "y_test": np.zeros(0, int)}, ("x_test", "empty")),
        ({"x_test": None}, ("x_test", "object")),
        ({"x_test": [[1], [1, 2]]}, ("x_test", "become an array")),
        ({"x_train": np.zeros(40)}, ("x_train", "(40,)")),
        ({"x_train": np.zeros((40, 4), complex)}, ("x_train", "complex")),
        ({"y_train": np.arange(40) % 3 - 1}, ("y_train", "label -1")),
        ({"y_test": np.arange(9) % 3 + 1}, ("y_test", "label 3", "0 to 2")),
        ({"y_test": np.arange(9) % 3 + 1, "classes": ("a", "b", "c")}, ("y_test", "label 3", "3 classes are named")),
        ({"y_train": np.arange(40) * 1000}, ("label 39000",)),
        ({"y_train": np.full(40, 2**63, np.uint64)}, ("y_train", "start at 0")),
        ({"y_test": np.ones(9)}, ("y_train", "y_test", "float64")),
        ({"y_train": np.zeros((40, 2), int)}, ("y_train", "(40, 2)")),
        ({"offset": np.zeros(3)}, ("offset", "(3,)", "(4,)")),
        ({"offset": np.inf}, ("offset", "finite")),
        ({"scale": np.ones((2, 4))}, ("scale", "(2, 4)", "(4,)")),
        ({"scale": 0.0}, ("scale", "positive")),
    ],
)
def test_arrays_that_do_not_fit_are_named(arrays, change, words):
    text = message(cut, data.Source(**arrays | {"name": "my file"} | change))
    for word in ("my file", *words):
        assert word in text


def test_own_loader_may_return_four_arrays(arrays):
    dataset = data.load(lambda: tuple(arrays.values()), **DEFAULTS)
    assert (dataset.task, dataset.outputs, dataset.input_shape) == ("classification", 3, (4,))
    assert data.load(lambda: data.Source(**arrays), **DEFAULTS).sha256 == dataset.sha256
    assert "tuple of 3" in message(data.as_source, (1, 2, 3))
    assert "NoneType" in message(data.as_source, None)
