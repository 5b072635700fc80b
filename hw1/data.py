"""What a data set is: arrays as published (`Source`), and how they become three splits (`Dataset`).

``split`` cuts a validation split from the training split, replaces labels if asked to, and thins for quick looks.
Every choice is a function of ``split_seed`` alone, so that all trainings of a comparison see the same examples.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

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
    if isinstance(value, (tuple, list)) and len(value) == 4:
        return Source(*value)
    found = type(value).__name__ + (f" of {len(value)}" if isinstance(value, (tuple, list)) else "")
    raise UserError(
        f"dataset: a loader returns hw1.data.Source or four arrays (x_train, y_train, x_test, y_test), not {found}"
    )


def split(source: Source, *, validation: int, split_seed: int, subset: int | None, label_noise: float) -> Dataset:
    """Cut, then replace labels, then thin; stratified by true class, so that every split has the classes' proportions.

    Args:
        validation: examples cut from the training split, at least 1.
        split_seed: >= 0; decides every random choice made here, and nothing else does.
        subset: None, or the number of training examples to keep; validation and test keep at most as many.
        label_noise: share, in [0, 1], of the *training* labels replaced by uniform draws over all classes (a draw may
            hit the true one); exact before thinning. The labels replaced at 0.2 are among those replaced at 0.4.
    Raises: UserError for more examples than there are, and for arrays that do not fit together.
    """
    source = checked(source)
    is_classification = source.y_train.dtype.kind == "i"
    if label_noise and not is_classification:
        raise UserError(f"dataset.label_noise={label_noise}: this dataset has no classes; only 0 is allowed")
    outputs = _class_count(source) if is_classification else source.y_train.shape[1]
    kept, cut = _cut(source.y_train, validation, split_seed)
    y_train = _noisy(source.y_train, kept, outputs, label_noise, split_seed) if label_noise else source.y_train
    test = np.arange(len(source.y_test))
    if subset is not None:
        _check_count("subset", subset, len(kept), f"the training examples left after cutting {validation}")
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
    _check_count("validation", validation, total - 1, f"there are {total} training examples to cut them from")
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


# ---- checks: whatever arrays a user brings, they are refused in one line here or they train ----


def _check_count(key: str, count: int, most: int, why: str) -> None:
    if not 1 <= count <= most:
        raise UserError(f"dataset.{key}={count}: must be a whole number from 1 to {most} ({why})")


def checked(source: Source) -> Source:
    """The source with arrays of the types that Dataset promises. Raises: UserError if they do not fit together."""
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
    try:
        array = np.asarray(getattr(source, key))
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors on another device or with gradients
        raise UserError(f"{source.name}: {key} does not become an array ({type(error).__name__})") from error
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
    labels = array.astype(np.int64)
    if labels.min() < 0:
        raise UserError(f"{source.name}: {key} holds label {labels.min()}; class numbers start at 0")
    return labels


def _class_count(source: Source) -> int:
    """Number of classes: as named, or one more than the largest training label."""
    if source.classes is None:
        count, known = int(source.y_train.max()) + 1, "the largest training label"
        if count > len(source.y_train):  # an identifier in place of a class would make a monstrous network
            found = f"label {count - 1} among {len(source.y_train)} training examples"
            raise UserError(f"{source.name}: class numbers start at 0 and have no large gaps; found {found}")
    else:
        count, known = len(source.classes), f"{len(source.classes)} classes are named"
    for key, labels in (("y_train", source.y_train), ("y_test", source.y_test)):
        if labels.max() >= count:
            raise UserError(f"{source.name}: {key} holds label {labels.max()}; allowed are 0 to {count - 1} ({known})")
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
