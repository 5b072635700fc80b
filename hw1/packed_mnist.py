"""The MNIST that ships with the package: unpacked once into the files that torchvision knows, checked on every use."""

import contextlib
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hw1.errors import UserError

# Of the unpacked files, in the order (x_train, y_train, x_test, y_test).
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
PACKED = Path(__file__).parent / "assets" / "mnist" / "mnist.tar.xz"


def read(data_dir: Path) -> list[np.ndarray]:
    """x_train (60000, 28, 28), y_train, x_test, y_test, all uint8, unpacked into `data_dir`/MNIST/raw if need be.

    Raises: UserError for a folder that cannot be written, and for a damaged file, which is left as it is.
    """
    raw = data_dir / "MNIST" / "raw"
    try:
        if not _complete(raw):
            data_dir.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(data_dir):
                if not _complete(raw):
                    _unpack(data_dir, raw)
    except OSError as error:
        raise UserError(f"data_dir={data_dir}: MNIST cannot be unpacked there: {error.strerror or error}") from error
    return [_read_idx(raw / name, digest) for name, digest in SHA256.items()]


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let processes take turns, for five minutes at most. Saves work only; where locks fail, go on without."""
    import filelock  # takes 0.15 s to import, and is hardly ever needed

    lock = filelock.FileLock(folder / ".lock", timeout=300)
    with contextlib.suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _complete(raw: Path) -> bool:
    return all((raw / name).exists() for name in SHA256)


def _unpack(data_dir: Path, raw: Path) -> None:
    """Write the missing files beside their place, then rename each into it: a name that exists is a whole file.

    Files that exist are not touched, not even damaged ones. A killed process leaves a `.tmp-…` folder that nobody
    reads; it is not cleared away, because where locks fail it may be at work on another machine.
    """
    raw.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".tmp-", dir=data_dir))
    try:
        for name, content in _packed_files().items():
            if not (raw / name).exists():
                with (scratch / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())  # else a power cut could leave the name without the content
                (scratch / name).replace(raw / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _packed_files() -> dict[str, bytes]:
    """The content of the four files in the package by name. Raises: UserError if the package is damaged."""
    try:
        with tarfile.open(fileobj=io.BytesIO(PACKED.read_bytes()), mode="r:xz") as tar:
            contents = {name: tar.extractfile(name).read() for name in SHA256}  # type: ignore[union-attr]
    except Exception as error:  # tar and xz each fail in their own ways
        raise UserError(f"{PACKED}: cannot be read ({type(error).__name__}); reinstall hw1") from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != SHA256[name]:
            raise UserError(f"{PACKED}: {name} in it is damaged (wrong SHA-256); reinstall hw1")
    return contents


def _read_idx(path: Path, sha256: str) -> np.ndarray:
    """Array in an IDX file of unsigned bytes: 0, 0, 8, number of axes, each length as big-endian uint32, the bytes."""
    try:
        content = np.fromfile(path, np.uint8)  # writable, as torch wants it
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(content.data).hexdigest() != sha256:
        raise UserError(f"{path}: damaged (wrong SHA-256); delete this file and it is unpacked again from the package")
    axes = int(content[3])
    return content[4 + 4 * axes :].reshape(content[4 : 4 + 4 * axes].view(">u4"))
