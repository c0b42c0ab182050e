"""Keskar's box, and worst case and average in a ball, against closed forms."""

import importlib.util
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from dense_maps import of_network
from descend.generalization import (
    NotConverged,
    Objective,
    average,
    box_sharpness,
    slice_line,
    supervised,
    unit_logits,
    worst_case,
)
from objectives import Case, assert_untouched, normalized, traces
from quadratics import quadratic

# ---- Keskar's box ----------------------------------------------------------------------------------------------------


def test_the_box_of_a_separable_quadratic():
    """The maximum is at the corner on the side of the gradient."""
    at, curvature, slope = [0.5, -2.0, 0.0], [4.0, 1.0, 3.0], [1.0, -0.5, 0.2]
    for eps in (1e-3, 0.1):
        bounds = [eps * (abs(x) + 1) for x in at]
        rise = sum(abs(s + c * x) * b + c * b * b / 2 for x, c, s, b in zip(at, curvature, slope, bounds, strict=True))
        objective = quadratic(at, torch.diag(torch.tensor(curvature)), slope, 2.0)
        found = box_sharpness(objective, eps)
        loss = objective.value()
        assert found.values == pytest.approx([100 * rise / (1 + loss)], rel=1e-9)
        assert (found.loss, found.dimensions, found.columns, found.stalled) == (loss, 3, None, 0)


def test_the_box_of_a_linear_loss_is_its_gradient():
    slope = torch.tensor([3.0, -1.0])
    found = box_sharpness(quadratic([1.0, 2.0], torch.zeros(2, 2), slope, 1.0), 0.01)
    assert found.mean == pytest.approx(100 * (3 * 0.01 * 2 + 1 * 0.01 * 3) / (1 + 2.0))


@pytest.mark.parametrize("columns", ["normal", "unit"])
def test_the_box_on_a_manifold_against_a_fine_search(columns):
    matrix = of_network(30)
    matrix = matrix @ matrix
    at = torch.linspace(-1, 1, 30)
    objective = quadratic(at, matrix, torch.ones(30), 1.0)
    found = box_sharpness(objective, 0.01, manifold=2, columns=columns, trials=1, seed=3, iterations=50)
    source = torch.Generator().manual_seed(3)
    frame = torch.randn(2, 30, generator=source, dtype=torch.float64).T
    frame = frame / frame.norm(dim=0) if columns == "unit" else frame
    bounds = 0.01 * ((torch.linalg.pinv(frame) @ at.double()).abs() + 1)
    corners = [objective.value(at.double() + frame @ (bounds * torch.tensor(c))) for c in _signs()]  # of a convex loss
    loss = objective.value()
    assert found.mean == pytest.approx(100 * (max(corners) - loss) / (1 + loss), rel=1e-8)


def _signs():
    return [[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)]


def test_a_stall_at_a_stationary_point_is_reported_and_a_nudge_helps():
    objective = quadratic([0.0, 0.0], torch.diag(torch.tensor([2.0, 1.0])))
    still = box_sharpness(objective, 0.1)
    assert (still.values, still.stalled, still.interval) == ([0.0], 1, None)
    nudged = box_sharpness(objective, 0.1, nudge=0.01)
    assert nudged.stalled == 0
    assert nudged.values == pytest.approx([100 * (0.01 + 0.005)] * 5)


def test_a_search_that_found_less_than_the_gradient_foretells_is_said_to_be_short():
    """The first step is as long as the gradient: its gain is too little to go on for, though the box is far larger."""
    objective = quadratic([0.0] * 3, torch.eye(3), [2e-5] * 3)
    corner = 100 * 3 * (2e-5 * 1e-3 + 1e-6 / 2)
    found = box_sharpness(objective)
    assert found.first_order == pytest.approx([100 * 3 * 2e-5 * 1e-3])
    assert found.mean < 0.01 * corner
    assert (found.stalled, found.short) == (0, 1)


def test_a_search_that_goes_as_far_as_the_gradient_is_not_short():
    """A linear loss rises by just that, of which rounding may not make a failure; in full space and on manifolds."""
    slope = torch.linspace(-3, 2, 7)
    objective = quadratic(torch.linspace(-1, 1, 7), torch.zeros(7, 7), slope, 9.0)
    for options in ({}, {"manifold": 2}, {"manifold": 2, "columns": "unit"}):
        found = box_sharpness(objective, 0.01, **options)
        assert found.short == 0
        assert found.values == pytest.approx(found.first_order, rel=1e-9)


def test_the_loss_is_that_of_the_path_that_the_search_takes():
    """The fast path of attention, which forward passes alone take, rounds otherwise; that is no rise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
        batches = [torch.randn(4, 5, 16)]
    objective = Objective(model, lambda model, batch: model(batch).square().mean(), batches, parameters=["norm2.bias"])
    assert box_sharpness(objective, 1e-3).loss == objective.value_and_gradient()[0]


def test_the_highest_loss_that_was_seen_counts():
    """A search on many waves may look at a place and come back to a lower one."""
    for seed in range(8):
        waves = 30 * torch.randn(12, 3, generator=torch.Generator().manual_seed(seed)).double()
        objective, seen = quadratic([0.1, 0.2, 0.3], torch.zeros(3, 3)), []

        def loss(model, batch, waves=waves, seen=seen):
            value = 20 + torch.sin(waves @ model()).sum()
            seen.append(value.item())
            return value

        objective._loss = loss
        found = box_sharpness(objective, 0.3, iterations=1)
        assert found.mean == pytest.approx(100 * (max(seen) - found.loss) / (1 + found.loss))
        assert found.evaluations == len(seen) - 2  # before and after, to see that the data repeat


def test_the_deviation_is_that_of_the_trials():
    found = box_sharpness(quadratic(torch.ones(20), torch.eye(20), None, 1.0), 1e-2, manifold=3)
    assert found.deviation == pytest.approx(torch.tensor(found.values).double().std().item())
    assert box_sharpness(quadratic([1.0], torch.eye(1)), 1e-2).deviation is None


def test_without_scipy_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'descend\[lab\]'"):
        box_sharpness(quadratic([0.0], torch.eye(1)))


def test_a_second_search_goes_on_where_gradients_are_small():
    """A loss that is flat at the weights and steep at the edge of the box: ten iterations begin with small steps."""
    objective = quadratic([0.0, 0.0], torch.zeros(2, 2))
    objective._loss = lambda model, batch: torch.exp(400 * model() - 30).sum()
    found = box_sharpness(objective, 0.1, iterations=2, ascent_steps=20)
    corner = 100 * (objective.value(torch.full((2,), 0.1).double()) - found.loss) / (1 + found.loss)
    assert found.values[0] < 0.01 * corner
    assert found.ascended == pytest.approx([corner])
    assert box_sharpness(objective, 0.1).ascended == []


@pytest.mark.parametrize("manifold", [None, 3])
def test_the_second_search_reaches_the_corner_of_a_convex_loss(manifold):
    matrix = of_network(20) @ of_network(20)
    objective = quadratic(torch.ones(20), matrix, None, 1.0)
    found = box_sharpness(objective, 1e-2, manifold=manifold, trials=2, ascent_steps=20)
    for first, second in zip(found.values, found.ascended, strict=True):
        assert second >= first
        assert second == pytest.approx(first, rel=1e-2)


def test_data_that_change_are_refused_where_all_weights_move():
    class Drawn:
        source = torch.Generator().manual_seed(0)

        def __iter__(self):
            yield torch.randn(4, 2, generator=self.source).double()

    def loss(model, batch):
        return (batch @ model()).square().mean()

    for measure in (
        box_sharpness,
        lambda objective: worst_case(objective, 0.1),
        lambda objective: average(objective, 0.1, samples=2),
        lambda objective: slice_line(objective, torch.ones(2), [0.0, 1.0]),
    ):
        objective = quadratic([1.0, 1.0], torch.zeros(2, 2))
        objective._loss, objective.batches = loss, Drawn()
        with pytest.raises(ValueError, match="the same in every pass"):
            measure(objective)


def test_trials_have_an_interval():
    objective = quadratic(torch.ones(20), of_network(20) @ of_network(20), None, 1.0)
    found = box_sharpness(objective, 1e-2, manifold=3)
    assert len(set(found.values)) == 5
    low, high = found.interval
    assert low < found.mean < high
    again = box_sharpness(objective, 1e-2, manifold=3)
    assert again.values == found.values
    assert box_sharpness(objective, 1e-2, manifold=3, seed=1).values != found.values


def test_a_loss_that_overflows_in_the_box_is_infinitely_sharp():
    objective = quadratic([1.0], torch.ones(1, 1), None, 0.0)
    objective._loss = lambda model, batch: -torch.log(1.0005 - model()[0])
    assert box_sharpness(objective, 1e-3).values == [math.inf]
    assert objective.weights().tolist() == [1.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": 0}, "eps is 0"),
        ({"eps": math.nan}, "eps is nan"),
        ({"eps": "a"}, "eps is 'a'"),
        ({"manifold": 0}, "manifold is 0"),
        ({"manifold": 4}, "manifold is 4, but there are 3 weights"),
        ({"columns": "gaussian"}, "columns is 'gaussian'"),
        ({"trials": 0}, "trials is 0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"ascent_steps": -1}, "ascent_steps is -1"),
        ({"nudge": 2}, "nudge is 2"),
        ({"nudge": True}, "nudge is True"),
        ({"seed": "x"}, "seed is 'x'"),
    ],
)
def test_wrong_arguments_of_the_box(options, words):
    with pytest.raises(ValueError, match=words):
        box_sharpness(quadratic([0.0] * 3, torch.eye(3)), **options)


def test_a_loss_that_is_not_finite_has_no_sharpness():
    with pytest.raises(ValueError, match="the loss at the weights is nan"):
        box_sharpness(quadratic([math.nan], torch.eye(1)))


@pytest.mark.parametrize("loss", [-1.0, -3.0])
def test_a_loss_of_minus_1_or_less_has_no_sharpness(loss):
    """1 + f is what phi divides by."""
    with pytest.raises(ValueError, match="must be above 0"):
        box_sharpness(quadratic([0.0], torch.eye(1), None, loss))


# ---- in a ball -------------------------------------------------------------------------------------------------------


def test_the_worst_case_of_a_quadratic_at_its_minimum():
    """At a stationary point the maximum over a ball is rho^2 times half the largest eigenvalue."""
    matrix = of_network(30)
    objective = quadratic(torch.zeros(30), matrix)
    found = worst_case(objective, 0.1, steps=200)
    assert found.stalled
    assert found.first_order == 0
    assert found.rise == pytest.approx(0.01 * torch.linalg.eigvalsh(matrix)[-1].item() / 2, rel=1e-3)
    assert found.rise <= 0.01 * torch.linalg.eigvalsh(matrix)[-1].item() / 2 + 1e-12


def test_the_worst_case_of_a_linear_loss():
    slope = torch.tensor([3.0, -4.0])
    objective = quadratic([2.0, 0.5], torch.zeros(2, 2), slope)
    for norm, plain in (("l2", 5.0), ("linf", 7.0)):
        found = worst_case(objective, 0.1, norm=norm)
        assert found.rise == pytest.approx(0.1 * plain)
        assert found.first_order == pytest.approx(0.1 * plain)
        assert found.one_step == pytest.approx(0.1 * plain)
    assert worst_case(objective, 0.1, eta=0).rise == pytest.approx(0.1 * math.hypot(3 * 2, 4 * 0.5))
    assert worst_case(objective, 0.1, eta=1).rise == pytest.approx(0.1 * math.hypot(3 * 3, 4 * 1.5))
    assert worst_case(objective, 0.1, eta=0, norm="linf").rise == pytest.approx(0.1 * (6 + 2))


def test_the_worst_case_of_a_separable_quadratic_in_a_cube():
    """The maximum of a convex loss is at a corner, here that on the side of the gradient."""
    at, curvature, slope = torch.tensor([0.3, -0.2, 0.5]).double(), torch.tensor([2.0, 3.0, 1.0]), [0.1, 0.2, -0.3]
    objective = quadratic(at, torch.diag(curvature), slope)
    for eta, stretch in ((None, torch.ones(3)), (0, at.abs()), (0.5, at.abs() + 0.5)):
        corners = itertools.product((-0.5, 0.5), repeat=3)
        highest = max(objective.value(at + stretch * torch.tensor(corner)) for corner in corners)
        found = worst_case(objective, 0.5, eta=eta, norm="linf")
        assert found.rise == pytest.approx(highest - objective.value(), rel=1e-9)


@pytest.mark.parametrize("seed", [1, 2, 4, 7])
def test_the_search_in_a_cube_goes_on_from_the_gradients_corner(seed):
    """Weights that act on each other make another corner the highest."""
    generator = torch.Generator().manual_seed(seed)
    root, slope = torch.randn(4, 4, generator=generator).double(), 0.3 * torch.randn(4, generator=generator).double()
    objective = quadratic(torch.zeros(4), root @ root.T, slope)
    corners = [torch.tensor(corner).double() for corner in itertools.product((-0.5, 0.5), repeat=4)]
    found = worst_case(objective, 0.5, norm="linf")
    assert found.rise == pytest.approx(max(map(objective.value, corners)), rel=1e-9)
    assert found.one_step < 0.9 * found.rise


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_where_the_loss_is_not_finite_there_is_no_rise(value):
    """A network that diverged is not flat."""
    objective = quadratic([value], torch.eye(1))
    for measure, options in ((worst_case, {}), (average, {}), (average, {"samples": 3})):
        with pytest.raises(ValueError, match="the loss at the weights is not finite"):
            measure(objective, 0.1, **options)


def test_what_is_drawn_depends_on_the_seed_alone():
    objective = quadratic(torch.zeros(30), of_network(30))
    for measure in (
        lambda seed: worst_case(objective, 0.1, steps=2, seed=seed).rise,
        lambda seed: average(objective, 0.1, samples=3, seed=seed).rise,
        lambda seed: box_sharpness(objective, 0.1, nudge=0.1, trials=1, iterations=1, seed=seed).mean,
    ):
        first = measure(0)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            assert measure(0) == first
        assert measure(1) != first


def test_with_recomputed_statistics_the_rise_is_from_the_loss_with_such():
    """The statistics that the model keeps are not those of its weights: without noise to speak of nothing rises."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).double()
        batches = [(3 * torch.randn(16, 4).double() + 1, torch.randn(16, 2).double()) for _ in range(3)]
    objective = Objective(model, supervised(mse_loss), batches, recompute=batches)
    assert abs(objective.value() - objective.value(objective.weights())) > 0.01
    assert abs(average(objective, 1e-6, samples=3).rise) < 1e-6
    assert 0 < worst_case(objective, 1e-6, steps=2).rise < 1e-4
    found = box_sharpness(objective, 1e-4)
    assert found.loss == pytest.approx(objective.value(objective.weights()))
    assert found.mean > 0


def test_the_worst_case_of_a_quadratic_in_a_ball():
    """By the secular equation of the trust region."""
    matrix, slope = of_network(20), torch.linspace(-1, 1, 20).double()
    found = worst_case(quadratic(torch.zeros(20), matrix, slope), 0.5, steps=300)
    values, vectors = torch.linalg.eigh(matrix)
    along = vectors.T @ slope
    low, high = values[-1].item() + 1e-9, values[-1].item() + 100
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (along / (middle - values)).norm() > 0.5 else (low, middle)
    best = vectors @ (along / (low - values))
    assert found.rise == pytest.approx((slope @ best + best @ matrix @ best / 2).item(), rel=1e-3)


def test_the_average_of_a_quadratic_is_its_trace():
    matrix = of_network(40) @ of_network(40)
    at = torch.linspace(0.5, 2, 40).double()
    objective = quadratic(at, matrix, torch.ones(40))
    for eta, stretch in ((None, torch.ones(40).double()), (0, at), (0.5, at + 0.5)):
        truth = 0.01 / 2 * (stretch**2 * matrix.diagonal()).sum().item()
        found = [average(objective, 0.1, eta=eta, samples=60, seed=seed) for seed in range(60)]
        covered = sum(one.interval[0] <= truth <= one.interval[1] for one in found) / 60
        assert covered > 0.85
        assert sum(one.rise for one in found) / 60 == pytest.approx(truth, rel=0.05)


def test_the_average_stops_at_its_accuracy():
    objective = quadratic(torch.ones(40), of_network(40) @ of_network(40))
    found = average(objective, 0.1)
    assert found.converged
    assert found.samples >= 30
    assert found.standard_error <= 0.05 * found.rise
    with pytest.raises(NotConverged, match="after 31 samples") as caught:
        average(objective, 0.1, rtol=1e-3, max_samples=31)
    assert not caught.value.result.converged


class Rescaled(nn.Module):
    """A network of two layers with ReLU at weights that alpha rescales, the function being the same."""

    def __init__(self, alpha):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(5, 8).double(), nn.Linear(8, 3).double()
        with torch.no_grad():
            self.first.weight *= alpha
            self.first.bias *= alpha
            self.second.weight /= alpha

    def forward(self, inputs):
        return self.second(torch.relu(self.first(inputs)))


def measures(alpha, outputs=None):
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(40, 5, generator=generator).double(), torch.randint(3, (40,), generator=generator))]
    objective = Objective(Rescaled(alpha), supervised(cross_entropy), batches, outputs=outputs)
    return {
        "loss": objective.value(),
        "eta 0": worst_case(objective, 0.1, eta=0, steps=5).rise,
        "eta 0 linf": worst_case(objective, 0.01, eta=0, norm="linf", steps=5).rise,
        "eta 0 first order": worst_case(objective, 0.1, eta=0, steps=1).first_order,
        "average 0": average(objective, 0.1, eta=0, samples=5).rise,
        "eta 0.01": worst_case(objective, 0.1, eta=0.01, steps=5).rise,
        "plain": worst_case(objective, 0.1, steps=5).rise,
        "average": average(objective, 0.1, samples=5).rise,
        "box": box_sharpness(objective, 1e-2).mean,
    }


@pytest.mark.parametrize("outputs", [None, unit_logits()])
def test_only_eta_0_is_unchanged_by_a_rescaling_of_layers(outputs):
    """The fact that states each measure's invariances, and what moves the others."""
    original = measures(1, outputs)
    for alpha in (0.1, 10, 100):
        there = measures(alpha, outputs)
        for name in ("loss", "eta 0", "eta 0 linf", "eta 0 first order", "average 0"):
            assert there[name] == pytest.approx(original[name], rel=1e-9), name
        for name in ("plain", "average", "box"):
            assert abs(there[name] / original[name] - 1) > 0.3, name
    assert abs(measures(100, outputs)["eta 0.01"] / original["eta 0.01"] - 1) > 0.05


def test_each_result_states_its_invariances():
    case = Case.of(normalized)
    case.model.eval()
    for outputs, count in ((None, 1), (unit_logits(), 2)):
        objective = Objective(case.model, supervised(cross_entropy), case.batches, outputs=outputs)
        assert len(worst_case(objective, 0.1, eta=0, steps=1).invariances) == count
        assert len(average(objective, 0.1, eta=0, samples=2).invariances) == count
        for found in (
            worst_case(objective, 0.1, steps=1),
            worst_case(objective, 0.1, eta=0.01, steps=1),
            average(objective, 0.1, eta=0.01, samples=2),
            box_sharpness(objective),
        ):
            assert found.invariances == ()
            assert found.conditions.examples == 11


def test_with_weight_decay_nothing_is_invariant():
    """A rescaling of layers changes the decay, and with it every rise."""
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(40, 5, generator=generator).double(), torch.randint(3, (40,), generator=generator))]
    found = []
    for alpha in (1, 10):
        objective = Objective(Rescaled(alpha), supervised(cross_entropy), batches, weight_decay=0.01)
        found.append(worst_case(objective, 0.1, eta=0, steps=5))
        assert found[-1].invariances == average(objective, 0.1, eta=0, samples=2).invariances == ()
    assert found[1].rise > 2 * found[0].rise


def test_with_unit_logits_eta_0_forgets_the_scale_of_the_last_layer():
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(40, 5, generator=generator).double(), torch.randint(3, (40,), generator=generator))]
    found = {}
    for outputs in (None, unit_logits()):
        for by in (1, 30):
            model = Rescaled(1)
            with torch.no_grad():
                model.second.weight *= by
                model.second.bias *= by
            objective = Objective(model, supervised(cross_entropy), batches, outputs=outputs)
            found[outputs, by] = worst_case(objective, 0.1, eta=0, steps=5).rise
    assert found[unit_logits(), 30] == pytest.approx(found[unit_logits(), 1], rel=1e-9)
    assert found[None, 30] > 1.5 * found[None, 1]


def test_nothing_is_left_behind():
    case = Case.of(normalized)
    before = traces(case.model)
    objective = Objective(case.model, supervised(cross_entropy), case.batches)
    box_sharpness(objective, 1e-2, nudge=0.5)
    worst_case(objective, 0.5, eta=0.01)
    average(objective, 0.1, samples=3)
    assert_untouched(before, traces(case.model))


@pytest.mark.parametrize(
    ("measure", "options", "words"),
    [
        (worst_case, {"rho": 0}, "rho is 0"),
        (worst_case, {"rho": math.inf}, "rho is inf"),
        (worst_case, {"rho": 1, "eta": -1}, "eta is -1"),
        (worst_case, {"rho": 1, "eta": "a"}, "eta is 'a'"),
        (worst_case, {"rho": 1, "norm": "l1"}, "norm is 'l1'"),
        (worst_case, {"rho": 1, "steps": 0}, "steps is 0"),
        (average, {"rho": "a"}, "rho is 'a'"),
        (average, {"rho": 1, "samples": 1}, "samples is 1"),
        (average, {"rho": 1, "rtol": 0}, "rtol is 0"),
        (average, {"rho": 1, "max_samples": 0}, "max_samples is 0"),
    ],
)
def test_wrong_arguments_in_a_ball(measure, options, words):
    with pytest.raises(ValueError, match=words):
        measure(quadratic([0.0] * 3, torch.eye(3)), **options)
