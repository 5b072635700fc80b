"""Where data come from: downloads that fail, functions against their formulas, and files that are not what they say."""

import gzip
import hashlib
import inspect
import lzma
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from data_helpers import idx, message
from hypothesis import given, settings
from hypothesis import strategies as st

from hw1 import data, sources
from hw1.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
FUNCTION = {"points": 40, "test_points": 30, "low": 0.0, "high": 1.0, "noise": 0.0, "frequency": 1.5, "seed": 0}

# ---- data sets from torchvision, without a network ----

NAMES = [("fashion_mnist", "FashionMNIST/raw"), ("kmnist", "KMNIST/raw"), ("cifar10", "cifar-10-batches-py")]


@pytest.fixture
def offline(monkeypatch):
    """Every attempt to open a URL fails as it does without a network."""
    import urllib.error
    import urllib.request

    def refuse(*_args, **_settings):
        raise urllib.error.URLError("no network\nhere")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize(("source", "folder"), NAMES)
def test_absent_files_without_network(offline, tmp_path, source, folder):
    text = message(getattr(sources, source), tmp_path)
    assert str(tmp_path / folder) in text
    assert "network" in text
    assert ("data_batch_5" if source == "cifar10" else "t10k-labels-idx1-ubyte") in text


def test_fashion_mnist_reads_files_that_are_there_and_are_those_of_the_download(offline, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images, labels = rng.integers(0, 256, (9, 28, 28), np.uint8), np.arange(9, dtype=np.uint8)
    for name, array in zip(sources.IDX_FILES, (images[:6], labels[:6], images[6:], labels[6:]), strict=True):
        (folder / name).write_bytes(idx(array))
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    packed = [folder / f"{name}.gz" for name in sources.IDX_FILES]
    known = [(file.name, hashlib.md5(file.read_bytes()).hexdigest()) for file in packed]
    text = message(sources.fashion_mnist, tmp_path)  # right by its form, and not what was published
    assert str(folder / sources.IDX_FILES[0]) in text
    assert "is not as FashionMNIST was published" in text
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.resources", known)
    source = sources.fashion_mnist(tmp_path)
    np.testing.assert_array_equal(source.x_train, images[:6, None])
    np.testing.assert_array_equal(source.y_test, labels[6:])
    assert data.split(source, validation=1, split_seed=0, subset=None, label_noise=0.0).outputs == 10

    (folder / sources.IDX_FILES[1]).write_bytes(idx(labels[3:]))
    assert f"{sources.IDX_FILES[1]}: is not as" in message(sources.fashion_mnist, tmp_path)
    (folder.parent / "processed").mkdir()
    assert "processed: an old copy" in message(sources.fashion_mnist, tmp_path)
    (folder.parent / "processed").rmdir()
    (folder / f"{sources.IDX_FILES[0]}.gz").unlink()
    assert f"without {sources.IDX_FILES[0]}.gz" in message(sources.fashion_mnist, tmp_path)
    (folder / sources.IDX_FILES[0]).write_bytes(idx(images[:6])[:-1])
    text = message(sources.fashion_mnist, tmp_path)
    assert str(folder) in text
    assert "damaged" in text


def test_damaged_cifar10_is_named(offline, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in sources.CIFAR10_FILES:
        (folder / name).write_bytes(b"not a batch")
    text = message(sources.cifar10, tmp_path)
    assert str(folder) in text
    assert "damaged" in text


def test_cifar10_is_channels_first_and_scaled_per_channel(monkeypatch, tmp_path):
    import torchvision

    class Fake:
        classes = ("cat", "dog")

        def __init__(self, root, train, download):
            self.data = np.arange(4 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(4, 32, 32, 3)
            self.targets = [0, 1, 0, 1]

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fake)
    source = sources.cifar10(tmp_path)
    assert source.x_train.shape == (4, 3, 32, 32)
    assert source.x_train[1, 2, 3, 4] == Fake(None, True, True).data[1, 3, 4, 2]
    dataset = data.split(source, validation=1, split_seed=0, subset=None, label_noise=0.0)
    assert dataset.offset.shape == dataset.scale.shape == (3, 1, 1)
    assert dataset.scale[:, 0, 0] / 255 == pytest.approx([0.2470, 0.2435, 0.2616])


# ---- digits ----


def test_digits_split_and_constants():
    source = sources.digits()
    assert source.x_train.shape == (1437, 1, 8, 8)
    assert source.x_test.shape == (360, 1, 8, 8)
    assert source.x_train.max() == 16
    assert source.x_train.mean() / 16 == pytest.approx(sources.DIGITS_MEAN, abs=5e-5)
    assert source.x_train.std() / 16 == pytest.approx(sources.DIGITS_DEVIATION, abs=5e-5)
    counts = np.bincount(np.concatenate([source.y_train, source.y_test]))
    assert np.abs(np.bincount(source.y_test) - counts * 360 / 1797).max() < 1
    assert sources.digits(standardize=False).scale == 16


# ---- functions ----


@pytest.mark.parametrize(
    ("target", "formula"),
    [
        ("sinc", lambda x: 1.0 if x == 0 else np.sin(5 * np.pi * x) / (5 * np.pi * x)),
        ("sign", lambda x: np.sign(np.sin(5 * np.pi * x))),
        ("sine", lambda x: np.sin(2 * np.pi * x * 1.5)),
        ("damped", lambda x: np.exp(-x) * np.cos(2 * np.pi * x * 1.5)),
    ],
)
def test_function_targets_are_their_closed_forms(target, formula):
    source = sources.function(target, **FUNCTION)
    assert source.x_train.shape == (40, 1)
    assert source.x_train.dtype == source.y_train.dtype == np.float64
    np.testing.assert_array_equal(source.x_train[:, 0], np.linspace(0, 1, 40))
    for x, y in ((source.x_train, source.y_train), (source.x_test, source.y_test)):
        np.testing.assert_allclose(y[:, 0], [formula(value) for value in x[:, 0]], atol=1e-14)


def test_noise_is_on_training_targets_only_and_from_its_seed():
    settings = FUNCTION | {"points": 20000, "noise": 0.3}
    exact = sources.function("sine", **settings | {"noise": 0.0})
    noisy, again, other = (sources.function("sine", **settings | {"seed": seed}) for seed in (0, 0, 1))
    error = noisy.y_train - exact.y_train
    assert error.std() == pytest.approx(0.3, rel=0.03)
    assert abs(error.mean()) < 0.01
    np.testing.assert_array_equal(noisy.y_test, exact.y_test)
    np.testing.assert_array_equal(noisy.y_train, again.y_train)
    assert not np.array_equal(noisy.y_train, other.y_train)


@pytest.mark.parametrize("high", [1.0, 0.0, 1.0 + 1e-15])
def test_interval_without_room_is_named(high):
    text = message(sources.function, "sinc", **FUNCTION | {"low": 1.0, "high": high})
    assert f"dataset.high={high}" in text
    assert "dataset.low=1.0" in text


@settings(max_examples=60, deadline=None)
@given(
    points=st.integers(2, 400),
    test_points=st.integers(1, 400),
    low=st.floats(-100, 100),
    width=st.floats(0.01, 100),
)
def test_test_points_are_evenly_spaced_inside_and_never_training_points(points, test_points, low, width):
    high = low + width
    source = sources.function(
        "sine", points=points, test_points=test_points, low=low, high=high, noise=0.0, frequency=1.0, seed=0
    )
    train, test = source.x_train[:, 0], source.x_test[:, 0]
    assert not set(train) & set(test)
    assert low < test[0]
    assert test[-1] < high
    # at least 1 / (2 · (points - 1) · test_points) of the interval away from every training point
    distance = np.abs(train[:, None] - test).min()
    assert distance >= (high - low) / (2 * (points - 1) * test_points) - 1e-12
    np.testing.assert_allclose(np.diff(test), (high - low) / test_points, rtol=1e-6)


# ---- functions of the user's own ----


def own(target, **settings) -> data.Source:
    return sources.function(target, **FUNCTION | settings)


@pytest.mark.parametrize(
    "target",
    [
        lambda x: x**3 - x,
        lambda x: (x**3 - x)[:, 0],  # (N,)
        lambda x: math.pow(x, 3) - x,  # one number at a time
        lambda x: (x**3 - x) if x >= 0 else 0,
        partial(lambda x, k: x**k - x, k=3),
        np.vectorize(lambda x: x**3 - x),
    ],
)
def test_a_callable_is_called_with_all_x_or_one_after_another(target):
    source = own(target, low=-1.0)
    for x, y in ((source.x_train, source.y_train), (source.x_test, source.y_test)):
        assert y.shape == x.shape
        assert y.dtype == np.float64
        np.testing.assert_allclose(y, np.where(x >= 0, x**3 - x, y), atol=1e-15)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=5))
def test_one_by_one_gives_what_all_at_once_gives(coefficients):
    def polynomial(x):
        return sum(c * x**power for power, c in enumerate(coefficients)) + 0 * x

    def scalar(x):
        return polynomial(x) if math.isfinite(x) else 0.0

    np.testing.assert_allclose(own(polynomial).y_train, own(scalar).y_train, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", [np.tanh, math.tanh, np.sinc, lambda x: x > 0.5, lambda x: 7])
def test_whatever_gives_real_numbers_is_a_function(target):
    source = own(target)
    np.testing.assert_allclose(source.y_test[:, 0], [float(target(x)) for x in source.x_test[:, 0]], atol=1e-15)


def test_a_function_gets_an_array_of_its_own_and_noise_comes_after_it():
    def spoils(x):
        x *= 2
        return x

    source = own(spoils, noise=0.3)
    np.testing.assert_array_equal(source.x_train[:, 0], np.linspace(0, 1, 40))
    np.testing.assert_allclose(source.y_test, 2 * source.x_test)
    assert (source.y_train - 2 * source.x_train).std() == pytest.approx(0.3, rel=0.4)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (lambda x: 1 / 0, "ZeroDivisionError (division by zero) for one x"),
        (lambda: 1, "TypeError"),
        (lambda x: np.zeros((3, 2)), "must give one real number for each x, not float64 of shape (3, 2)"),
        (lambda x: "a", "one real number"),
        (lambda x: None, "one real number"),
        (lambda x: 1j * x, "complex128"),
        (lambda x: np.log(x), "gives -inf at x=0; must be finite"),
        (math.log, "ValueError"),
        (partial(math.log, 2, 3), "TypeError"),
        (3.5, "dataset.target=3.5: is no function; give its node a _partial_: true"),
        (lambda x: Path("no\nfile").read_text(), "FileNotFoundError"),
    ],
)
def test_what_is_no_real_function_is_said_in_one_line(target, words):
    text = message(own, target)
    assert text.startswith("dataset.target")
    assert words in text
    assert len(text.splitlines()) == 1


# ---- files of the user's own ----


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.normal(3, 2, (30, 4)).astype(np.float32),
        "y_train": np.arange(30) % 3,
        "x_test": rng.normal(3, 2, (9, 4)).astype(np.float32),
        "y_test": np.arange(9) % 3,
    }


def read(path: Path, **settings) -> data.Dataset:
    return data.load(lambda: sources.npz(path, **settings), validation=3, split_seed=0, subset=None, label_noise=0.0)


def test_npz_round_trip(tmp_path, arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    source = sources.npz(path, standardize=True)
    assert source.offset == pytest.approx(arrays["x_train"].mean(), rel=1e-5)
    assert source.scale == pytest.approx(arrays["x_train"].std(), rel=1e-5)
    dataset = read(path)
    assert (dataset.task, dataset.outputs, dataset.offset, dataset.scale) == ("classification", 3, 0.0, 1.0)
    np.savez(path, **arrays | {"y_train": np.ones(30), "y_test": np.ones(9)})
    assert (read(path).task, read(path).targets["train"].shape) == ("regression", (27, 1))


def test_npz_that_is_not_one_is_named(tmp_path, arrays):
    path = tmp_path / "mine.npz"
    assert "No such file" in message(read, path)
    assert "directory" in message(read, tmp_path)
    np.savez(path, **{key: arrays[key] for key in ("x_train", "y_train")})
    assert "lacks x_test, y_test" in message(read, path)
    np.savez(path, **arrays | {"x_train": np.array([{}] * 30)})
    assert "no objects" in message(read, path)
    np.savez(path, **arrays | {"x_test": np.zeros((9, 5))})
    assert f"data file {path}: examples must have one shape" in message(read, path)
    for content in (b"", b"hello", b"\x80\x04K\x01.", lzma.compress(b"x")):
        path.write_bytes(content)
        assert str(path) in message(read, path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert "damaged" in message(read, path)


def test_constant_inputs_cannot_be_standardised(tmp_path, arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays | {"x_train": np.ones((30, 4))})
    assert "constant" in message(read, path, standardize=True)


def test_damaged_npz_never_ends_in_another_error(tmp_path, arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole), 150):
        path.write_bytes(whole[:position])
        assert str(path) in message(read, path)
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:  # a flipped bit in a date or another unused field is harmless
            assert read(path).inputs["train"].shape == (27, 4)
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017 (either outcome is right)


# ---- configs, imports ----


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "dataset").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_names_its_source_and_all_of_its_settings(path):
    config = yaml.safe_load(path.read_text())
    assert path.read_text().startswith("# ")
    if "defaults" in config:  # the same with another target
        assert config["defaults"] == ["function"]
        assert set(config) == {"defaults", "target"}
        return
    own = set(config) - {"_target_", "validation", "split_seed", "subset", "label_noise"}
    assert len(config) == len(own) + 5
    if config["_target_"] != "???":
        module, name = config["_target_"].rsplit(".", 1)
        assert (module, name) == ("hw1.sources", path.stem)
        assert own == set(inspect.signature(getattr(sources, name)).parameters) - {"data_dir"}


@pytest.mark.parametrize("name", ["digits", "function"])
def test_configs_without_files_load(name):
    config = yaml.safe_load((ROOT / "conf" / "dataset" / f"{name}.yaml").read_text())
    del config["_target_"]
    splitting = {key: config.pop(key) for key in ("validation", "split_seed", "subset", "label_noise")}
    dataset = data.load(lambda: getattr(sources, name)(**config), **splitting)
    assert dataset.size("validation") == splitting["validation"]


def test_import_is_light():
    heavy = "torch", "torchvision", "sklearn", "pandas", "hydra", "filelock"
    code = f"import sys, hw1.sources; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
