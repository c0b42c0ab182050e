"""Lines and planes between solutions, against losses whose barriers are known in closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from descend.generalization import Measured, Path, Plane, Surface, barriers, interpolate, path, surface


def state(*weights, mean=0.0, count=0):
    return {
        "w": torch.tensor(weights, dtype=torch.float64),
        "norm.running_mean": torch.tensor([mean]),
        "norm.num_batches_tracked": torch.tensor(count),
    }


def bowl(curvature):
    """A quadratic loss; between a and b it is above the line by -curvature / 2 * t (1 - t) |b - a|^2."""
    return lambda point: {"loss": 0.5 * curvature * float(point["w"].square().sum()) + float(point["w"].sum())}


numbers = st.floats(-1e3, 1e3, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5), st.floats(-1, 2))
def test_interpolation_is_that_of_numpy(pairs, amount):
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
    found = interpolate({"w": first}, {"w": second}, amount)["w"]
    exact = (1 - amount) * first.double().numpy() + amount * second.double().numpy()
    np.testing.assert_array_equal(found.numpy(), exact.astype(np.float32))


def test_the_ends_are_given_back_and_whole_numbers_come_from_the_nearer():
    first, second = state(-0.0, math.inf, count=1), state(1.0, math.nan, count=2)
    for amount, end in ((0, first), (1.0, second)):
        found = interpolate(first, second, amount)
        assert found["w"].view(torch.int64).tolist() == end["w"].view(torch.int64).tolist()
        assert found["w"] is not end["w"]
    counts = [interpolate(first, second, amount)["norm.num_batches_tracked"].item() for amount in (0.5, 0.51)]
    assert counts == [1, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_other_types_are_rounded_once(dtype):
    first, second = torch.tensor([1.0, 3.0]).to(dtype), torch.tensor([2.0, -1.0]).to(dtype)
    found = interpolate({"w": first}, {"w": second}, 0.3)["w"]
    exact = 0.7 * first.to(torch.complex128) + 0.3 * second.to(torch.complex128)
    assert found.dtype == dtype
    assert torch.equal(found, (exact if dtype.is_complex else exact.real).to(dtype))


def test_a_path_evaluates_each_point_once_and_none_of_the_ends_when_they_are_known():
    seen = []

    def evaluate(point):
        seen.append(point["w"].item())
        return Measured(point["w"].item() ** 2, point["w"].item() / 10)

    whole = path(state(1.0), state(3.0), evaluate, points=5)
    assert seen == [1, 1.5, 2, 2.5, 3]
    assert whole == Path([0, 0.25, 0.5, 0.75, 1], [1, 2.25, 4, 6.25, 9], [0.1, 0.15, 0.2, 0.25, 0.3])
    seen.clear()
    assert path(state(1.0), state(3.0), evaluate, points=5, ends=(Measured(1, 0.1), Measured(9, 0.3))) == whole
    assert seen == [1.5, 2, 2.5]
    assert whole.barrier == 0
    assert whole.error_barrier == pytest.approx(0)
    assert path(state(1.0), state(3.0), bowl(1)).errors is None


@given(numbers, numbers, st.floats(-10, 10))
def test_the_barrier_of_a_quadratic_is_its_curvature(first, second, curvature):
    found = path(state(first), state(second), bowl(curvature), points=3).barrier
    apart = (second - first) ** 2
    assert found == pytest.approx(max(0, -curvature / 8 * apart), rel=1e-9, abs=1e-9 * (1e3 + abs(curvature) * 1e6))


@pytest.mark.parametrize(
    ("losses", "barrier"),
    [
        ([0, 1, 2], 0),
        ([0, 0.5, 2], 0),
        ([0, 3, 2], 2),
        ([0, math.inf, 2], math.inf),
        ([0, math.nan, 2], math.inf),
        ([math.nan, 1, 2], None),
        ([0, 1, math.inf], None),
    ],
)
def test_losses_that_are_not_finite(losses, barrier):
    assert Path([0, 0.5, 1], losses).barrier == barrier
    assert Path([0, 0.5, 1], [0, 0, 0], losses).error_barrier == barrier


class Lazy:
    def __init__(self, states):
        self.states, self.reads = states, []

    def __len__(self):
        return len(self.states)

    def __getitem__(self, place):
        self.reads.append(place)
        return self.states[place]


def test_barriers_of_all_pairs():
    weights, called, told = (-1.0, 0.0, 3.0, 3.0), [], []

    def evaluate(point):
        called.append(point)
        return bowl(-2)(point)

    states = Lazy([state(weight) for weight in weights])
    found = barriers(states, evaluate, points=5, progress=lambda done, total: told.append((done, total)))
    expected = [[(a - b) ** 2 / 4 for a in weights] for b in weights]
    np.testing.assert_allclose(np.array(found.matrix), expected, atol=1e-12)
    assert found.largest == pytest.approx(4)
    assert set(found.paths) == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert found.paths[0, 2].losses[0] == bowl(-2)(state(-1.0))["loss"]
    assert len(called) == 4 + 6 * 3
    assert told == [(done, 22) for done in range(1, 23)]
    assert states.reads[4:] == [0, 1, 2, 3, 0, 1, 2, 3, 1, 2, 3, 2, 3]


def test_a_state_that_diverged_has_no_barriers():
    found = barriers([state(0.0), state(1.0), state(math.nan)], bowl(-8))
    assert found.matrix == [[0, 1, None], [1, 0, None], [None, None, 0]]
    assert found.largest == 1


# planes


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


def flat(one, names):
    return np.concatenate([one[name].double().numpy().ravel() for name in names])


def test_a_plane_through_three_networks():
    models = [network(seed) for seed in range(3)]
    names = [name for name, _ in models[0].named_parameters()]
    states = [model.state_dict() for model in models]
    plane = Plane.through(*states, names=names)
    first, second, third = (flat(one, names) for one in states)
    (x1, y1), (x2, y2), (x3, y3) = plane.coordinates
    assert (x1, y1, y2) == (0, 0, 0)
    assert x2 == pytest.approx(np.linalg.norm(second - first))
    assert math.hypot(x3, y3) == pytest.approx(np.linalg.norm(third - first))
    assert math.hypot(x3 - x2, y3) == pytest.approx(np.linalg.norm(third - second))
    u, v = (flat(direction, names) for direction in (plane.across, plane.up))
    np.testing.assert_allclose([[u @ u, u @ v], [v @ u, v @ v]], np.eye(2), atol=1e-14)
    for solution, point in zip(states, plane.coordinates, strict=True):
        torch.testing.assert_close(plane.at(*point), dict(solution), rtol=1e-6, atol=1e-7)
        assert plane.project(solution) == pytest.approx((*point, 0), abs=1e-12)
    assert set(Plane.through(*states).across) == set(names)


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0, 10))
def test_projections_come_back(x, y, away):
    plane = Plane.through(state(0.0, 0.0, 1.0), state(2.0, 0.0, 1.0), state(1.0, -3.0, 1.0))
    point = plane.at(x, y)
    assert point["w"].tolist() == pytest.approx([x, -y, 1])
    point["w"][2] += away
    assert plane.project(point) == pytest.approx((x, y, away), abs=1e-12)


def test_what_is_no_weight_comes_from_the_nearest_solution():
    solutions = [state(0.0, 0.0, mean=1, count=1), state(2.0, 0.0, mean=2, count=2), state(0.0, 2.0, mean=3, count=3)]
    plane = Plane.through(*solutions)
    for point, number in (((0.9, 0.1), 1), ((1.1, 0.1), 2), ((-1, 5), 3)):
        found = plane.at(*point)
        assert found["norm.running_mean"].item() == found["norm.num_batches_tracked"].item() == number
    found["norm.running_mean"].zero_()
    assert solutions[2]["norm.running_mean"].item() == 3


def test_a_surface():
    plane, told = Plane.through(state(0.0, 0.0), state(2.0, 0.0), state(0.0, 1.0)), []

    def evaluate(point):
        x, y = point["w"].tolist()
        return {"loss": x + 100 * y, "error": x}

    found = surface(plane, evaluate, points=3, margin=0.5, progress=lambda *counts: told.append(counts))
    losses = [[-51, -49, -47], [49, 51, 53], [149, 151, 153]]
    assert found == Surface([-1, 1, 3], [-0.5, 0.5, 1.5], losses, [[-1, 1, 3]] * 3)
    assert told == [(done, 9) for done in range(1, 10)]
    assert surface(plane, lambda point: Measured(math.nan), points=2).errors is None


def test_solutions_on_one_line_have_no_plane_also_when_rounded():
    first, second = (network(seed).state_dict() for seed in range(2))
    between = interpolate(first, second, 0.3)
    for solutions, message in (
        ((first, first, second), "first and second are the same"),
        ((first, second, first), "third lies on the line"),
        ((first, second, between), "third lies on the line"),
    ):
        with pytest.raises(ValueError, match=f"{message}.*; give three different solutions"):
            Plane.through(*solutions)


A, B, C = state(0.0, 0.0), state(1.0, 0.0), state(0.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interpolate(A, B, math.nan), "give a finite number"),
        (lambda: interpolate(A, {"w": A["w"]}, 0.5), "'norm.running_mean'"),
        (lambda: interpolate(A, state(1.0), 0.5), r"'w' has the shape \(2,\)"),
        (lambda: interpolate(A, [1], 0.5), r"model.state_dict\(\)"),
        (lambda: path(A, B, bowl(1), points=2), "3 or more"),
        (lambda: path(A, B, lambda point: 1.0), "return Measured"),
        (lambda: path(A, B, lambda point: {"accuracy": 1.0}), "'accuracy'; return a 'loss'"),
        (lambda: barriers([A], bowl(1)), "2 or more"),
        (lambda: barriers([A, B, {}], pytest.fail), "'w'"),
        (lambda: Plane.through(A, B, C, names=["v"]), "'v', which is no floating tensor"),
        (lambda: Plane.through(A, B, C, names="w"), "list of names"),
        (lambda: Plane.through(A, B, state(0.0, math.nan)), "third has values in 'w'"),
        (lambda: Plane.through(A, B, C).at(0, math.inf), "finite coordinates"),
        (lambda: Plane.through(A, B, C).grid(1), "2 or more"),
        (lambda: Plane.through(A, B, C).grid(3, margin=-1), "from 0 up"),
    ],
)
def test_wrong_inputs(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
