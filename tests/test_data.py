"""Data sources, the packed MNIST, and what a damaged file, a full disk or a wrong setting says."""

import hashlib
import io
import lzma
import multiprocessing
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from hw1 import data
from hw1.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
FUNCTION = {"points": 40, "test_points": 30, "low": 0.0, "high": 1.0, "noise": 0.0, "frequency": 1.5, "seed": 0}


def message(call, *arguments, **settings) -> str:
    """The one line that `call` says when it refuses."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **settings)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


# ---- MNIST as it ships ----


@pytest.fixture(scope="session")
def mnist_dir(tmp_path_factory):
    """A data folder into which the shipped MNIST has been unpacked once."""
    folder = tmp_path_factory.mktemp("mnist") / "not" / "yet" / "there"
    data.mnist(folder)
    return folder


def test_unpacked_files_have_the_published_sha256(mnist_dir):
    raw = mnist_dir / "MNIST" / "raw"
    assert sorted(path.name for path in raw.iterdir()) == sorted(data.MNIST_SHA256)
    for name, digest in data.MNIST_SHA256.items():
        assert hashlib.sha256((raw / name).read_bytes()).hexdigest() == digest
    assert not list(mnist_dir.glob(".tmp-*"))


def test_torchvision_reads_the_unpacked_folder_and_gets_equal_arrays(mnist_dir):
    datasets = pytest.importorskip("torchvision").datasets
    source = data.mnist(mnist_dir)
    for train, x, y in ((True, source.x_train, source.y_train), (False, source.x_test, source.y_test)):
        theirs = datasets.MNIST(root=mnist_dir, train=train, download=False)
        np.testing.assert_array_equal(theirs.data.numpy(), x[:, 0])
        np.testing.assert_array_equal(theirs.targets.numpy(), y)


def test_mnist_shapes_constants_and_split(mnist_dir):
    source = data.mnist(mnist_dir)
    assert source.x_train.shape == (60000, 1, 28, 28)
    assert source.x_train.dtype == np.uint8
    assert source.x_train.mean() == pytest.approx(source.offset, abs=0.0001 * 255)
    assert source.x_train.std() == pytest.approx(source.scale, abs=0.0001 * 255)
    assert np.bincount(source.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    dataset = data.split(source, validation=10000, split_seed=0, subset=None, label_noise=0.0)
    assert [dataset.size(name) for name in data.SPLITS] == [50000, 10000, 10000]
    assert (dataset.task, dataset.outputs, dataset.input_shape) == ("classification", 10, (1, 28, 28))
    proportional = np.bincount(source.y_train) / 6
    assert np.abs(np.bincount(dataset.targets["validation"]) - proportional).max() < 1
    plain = data.mnist(mnist_dir, standardize=False)
    assert (plain.offset, plain.scale, plain.unit) == (0.0, 255.0, "pixel range [0, 1]")


def test_published_split_does_not_move(mnist_dir):
    """The default MNIST split, frozen: another numpy or a refactoring must not change which images are trained on."""
    dataset = data.split(data.mnist(mnist_dir), validation=10000, split_seed=0, subset=None, label_noise=0.0)
    assert dataset.sha256 == "98a95d7a3f49247da832a7fff5caafdaef77724483781754ce3dc9022e3e803a"


# ---- unpacking under adverse conditions, on a MNIST of six images ----


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pack(path: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:xz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """hw1.data with a packed MNIST of four training and two test images; gives (data_dir, packed file, contents)."""
    images, labels = np.arange(6 * 784).astype(np.uint8).reshape(6, 28, 28), np.arange(6, dtype=np.uint8)
    arrays = (images[:4], labels[:4], images[4:], labels[4:])
    contents = dict(zip(data.MNIST_SHA256, map(idx, arrays), strict=True))
    packed = tmp_path / "packed.tar.xz"
    pack(packed, contents)
    monkeypatch.setattr(data, "MNIST_PACKED", packed)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(data, "MNIST_SHA256", digests)
    return tmp_path / "data", packed, contents


def raw_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "MNIST" / "raw").iterdir()}


def in_children(count: int, job) -> list[int]:
    """Exit codes of `count` forked processes that all start `job` together; 0 when it returned."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(count)

    def run() -> None:
        barrier.wait()
        job()

    children = [context.Process(target=run) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    return [child.exitcode for child in children]


@pytest.mark.parametrize("locks", [True, False])
def test_racing_processes_all_get_whole_files(tiny, monkeypatch, locks):
    folder, _, contents = tiny
    if not locks:
        import filelock

        def broken(*_args, **_settings):
            raise OSError("no locks here")

        monkeypatch.setattr(filelock.FileLock, "acquire", broken)
    for attempt in range(5):
        target = folder / str(attempt)
        assert in_children(8, lambda target=target: data.mnist(target)) == [0] * 8
        assert raw_files(target) == contents
        assert not list(target.glob(".tmp-*"))


@pytest.mark.parametrize("renames", range(4))
def test_killed_unpacking_leaves_whole_files_only_and_the_next_one_finishes(tiny, monkeypatch, renames):
    folder, _, contents = tiny
    rename, done = Path.replace, []

    def rename_or_die(self, target):
        if len(done) == renames:
            os._exit(9)
        done.append(rename(self, target))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", rename_or_die)
        assert in_children(1, lambda: data.mnist(folder)) == [9]
    left = raw_files(folder)
    assert len(left) == renames
    assert all(contents[name] == content for name, content in left.items())
    data.mnist(folder)
    assert raw_files(folder) == contents


def test_every_damaged_file_is_named_with_what_to_do(tiny):
    folder, _, contents = tiny
    data.mnist(folder)
    for name, content in contents.items():
        path = folder / "MNIST" / "raw" / name
        flipped = bytes([*content[:-1], content[-1] ^ 1])
        for damaged in (flipped, content[:-1], content + b"\0", b""):
            path.write_bytes(damaged)
            text = message(data.mnist, folder)
            assert str(path) in text
            assert "delete" in text
        path.unlink()
        data.mnist(folder)
    assert raw_files(folder) == contents


def test_a_damaged_file_is_not_silently_replaced(tiny):
    folder, _, contents = tiny
    data.mnist(folder)
    first, second = list(contents)[:2]
    (folder / "MNIST" / "raw" / first).write_bytes(b"mine")
    (folder / "MNIST" / "raw" / second).unlink()
    assert first in message(data.mnist, folder)
    assert (folder / "MNIST" / "raw" / first).read_bytes() == b"mine"


def test_unreadable_file_is_named_and_not_called_damaged(tiny, monkeypatch):
    folder, _, contents = tiny
    data.mnist(folder)

    def refuse(path, *_args):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np, "fromfile", refuse)
    text = message(data.mnist, folder)
    assert next(iter(contents)) in text
    assert "Permission denied" in text
    assert "delete" not in text


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "truncated", "other file", "one member wrong", "member lacking"]
)
def test_damaged_package_asks_for_reinstallation(tiny, damage):
    folder, packed, contents = tiny
    whole = packed.read_bytes()
    first = next(iter(contents))
    if damage == "missing":
        packed.unlink()
    elif damage == "one member wrong":
        pack(packed, contents | {first: b"wrong"})
    elif damage == "member lacking":
        pack(packed, {first: contents[first]})
    else:
        packed.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "other file": b"hello" * 99}[damage])
    text = message(data.mnist, folder)
    assert str(packed) in text
    assert "reinstall" in text
    assert not list(folder.glob(".tmp-*"))


def test_no_cut_of_the_package_gives_other_contents(tiny):
    folder, packed, contents = tiny
    whole = packed.read_bytes()
    loaded = []
    for length in range(0, len(whole), 7):
        packed.write_bytes(whole[:length])
        try:
            data.mnist(folder / str(length))
        except UserError as error:
            assert "reinstall" in str(error)  # noqa: PT017 (either outcome is right)
        else:
            loaded.append(length)
            assert raw_files(folder / str(length)) == contents
    assert all(length > len(whole) - 100 for length in loaded)  # only xz's closing index, behind all data, was missing


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")])
def test_failed_write_names_the_folder_and_leaves_nothing(tiny, monkeypatch, error):
    folder, _, contents = tiny

    def fail(*_args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        text = message(data.mnist, folder)
    assert f"data_dir={folder}" in text
    assert error.strerror in text
    assert not list(folder.glob(".tmp-*"))
    assert raw_files(folder) == {}
    data.mnist(folder)
    assert raw_files(folder) == contents


def test_data_dir_that_cannot_be_a_folder(tiny, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert "data_dir=" in message(data.mnist, file)
    assert "data_dir=" in message(data.mnist, file / "below")


def test_packing_twice_gives_equal_bytes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import pack_mnist

    files = {"a": b"123" * 1000, "b": bytes(1000)}
    assert pack_mnist.packed(files) == pack_mnist.packed(dict(files))
    assert len(lzma.decompress(pack_mnist.packed(files))) % 512 == 0


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
    text = message(getattr(data, source), tmp_path)
    assert str(tmp_path / folder) in text
    assert "network" in text
    assert ("data_batch_5" if source == "cifar10" else "t10k-labels-idx1-ubyte") in text


def test_fashion_mnist_reads_files_that_are_there(offline, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images, labels = rng.integers(0, 256, (9, 28, 28), np.uint8), np.arange(9, dtype=np.uint8)
    for name, array in zip(data.IDX_FILES, (images[:6], labels[:6], images[6:], labels[6:]), strict=True):
        (folder / name).write_bytes(idx(array))
    source = data.fashion_mnist(tmp_path)
    np.testing.assert_array_equal(source.x_train, images[:6, None])
    np.testing.assert_array_equal(source.y_test, labels[6:])
    assert data.split(source, validation=1, split_seed=0, subset=None, label_noise=0.0).outputs == 10

    (folder / data.IDX_FILES[0]).write_bytes(idx(images[:6])[:-1])
    text = message(data.fashion_mnist, tmp_path)
    assert str(folder) in text
    assert "damaged" in text


def test_damaged_cifar10_is_named(offline, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in data.CIFAR10_FILES:
        (folder / name).write_bytes(b"not a batch")
    text = message(data.cifar10, tmp_path)
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
    source = data.cifar10(tmp_path)
    assert source.x_train.shape == (4, 3, 32, 32)
    assert source.x_train[1, 2, 3, 4] == Fake(None, True, True).data[1, 3, 4, 2]
    dataset = data.split(source, validation=1, split_seed=0, subset=None, label_noise=0.0)
    assert dataset.offset.shape == dataset.scale.shape == (3, 1, 1)
    assert dataset.scale[:, 0, 0] / 255 == pytest.approx([0.2470, 0.2435, 0.2616])


# ---- digits ----


def test_digits_split_and_constants():
    source = data.digits()
    assert source.x_train.shape == (1437, 1, 8, 8)
    assert source.x_test.shape == (360, 1, 8, 8)
    assert source.x_train.max() == 16
    assert source.x_train.mean() / 16 == pytest.approx(data.DIGITS_MEAN, abs=5e-5)
    assert source.x_train.std() / 16 == pytest.approx(data.DIGITS_DEVIATION, abs=5e-5)
    counts = np.bincount(np.concatenate([source.y_train, source.y_test]))
    assert np.abs(np.bincount(source.y_test) - counts * 360 / 1797).max() < 1
    assert data.digits(standardize=False).scale == 16


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
    source = data.function(target, **FUNCTION)
    assert source.x_train.shape == (40, 1)
    assert source.x_train.dtype == source.y_train.dtype == np.float64
    np.testing.assert_array_equal(source.x_train[:, 0], np.linspace(0, 1, 40))
    for x, y in ((source.x_train, source.y_train), (source.x_test, source.y_test)):
        np.testing.assert_allclose(y[:, 0], [formula(value) for value in x[:, 0]], atol=1e-14)


def test_noise_is_on_training_targets_only_and_from_its_seed():
    settings = FUNCTION | {"points": 20000, "noise": 0.3}
    exact = data.function("sine", **settings | {"noise": 0.0})
    noisy, again, other = (data.function("sine", **settings | {"seed": seed}) for seed in (0, 0, 1))
    error = noisy.y_train - exact.y_train
    assert error.std() == pytest.approx(0.3, rel=0.03)
    assert abs(error.mean()) < 0.01
    np.testing.assert_array_equal(noisy.y_test, exact.y_test)
    np.testing.assert_array_equal(noisy.y_train, again.y_train)
    assert not np.array_equal(noisy.y_train, other.y_train)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": "cosine"}, ("target=cosine", "sinc", "sign", "sine", "damped")),
        ({"points": 1}, ("points=1", "2")),
        ({"points": 2.5}, ("points=2.5", "whole")),
        ({"test_points": 0}, ("test_points=0",)),
        ({"low": 1.0}, ("low=1.0", "high=1.0")),
        ({"high": float("inf")}, ("high=inf", "finite")),
        ({"noise": -0.1}, ("noise=-0.1", "0")),
        ({"frequency": float("nan")}, ("frequency=nan", "finite")),
        ({"seed": -1}, ("seed=-1",)),
        ({"low": 1.0, "high": 1.0 + 1e-15}, ("low=1.0", "too close")),
    ],
)
def test_bad_function_settings_are_named(settings, words):
    text = message(data.function, **{"target": "sinc"} | FUNCTION | settings)
    for word in words:
        assert word in text


# ---- the user's own ----


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
    return data.load(lambda: data.npz(path, **settings), validation=3, split_seed=0, subset=None, label_noise=0.0)


def test_npz_round_trip(tmp_path, arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    source = data.npz(path, standardize=True)
    assert source.offset == pytest.approx(arrays["x_train"].mean(), rel=1e-5)
    assert source.scale == pytest.approx(arrays["x_train"].std(), rel=1e-5)
    dataset = read(path)
    assert (dataset.task, dataset.outputs, dataset.offset, dataset.scale) == ("classification", 3, 0.0, 1.0)
    np.savez(path, **arrays | {"y_train": np.ones(30), "y_test": np.ones(9)})
    assert (read(path).task, read(path).targets["train"].shape) == ("regression", (27, 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y_train": np.arange(29) % 3}, ("y_train", "29", "30")),
        ({"x_test": np.zeros((9, 5))}, ("(4,)", "(5,)")),
        ({"x_train": np.full((30, 4), np.nan)}, ("x_train", "finite")),
        ({"x_test": np.zeros((0, 4)), "y_test": np.zeros(0, int)}, ("x_test", "empty")),
        ({"x_train": np.zeros(30)}, ("x_train", "(30,)")),
        ({"x_train": np.zeros((30, 4), complex)}, ("x_train", "complex")),
        ({"y_test": np.arange(9) % 3 + 1}, ("y_test", "label 3", "0 to 2")),
        ({"y_train": np.arange(30) % 3 - 1}, ("y_train", "label -1")),
        ({"y_train": np.arange(30) * 1000}, ("label 29000",)),
        ({"y_train": np.full(30, 2**40)}, ("y_train", str(2**40))),
        ({"y_test": np.ones(9)}, ("y_train", "y_test", "float64")),
        ({"y_train": np.zeros((30, 2), int)}, ("y_train", "(30, 2)")),
        ({"x_train": np.array([{}] * 30)}, ("damaged", "objects")),
    ],
)
def test_npz_whose_arrays_do_not_fit_is_named(tmp_path, arrays, change, words):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays | change)
    text = message(read, path)
    for word in (str(path), *words):
        assert word in text


def test_npz_that_is_not_one_is_named(tmp_path, arrays):
    path = tmp_path / "mine.npz"
    assert "No such file" in message(read, path)
    assert "directory" in message(read, tmp_path)
    np.savez(path, **{key: arrays[key] for key in ("x_train", "y_train")})
    assert "lacks x_test, y_test" in message(read, path)
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


def test_own_loader_may_return_four_arrays(arrays):
    settings = {"validation": 3, "split_seed": 0, "subset": None, "label_noise": 0.0}
    dataset = data.load(lambda: tuple(arrays.values()), **settings)
    assert (dataset.task, dataset.outputs, dataset.input_shape) == ("classification", 3, (4,))
    assert data.load(lambda: data.Source(**arrays), **settings).sha256 == dataset.sha256
    assert "tuple of 3" in message(data.as_source, (1, 2, 3))
    assert "NoneType" in message(data.as_source, None)
    assert "become arrays" in message(data.as_source, ([[1], [1, 2]], [0, 1], [[1]], [0]))


def test_scaling_that_does_not_fit_is_refused(arrays):
    settings = {"validation": 3, "split_seed": 0, "subset": None, "label_noise": 0.0}
    for change in ({"offset": np.zeros(3)}, {"scale": np.ones((2, 4))}, {"scale": 0.0}, {"offset": np.inf}):
        assert next(iter(change)) in message(data.split, data.Source(**arrays, **change), **settings)


# ---- configs, imports ----


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "dataset").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_names_its_source_and_all_of_its_settings(path):
    import inspect

    config = yaml.safe_load(path.read_text())
    assert path.read_text().startswith("# ")
    own = set(config) - {"_target_", "validation", "split_seed", "subset", "label_noise"}
    assert len(config) == len(own) + 5
    if config["_target_"] != "???":
        module, name = config["_target_"].rsplit(".", 1)
        assert (module, name) == ("hw1.data", path.stem)
        assert own == set(inspect.signature(getattr(data, name)).parameters) - {"data_dir"}


def test_every_offline_config_loads(mnist_dir):
    for name, extra in (("mnist", {"data_dir": mnist_dir}), ("digits", {}), ("function", {})):
        config = yaml.safe_load((ROOT / "conf" / "dataset" / f"{name}.yaml").read_text())
        del config["_target_"]
        common = {key: config.pop(key) for key in ("validation", "split_seed", "subset", "label_noise")}
        dataset = data.load(lambda n=name, c=config, e=extra: getattr(data, n)(**c, **e), **common)
        assert dataset.size("validation") == common["validation"]


def test_import_is_light():
    heavy = "torch", "torchvision", "sklearn", "pandas", "hydra", "filelock"
    code = f"import sys, hw1.data; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
