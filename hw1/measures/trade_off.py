"""Choosing among conditions by two quantities that both are to be small: Pareto front, pick, and how sure the pick is.

Points are (…, B, 2) arrays, B conditions of two coordinates; a NaN in a point (a condition that has no value) takes it
out of everything. Leading dimensions are independent sets of points.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]
Array = NDArray[np.float64]
NOTHING = -1  # the index of a pick where there is nothing to pick from


def pareto_front(points: ArrayLike) -> Flags:
    """Which points (…, B, 2) are on the front (…, B): none other is as small in both coordinates and smaller in one.

    Of equal points either all are on it or none.
    """
    array = np.asarray(points, dtype=float)
    one, other = array[..., :, None, :], array[..., None, :, :]
    dominated = ((other <= one).all(-1) & (other < one).any(-1)).any(-1)  # a comparison with NaN is false
    front: Flags = ~dominated & np.isfinite(array).all(-1)
    return front


def nearest_to_utopia(points: ArrayLike, front: ArrayLike) -> Indices:
    """Index (…) of the front point nearest the utopia point, the smallest value of each coordinate on the front.

    Each coordinate is divided by its range over the front first, so that units do not matter; one without a range
    counts as 0. The two ends of a front are at distance 1 each: a front of two points is always a tie. A tie goes to
    the smaller second coordinate, then to the first of the points. NOTHING where no point is on the front.
    """
    array = np.where(np.asarray(front, dtype=bool)[..., None], np.asarray(points, dtype=float), np.nan)
    known = np.isfinite(array)
    low = np.where(known, array, np.inf).min(-2, keepdims=True, initial=np.inf)
    high = np.where(known, array, -np.inf).max(-2, keepdims=True, initial=-np.inf)
    span = np.where(high > low, high - low, 1.0)
    with np.errstate(invalid="ignore"):  # ∞ − ∞ where nothing is known
        places = (array - low) / span
    distance = np.where(known.all(-1), np.hypot(places[..., 0], places[..., 1]), np.inf)
    # Rounding must not decide a tie; 1e-12 of a range is far below what any measurement resolves.
    tied = distance <= distance.min(-1, keepdims=True, initial=np.inf) + 1e-12
    second = np.where(tied & known.all(-1), places[..., 1], np.inf)
    picked: Indices = np.where(known.all(-1).any(-1), second.argmin(-1), NOTHING)
    return picked


def pick(points: ArrayLike) -> Indices:
    """Index (…) of the point (…, B, 2) of the front that is nearest the utopia point; NOTHING if there is none."""
    return nearest_to_utopia(points, pareto_front(points))


def replicate_means(values: ArrayLike) -> Array:
    """Points (…, B, 2) from values (…, B, R, 2): means over the replicates that have both; NaN where none has."""
    array = np.asarray(values, dtype=float)
    whole = np.isfinite(array).all(-1, keepdims=True)
    count = whole.sum(-2)
    means: Array = np.where(count > 0, np.where(whole, array, 0.0).sum(-2) / np.maximum(count, 1), np.nan)
    return means


def one_standard_error(errors: ArrayLike, sizes: ArrayLike) -> int:
    """Index of the largest condition whose mean error is within one standard error of the lowest.

    With b the condition of lowest mean and d the differences e_c − e_b over the replicates that both have, c is within
    if mean d ≤ sd(d)/√n, n the number of these; fewer than two say nothing of c, which is then out. The rule of Breiman
    et al. 1984, Classification and Regression Trees, section 3.4.3, with the error of the paired difference in place of
    the lowest one's own, because replicates are shared.

    Args: errors (B, R), NaN where a replicate has none; sizes (B,), whatever is wanted large.
    Returns: an index; NOTHING where b has fewer than two replicates.
    """
    values, wanted = np.asarray(errors, dtype=float), np.asarray(sizes, dtype=float)
    known = np.isfinite(values)
    count = known.sum(1)
    if not (count >= 2).any():
        return NOTHING
    sums = np.where(known, values, 0.0).sum(1)
    best = int(np.where(count >= 2, sums / np.maximum(count, 1), np.inf).argmin())
    within = [place for place in range(len(values)) if place == best or _within(values[place] - values[best])]
    return max(within, key=lambda place: wanted[place])


def _within(differences: Array) -> bool:
    finite = differences[np.isfinite(differences)]
    return len(finite) >= 2 and bool(finite.mean() <= finite.std(ddof=1) / np.sqrt(len(finite)))


def pick_frequency(values: ArrayLike, resamples: int = 2000, seed: int = 0) -> Array:
    """How often each condition is picked (B,) when replicates are drawn anew with replacement: a bootstrap.

    All conditions are given the same replicates of a resample, since replicate r shares its initial weights and data
    order between them. A replicate without values (a diverged training) is left out of its condition's means; a
    condition that has none left in a resample is left out of that one. The frequencies are over resamples in which
    there was something to pick, and add up to 1; NaN with fewer than two replicates.

    Args: values (B, R, 2), NaN where there is none. seed: the same values give the same frequencies.
    """
    array = np.asarray(values, dtype=float)
    count = array.shape[1]
    if count < 2:
        return np.full(len(array), np.nan)
    drawn = np.random.default_rng(seed).integers(count, size=(resamples, count))
    picks = pick(replicate_means(array[:, drawn].swapaxes(0, 1)))
    found = picks[picks != NOTHING]
    return np.bincount(found, minlength=len(array)) / len(found) if len(found) else np.full(len(array), np.nan)
