"""Watching a training, within a share of its time."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

import descend
from descend.generalization import Hessian, Monitor, Objective, preconditioner, supervised
from descend.generalization.monitor import PRECONDITIONED
from quadratics import Weights

LOSS = supervised(cross_entropy)
ALL = ("update_ratio", "noise_scale", "top_eigenvalue")


class Clock:
    """A clock that only moves when it is told to, and a little with every look."""

    def __init__(self, tick=0.0):
        self.now, self.tick = 0.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def batches(count, size=16):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 5, generator=generator), torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def train(net, optimizer, steps, watch=None, clock=None):
    torch.manual_seed(3)
    for batch in batches(steps):
        LOSS(net, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        if clock is not None:
            clock.now += 1.0
        if watch is not None:
            watch.step(batch)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_training_is_the_same_with_it_and_without(name):
    found = []
    for watched in (False, True):
        net = model()
        optimizer = getattr(descend, name)(net.parameters(), lr=0.05)
        names = (*ALL, PRECONDITIONED) if name == "AdamW" else ALL
        watch = Monitor(net, optimizer, LOSS, ceiling=1000.0, quantities=names) if watched else None
        train(net, optimizer, 30, watch)
        found.append((net.state_dict(), torch.get_rng_state()))
        if watch is not None:
            assert {one.quantity for one in watch.records} == set(names)
    for key, value in found[0][0].items():
        assert torch.equal(value, found[1][0][key]), key
    assert torch.equal(found[0][1], found[1][1])


def test_the_ratio_of_a_step_to_the_weights():
    net = Weights([3.0, 4.0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    clock = Clock()
    watch = Monitor(net, optimizer, lambda m, b: (m() * b).mean(), ceiling=10.0, clock=clock, quantities="update_ratio")
    for _ in range(5):
        net.weight.grad = torch.tensor([0.6, 0.8]).double()
        before = net.weight.detach().clone()
        optimizer.step()
        moved = (net.weight.detach() - before).norm() / before.norm()
        clock.now += 1
        watch.step(torch.ones(4, 1))
    assert watch.records[-1].step == 5
    assert watch.records[-1].value == pytest.approx(moved.item(), rel=1e-12)


def test_the_noise_scale_of_gradients_that_are_known():
    """Gradients of examples x ~ N(mu, s^2) for the loss w x: tr(S) = n s^2, |G|^2 = |mu|^2."""
    net = Weights(torch.zeros(10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    clock = Clock()
    watch = Monitor(net, optimizer, lambda m, x: (x @ m()).mean(), clock=clock, quantities="noise_scale")
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        clock.now += 1
        watch.step(0.5 + 3 * torch.randn(64, 10, generator=generator, dtype=torch.float64))
    truth = 9 / 0.25
    late = watch.records[40:]
    inside = sum(abs(one.value - truth) < 2.1 * one.error for one in late) / len(late)
    assert inside > 0.8
    assert sum(one.value for one in late) / len(late) == pytest.approx(truth, rel=0.1)


def test_eigenvalues_are_those_of_the_probe():
    net, clock = model(), Clock()
    optimizer = descend.Adam(net.parameters(), lr=0.05)
    probe = batches(1)[0]
    names = ("top_eigenvalue", PRECONDITIONED)
    watch = Monitor(net, optimizer, LOSS, clock=clock, quantities=names, probe=probe, ceiling=1.0)
    train(net, optimizer, 150, watch, clock)
    objective = Objective(net, LOSS, [probe])
    exact = Hessian(objective) @ torch.eye(objective.size, dtype=torch.float64)
    scale = preconditioner(optimizer, objective.parameters.values()).rsqrt()
    for name, matrix in zip(names, (exact, scale[:, None] * exact * scale), strict=True):
        last = [one for one in watch.records if one.quantity == name][-1]
        assert last.step == 150
        assert last.value == pytest.approx(torch.linalg.eigvalsh(matrix)[-1].item(), rel=0.05)
        assert last.error <= 0.05 * last.value
        assert last.converged
    assert last.threshold == pytest.approx(760)
    assert watch.records[-2].threshold is None  # that of the plain Hessian says nothing of Adam


@given(
    st.lists(st.floats(0.01, 2), min_size=20, max_size=60),
    st.floats(0.005, 0.3),
    st.dictionaries(st.sampled_from(ALL), st.floats(0.001, 3), min_size=1),
)
@settings(max_examples=40, deadline=None)
def test_the_ceiling_is_kept_whatever_things_cost(times, ceiling, costs):
    """Each quantity's first measurement may surprise; after that none begins that does not fit."""
    clock = Clock(tick=1e-6)
    net = Weights([1.0])
    watch = Monitor(
        net, torch.optim.SGD(net.parameters(), lr=0.1), LOSS, ceiling=ceiling, quantities=list(costs), clock=clock
    )

    def measured(name, batch):
        before = watch.overhead
        known = watch._accounts[name].expected
        with watch._timed(name) as account:
            clock.now += costs[name]
        if known is not None:
            begun.append((before, (watch._accounts[name].spent) / watch._training))
        del account

    begun = []
    watch._measure = measured
    for seconds in times * 5:
        clock.now += seconds
        watch.step(None)
        surprises = sum(costs.values())
        allowed = ceiling * watch._training + surprises + 1e-4 * len(times)
        assert watch._own <= allowed
    for _, share in begun:
        assert share <= ceiling / len(costs) * (1 + 1e-6)


def test_a_surprise_is_paid_back_before_anything_else():
    clock = Clock()
    net = Weights([1.0])
    watch = Monitor(net, torch.optim.SGD(net.parameters(), lr=0.1), LOSS, quantities="top_eigenvalue", clock=clock)
    cost, begun = [60.0], []

    def measured(name, batch):
        begun.append(watch._steps)
        with watch._timed(name):
            clock.now += cost[0]

    watch._measure = measured
    for _ in range(10000):
        clock.now += 1.0
        watch.step(None)
    assert begun[0] > 600  # it is expected to cost twenty steps
    assert begun[1] >= (60 + 1.25 * 60) / 0.03
    assert watch.overhead <= 0.03


def test_an_interrupt_within_a_measurement_leaves_the_model_whole():
    net, clock = model(), Clock()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def interrupted(model, batch):
        LOSS(model, batch)
        raise KeyboardInterrupt

    watch = Monitor(net, optimizer, interrupted, ceiling=1e6, clock=clock, quantities="noise_scale")
    watch.step(batches(1)[0])
    clock.now += 1
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(KeyboardInterrupt):
        watch.step(batches(1)[0])
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_weights_that_diverged_are_noted_as_such():
    net, clock = model(), Clock()
    watch = Monitor(net, torch.optim.SGD(net.parameters(), lr=0.1), LOSS, ceiling=1e6, clock=clock)
    with torch.no_grad():
        net[0].weight.fill_(math.nan)
    for batch in batches(3):
        clock.now += 1
        watch.step(batch)
    assert len(watch.records) >= 4
    assert all(math.isnan(one.value) for one in watch.records)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"ceiling": 0}, ValueError, "ceiling is 0"),
        ({"ceiling": "3%"}, ValueError, "ceiling is '3%'"),
        ({"quantities": ["sharpness"]}, ValueError, "'sharpness'; there are update_ratio"),
        ({"quantities": []}, ValueError, "quantities is empty"),
        ({"optimizer": None}, TypeError, "optimizer is NoneType"),
        ({"loss": nn.CrossEntropyLoss()}, TypeError, "supervised"),
        ({"model": 3}, TypeError, "model is int"),
    ],
)
def test_wrong_arguments(options, error, words):
    net = model()
    given = {"model": net, "optimizer": torch.optim.SGD(net.parameters(), lr=0.1), "loss": LOSS, **options}
    with pytest.raises(error, match=words):
        Monitor(**given)
