"""Eigenvalues, trace and density of matrices that are known by their products."""

import math

import hypothesis.strategies as st
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from torch.nn.functional import cross_entropy

from dense_maps import DenseMap, of_network, rotated
from descend.generalization import (
    Hessian,
    NotConverged,
    Objective,
    spectral_density,
    supervised,
    top_eigenvalues,
    trace,
)
from descend.generalization.estimates import student
from objectives import Case, convolutional, normalized, perceptron

# ---- eigenvalues -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [perceptron, convolutional, normalized])
@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_eigenvalues_of_networks(make, which):
    case = Case.of(make)
    case.model.eval()
    exact = torch.linalg.eigvalsh(case.exact())
    order = {"largest": -exact, "smallest": exact, "magnitude": -exact.abs()}[which].argsort()
    curvature = Hessian(Objective(case.model, supervised(cross_entropy), case.batches))
    found = top_eigenvalues(curvature, 3, which=which, rtol=1e-8)
    assert found.converged
    torch.testing.assert_close(torch.tensor(found.values).double(), exact[order[:3]], rtol=1e-6, atol=1e-12)
    for value, vector, residual in zip(found.values, found.vectors.unbind(1), found.residuals, strict=True):
        assert vector.norm() == pytest.approx(1, rel=1e-12)
        assert (curvature @ vector - value * vector).norm() == pytest.approx(residual, abs=1e-12)


def test_it_stops_where_the_accuracy_is_reached_and_not_before():
    matrix = of_network(200)
    exact = torch.linalg.eigvalsh(matrix)
    spent = []
    for rtol in (1e-1, 1e-2, 1e-4, 1e-8):
        dense = DenseMap(matrix)
        found = top_eigenvalues(dense, rtol=rtol)
        assert found.products == dense.products
        assert found.residuals[0] <= rtol * found.values[0]
        assert (exact - found.values[0]).abs().min() <= found.residuals[0] + 1e-12
        assert rtol > 1e-2 or found.values[0] == pytest.approx(exact[-1].item(), rel=rtol)
        spent.append(found.products)
    assert spent == sorted(spent)
    assert spent[1] <= 12


def test_what_is_not_converged_is_never_returned_silently():
    with pytest.raises(NotConverged, match=r"after 3 products the residuals are .* max_products") as caught:
        top_eigenvalues(DenseMap(of_network(200)), 2, rtol=1e-6, max_products=3)
    result = caught.value.result
    assert not result.converged
    assert result.products == 3
    assert max(result.residuals) > 1e-6 * abs(result.values[0])
    assert result.vectors.shape == (200, 2)


def test_no_ghosts_in_long_runs():
    values = torch.cat([torch.linspace(-1, 1, 150), torch.tensor([50.0, 49.9])])
    found = top_eigenvalues(DenseMap(rotated(values)), 8, rtol=1e-10, max_products=152)
    torch.testing.assert_close(
        torch.tensor(found.values).double(), values.double().sort(descending=True).values[:8], rtol=1e-9, atol=0
    )


def test_tight_clusters_keep_the_basis_orthogonal():
    """Products that nearly lie in the basis lose their digits; orthogonalizing them once ends in nonsense."""
    clusters = [1e-9 * torch.arange(20).double() + middle for middle in (1.0, 1e2, 1e4)]
    values = torch.cat([*clusters, torch.linspace(-1e-6, 1e-6, 40).double()])
    found = top_eigenvalues(DenseMap(rotated(values)), 60, rtol=1e-8, max_products=100)
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(60).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.tensor(found.values[:20]).double(), clusters[2].flip(0), rtol=1e-9, atol=0)


def test_a_noisy_map_has_true_residuals():
    """What rounding to bfloat16 does: the residual stops falling, and says so."""
    dense = DenseMap(of_network(100), noise=1e-3)
    with pytest.raises(NotConverged) as caught:
        top_eigenvalues(dense, rtol=1e-6)
    result = caught.value.result
    true = (dense.matrix @ result.vectors[:, 0] - result.values[0] * result.vectors[:, 0]).norm()
    assert 0.3 * true < result.residuals[0] < 10 * true
    assert top_eigenvalues(DenseMap(of_network(100), noise=1e-3), rtol=2e-2).converged


@pytest.mark.parametrize("size", [1, 2, 7])
def test_zero_and_identity_end(size):
    for scale in (0.0, 1.0):
        found = top_eigenvalues(DenseMap(scale * torch.eye(size)), size, rtol=1e-8)
        assert found.values == pytest.approx([scale] * size)
        assert found.products == size


def test_a_start_at_the_answer_takes_one_product():
    matrix = of_network()
    vector = torch.linalg.eigh(matrix).eigenvectors[:, -1]
    assert top_eigenvalues(DenseMap(matrix), start=3 * vector).products == 1


def test_eigenvalues_leave_generators_alone_and_repeat():
    before = torch.get_rng_state()
    first, second = (top_eigenvalues(DenseMap(of_network()), 2, seed=4) for _ in range(2))
    assert torch.equal(first.vectors, second.vectors)
    assert not torch.equal(first.vectors, top_eigenvalues(DenseMap(of_network()), 2, seed=5).vectors)
    assert torch.equal(torch.get_rng_state(), before)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_residuals_bound_how_far_an_eigenvalue_is(values, seed):
    dense = DenseMap(rotated(values, seed))
    exact = torch.linalg.eigvalsh(dense.matrix)
    found = top_eigenvalues(dense, rtol=1e-3, seed=seed)
    assert (exact - found.values[0]).abs().min() <= found.residuals[0] + 1e-9
    assert found.values[0] == pytest.approx(exact[-1].item(), rel=1e-2, abs=1e-2 * max(1e-6, exact.abs().max().item()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 61}, "k is 61, but the matrix has 60"),
        ({"k": True}, "k is True"),
        ({"which": "biggest"}, "which is 'biggest'"),
        ({"rtol": 0}, "rtol is 0"),
        ({"rtol": math.nan}, "rtol is nan"),
        ({"max_products": 0}, "max_products is 0"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"start": torch.zeros(60)}, "start is no finite vector"),
        ({"start": torch.ones(3)}, "start is no finite vector"),
    ],
)
def test_wrong_arguments_of_eigenvalues(options, words):
    with pytest.raises(ValueError, match=words):
        top_eigenvalues(DenseMap(of_network()), **options)


@pytest.mark.parametrize("run", [top_eigenvalues, trace, spectral_density])
def test_products_that_are_not_finite(run):
    with pytest.raises(ValueError, match="not finite"):
        run(DenseMap(torch.full((4, 4), math.nan)))


# ---- trace -----------------------------------------------------------------------------------------------------------


def test_the_trace_over_a_whole_basis():
    case = Case.of(convolutional)
    curvature = Hessian(Objective(case.model, supervised(cross_entropy), case.batches))
    exact = case.exact().trace().item()
    found = trace(curvature, "exact")
    assert found.value == pytest.approx(exact, rel=1e-6)
    assert (found.standard_error, found.interval, found.samples) == (0, (found.value, found.value), 0)
    assert found.products == curvature.size
    whole = trace(curvature, "hutch++", probes=3 * curvature.size)
    assert whole.value == pytest.approx(exact, rel=1e-6)
    assert whole.standard_error == 0


@pytest.mark.parametrize(("method", "probes"), [("hutchinson", 30), ("hutch++", 60)])
def test_estimates_are_unbiased_and_intervals_cover_the_truth(method, probes):
    matrix = of_network()
    truth = matrix.trace().item()
    found = [trace(DenseMap(matrix), method, probes=probes, seed=seed) for seed in range(400)]
    values = torch.tensor([one.value for one in found]).double()
    error_of_mean = values.std().item() / 20
    assert abs(values.mean().item() - truth) < 3 * error_of_mean
    covered = sum(one.interval[0] <= truth <= one.interval[1] for one in found) / 400
    assert 0.92 <= covered <= 0.98
    stated = sum(one.standard_error**2 for one in found) / 400
    assert math.sqrt(stated) == pytest.approx(values.std().item(), rel=0.1)
    assert all(one.products == probes for one in found)


def test_the_variance_of_random_signs():
    matrix = of_network()
    samples = [trace(DenseMap(matrix), probes=200, seed=seed).standard_error ** 2 * 200 for seed in range(40)]
    expected = 2 * (matrix.square().sum() - matrix.diagonal().square().sum()).item()
    assert sum(samples) / 40 == pytest.approx(expected, rel=0.05)


def test_it_takes_thirty_samples_at_least_and_stops_at_the_accuracy():
    easy = DenseMap(torch.eye(50))
    assert trace(easy).samples == 30  # whose samples are all the same: two would have agreed
    found = trace(DenseMap(of_network()), rtol=0.04)
    assert found.standard_error <= 0.04 * abs(found.value)
    assert found.converged
    fewer = trace(DenseMap(of_network()), rtol=0.1)
    assert fewer.products < found.products
    with pytest.raises(NotConverged, match=r"after 40 products the trace is .* standard error") as caught:
        trace(DenseMap(of_network()), rtol=1e-4, max_products=40)
    assert not caught.value.result.converged
    assert caught.value.result.products == 40


def test_hutch_pp_gains_where_few_eigenvalues_hold_the_trace():
    matrix = rotated(torch.cat([torch.linspace(50, 10, 5), torch.full((95,), 0.01)]))
    plain = trace(DenseMap(matrix), probes=60)
    better = trace(DenseMap(matrix), "hutch++", probes=60)
    assert better.standard_error < 0.05 * plain.standard_error
    assert better.value == pytest.approx(matrix.trace().item(), rel=1e-3)


def test_the_accuracy_of_hutch_pp_is_that_of_the_whole_trace():
    """What is left beside the subspace may be far from accurate by itself."""
    values = torch.cat([torch.linspace(100, 50, 8), torch.randn(92, generator=torch.Generator().manual_seed(0))])
    found = trace(DenseMap(rotated(values)), "hutch++", rtol=0.05)
    left = found.value - values[:8].sum().item()
    assert found.samples == 30
    assert found.standard_error <= 0.05 * found.value
    assert found.standard_error > 0.05 * abs(left)


def test_probes_are_multiplied_together():
    dense = DenseMap(of_network())
    trace(dense, probes=30)
    assert (dense.products, dense.visits) == (30, 3)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 29, 30, 199])
def test_students_distribution(freedom):
    assert student(freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "xtrace"}, "method is 'xtrace'"),
        ({"probes": 1}, "probes is 1; give a whole number, 2"),
        ({"probes": 5, "method": "hutch++"}, "probes is 5; give a whole number, 6"),
        ({"rtol": 2}, "rtol is 2"),
        ({"max_products": 1}, "less than 2 samples"),
    ],
)
def test_wrong_arguments_of_the_trace(options, words):
    with pytest.raises(ValueError, match=words):
        trace(DenseMap(of_network()), **options)


# ---- density ---------------------------------------------------------------------------------------------------------


def test_moments_lie_within_their_standard_errors():
    matrix = of_network(150)
    exact = torch.linalg.eigvalsh(matrix)
    misses = []
    for seed in range(20):
        found, errors = spectral_density(DenseMap(matrix), steps=20, draws=20, seed=seed).moments(6)
        misses += [(found[k] - (exact ** (k + 1)).mean().item()) / errors[k] for k in range(6)]
    assert max(map(abs, misses)) < 5
    assert sum(abs(miss) < 2.09 for miss in misses) / len(misses) > 0.85  # Student's t with 19 degrees


def test_quadrature_is_exact_for_moments_of_its_starts():
    matrix = of_network(40)
    found = spectral_density(DenseMap(matrix), steps=4, draws=3)
    fuller = spectral_density(DenseMap(matrix), steps=40, draws=3)
    for power in range(1, 8):
        here, there = ((one.weights * one.nodes**power).sum(1) for one in (found, fuller))
        torch.testing.assert_close(here, there, rtol=1e-8, atol=1e-8)


def test_the_density_integrates_to_one_and_can_be_smoothed_anew():
    found = spectral_density(DenseMap(of_network(80)), steps=40, draws=10)
    grid = torch.linspace(-20, 30, 4001)
    for width in (None, 0.1, 1.0):
        mean, error = found.at(grid, width)
        assert torch.trapezoid(mean, grid.double()).item() == pytest.approx(1, abs=1e-3)
        assert (error >= 0).all()
    assert found.products == 400


def test_the_density_stops_at_the_accuracy_that_is_asked():
    matrix = of_network(150)
    coarse = spectral_density(DenseMap(matrix), steps=20, atol=0.1)
    fine = spectral_density(DenseMap(matrix), steps=20, atol=0.012)
    assert len(coarse.nodes) == 10
    assert 10 < len(fine.nodes) < 100
    assert fine.error <= 0.012 < spectral_density(DenseMap(matrix), steps=20, draws=len(fine.nodes) - 5).error
    bounds = torch.linspace(-3, 12, 500)
    assert max(fine.share_below(float(bound))[1] for bound in bounds) <= fine.error + 1e-12
    with pytest.raises(NotConverged, match=r"after 12 draws a share .* max_draws") as caught:
        spectral_density(DenseMap(matrix), steps=20, atol=1e-3, max_draws=12)
    assert caught.value.result.error > 1e-3
    assert caught.value.result.products == 12 * 20


def test_shares_of_the_spectrum():
    matrix = rotated(torch.cat([torch.full((30,), -1.0), torch.full((70,), 2.0)]))
    found = spectral_density(DenseMap(matrix), draws=40)
    share, error = found.share_below(0.0)
    assert abs(share - 0.3) < 4 * error
    assert found.nodes.shape == (40, 80)


def test_draws_advance_together_within_the_memory(monkeypatch):
    dense = DenseMap(of_network(60))
    together = spectral_density(dense, steps=10, draws=6)
    assert (dense.visits, dense.products) == (10, 60)
    monkeypatch.setattr("descend.generalization.density._MEMORY", 8 * 10 * 60 * 2)
    apart = spectral_density(DenseMap(of_network(60)), steps=10, draws=6)
    torch.testing.assert_close(apart.nodes, together.nodes, rtol=1e-9, atol=1e-9)


def test_small_and_degenerate_spectra():
    for matrix in (torch.zeros(3, 3), torch.eye(1), 2 * torch.eye(5)):
        found = spectral_density(DenseMap(matrix), draws=10)
        torch.testing.assert_close(found.weights.sum(1), torch.ones(10).double())
        assert found.moments(1)[0] == pytest.approx([matrix.diagonal().mean().item()])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draws": 1}, "draws is 1"),
        ({"max_draws": 1}, "max_draws is 1"),
        ({"atol": 0}, "atol is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"seed": None}, "seed is None"),
    ],
)
def test_wrong_arguments_of_the_density(options, words):
    with pytest.raises(ValueError, match=words):
        spectral_density(DenseMap(of_network()), **options)


def test_a_density_is_asked_sensibly():
    found = spectral_density(DenseMap(of_network()), draws=10, steps=5)
    with pytest.raises(ValueError, match="width is 0"):
        found.at([0.0], 0)
    with pytest.raises(ValueError, match="count is 0"):
        found.moments(0)
