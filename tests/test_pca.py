"""Principal components against scikit-learn, planted paths and closed forms; chance against walks that are walked."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from hw1.measures import pca
from hw1.measures.pca import Components, Lengths, Walk, centring, chance, gram, loadings

some = settings(deadline=None, max_examples=20)


def states(seed, epochs, networks, shape):
    """Per epoch a tensor (R, …), as a run stores them."""
    values = np.random.default_rng(seed).standard_normal((epochs, networks, *shape)).cumsum(0)
    return [torch.from_numpy(value) for value in values]


def rows_of(stored):
    return torch.cat([state.reshape(len(state), -1) for state in stored]).numpy()


def components(stored, kind="mean", networks=None):
    count = len(stored[0]) if networks is None else len(networks)
    centre = centring(kind, len(stored), count)
    return Components.of(centre @ gram(stored, networks) @ centre.T)


shapes = st.sampled_from([(3,), (7, 5), (2, 3, 3, 3), ()])


@some
@given(st.integers(0, 99), st.integers(2, 5), st.integers(1, 4), shapes, st.integers(1, 40))
def test_equals_scikit_learn_whatever_the_blocks(seed, epochs, networks, shape, width):
    stored = states(seed, epochs, networks, shape)
    rows = rows_of(stored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pca, "BLOCK", width * len(rows))
        found = components(stored)
        combination = centring("mean", epochs, networks).T @ found.combination()
        axes = loadings(stored, None, combination).numpy()
    known = PCA(svd_solver="full").fit(rows)
    count = min(2, len(known.explained_variance_ratio_))
    np.testing.assert_allclose(found.ratio[:count], known.explained_variance_ratio_[:count], atol=1e-10)
    scores = known.transform(rows)[:, :count]
    gap = np.diff(-np.append(known.explained_variance_ratio_, 0))[:count].min()  # equal ones have no axes of their own
    if gap > 1e-3:
        np.testing.assert_allclose(
            found.scores[:, :count].abs().numpy(), np.abs(scores), atol=1e-6 * np.abs(rows).max()
        )
        np.testing.assert_allclose(np.abs(axes[:, :count]), np.abs(known.components_[:count].T), atol=1e-6)


@some
@given(st.integers(0, 99), st.integers(2, 5), st.integers(1, 4), shapes, st.sampled_from(["mean", "final"]))
def test_pythagoras(seed, epochs, networks, shape, kind):
    found = components(states(seed, epochs, networks, shape), kind)
    total = found.scores[:, :2].square().sum(1) + found.residuals().square()
    torch.testing.assert_close(total, found.distances.square(), rtol=1e-9, atol=1e-12)


def test_a_path_in_a_plane_has_two_components_and_one_on_a_line_has_one():
    generator = np.random.default_rng(0)
    plane = generator.standard_normal((12, 2)) @ generator.standard_normal((2, 400)) + generator.standard_normal(400)
    found = components([torch.from_numpy(row)[None] for row in plane])
    assert found.ratio[:2].sum().item() == pytest.approx(1, abs=1e-14)
    assert (found.values[2:] == 0).all()
    assert found.residuals().max() < 1e-6 * found.distances.max()
    line = np.linspace(0, 1, 9)[:, None] ** 2 * plane[0] + plane[1]
    found = components([torch.from_numpy(row)[None] for row in line])
    assert found.ratio[0].item() == pytest.approx(1, abs=1e-14)
    assert (found.scores[:, 1] == 0).all()


def test_final_centring_subtracts_every_networks_own_end():
    stored = states(3, 4, 3, (20,))
    rows = rows_of(stored) - np.tile(stored[-1].numpy(), (4, 1))
    found = components(stored, "final")
    values = np.linalg.svd(rows, compute_uv=False) ** 2
    np.testing.assert_allclose(found.ratio[:9], values[:9] / values.sum(), atol=1e-12)
    np.testing.assert_allclose(found.distances, np.linalg.norm(rows, axis=1), atol=1e-7)
    with pytest.raises(ValueError, match="unknown centring 'median'"):
        centring("median", 2, 2)


def test_networks_can_be_left_out():
    stored = states(1, 3, 5, (11,))
    chosen = [state[[0, 2, 4]] for state in stored]
    torch.testing.assert_close(gram(stored, [0, 2, 4]), gram(chosen))


def test_a_far_away_centre_costs_no_digits():
    stored = states(2, 4, 2, (30,))
    torch.testing.assert_close(gram([state + 1e6 for state in stored]), gram(stored), rtol=1e-7, atol=1e-7)


def test_signs_follow_the_largest_score():
    scores = components(states(5, 4, 3, (50,))).scores[:, :4]
    assert (scores.gather(0, scores.abs().argmax(0, keepdim=True)) > 0).all()


def test_nothing_that_moves():
    found = components([torch.ones(2, 5, dtype=torch.float64)] * 3)
    assert found.ratio.isnan().all()
    assert found.residuals().tolist() == [0.0] * 6
    assert (found.combination() == 0).all()


@some
@given(st.integers(0, 99), st.integers(2, 5), st.integers(1, 4))
def test_lengths(seed, epochs, networks):
    stored = states(seed, epochs, networks, (6,))
    found = Lengths.of(gram(stored), epochs, networks)
    paths = torch.stack(stored)  # (T, R, P)
    torch.testing.assert_close(found.steps, (paths[1:] - paths[:-1]).square().sum(2))
    torch.testing.assert_close(found.ends, (paths[-1] - paths[0]).square().sum(1))
    spread = paths[0].var(0).sum().item() if networks > 1 else 0.0
    assert found.spread == pytest.approx(spread, abs=1e-10)


# ---- chance ----


def limit(spread, steps, networks, kind="mean"):
    (shares,) = chance([Walk(math.inf, spread, steps)], networks, centring(kind, len(steps) + 1, networks), 9).numpy()
    return shares


def test_a_long_random_walk_has_the_known_shares():
    shares = limit(0.0, [1.0] * 500, 1)
    assert shares[:2] == pytest.approx([6 / math.pi**2, 6 / (4 * math.pi**2)], abs=1e-3)
    assert shares[:2] == pytest.approx([0.608, 0.152], abs=1e-3)


@pytest.mark.parametrize("rows", [2, 3, 11, 40])
def test_a_short_random_walk_has_the_eigenvalues_of_a_chain(rows):
    values = 1 / (4 * np.sin(np.pi * np.arange(1, rows) / (2 * rows)) ** 2)  # of the path graph's inverse Laplacian
    np.testing.assert_allclose(limit(0.0, [0.7] * (rows - 1), 1)[:-1], values / values.sum(), atol=1e-12)


@pytest.mark.parametrize("networks", [2, 3, 8])
def test_starts_that_never_move_share_equally(networks):
    shares = limit(2.5, [0.0] * 4, networks)
    np.testing.assert_allclose(shares[: networks - 1], 1 / (networks - 1), atol=1e-12)
    assert shares[networks - 1 :].max() < 1e-12
    assert np.isnan(limit(2.5, [0.0] * 4, networks, "final")).all()  # nothing is left to look at


@pytest.mark.parametrize("kind", ["mean", "final"])
def test_many_parameters_approach_the_limit(kind):
    walks, centre = [Walk(10**9, 3.0, [1.0, 2.0, 0.5])], centring(kind, 4, 3)
    found = chance(walks, 3, centre, 8).mean(0)
    np.testing.assert_allclose(found, limit(3.0, [1.0, 2.0, 0.5], 3, kind), atol=1e-3)


@pytest.mark.parametrize(("first", "second"), [(7, 60), (300, 20)])
def test_chance_is_what_walks_of_so_few_parameters_give(first, second):
    """Against walks that are walked, in two tensors with lengths of their own."""
    networks, draws = 3, 1500
    walks = [Walk(first, 4.0, [1.0, 2.0]), Walk(second, 0.5, [3.0, 0.1])]
    random = np.random.default_rng(1)
    shares = []
    for _ in range(draws):
        parts = []
        for walk in walks:
            lengths = np.sqrt([walk.spread, *walk.steps])[:, None, None]
            steps = lengths * random.standard_normal((3, networks, walk.parameters)) / np.sqrt(walk.parameters)
            parts.append(steps.cumsum(0).reshape(3 * networks, -1))
        rows = np.concatenate(parts, axis=1)
        values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
        shares.append(values / values.sum())
    found = chance(walks, networks, centring("mean", 3, networks), draws).numpy()
    known = np.array(shares)
    error = np.sqrt((found.var(0) + known.var(0)) / draws)
    assert (np.abs(found.mean(0) - known.mean(0)) < 4.5 * error + 1e-12).all()
    np.testing.assert_allclose(found.std(0), known.std(0), rtol=0.15, atol=1e-12)


def test_the_same_seed_draws_the_same():
    centre = centring("mean", 2, 3)
    draws = [chance([Walk(50, 1.0, [1.0])], 3, centre, 5, seed) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
