"""Where data come from: the functions that `conf/dataset/*.yaml` name by `_target_`, each of which gives a `Source`.

torchvision and scikit-learn are imported where they are used: this module has to load quickly.
"""

import gzip
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hw1 import packed_mnist
from hw1.data import CUT, OBSERVATION, Source, checked, draws, stratified
from hw1.errors import UserError, one_line, shortened

DIGIT_NAMES = tuple("0123456789")

# ---- images; the means and deviations of MNIST, its kin and CIFAR-10 are the customary ones ----


def mnist(data_dir: Path, standardize: bool = True) -> Source:
    """MNIST: 60,000 + 10,000 handwritten digits, (N, 1, 28, 28) uint8. Source: LeCun, Cortes, Burges, CC BY-SA 3.0."""
    x_train, y_train, x_test, y_test = packed_mnist.read(Path(data_dir))
    scaling = _pixels(0.1307, 0.3081, standardize)
    return Source(x_train[:, None], y_train, x_test[:, None], y_test, *scaling, DIGIT_NAMES, "MNIST")


def fashion_mnist(data_dir: Path, standardize: bool = True) -> Source:
    """Fashion-MNIST: 60,000 + 10,000 articles of clothing, (N, 1, 28, 28) uint8. Source: Xiao et al. 2017, MIT."""
    return _torchvision("FashionMNIST", data_dir, "FashionMNIST/raw", IDX_FILES, _pixels(0.2860, 0.3530, standardize))


def kmnist(data_dir: Path, standardize: bool = True) -> Source:
    """Kuzushiji-MNIST: 60,000 + 10,000 cursive characters, (N, 1, 28, 28) uint8. Source: Clanuwat et al. 2018."""
    return _torchvision("KMNIST", data_dir, "KMNIST/raw", IDX_FILES, _pixels(0.1918, 0.3483, standardize))


def cifar10(data_dir: Path, standardize: bool = True) -> Source:
    """CIFAR-10: 50,000 + 10,000 colour photographs, (N, 3, 32, 32) uint8. Source: Krizhevsky 2009."""
    mean, deviation = np.array([[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]]).reshape(2, 3, 1, 1)
    scaling = _pixels(mean, deviation, standardize)
    return _torchvision("CIFAR10", data_dir, "cifar-10-batches-py", CIFAR10_FILES, scaling)


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
    return Source(images[train], labels[train], images[test], labels[test], *scaling, DIGIT_NAMES, "digits")


# Over all pixels of the 1,437 training images, in shares of the range 0…16.
DIGITS_MEAN, DIGITS_DEVIATION = 0.3054, 0.3761


def _pixels(mean: Any, deviation: Any, standardize: bool, top: float = 255.0) -> tuple[Any, Any, str]:
    """(offset, scale, unit) for pixels 0…`top`; `mean` and `deviation` in shares of the range, scalar or (C, 1, 1)."""
    if not standardize:
        return 0.0, top, "pixel range [0, 1]"
    size = f"{float(np.mean(deviation)):.4f} of the pixel range" + (", mean of channels" if np.ndim(deviation) else "")
    return mean * top, deviation * top, f"standardised pixel ({size})"


IDX_FILES = tuple(packed_mnist.SHA256)
CIFAR10_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")


def _torchvision(
    name: str, data_dir: Path, folder: str, files: tuple[str, ...], scaling: tuple[Any, Any, str]
) -> Source:
    """A data set of torchvision, downloaded unless its `files` are in `data_dir`/`folder`."""
    import torchvision

    data_dir = Path(data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with packed_mnist.one_at_a_time(data_dir):  # torchvision extracts in place: another would see half a file
            make = getattr(torchvision.datasets, name)
            if (old := data_dir / name / "processed").exists():  # which torchvision would take, unpickled
                raise UserError(f"{old}: an old copy of {name} that cannot be checked; delete it")
            parts = [make(data_dir, train=train, download=True) for train in (True, False)]
            _check_unpacked(name, data_dir / folder, getattr(make, "resources", ()))
    except UserError:
        raise
    except Exception as error:  # networks, archives, pickles and assertions all fail in their own way
        raise UserError(_why_not(name, data_dir / folder, files, error)) from error
    x_train, x_test = (_channels_first(np.asarray(part.data)) for part in parts)
    y_train, y_test = (np.asarray(part.targets) for part in parts)
    return Source(x_train, y_train, x_test, y_test, *scaling, tuple(parts[0].classes), name)


def _check_unpacked(name: str, place: Path, resources: Sequence[tuple[str, str]]) -> None:
    """See whether unpacked files are those of the archives beside them, and these are what torchvision knows.

    It checks an archive when it comes, and from then on takes any file of the right name (CIFAR-10's it checks again).
    Raises: UserError naming the file.
    """
    for archive, md5 in resources:
        file = place / archive.removesuffix(".gz")
        try:
            packed = (place / archive).read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"{file}: cannot be checked without {archive}; put it beside it, or {AGAIN}") from error
        known = hashlib.md5(packed, usedforsecurity=False).hexdigest() == md5
        if not known or gzip.decompress(packed) != file.read_bytes():
            raise UserError(f"{file}: is not as {name} was published; {AGAIN}")


AGAIN = "delete its folder to download it again"


def _why_not(name: str, place: Path, files: tuple[str, ...], error: Exception) -> str:
    """One line for a data set that torchvision could not give."""
    cause = type(error).__name__
    if all(os.path.exists(place / file) for file in files):  # noqa: PTH110 (never raises)
        return f"dataset {name} in {place} is damaged or unreadable ({cause}); delete that folder to download it again"
    expected = f"expected in {place}: {', '.join(files)}"
    return f"dataset {name} is not there and cannot be downloaded (no network? {cause}); {expected}"


def _channels_first(images: np.ndarray) -> np.ndarray:
    """(N, H, W) or (N, H, W, C) as (N, C, H, W)."""
    return images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


# ---- the user's own file ----

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


def npz(path: Path, standardize: bool = False) -> Source:
    """The user's file, as numpy.savez writes it: x_train, y_train, x_test, y_test; x is (N, features…).

    Integer y (N,) makes a classification, floating-point y (N,) or (N, K) a regression. Pickled objects are refused.
    `standardize` subtracts the mean of x_train and divides by its standard deviation, both over all its numbers.
    """
    x_train, y_train, x_test, y_test = _read_npz(Path(path))
    source = Source(x_train, y_train, x_test, y_test, unit="input as stored in the file", name=f"data file {path}")
    if not standardize:
        return source
    inputs = checked(source).x_train
    mean, deviation = float(inputs.mean(dtype=np.float64)), float(inputs.std(dtype=np.float64))
    return replace(source, offset=mean, scale=deviation, unit=f"standardised input ({deviation:.4g} as stored)")


def _read_npz(path: Path) -> list[np.ndarray]:
    """The four arrays in the order of NPZ_KEYS."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in NPZ_KEYS if key in file}
    except OSError as error:
        raise UserError(f"data file {path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # cut off, altered, pickled, encrypted or something else: numpy and zip have many ways
        wanted = f"a whole file from numpy.savez with {', '.join(NPZ_KEYS)}, no objects"
        raise UserError(f"data file {path}: damaged, or not {wanted} ({type(error).__name__})") from error
    if missing := [key for key in NPZ_KEYS if key not in arrays]:
        raise UserError(f"data file {path}: lacks {', '.join(missing)}; it must hold {', '.join(NPZ_KEYS)}")
    return list(arrays.values())


# ---- functions of one variable ----

FUNCTIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "sinc": lambda x, frequency: np.sinc(5 * x),  # numpy's sinc is sin(πx)/(πx), 1 at 0
    "sign": lambda x, frequency: np.sign(np.sin(5 * np.pi * x)),
    "sine": lambda x, frequency: np.sin(2 * np.pi * x * frequency),
    "damped": lambda x, frequency: np.exp(-x) * np.cos(2 * np.pi * x * frequency),
}


def function(
    target: str | Callable[..., Any],
    points: int,
    test_points: int,
    low: float,
    high: float,
    noise: float,
    frequency: float,
    seed: int,
) -> Source:
    """Points (N, 1) of a function of one variable, float64: y(x) = FUNCTIONS[target](x, frequency), or target(x).

    Training points are evenly spaced from `low` to `high`; test points are evenly spaced in between, shifted so that
    none is a training point. Gaussian noise of standard deviation `noise` (units of y), drawn from `seed`, is added to
    the training targets, hence also to the validation targets, which are cut from them; test targets are the function.

    A callable of the user's own is given all x at once, (N, 1) float64, and returns as many numbers, (N, 1) or (N,);
    or, where it cannot do that, one x after another, each a float. It must give the same numbers every time.
    Raises: UserError for points without room, and for a callable that raises or gives anything but finite real numbers.
    """
    x_train, x_test = _train_and_test_points(points, test_points, low, high)
    if callable(target):
        y_train, y_test = (_own_values(target, x) for x in (x_train, x_test))
    elif target in FUNCTIONS:
        y_train, y_test = (FUNCTIONS[target](x, frequency) for x in (x_train, x_test))
    else:
        raise UserError(f"dataset.target={shortened(target)}: is no function; give its node a _partial_: true")
    if noise:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, OBSERVATION])))
        y_train = y_train + noise * generator.standard_normal(y_train.shape)
    return Source(x_train, y_train, x_test, y_test, unit="x", name=f"function {_name(target)}")


def _own_values(target: Callable[..., Any], x: np.ndarray) -> np.ndarray:
    """(N, 1) values of a user's function at x (N, 1)."""
    shapes = (x.shape, x.shape[:1])
    with np.errstate(all="ignore"):  # what is not finite is said below
        y, problem = _attempt(lambda: target(x.copy()))
        if y.shape not in shapes:  # a function of one number, perhaps
            y, again = _attempt(lambda: [np.asarray(target(float(number))) for number in x[:, 0]])
            if again:
                at_once = f", {problem} for all" if problem not in ("", again) else ""
                raise _unusable(target, f"raises {again} for one x{at_once}")
    if y.dtype.kind not in "biuf" or y.shape not in shapes:
        raise _unusable(target, f"must give one real number for each x, not {y.dtype} of shape {y.shape[1:]}")
    y = y.reshape(x.shape).astype(np.float64)
    if not (finite := np.isfinite(y)).all():
        raise _unusable(target, f"gives {y[~finite][0]} at x={x[~finite][0]:g}; must be finite")
    return y


def _attempt(call: Callable[[], Any]) -> tuple[np.ndarray, str]:
    """What a user's function gives, as an array, or what it raises, in words."""
    try:
        return np.array(call()), ""
    except Exception as error:  # it may raise anything
        return np.empty((0, 0)), f"{type(error).__name__} ({one_line(error)})"


def _unusable(target: Callable[..., Any], why: str) -> UserError:
    return UserError(f"dataset.target: {_name(target)} {shortened(why, 300)}")


def _name(target: Any) -> str:
    """What a target is called, within a functools.partial, too."""
    inner = getattr(target, "func", target)
    return str(target if isinstance(target, str) else getattr(inner, "__name__", type(inner).__name__))


def _train_and_test_points(points: int, test_points: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """(points, 1) on linspace(low, high), and (test_points, 1) on a grid that avoids them.

    Test point k sits at share (k + s) / test_points of the interval. A training point would sit there if s were a
    multiple of 1/q, q = (points - 1) / gcd(points - 1, test_points); s is halfway between two multiples, next to 1/2.
    """
    q = (points - 1) // math.gcd(points - 1, test_points)
    shift = (2 * (q // 2) + 1) / (2 * q)
    train = np.linspace(low, high, points)
    test = low + (high - low) * ((np.arange(test_points) + shift) / test_points)
    if not low < high or len(np.unique(np.concatenate([train, test]))) < points + test_points:
        room = f"{points} + {test_points} different points"
        raise UserError(f"dataset.high={high}: must be above dataset.low={low}, by enough for {room}")
    return train[:, None], test[:, None]
