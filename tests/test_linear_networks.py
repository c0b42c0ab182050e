"""Linear networks: the global minimum against brute search, known saddles, and no poor local minima."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import beta
from torch import nn

from descend.generalization.linear_loss import LinearLoss, _by_newton, global_minimum
from descend.generalization.linear_networks import WHAT_IS_PROVED, PoorMinima, critical_points, poor_minima
from objectives import exact_hessian


def data(inputs=3, targets=3, examples=20, seed=0):
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, inputs, generator=source, dtype=torch.float64)
    slope = torch.randn(inputs, targets, generator=source, dtype=torch.float64)
    return x, x @ slope + 0.5 * torch.randn(examples, targets, generator=source, dtype=torch.float64)


def network(weights):
    model = nn.Sequential(*(nn.Linear(one.shape[1], one.shape[0], bias=False).double() for one in weights))
    with torch.no_grad():
        for layer, weight in zip(model, weights, strict=True):
            layer.weight.copy_(weight)
    return model


def half_squares(outputs, targets):
    return (outputs - targets).square().sum() / (2 * len(outputs))


def loss_of(weights, x, y):
    return float(half_squares(network(weights)(x).detach(), y))


# ---- the global minimum ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("inputs", "targets"), [(3, 3), (4, 2), (2, 4)])
def test_the_minimum_against_a_brute_search(inputs, targets, rank):
    """By SciPy over two factors of the product, in NumPy."""
    x, y = data(inputs, targets)
    found = global_minimum(x, y, [rank])
    source = np.random.default_rng(0)

    def value(flat):
        first, second = flat[: inputs * rank].reshape(inputs, rank), flat[inputs * rank :].reshape(rank, targets)
        left = x.numpy() @ first @ second - y.numpy()
        slopes = x.numpy().T @ left @ second.T, (x.numpy() @ first).T @ left
        return (left**2).sum() / (2 * len(left)), np.concatenate([one.ravel() for one in slopes]) / len(left)

    ends = [
        minimize(value, source.normal(size=rank * (inputs + targets)), jac=True, options={"gtol": 1e-9})
        for _ in range(5)
    ]
    assert found.loss == pytest.approx(min(end.fun for end in ends), rel=1e-9)
    assert found.rank == rank
    assert float(half_squares(x @ found.product.T, y)) == pytest.approx(found.loss, rel=1e-12)
    assert torch.linalg.matrix_rank(found.product, rtol=1e-10) == min(rank, inputs, targets)


def test_the_minimum_by_eigenvalues_as_in_the_paper():
    """(tr YY' - the p largest eigenvalues of YX' (XX')^-1 XY') / 2, in NumPy, with columns as examples."""
    x, y = data(5, 4)
    columns, outputs = x.numpy().T, y.numpy().T
    across = outputs @ columns.T
    eigenvalues = np.sort(np.linalg.eigvalsh(across @ np.linalg.inv(columns @ columns.T) @ across.T))[::-1]
    for widths in ([1], [3, 2], [4, 7, 3], [9]):
        kept = eigenvalues[: min(widths)].sum()
        found = global_minimum(x, y, widths)
        assert found.loss == pytest.approx((np.trace(outputs @ outputs.T) - kept) / 40, rel=1e-10)
        assert found.strengths == pytest.approx((eigenvalues / 40).tolist(), rel=1e-10)
        assert found.assumptions.gap == pytest.approx(-np.diff(eigenvalues).max() / eigenvalues[0], rel=1e-10)
        assert found.at_origin == pytest.approx(np.trace(outputs @ outputs.T) / 40)


def test_wide_layers_reach_least_squares():
    x, y = data(3, 3)
    least = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[1].sum() / (2 * len(x))
    assert global_minimum(x, y, [3, 8]).loss == pytest.approx(least, rel=1e-12)
    assert global_minimum(*data(6, 2, examples=4), [2]).loss == pytest.approx(0, abs=1e-25)


def test_what_the_theorem_assumes_is_measured():
    x, y = data()
    assert global_minimum(x, y, [2]).assumptions.hold
    twice = torch.cat([x, x[:, :1]], 1)
    few = global_minimum(twice, y, [2])
    assert few.assumptions.inputs < 1e-12
    assert not few.assumptions.hold
    assert few.loss == pytest.approx(global_minimum(x, y, [2]).loss, rel=1e-10)
    assert not global_minimum(x[:2], y[:2], [2]).assumptions.hold
    wide = global_minimum(*data(2, 3), [2]).assumptions
    assert not wide.fewer_targets
    assert not wide.hold
    equal = torch.linalg.qr(x).Q
    assert global_minimum(equal, equal, [2]).assumptions.gap < 1e-12
    assert global_minimum(x, y[:, :1], [2]).assumptions.gap == math.inf
    assert global_minimum(x, torch.cat([y[:, :1], y[:, :1]], 1), [2]).assumptions.correlation < 1e-12


# ---- critical points -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("widths", "count"), [([2], 7), ([3], 8), ([2, 3], 7), ([2, 2, 2], 7)])
def test_known_critical_points(widths, count):
    """Strict with one hidden layer; with more, those that keep fewer than p directions, the strongest, are not."""
    x, y = data()
    points = critical_points(x, y, widths)
    minimum = global_minimum(x, y, widths)
    kept = [one for size in range(minimum.rank + 1) for one in itertools.combinations(range(3), size)]
    assert len(points) == len(kept) == count
    for point, chosen in zip(points, kept, strict=True):
        lost = sum(one for place, one in enumerate(minimum.strengths) if place not in chosen)
        least = minimum.loss - sum(minimum.strengths[minimum.rank :])
        assert point.loss == pytest.approx(least + lost, rel=1e-10)
        assert point.loss == pytest.approx(loss_of(point.weights, x, y), rel=1e-12)
        assert point.gradient < 1e-12
        strongest = chosen == tuple(range(len(chosen)))
        if strongest and len(chosen) == minimum.rank:
            assert point.kind == "global"
            assert point.smallest > -1e-10
        elif strongest and len(widths) > 1:
            assert (point.kind, point.smallest > -1e-10) == ("saddle", True)
            assert point.lower < point.loss
        else:
            assert point.kind == "strict saddle"


@pytest.mark.parametrize("widths", [[2], [3, 2]])
def test_derivatives_against_those_of_a_network(widths):
    x, y = data()
    for point in critical_points(x, y, widths)[:4]:
        model = network(point.weights)
        eigenvalues = torch.linalg.eigvalsh(exact_hessian(model, [(x, y)], half_squares))
        assert (point.smallest, point.largest) == pytest.approx(
            (float(eigenvalues[0]), float(eigenvalues[-1])), abs=1e-10
        )
    loss = LinearLoss(x, y, widths, rtol=1e-8, seed=0)
    drawn = loss.start(torch.Generator().manual_seed(0), 1.0)
    seen = loss.looked_at(drawn)
    model = network(seen.weights)
    half_squares(model(x), y).backward()
    slope = torch.cat([value.grad.flatten() for value in model.parameters()]).norm() / ((x.T @ y).norm() / len(x))
    assert seen.gradient == pytest.approx(float(slope), rel=1e-10)
    assert seen.loss == pytest.approx(loss_of(seen.weights, x, y), rel=1e-12)
    assert seen.kind == "unfinished"


# ---- searches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [[2], [4], [2, 3], [2, 2, 2]])
def test_no_poor_minima_are_found(widths):
    x, y = data()
    generator = torch.get_rng_state()
    found = poor_minima(x, y, widths, starts=5)
    assert torch.equal(generator, torch.get_rng_state())
    assert found.counts == {"global": 5, "strict saddle": 0, "saddle": 0, "poor": 0, "unfinished": 0}
    assert found.poor == 0
    for one in found.found:
        assert abs(one.excess) < 1e-10
        assert one.gradient < 1e-8
        assert one.smallest > -1e-6 * one.largest
        product = torch.linalg.multi_dot(one.weights[::-1])
        torch.testing.assert_close(product, found.minimum.product, rtol=0, atol=1e-5)
    assert found.minimum.assumptions.hold
    again = poor_minima(x, y, widths, starts=5)
    assert [one.loss for one in again.found] == [one.loss for one in found.found]
    different = poor_minima(x, y, widths, starts=1, seed=1)
    assert not torch.equal(different.found[0].weights[0], found.found[0].weights[0])


@pytest.mark.parametrize("widths", [[2], [2, 3], [2, 2, 2]])
def test_the_saddle_at_the_origin(widths):
    """With one hidden layer its Hessian has the singular values of X'Y / examples, and their negatives; else 0."""
    x, y = data()
    origin = poor_minima(x, y, widths, starts=1).origin
    strength = float(torch.linalg.matrix_norm(x.T @ y, 2)) / len(x) if len(widths) == 1 else 0.0
    assert (origin.smallest, origin.largest) == pytest.approx((-strength, strength), rel=1e-10)
    assert origin.gradient == 0
    if len(widths) == 1:
        assert (origin.kind, origin.lower) == ("strict saddle", None)
    else:
        assert origin.kind == "saddle"
        assert origin.lower < origin.loss


def test_a_poor_minimum_would_be_seen(monkeypatch):
    """A loss with two wells, of which the shallow one is poor: what the theorem rules out is not ruled out by us."""
    x, y = data(1, 1)
    loss = LinearLoss(x, y, [1], rtol=1e-8, seed=0)

    def wells(self, point):
        return self.minimum.loss + (point[0].square() - 1).square() + 0.2 * (1 + point[0]) + point[1].square()

    monkeypatch.setattr(LinearLoss, "value", wells)
    shallow = loss.looked_at(loss.searched(torch.tensor([1.2, 0.1], dtype=torch.float64), 100))
    assert shallow.kind == "poor"
    assert shallow.smallest > 0.1
    assert shallow.lower == pytest.approx(shallow.loss, abs=1e-8)


def test_newtons_method_leaves_saddles_and_ends_in_flat_valleys():
    """x^2 - y^2 / 2 + y^4 / 4 has minima at y = 1 and -1; of the third number it does not depend."""

    def value(point):
        return point[0].square() - point[1].square() / 2 + point[1] ** 4 / 4

    for side in (1.0, -1.0):
        end = _by_newton(value, torch.tensor([0.5, 1e-3 * side, 7.0], dtype=torch.float64), 50, 1e-12)
        assert end.tolist() == pytest.approx([0.0, side, 7.0], abs=1e-12)


def test_starts_near_the_flat_origin_end_at_the_minimum():
    found = poor_minima(*data(), [3, 2, 4], starts=4, scale=0.1)
    assert found.counts["global"] == 4


def test_a_search_that_ends_early_is_not_counted():
    found = poor_minima(*data(), [2, 3], starts=2, iterations=1)
    assert found.counts["unfinished"] == 2
    assert (found.poor, found.share_bound) == (0, 1.0)


@pytest.mark.parametrize(("poor", "starts"), [(0, 10), (0, 200), (3, 20)])
def test_the_bound_of_the_share(poor, starts):
    x, y = data()
    one = poor_minima(x, y, [2], starts=1)
    ends = [one.found[0]] * (starts - poor) + [poor_end(one.found[0])] * poor
    found = PoorMinima(ends, one.origin, one.minimum, (2,), 0, 1.0, 1e-8)
    assert found.share_bound == pytest.approx(beta.ppf(0.95, poor + 1, starts - poor), rel=1e-9)


def poor_end(end):
    return type(end)(**{**vars(end), "kind": "poor"})


def test_data_that_are_on_one_line_or_in_single_precision():
    x, y = data(1, 1)
    assert poor_minima(x.float(), y.float(), [1, 1], starts=3).counts["global"] == 3


def test_what_is_proved_is_said_of_each_source():
    said = " ".join(WHAT_IS_PROVED)
    for source in ("Baldi & Hornik 1989", "1605.07110", "1710.05468", "1802.03487"):
        assert source in said


# ---- wrong arguments -------------------------------------------------------------------------------------------------

X, Y = data()


@pytest.mark.parametrize("function", [global_minimum, critical_points, poor_minima])
@pytest.mark.parametrize(
    ("inputs", "targets", "widths", "words"),
    [
        (X[0], Y, [2], "inputs must be a matrix"),
        (X.tolist(), Y, [2], "inputs must be a matrix"),
        (X, Y[:, :0], [2], "targets must be a matrix"),
        (X, Y[:3], [2], "there are 20 inputs and 3 targets"),
        (X * torch.nan, Y, [2], "inputs has values that are not finite"),
        (X, Y, [], "widths is empty"),
        (X, Y, [0], "a width is 0"),
        (X, Y, [2.0], "a width is 2.0"),
    ],
)
def test_wrong_data(function, inputs, targets, widths, words):
    with pytest.raises(ValueError, match=words):
        function(inputs, targets, widths)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"starts": 0}, "starts is 0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"scale": 0}, "scale is 0"),
        ({"rtol": 2}, "rtol is 2"),
        ({"seed": None}, "seed is None"),
        ({"widths": [200]}, "the network has 1200 weights"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        poor_minima(X, Y, **{"widths": [2], **options})


def test_data_of_which_nothing_can_be_said():
    with pytest.raises(ValueError, match="do not correlate"):
        poor_minima(X, 0 * Y, [2])
    with pytest.raises(ValueError, match="choices of directions"):
        critical_points(*data(9, 9), [9])
