"""Slices around a model whose centre is the model, and ways of training on a plane."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from dense_maps import of_network
from descend.averaging import recompute_batch_norm
from descend.generalization import (
    Objective,
    amounts,
    project_trajectory,
    random_directions,
    slice_line,
    slice_plane,
    slice_row,
    supervised,
)
from objectives import Case, assert_untouched, convolutional, normalized, perceptron, traces
from quadratics import quadratic


def objective(case, **options):
    return Objective(case.model, supervised(cross_entropy), case.batches, **options)


@pytest.mark.parametrize("make", [perceptron, convolutional, normalized])
def test_filters_of_a_direction_are_as_long_as_the_models(make):
    found = objective(Case.of(make))
    weights = found.split(found.weights())
    for direction in random_directions(found, 2):
        for name, part in found.split(direction).items():
            if part.ndim <= 1:
                assert not part.any(), name
            else:
                rows = [one.flatten(1).norm(dim=1) for one in (part, weights[name])]
                torch.testing.assert_close(rows[0], rows[1], rtol=1e-12, atol=0)
    layer = random_directions(found, 1, normalize="layer")[0]
    for name, part in found.split(layer).items():
        assert part.norm() == pytest.approx(weights[name].norm().item() if part.ndim > 1 else 0, rel=1e-12), name


def test_a_filter_of_zeros_stays_where_it_is():
    case = Case.of(perceptron)
    with torch.no_grad():
        case.model[0].weight[1] = 0
    direction = random_directions(objective(case), 1)[0]
    assert direction.isfinite().all()
    assert not objective(case).split(direction)["0.weight"][1].any()


def test_slices_of_a_quadratic():
    matrix, at = of_network(6), torch.linspace(-1, 1, 6).double()
    target = quadratic(at, matrix)
    first, second = torch.eye(6).double()[:2]
    found = slice_plane(target, [first, second], [-1.0, 0.0, 2.0], [-0.5, 0.0])
    for i, y in enumerate(found.ys):
        for j, x in enumerate(found.xs):
            point = at + x * first + y * second
            assert found.losses[i][j] == pytest.approx((point @ matrix @ point / 2).item(), rel=1e-12)
    assert found.cosine == 0
    assert found.center == target.value()
    line = slice_line(target, first, [-1.0, 0.0, 2.0])
    assert line.losses == [found.losses[1]]
    assert (line.ys, line.cosine, line.statistics) == ([0.0], None, "none")


def test_the_centre_is_the_model_and_nothing_is_left_behind():
    case = Case.of(normalized, torch.float32)
    case.batches = [(x.float(), y) for x, y in case.batches]
    found = objective(case)
    before = traces(case.model)
    seen = []
    plane = slice_plane(found, random_directions(found), amounts(5), amounts(3), lambda *said: seen.append(said))
    assert_untouched(before, traces(case.model))
    assert plane.center == found.value()
    assert plane.losses[1][2] == plane.center
    assert seen == [(done, 15) for done in range(1, 16)]
    assert abs(plane.cosine) < 0.7
    rows = [slice_row(found, random_directions(found), plane.xs, y) for y in plane.ys]
    assert rows == plane.losses


def test_statistics_are_the_models_or_recomputed_and_which_is_said():
    case = Case.of(normalized)
    fixed, renewed = objective(case), objective(case, recompute=case.batches)
    direction = random_directions(fixed, 1)[0]
    before = traces(case.model)
    lines = [slice_line(one, direction, amounts(3)) for one in (fixed, renewed)]
    assert_untouched(before, traces(case.model))
    assert [line.statistics for line in lines] == ["fixed", "recomputed"]
    for x, own, anew in zip(lines[0].xs, *(line.losses[0] for line in lines), strict=True):
        torch.nn.utils.vector_to_parameters(fixed.weights() + x * direction, case.model.parameters())
        assert objective(case).value() == pytest.approx(own, rel=1e-12)
        recompute_batch_norm(case.model, case.batches)
        assert objective(case).value() == pytest.approx(anew, rel=1e-12)
        assert own != pytest.approx(anew, rel=1e-3)
        case = Case.of(normalized)
        fixed = objective(case)


def test_directions_may_be_of_different_types():
    found = objective(Case.of(perceptron))
    first, second = random_directions(found)
    mixed = slice_plane(found, [first, second.float()], amounts(3), amounts(3))
    wide = slice_plane(found, [first, second.float().double()], amounts(3), amounts(3))
    assert mixed == wide


def test_losses_that_are_not_finite_are_kept():
    found = slice_line(quadratic([1.0], torch.ones(1, 1)), torch.ones(1).double(), [0.0, 1e200])
    assert found.losses == [[0.5, math.inf]]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda o, d: random_directions(o, 0), "count is 0"),
        (lambda o, d: random_directions(o, normalize="weight"), "normalize is 'weight'"),
        (lambda o, d: amounts(4), "points is 4; give an odd number"),
        (lambda o, d: amounts(1), "points is 1"),
        (lambda o, d: amounts(3, 0), "reach is 0"),
        (lambda o, d: slice_line(o, d[0], [-1.0, 1.0]), "xs must rise and have 0"),
        (lambda o, d: slice_line(o, d[0], [1.0, 0.0]), "xs must rise"),
        (lambda o, d: slice_line(o, d[0][1:]), "no finite vector"),
        (lambda o, d: slice_plane(o, d[:1]), "directions has 1"),
        (lambda o, d: slice_plane(o, d, ys=[math.nan, 0]), "ys must rise"),
        (lambda o, d: slice_row(o, d[:1], [0.0], 0.5), "y is 0.5, and directions has no second one"),
    ],
)
def test_wrong_arguments(run, words):
    found = objective(Case.of(perceptron))
    with pytest.raises(ValueError, match=words):
        run(found, random_directions(found))


# ---- trajectories ----------------------------------------------------------------------------------------------------


def way(points=12, size=30):
    steps = torch.randn(points, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return list(steps.cumsum(0))


def test_principal_directions_of_a_way():
    points = way()
    found = project_trajectory(points)
    moved = torch.stack(points) - points[-1]
    _, lengths, directions = torch.pca_lowrank(moved, 11, center=False, niter=50)
    assert found.explained == pytest.approx((lengths[:2] ** 2 / moved.square().sum()).tolist(), rel=1e-6)
    torch.testing.assert_close((found.directions @ directions[:, :2]).abs(), torch.eye(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.directions @ found.directions.T, torch.eye(2).double())
    assert found.coordinates[-1].tolist() == [0, 0]
    assert (found.coordinates[0] >= 0).all()
    whole = found.coordinates.square().sum(1) + found.distances**2
    torch.testing.assert_close(whole, moved.square().sum(1))
    coordinates, distance = found.project(points[3])
    assert coordinates == pytest.approx(found.coordinates[3].tolist())
    assert distance == pytest.approx(found.distances[3].item())


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("points", [3, 8, 25])
def test_the_grid_covers_the_way_and_has_its_end(points, margin):
    found = project_trajectory(way())
    for axis, along in zip(found.grid(points, margin), found.coordinates.T, strict=True):
        assert len(axis) == points
        assert 0 in axis
        assert axis == sorted(axis)
        beyond = margin * (along.max() - along.min()) - 1e-12
        assert axis[0] <= along.min() - beyond
        assert axis[-1] >= along.max() + beyond
        wasted = (axis[-1] - axis[0]) / (along.max() - along.min() + 2 * beyond)
        assert wasted <= 1 + 2 / (points - 2)


def test_a_grid_needs_two_directions():
    with pytest.raises(ValueError, match="give count=2"):
        project_trajectory(way(), 1).grid()


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (way(2), "way has 2 points; give 3"),
        ([torch.ones(3)] * 4, "less than 2 directions"),
        ([torch.full((1,), float(k)) for k in range(4)], "less than 2 directions"),
        ([torch.ones(3) * k for k in range(4)], "less than 2 directions"),
        ([torch.ones(3), torch.ones(2), torch.ones(3)], "different shapes"),
        ([torch.full((3,), math.nan), torch.ones(3), torch.zeros(3)], "not finite"),
    ],
)
def test_ways_without_a_plane(points, words):
    with pytest.raises(ValueError, match=words):
        project_trajectory(points)
