"""Data sets as numpy arrays: where they come from, and how they become three splits.

A *source* (``mnist``, ``function``, ``npz``, …; a config names it by ``_target_``) gives the arrays as published.
``split`` cuts a validation split from the training split, replaces labels if asked to, and thins for quick looks.
Every choice is a function of ``split_seed`` alone, so that all trainings of a comparison see the same examples.
torch, torchvision and scikit-learn are imported where they are used, if at all: this module has to load quickly.
"""

import contextlib
import functools
import hashlib
import io
import lzma
import math
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hw1.errors import UserError

SPLITS = ("train", "validation", "test")

# Streams of random numbers, one per decision: changing one decision leaves the others as they were.
CUT, NOISE_PLACE, NOISE_LABEL, THIN_TRAIN, THIN_VALIDATION, THIN_TEST, OBSERVATION = range(7)


@dataclass(frozen=True, eq=False)
class Source:
    """What a loader gives: the arrays as published, before any split.

    Networks see (x - offset) / scale; both are scalars or broadcast over one example, per channel as (C, 1, 1).
    Integer targets (N,) make a classification, floating-point targets (N,) or (N, K) a regression.
    """

    x_train: np.ndarray  # (N, *shape), images as (N, C, H, W)
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    offset: np.ndarray | float = 0.0
    scale: np.ndarray | float = 1.0
    unit: str = "input as given"  # what 1 unit of network input is, in words for a figure's axis
    classes: tuple[str, ...] | None = None
    name: str = "the dataset"  # how error messages call it


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits as training sees them. `inputs` and `targets` have the keys "train", "validation", "test"."""

    task: str  # "classification" or "regression"
    inputs: dict[str, np.ndarray]  # (N, *shape); uint8 stays uint8, everything else is float32 or float64
    targets: dict[str, np.ndarray]  # (N,) int64 class numbers, or (N, K) float32 or float64
    outputs: int  # number of classes, or K
    offset: np.ndarray | float
    scale: np.ndarray | float
    unit: str
    classes: tuple[str, ...] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.inputs["train"].shape[1:]

    def size(self, split: str) -> int:
        """Number of examples in `split`."""
        return len(self.targets[split])

    @functools.cached_property
    def sha256(self) -> str:
        """What the data are, as 64 hexadecimal digits: equal for equal values, shapes and types, and only then.

        Covers task, outputs (a subset may lack the last class), offset, scale and the six arrays, in this order.
        """
        digest = hashlib.sha256(f"{self.task} {self.outputs}".encode())
        arrays = [np.asarray(self.offset, np.float64), np.asarray(self.scale, np.float64)]
        arrays += [part[split] for split in SPLITS for part in (self.inputs, self.targets)]
        for array in arrays:
            digest.update(f"|{array.dtype.str}{array.shape}|".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load(
    make_source: Callable[[], object], *, validation: int, split_seed: int, subset: int | None, label_noise: float
) -> Dataset:
    """Call the loader and split what it gives."""
    source = as_source(make_source())
    return split(source, validation=validation, split_seed=split_seed, subset=subset, label_noise=label_noise)


def as_source(value: object) -> Source:
    """A loader's answer as a Source: either it is one, or it is (x_train, y_train, x_test, y_test)."""
    if isinstance(value, Source):
        return value
    if not isinstance(value, (tuple, list)) or len(value) != 4:
        raise UserError(
            f"dataset: a loader returns hw1.data.Source or four arrays (x_train, y_train, x_test, y_test), "
            f"not {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (tuple, list)) else "")
        )
    try:
        x_train, y_train, x_test, y_test = (np.asarray(array) for array in value)
    except (ValueError, TypeError) as error:  # ragged lists, tensors on another device
        raise UserError(f"dataset: the loader's four values do not become arrays ({type(error).__name__})") from error
    return Source(x_train, y_train, x_test, y_test)


def split(source: Source, *, validation: int, split_seed: int, subset: int | None, label_noise: float) -> Dataset:
    """Cut, then replace labels, then thin; stratified by true class, so that every split has the classes' proportions.

    Args:
        validation: examples cut from the training split, at least 1.
        split_seed: decides every random choice made here, and nothing else does.
        subset: None, or the number of training examples to keep; validation and test keep at most as many.
        label_noise: share, in [0, 1], of the *training* labels replaced by uniform draws over all classes (a draw may
            hit the true one); exact before thinning. The labels replaced at 0.2 are among those replaced at 0.4.
    Raises: UserError for values out of range and for arrays that do not fit together.
    """
    source = _checked(source)
    is_classification = source.y_train.dtype.kind == "i"
    _check_noise(label_noise, is_classification)
    outputs = _class_count(source) if is_classification else source.y_train.shape[1]
    kept, cut = _cut(source.y_train, validation, split_seed)
    y_train = _noisy(source.y_train, kept, outputs, label_noise, split_seed) if label_noise else source.y_train
    test = np.arange(len(source.y_test))
    if subset is not None:
        _whole("dataset.subset", subset, 1, len(kept), f" (training examples left after cutting {validation})")
        # by true labels: the examples of a quick look do not depend on the label noise
        kept = _thinned(kept, source.y_train, subset, split_seed, THIN_TRAIN)
        cut = _thinned(cut, source.y_train, subset, split_seed, THIN_VALIDATION)
        test = _thinned(test, source.y_test, subset, split_seed, THIN_TEST)
    return Dataset(
        task="classification" if is_classification else "regression",
        inputs={"train": source.x_train[kept], "validation": source.x_train[cut], "test": source.x_test[test]},
        targets={"train": y_train[kept], "validation": source.y_train[cut], "test": source.y_test[test]},
        outputs=outputs,
        offset=source.offset,
        scale=source.scale,
        unit=source.unit,
        classes=source.classes,
    )


def draws(seed: int, stream: int, count: int) -> np.ndarray:
    """`count` random uint64. The raw output of PCG64, because numpy promises that it never changes; shuffles it may."""
    return np.random.PCG64(np.random.SeedSequence([seed, stream])).random_raw(count)


def stratified(targets: np.ndarray, count: int, keys: np.ndarray) -> np.ndarray:
    """Sorted positions of `count` examples, each class within ±1 of its proportional number.

    Sort by class, in random order (`keys`) within a class, and take `count` evenly spaced positions of that list.
    Floating-point targets have no classes: all examples count as one.

    Args: targets (N,) class numbers, or (N, K) floating-point; count <= N; keys (N,), random.
    """
    is_classification = targets.dtype.kind == "i"
    by_class = np.lexsort((keys, targets)) if is_classification else np.argsort(keys, kind="stable")
    return np.sort(by_class[(2 * np.arange(count) + 1) * len(targets) // (2 * count)])


def _cut(targets: np.ndarray, validation: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted positions of the examples (kept for training, cut for validation)."""
    total = len(targets)
    _whole("dataset.split_seed", seed, 0, 2**63 - 1)
    _whole("dataset.validation", validation, 1, total - 1, f" (there are {total} training examples to cut them from)")
    cut = stratified(targets, validation, draws(seed, CUT, total))
    return np.setdiff1d(np.arange(total), cut), cut


def _thinned(rows: np.ndarray, targets: np.ndarray, count: int, seed: int, stream: int) -> np.ndarray:
    """At most `count` of the `rows`, stratified by their `targets`."""
    return rows[stratified(targets[rows], min(count, len(rows)), draws(seed, stream, len(rows)))]


def _noisy(labels: np.ndarray, kept: np.ndarray, classes: int, fraction: float, seed: int) -> np.ndarray:
    """`labels` (N,) with round(fraction · len(kept)) of those at `kept` replaced by uniform draws over the classes."""
    order = kept[np.argsort(draws(seed, NOISE_PLACE, len(labels))[kept])]
    replaced = order[: round(fraction * len(kept))]
    noisy = labels.copy()
    noisy[replaced] = draws(seed, NOISE_LABEL, len(labels))[replaced] % np.uint64(classes)
    return noisy


# ---- checks: whatever a user's arrays or settings are, they are refused in one line here or they train ----


def _whole(key: str, value: object, low: int, high: int, why: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{key}={value}: must be a whole number from {low} to {high}{why}")


def _finite(key: str, value: object, low: float = -math.inf, high: float = math.inf) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        allowed = "a finite number" + (f" from {low:g}" if low > -math.inf else "")
        raise UserError(f"{key}={value}: must be {allowed}" + (f" to {high:g}" if high < math.inf else ""))


def _check_noise(label_noise: float, is_classification: bool) -> None:
    _finite("dataset.label_noise", label_noise, 0, 1)
    if label_noise and not is_classification:
        raise UserError(f"dataset.label_noise={label_noise}: this dataset has no classes; only 0 is allowed")


def _checked(source: Source) -> Source:
    """The source with arrays of the types that Dataset promises. Raises UserError if they do not fit together."""
    x_train, x_test = _inputs(source, "x_train"), _inputs(source, "x_test")
    y_train, y_test = _targets(source, "y_train", len(x_train)), _targets(source, "y_test", len(x_test))
    if x_train.shape[1:] != x_test.shape[1:]:
        shapes = f"{x_train.shape[1:]} in x_train and {x_test.shape[1:]} in x_test"
        raise UserError(f"{source.name}: examples must have one shape, found {shapes}")
    if y_train.dtype.kind != y_test.dtype.kind or y_train.shape[1:] != y_test.shape[1:]:
        kinds = f"{y_train.dtype} {y_train.shape} in y_train and {y_test.dtype} {y_test.shape} in y_test"
        raise UserError(f"{source.name}: targets must be of one kind and shape, found {kinds}")
    if len(x_train) < 2:
        raise UserError(f"{source.name}: needs at least 2 training examples, one of them for validation; found 1")
    _check_scaling(source, x_train.shape[1:])
    return replace(source, x_train=x_train, x_test=x_test, y_train=y_train, y_test=y_test)


def _numbers(source: Source, key: str) -> np.ndarray:
    """Array `key` of the source: real, finite, not empty."""
    array = np.asarray(getattr(source, key))
    if array.dtype.kind not in "biuf":
        raise UserError(f"{source.name}: {key} must hold real numbers, found {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise UserError(f"{source.name}: {key} is empty (shape {array.shape})")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{source.name}: {key} has values that are not finite (nan or inf)")
    return array


def _as_float(array: np.ndarray) -> np.ndarray:
    """float32 where that holds every value of the array's type, else float64."""
    return array.astype(np.float64 if array.dtype.itemsize > 4 else np.promote_types(array.dtype, np.float32))


def _inputs(source: Source, key: str) -> np.ndarray:
    array = _numbers(source, key)
    if array.ndim < 2:
        raise UserError(f"{source.name}: {key} must be (examples, features…), found shape {array.shape}")
    return array if array.dtype == np.uint8 else _as_float(array)


def _targets(source: Source, key: str, count: int) -> np.ndarray:
    array = _numbers(source, key)
    if len(array) != count:
        raise UserError(f"{source.name}: {key} has {len(array)} entries for {count} examples; they must be equal")
    if array.dtype.kind == "f" and array.ndim <= 2:
        return _as_float(array.reshape(count, -1))
    if array.ndim != 1:
        wanted = "class numbers (N,), or floating-point targets (N,) or (N, K)"
        raise UserError(f"{source.name}: {key} must be {wanted}; found {array.dtype} of shape {array.shape}")
    if int(array.min()) < 0 or int(array.max()) >= 2**31:
        wrong = int(array.min()) if int(array.min()) < 0 else int(array.max())
        raise UserError(f"{source.name}: {key} holds label {wrong}; class numbers start at 0 and have no large gaps")
    return array.astype(np.int64)


def _class_count(source: Source) -> int:
    """Number of classes: as named, or one more than the largest training label."""
    named = source.classes is not None
    count = len(source.classes) if source.classes is not None else int(source.y_train.max()) + 1
    for key, labels in (("y_train", source.y_train), ("y_test", source.y_test)):
        if labels.max() >= count:
            known = f"{count} classes are named" if named else f"the training labels end at {count - 1}"
            raise UserError(f"{source.name}: {key} holds label {labels.max()}; allowed are 0 to {count - 1} ({known})")
    if not named and count > len(source.y_train):  # an identifier in place of a class would make a monstrous network
        found = f"label {count - 1} among {len(source.y_train)} training examples"
        raise UserError(f"{source.name}: class numbers start at 0 and have no large gaps; found {found}")
    return count


def _check_scaling(source: Source, shape: tuple[int, ...]) -> None:
    offset, scale = np.asarray(source.offset, np.float64), np.asarray(source.scale, np.float64)
    for key, value in (("offset", offset), ("scale", scale)):
        try:
            fits = np.broadcast_shapes(value.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise UserError(f"{source.name}: {key} of shape {value.shape} does not fit examples of shape {shape}")
    if not (np.isfinite(offset).all() and np.isfinite(scale).all() and (scale > 0).all()):
        raise UserError(
            f"{source.name}: offset must be finite and scale finite and positive (are the inputs constant?)"
        )


# ---- MNIST: ships with the package ----

# In the order (x_train, y_train, x_test, y_test); of the uncompressed files.
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MNIST_PACKED = Path(__file__).parent / "assets" / "mnist" / "mnist.tar.xz"


def mnist(data_dir: Path, standardize: bool = True) -> Source:
    """MNIST: 60,000 + 10,000 handwritten digits, (N, 1, 28, 28) uint8, unpacked from the package on first use.

    The files in `data_dir`/MNIST/raw are those that torchvision expects. Their SHA-256 is checked on every use.
    Source: LeCun, Cortes, Burges, CC BY-SA 3.0; mean and deviation over the training pixels as customary.
    """
    raw = Path(data_dir) / "MNIST" / "raw"
    _provide_mnist(Path(data_dir), raw)
    x_train, y_train, x_test, y_test = (_read_idx(raw / name, digest) for name, digest in MNIST_SHA256.items())
    offset, scale, unit = _pixels(0.1307, 0.3081, standardize)
    names = tuple("0123456789")
    return Source(x_train[:, None], y_train, x_test[:, None], y_test, offset, scale, unit, names, "MNIST")


def _pixels(mean: Any, deviation: Any, standardize: bool, top: float = 255.0) -> tuple[Any, Any, str]:
    """(offset, scale, unit) for pixels 0…`top`; `mean` and `deviation` in shares of the range, scalar or (C, 1, 1)."""
    if not standardize:
        return 0.0, top, "pixel range [0, 1]"
    size = f"{float(np.mean(deviation)):.4f} of the pixel range" + (", mean of channels" if np.ndim(deviation) else "")
    return mean * top, deviation * top, f"standardised pixel ({size})"


def _provide_mnist(data_dir: Path, raw: Path) -> None:
    """Unpack MNIST unless its files are there. Racing processes all end with whole files."""
    try:
        if _missing(raw):
            data_dir.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(data_dir):
                if _missing(raw):
                    _unpack_mnist(data_dir, raw)
    except OSError as error:
        raise UserError(f"data_dir={data_dir}: MNIST cannot be unpacked there: {error.strerror or error}") from error


def _missing(raw: Path) -> list[str]:
    return [name for name in MNIST_SHA256 if not (raw / name).exists()]


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let processes take turns, for five minutes at most. Saves work only; where locks fail, go on without."""
    import filelock

    lock = filelock.FileLock(folder / ".lock", timeout=300)
    with contextlib.suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _unpack_mnist(data_dir: Path, raw: Path) -> None:
    """Write the missing files beside their place, then rename each into it: a name that exists is a whole file.

    Files that exist are not touched, not even damaged ones. A killed process leaves a `.tmp-…` folder nobody reads.
    """
    raw.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".tmp-", dir=data_dir))
    try:
        for name, content in _packed_files():
            if not (raw / name).exists():
                _write_through(scratch / name, content)
                (scratch / name).replace(raw / name)
        _sync_folder(raw)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _packed_files() -> Iterator[tuple[str, bytes]]:
    """(name, content) of the four files in the package, checked. Raises UserError if the package is damaged."""
    try:
        with tarfile.open(fileobj=io.BytesIO(MNIST_PACKED.read_bytes()), mode="r:xz") as tar:
            contents = {name: tar.extractfile(name).read() for name in MNIST_SHA256}  # type: ignore[union-attr]
    except (OSError, lzma.LZMAError, tarfile.TarError, EOFError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{MNIST_PACKED}: cannot be read ({type(error).__name__}); reinstall hw1") from error
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != MNIST_SHA256[name]:
            raise UserError(f"{MNIST_PACKED}: {name} in it is damaged (wrong SHA-256); reinstall hw1")
        yield name, content


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut, on systems where folders can be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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


# ---- data sets that torchvision downloads ----

IDX_FILES = tuple(MNIST_SHA256)
CIFAR10_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")


def fashion_mnist(data_dir: Path, standardize: bool = True) -> Source:
    """Fashion-MNIST: 60,000 + 10,000 articles of clothing, (N, 1, 28, 28) uint8. Source: Xiao et al. 2017, MIT."""
    parts = _torchvision("FashionMNIST", Path(data_dir), "FashionMNIST/raw", IDX_FILES)
    return _from_torchvision(parts, "FashionMNIST", _pixels(0.2860, 0.3530, standardize))


def kmnist(data_dir: Path, standardize: bool = True) -> Source:
    """Kuzushiji-MNIST: 60,000 + 10,000 cursive characters, (N, 1, 28, 28) uint8. Source: Clanuwat et al. 2018."""
    parts = _torchvision("KMNIST", Path(data_dir), "KMNIST/raw", IDX_FILES)
    return _from_torchvision(parts, "KMNIST", _pixels(0.1918, 0.3483, standardize))


def cifar10(data_dir: Path, standardize: bool = True) -> Source:
    """CIFAR-10: 50,000 + 10,000 colour photographs, (N, 3, 32, 32) uint8. Source: Krizhevsky 2009."""
    parts = _torchvision("CIFAR10", Path(data_dir), "cifar-10-batches-py", CIFAR10_FILES)
    mean, deviation = np.array([[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]]).reshape(2, 3, 1, 1)
    return _from_torchvision(parts, "CIFAR10", _pixels(mean, deviation, standardize))


def _torchvision(name: str, data_dir: Path, folder: str, files: tuple[str, ...]) -> tuple[Any, Any]:
    """torchvision's (training, test) data sets, downloaded unless they are there."""
    import torchvision

    place = data_dir / folder
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(data_dir):  # torchvision extracts in place: a second process would see half a file
            dataset = getattr(torchvision.datasets, name)
            return dataset(data_dir, train=True, download=True), dataset(data_dir, train=False, download=True)
    except Exception as error:  # networks, archives, pickles and assertions all fail in their own way
        raise UserError(_why_not(name, place, files, error)) from error


def _why_not(name: str, place: Path, files: tuple[str, ...], error: Exception) -> str:
    """One line for a data set that torchvision could not give."""
    cause = type(error).__name__
    missing = [file for file in files if not os.path.exists(place / file)]  # noqa: PTH110 (never raises)
    if missing:
        expected = f"expected in {place}: {', '.join(files)}"
        return f"dataset {name} is not there and cannot be downloaded (no network? {cause}); {expected}"
    return (
        f"dataset {name} in {place} is damaged or unreadable ({cause}); delete that folder and it is downloaded again"
    )


def _from_torchvision(parts: tuple[Any, Any], name: str, scaling: tuple[Any, Any, str]) -> Source:
    x_train, x_test = (_channels_first(np.asarray(part.data)) for part in parts)
    y_train, y_test = (np.asarray(part.targets) for part in parts)
    return Source(x_train, y_train, x_test, y_test, *scaling, tuple(parts[0].classes), name)


def _channels_first(images: np.ndarray) -> np.ndarray:
    """(N, H, W) or (N, H, W, C) as (N, C, H, W)."""
    return images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


# ---- small ones that need no files, and the user's own ----


# Over all pixels of the 1,437 training images, in shares of the range 0…16.
DIGITS_MEAN, DIGITS_DEVIATION = 0.3054, 0.3761


def digits(standardize: bool = True) -> Source:
    """scikit-learn's digits: 1,797 handwritten digits, (N, 1, 8, 8) uint8 in 0…16; 360 are the test split.

    The test split is stratified and always the same. Source: Alpaydin and Kaynak 1998, UCI, CC BY 4.0.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8)[:, None], bunch.target
    test = stratified(labels, 360, draws(0, CUT, len(labels)))
    train = np.setdiff1d(np.arange(len(labels)), test)
    scaling = _pixels(DIGITS_MEAN, DIGITS_DEVIATION, standardize, top=16.0)
    names = tuple("0123456789")
    return Source(images[train], labels[train], images[test], labels[test], *scaling, names, "digits")


NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


def npz(path: Path, standardize: bool = False) -> Source:
    """The user's file, as numpy.savez writes it: x_train, y_train, x_test, y_test; x is (N, features…).

    Integer y (N,) makes a classification, floating-point y (N,) or (N, K) a regression. Pickled objects are refused.
    `standardize` subtracts the mean of x_train and divides by its standard deviation, both over all its numbers.
    """
    path = Path(path)
    x_train, y_train, x_test, y_test = _read_npz(path)
    source = Source(x_train, y_train, x_test, y_test, unit="input as stored in the file", name=f"data file {path}")
    if not standardize:
        return source
    checked = _checked(source)
    mean, deviation = float(checked.x_train.mean(dtype=np.float64)), float(checked.x_train.std(dtype=np.float64))
    return replace(source, offset=mean, scale=deviation, unit=f"standardised input ({deviation:.4g} as stored)")


def _read_npz(path: Path) -> list[np.ndarray]:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with file:
            missing = [key for key in NPZ_KEYS if key not in file.files]
            if not missing:
                return [file[key] for key in NPZ_KEYS]
    except OSError as error:
        raise UserError(f"data file {path}: cannot be read: {error.strerror or error}") from error
    except NOT_AN_NPZ as error:
        wanted = f"a whole file from numpy.savez with {', '.join(NPZ_KEYS)}, no objects"
        raise UserError(f"data file {path}: damaged, or not {wanted} ({type(error).__name__})") from error
    raise UserError(f"data file {path}: lacks {', '.join(missing)}; it must hold {', '.join(NPZ_KEYS)}")


# What numpy and zipfile raise over files that are cut off, altered, pickled, encrypted or something else altogether.
NOT_AN_NPZ = (ValueError, TypeError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)

FUNCTIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "sinc": lambda x, frequency: np.sinc(5 * x),  # numpy's sinc is sin(πx)/(πx), 1 at 0
    "sign": lambda x, frequency: np.sign(np.sin(5 * np.pi * x)),
    "sine": lambda x, frequency: np.sin(2 * np.pi * x * frequency),
    "damped": lambda x, frequency: np.exp(-x) * np.cos(2 * np.pi * x * frequency),
}


def function(
    target: str, points: int, test_points: int, low: float, high: float, noise: float, frequency: float, seed: int
) -> Source:
    """Points (N, 1) of a function of one variable, float64: y(x) = FUNCTIONS[target](x, frequency).

    Training points are evenly spaced from `low` to `high`; test points are evenly spaced in between, shifted so that
    none is a training point. Gaussian noise of standard deviation `noise` (units of y), drawn from `seed`, is added to
    the training targets, hence also to the validation targets, which are cut from them; test targets are the function.
    """
    if target not in FUNCTIONS:
        raise UserError(f"dataset.target={target}: unknown function; choose from {', '.join(FUNCTIONS)}")
    _check_function(points, test_points, low, high, noise, frequency, seed)
    x_train, x_test = _train_and_test_points(points, test_points, low, high)
    y_train, y_test = (FUNCTIONS[target](x, frequency) for x in (x_train, x_test))
    if noise:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, OBSERVATION])))
        y_train = y_train + noise * generator.standard_normal(y_train.shape)
    return Source(x_train, y_train, x_test, y_test, unit="x", name=f"function {target}")


def _check_function(
    points: int, test_points: int, low: float, high: float, noise: float, frequency: float, seed: int
) -> None:
    _whole("dataset.points", points, 2, 10**7)
    _whole("dataset.test_points", test_points, 1, 10**7)
    _whole("dataset.seed", seed, 0, 2**63 - 1)
    _finite("dataset.low", low)
    _finite("dataset.high", high)
    if not low < high or not math.isfinite(high - low):
        raise UserError(f"dataset.high={high}: must be larger than dataset.low={low}, by a finite amount")
    _finite("dataset.noise", noise, 0)
    _finite("dataset.frequency", frequency)


def _train_and_test_points(points: int, test_points: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """(points, 1) on linspace(low, high), and (test_points, 1) on a grid that avoids them.

    Test point k sits at share (k + s) / test_points of the interval. A training point would sit there if s were a
    multiple of 1/q, q = (points - 1) / gcd(points - 1, test_points); s is halfway between two multiples, next to 1/2.
    """
    q = (points - 1) // math.gcd(points - 1, test_points)
    shift = (2 * (q // 2) + 1) / (2 * q)
    train = np.linspace(low, high, points)
    test = low + (high - low) * ((np.arange(test_points) + shift) / test_points)
    if len(np.unique(np.concatenate([train, test]))) < points + test_points:
        raise UserError(
            f"dataset.low={low}, dataset.high={high}: too close for {points} + {test_points} different points"
        )
    return train[:, None], test[:, None]
