"""Pareto front, pick, one-standard-error rule and pick frequency, against slow twins, invariances and closed forms."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw1.measures.trade_off import (
    NOTHING,
    nearest_to_utopia,
    one_standard_error,
    pareto_front,
    pick,
    pick_frequency,
    replicate_means,
)

NAN = math.nan
coordinate = st.integers(-8, 8).map(float)
clouds = st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=12).map(np.array)


def dominates(one, other):
    return bool((one <= other).all() and (one < other).any())


@given(clouds)
def test_the_front_has_no_dominated_point_and_dominates_all_others(points):
    front = pareto_front(points)
    assert front.any()
    for place, point in enumerate(points):
        assert front[place] == (not any(dominates(other, point) for other in points))
    for point in points[~front]:
        assert any(dominates(other, point) for other in points[front])


@given(clouds, st.lists(st.integers(0, 11), max_size=4))
def test_what_has_no_value_changes_nothing(points, missing):
    holes = np.insert(points, [min(place, len(points)) for place in missing], NAN, axis=0)
    known = np.isfinite(holes).all(1)
    assert not pareto_front(holes)[~known].any()
    assert pareto_front(holes)[known].tolist() == pareto_front(points).tolist()
    assert np.flatnonzero(known)[pick(points)] == pick(holes)


@given(clouds)
def test_one_missing_coordinate_is_a_missing_point(points):
    half = points.copy()
    half[0, 1] = NAN
    assert not pareto_front(half)[0]
    assert pick(half) != 0


@given(clouds, *[st.sampled_from([0.25, 1.0, 2.0, 64.0])] * 2, *[st.integers(-5, 5)] * 2)
def test_units_do_not_matter(points, a, b, c, d):
    """Positive affine maps of each axis leave front and pick where they are; powers of two do so exactly."""
    moved = points * [a, b] + [c, d]
    assert pareto_front(moved).tolist() == pareto_front(points).tolist()
    assert pick(moved) == pick(points)


@given(clouds)
def test_the_pick_is_the_slow_twins(points):
    front = pareto_front(points)
    low, high = points[front].min(0), points[front].max(0)
    span = np.where(high > low, high - low, 1)
    distance = {place: math.dist((points[place] - low) / span, (0, 0)) for place in np.flatnonzero(front)}
    nearest = min(distance.values())
    tied = [place for place, d in distance.items() if d <= nearest + 1e-12]
    assert pick(points) == min(tied, key=lambda place: (points[place][1], place))
    assert front[pick(points)]


def test_by_hand():
    points = np.array([[0, 4], [1, 1], [4, 0], [3, 3], [1, 1], [NAN, -9]], dtype=float)
    assert pareto_front(points).tolist() == [True, True, True, False, True, False]
    assert pick(points) == 1


def test_normalisation_is_over_the_front_alone():
    """(0, 10), (4, 4), (10, 0) on the front; a far dominated point would make one axis nearly irrelevant."""
    points = np.array([[0, 10], [4, 4], [10, 0], [11, 1e6]], dtype=float)
    assert pick(points) == 1


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[3, 3]], 0),
        ([[1, 2], [2, 1]], 1),  # a front of two is a tie: the smaller second coordinate
        ([[2, 1], [1, 2]], 0),
        ([[1, 1], [1, 1]], 0),
        ([[5, 5], [1, 1]], 1),  # a front of one
        ([[NAN, 1], [2, 2]], 1),
        ([[NAN, NAN]], NOTHING),
    ],
)
def test_degenerate_fronts(points, expected):
    assert pick(np.array(points, dtype=float)) == expected


def test_leading_dimensions_are_independent():
    generator = np.random.default_rng(0)
    many = generator.integers(0, 5, (4, 3, 6, 2)).astype(float)
    for place in itertools.product(range(4), range(3)):
        assert pareto_front(many)[place].tolist() == pareto_front(many[place]).tolist()
        assert pick(many)[place] == pick(many[place])
        assert nearest_to_utopia(many, pareto_front(many))[place] == pick(many[place])


def test_means_leave_out_replicates_without_values():
    values = np.array([[[1, 2], [3, 4]], [[1, 2], [NAN, 4]], [[NAN, 0], [0, NAN]]], dtype=float)
    assert np.array_equal(replicate_means(values), [[2, 3], [1, 2], [NAN, NAN]], equal_nan=True)


# ---- one standard error ----


def test_one_standard_error_by_hand():
    best = np.array([1.0, 2.0, 3.0])
    # Differences 0, 1, 2: mean 1, standard error 1/√3 < 1. Differences −1, 1, 1: mean 1/3, standard error 2/3.
    errors = best + np.array([[0, 0, 0], [0, 1, 2], [-1, 1, 1]])
    assert one_standard_error(errors, [8, 64, 16]) == 2
    assert one_standard_error(errors[:2], [8, 64]) == 0
    assert one_standard_error(errors, [99, 64, 16]) == 0


def test_equal_differences_have_no_standard_error_and_are_out():
    assert one_standard_error([[1, 2, 3], [1.5, 2.5, 3.5]], [8, 64]) == 0
    assert one_standard_error([[1, 2, 3], [1, 2, 3]], [8, 64]) == 1


def test_one_standard_error_needs_two_replicates():
    assert one_standard_error([[1.0], [2.0]], [8, 64]) == NOTHING
    assert one_standard_error([[NAN, NAN], [NAN, 2.0]], [8, 64]) == NOTHING
    assert one_standard_error([[1, 2, NAN], [0, NAN, NAN]], [8, 64]) == 0  # one replicate cannot be the best


# ---- pick frequency ----


def test_frequencies_add_up_and_repeat():
    values = np.random.default_rng(1).standard_normal((4, 5, 2))
    once = pick_frequency(values)
    assert once.sum() == pytest.approx(1)
    assert np.array_equal(once, pick_frequency(values))
    assert not np.array_equal(once, pick_frequency(values, seed=1))


def test_a_pick_that_every_replicate_makes_is_certain():
    values = np.random.default_rng(1).standard_normal((3, 4, 2)) * 0.01 + np.arange(3)[:, None, None]
    assert pick_frequency(values).tolist() == [1, 0, 0]


def test_frequencies_are_those_of_all_resamples():
    """Three replicates have 27 equally likely resamples; enumerated, they give what 20,000 draws approach."""
    values = np.random.default_rng(2).standard_normal((3, 3, 2))
    picks = [int(pick(values[:, list(drawn)].mean(1))) for drawn in itertools.product(range(3), repeat=3)]
    truth = np.bincount(picks, minlength=3) / 27
    assert 0 < truth.max() < 1
    assert pick_frequency(values, 20_000) == pytest.approx(truth, abs=0.02)


def test_replicates_are_shared_by_conditions():
    """Condition 1 is better than condition 0 in every replicate, by less than replicates differ: it always wins."""
    replicates = np.random.default_rng(3).standard_normal((1, 4, 2)) * 100
    values = np.concatenate([replicates, replicates - 0.1])
    assert pick_frequency(values).tolist() == [0, 1]


def test_diverged_replicates_and_conditions_are_left_out():
    values = np.random.default_rng(4).standard_normal((3, 4, 2))
    values[2] = NAN
    values[0, :3] = NAN
    found = pick_frequency(values)
    assert found[2] == 0
    assert found.sum() == pytest.approx(1)
    assert np.isnan(pick_frequency(np.full((2, 3, 2), NAN))).all()
    assert np.isnan(pick_frequency(np.zeros((2, 1, 2)))).all()
