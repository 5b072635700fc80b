"""Learning rates in closed form; plans that cover every example and keep what they promise."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw1.schedule import HISTORY_ROWS, Plan, Schedule


def rates(steps, *, kind="constant", warmup=0.0, drop_every=0.3, drop_factor=0.1, scaling="none", batch_size=64):
    schedule = Schedule(kind, warmup, drop_every, drop_factor, scaling, 64, "epochs")
    return [schedule.factor(step, steps, batch_size) for step in range(steps)]


def test_constant():
    assert rates(5) == [1.0] * 5


def test_warm_up_rises_by_equal_parts_and_reaches_the_full_rate():
    assert rates(10, warmup=0.4)[:5] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1])
    assert rates(3, warmup=1.0) == pytest.approx([1 / 4, 2 / 4, 3 / 4])


def test_cosine_in_closed_form():
    steps = 8
    assert rates(steps, kind="cosine") == pytest.approx([0.5 * (1 + math.cos(math.pi * t / steps)) for t in range(8)])
    after = rates(10, kind="cosine", warmup=0.2)[2:]  # the decay starts where the warm-up ends
    assert after == pytest.approx(rates(8, kind="cosine"))


@given(steps=st.integers(1, 300), warmup=st.floats(0, 1))
def test_cosine_rises_then_falls_and_stays_positive(steps, warmup):
    got = rates(steps, kind="cosine", warmup=warmup)
    warm = round(warmup * steps)
    assert all(a < b for a, b in pairwise(got[:warm]))
    assert all(a > b for a, b in pairwise(got[warm:]))
    assert all(0 < rate <= 1 for rate in got)


@pytest.mark.parametrize("every", [0.1, 0.2, 0.3])
def test_drops_fall_on_their_step(every):
    got = rates(10, kind="step", drop_every=every, drop_factor=0.5)
    assert got == pytest.approx([0.5 ** (10 * step // round(100 * every)) for step in range(10)])


def test_no_drops_where_they_are_switched_off():
    assert rates(10, kind="step", drop_every=0.0) == [1.0] * 10


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("linear", 4), ("sqrt", 2)])
def test_scaling_with_the_batch_size(scaling, factor):
    plain, scaled = rates(9, kind="cosine", warmup=0.3), rates(9, kind="cosine", warmup=0.3, scaling=scaling,
                                                               batch_size=256)  # fmt: skip
    assert scaled == pytest.approx([factor * rate for rate in plain])


@given(examples=st.integers(1, 60), batch_size=st.integers(1, 60), epochs=st.integers(1, 5))
def test_batches_cover_every_example_once_an_epoch(examples, batch_size, epochs):
    plan = Plan.of(examples, batch_size, epochs, None, None, None)
    for epoch in range(epochs):
        batches = [range(*batch) for batch in plan.batches(epoch)]
        assert [position for batch in batches for position in batch] == list(range(examples))
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert len(batches) == plan.steps_per_epoch
    assert list(plan.batches(epochs)) == []


@given(examples=st.integers(1, 60), batch_size=st.integers(1, 60), steps=st.integers(1, 100))
def test_plans_take_exactly_the_steps_asked_for(examples, batch_size, steps):
    plan = Plan.of(examples, batch_size, None, steps, None, None)
    epochs = math.ceil(steps / plan.steps_per_epoch)
    assert sum(len(list(plan.batches(epoch))) for epoch in range(epochs)) == plan.steps == steps
    assert plan.epoch(steps) == pytest.approx(steps / plan.steps_per_epoch)
    assert list(plan.batches(0)) == list(Plan.of(examples, batch_size, 1, None, None, None).batches(0))[:steps]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 500), st.none() | st.integers(1, 9),
       st.none() | st.integers(1, 9))  # fmt: skip
def test_rows_and_kept_weights_fall_on_epochs_and_the_end(examples, batch_size, steps, collect, evaluate):
    plan = Plan.of(examples, batch_size, None, steps, collect, evaluate)
    kept, rows = plan.collected(), plan.evaluated()
    per_epoch = plan.steps_per_epoch
    expected = [step for step in range(steps) if collect and step % (collect * per_epoch) == 0]
    assert kept == [*expected, steps]
    assert set(kept) <= set(rows)
    if evaluate:
        every = [step for step in range(1, steps) if step % (evaluate * per_epoch) == 0]
        assert rows == sorted({*every, *kept})
    elif not collect:
        assert len(rows) <= HISTORY_ROWS
    assert all(isinstance(plan.epoch(step), int) for step in kept[:-1])


def test_epochs_and_steps_are_two_ways_to_say_the_same():
    assert Plan.of(22, 8, 2, None, 1, 1) == Plan.of(22, 8, None, 6, 1, 1)


@given(
    examples=st.integers(1, 200), batch_size=st.integers(1, 60), reference=st.integers(1, 60), epochs=st.integers(1, 5)
)
def test_held_steps_are_those_of_the_reference_whatever_the_batch_size(examples, batch_size, reference, epochs):
    held, free = (Schedule("constant", 0.0, 0.3, 0.1, "none", reference, hold) for hold in ("steps", "epochs"))
    plan = Plan.of(examples, batch_size, epochs, None, None, None, held.counted_by)
    of_reference = Plan.of(examples, reference, epochs, None, None, None)
    assert plan.steps == of_reference.steps == epochs * math.ceil(examples / reference)
    assert Plan.of(examples, reference, epochs, None, None, None, held.counted_by) == of_reference
    own = Plan.of(examples, batch_size, epochs, None, None, None, free.counted_by)
    assert own == Plan.of(examples, batch_size, epochs, None, None, None)
    assert len(plan.evaluated()) <= HISTORY_ROWS


def test_typed_steps_go_before_held_ones():
    assert Plan.of(100, 10, None, 7, None, None, 64).steps == 7
