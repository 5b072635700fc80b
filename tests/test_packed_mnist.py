"""The packed MNIST, what it unpacks to, and what damage, a full disk, a kill or a race leave of it."""

import hashlib
import io
import lzma
import multiprocessing
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from data_helpers import idx, message

from hw1 import data, packed_mnist, sources
from hw1.errors import UserError

ROOT = Path(__file__).resolve().parent.parent

# ---- MNIST as it ships ----


@pytest.fixture(scope="session")
def mnist_dir(tmp_path_factory):
    """A data folder into which the shipped MNIST has been unpacked once."""
    folder = tmp_path_factory.mktemp("mnist") / "not" / "yet" / "there"
    sources.mnist(folder)
    return folder


def test_unpacked_files_have_the_published_sha256(mnist_dir):
    raw = mnist_dir / "MNIST" / "raw"
    assert sorted(path.name for path in raw.iterdir()) == sorted(packed_mnist.SHA256)
    for name, digest in packed_mnist.SHA256.items():
        assert hashlib.sha256((raw / name).read_bytes()).hexdigest() == digest
    assert not list(mnist_dir.glob(".tmp-*"))


def test_torchvision_reads_the_unpacked_folder_and_gets_equal_arrays(mnist_dir):
    datasets = pytest.importorskip("torchvision").datasets
    source = sources.mnist(mnist_dir)
    for train, x, y in ((True, source.x_train, source.y_train), (False, source.x_test, source.y_test)):
        theirs = datasets.MNIST(root=mnist_dir, train=train, download=False)
        np.testing.assert_array_equal(theirs.data.numpy(), x[:, 0])
        np.testing.assert_array_equal(theirs.targets.numpy(), y)


def test_mnist_shapes_constants_and_split(mnist_dir):
    source = sources.mnist(mnist_dir)
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
    plain = sources.mnist(mnist_dir, standardize=False)
    assert (plain.offset, plain.scale, plain.unit) == (0.0, 255.0, "pixel range [0, 1]")


def test_published_split_does_not_move(mnist_dir):
    """The default MNIST split, frozen: another numpy or a refactoring must not change which images are trained on."""
    config = yaml.safe_load((ROOT / "conf" / "dataset" / "mnist.yaml").read_text())
    splitting = {key: config[key] for key in ("validation", "split_seed", "subset", "label_noise")}
    dataset = data.load(lambda: sources.mnist(mnist_dir, config["standardize"]), **splitting)
    assert dataset.sha256 == "98a95d7a3f49247da832a7fff5caafdaef77724483781754ce3dc9022e3e803a"


# ---- unpacking under adverse conditions, on a MNIST of six images ----


def pack(path: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:xz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A packed MNIST of four training and two test images; gives (data_dir, packed file, contents)."""
    images, labels = np.arange(6 * 784).astype(np.uint8).reshape(6, 28, 28), np.arange(6, dtype=np.uint8)
    arrays = (images[:4], labels[:4], images[4:], labels[4:])
    contents = dict(zip(packed_mnist.SHA256, map(idx, arrays), strict=True))
    packed = tmp_path / "packed.tar.xz"
    pack(packed, contents)
    monkeypatch.setattr(packed_mnist, "PACKED", packed)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(packed_mnist, "SHA256", digests)
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
        assert in_children(8, lambda target=target: sources.mnist(target)) == [0] * 8
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
        assert in_children(1, lambda: sources.mnist(folder)) == [9]
    left = raw_files(folder)
    assert len(left) == renames
    assert all(contents[name] == content for name, content in left.items())
    sources.mnist(folder)
    assert raw_files(folder) == contents


def test_every_damaged_file_is_named_with_what_to_do(tiny):
    folder, _, contents = tiny
    sources.mnist(folder)
    for name, content in contents.items():
        path = folder / "MNIST" / "raw" / name
        flipped = bytes([*content[:-1], content[-1] ^ 1])
        for damaged in (flipped, content[:-1], content + b"\0", b""):
            path.write_bytes(damaged)
            text = message(sources.mnist, folder)
            assert str(path) in text
            assert "delete" in text
        path.unlink()
        sources.mnist(folder)
    assert raw_files(folder) == contents


def test_a_damaged_file_is_not_silently_replaced(tiny):
    folder, _, contents = tiny
    sources.mnist(folder)
    first, second = list(contents)[:2]
    (folder / "MNIST" / "raw" / first).write_bytes(b"mine")
    (folder / "MNIST" / "raw" / second).unlink()
    assert first in message(sources.mnist, folder)
    assert (folder / "MNIST" / "raw" / first).read_bytes() == b"mine"


def test_unreadable_file_is_named_and_not_called_damaged(tiny, monkeypatch):
    folder, _, contents = tiny
    sources.mnist(folder)

    def refuse(path, *_args):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np, "fromfile", refuse)
    text = message(sources.mnist, folder)
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
    text = message(sources.mnist, folder)
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
            sources.mnist(folder / str(length))
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
        text = message(sources.mnist, folder)
    assert f"data_dir={folder}" in text
    assert error.strerror in text
    assert not list(folder.glob(".tmp-*"))
    assert raw_files(folder) == {}
    sources.mnist(folder)
    assert raw_files(folder) == contents


def test_data_dir_that_cannot_be_a_folder(tiny, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert "data_dir=" in message(sources.mnist, file)
    assert "data_dir=" in message(sources.mnist, file / "below")


def test_packing_twice_gives_equal_bytes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import pack_mnist

    files = {"a": b"123" * 1000, "b": bytes(1000)}
    assert pack_mnist.packed(files) == pack_mnist.packed(dict(files))
    assert len(lzma.decompress(pack_mnist.packed(files))) % 512 == 0
