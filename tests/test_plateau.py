"""Callbacks that need the metric: torch's trace, the paper's restarts, and resuming."""

import io
import itertools
import math
import random

import pytest
import torch
from torch import nn

import descend
from descend.plateau import AnnealingRestarts, ReduceOnPlateau
from descend.schedules import cosine, linear, to_torch


def made(make=torch.optim.SGD, lr=0.5, **arguments):
    model = nn.Linear(3, 2)
    return model, make([{"params": [model.weight], "lr": lr}, {"params": [model.bias]}], lr=0.25, **arguments)


def metrics(count=120):
    numbers, level = random.Random(3), 1.0
    for _ in range(count):
        level *= numbers.choice([0.9, 1.0, 1.0, 1.02])
        yield level + 0.01 * numbers.random()


@pytest.mark.parametrize("make", [torch.optim.SGD, descend.SGD])
@pytest.mark.parametrize(
    "asked", [{}, {"patience": 0}, {"patience": 2, "cooldown": 3}, {"mode": "max", "patience": 3, "threshold": 0.01}]
)
def test_rates_are_those_of_torch(make, asked):
    _, ours = made(make)
    _, theirs = made()
    plateau = ReduceOnPlateau(ours, factor=0.3, **asked)
    twin = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.3, eps=0.0, **asked)
    for metric in [*metrics(), float("nan"), *metrics(20)]:
        plateau.step(metric)
        twin.step(metric)
        assert [g["lr"] for g in ours.param_groups] == pytest.approx([g["lr"] for g in theirs.param_groups], rel=1e-12)


def trained(model, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()


def test_a_schedule_goes_on_scaled():
    model, optimizer = made(descend.AdamW, lr=0.5 * cosine(20))
    plateau = ReduceOnPlateau(optimizer, factor=0.1, patience=0)
    trained(model, optimizer, 5)
    assert [plateau.step(metric) for metric in (1.0, 1.0)] == [False, True]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * cosine(20)(5))
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.025)
    trained(model, optimizer, 3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * cosine(20)(8))


def test_the_floor_is_a_share_of_the_first_rate():
    _, optimizer = made()
    plateau = ReduceOnPlateau(optimizer, factor=0.1, patience=0, floor=0.05)
    assert [plateau.step(1.0) for _ in range(5)] == [False, True, True, False, False]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)


@pytest.mark.parametrize("optimizer_first", [False, True])
@pytest.mark.parametrize("rate", [0.5, 0.5 * cosine(60)])
def test_a_resumed_plateau_ends_as_an_uninterrupted_one(rate, optimizer_first):
    def run(parts):
        torch.manual_seed(0)
        model, optimizer = made(descend.AdamW, lr=rate)
        plateau = ReduceOnPlateau(optimizer, factor=0.5, patience=1)
        numbers = metrics(40)
        for _ in range(parts):
            for metric in itertools.islice(numbers, 40 // parts):
                trained(model, optimizer)
                plateau.step(metric)
            saved = [x.state_dict() for x in (model, optimizer, plateau)]
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            of_model, of_optimizer, of_plateau = torch.load(file, weights_only=True)
            model, optimizer = made(descend.AdamW, lr=rate)
            plateau = ReduceOnPlateau(optimizer, factor=0.5, patience=1)
            model.load_state_dict(of_model)
            loads = [
                lambda o=optimizer, s=of_optimizer: o.load_state_dict(s),
                lambda p=plateau, s=of_plateau: p.load_state_dict(s),
            ]
            for load in loads if optimizer_first else reversed(loads):
                load()
        return model.weight.tolist(), [group["lr"] for group in optimizer.param_groups], plateau.state_dict()

    assert run(4) == run(1)


# ---- annealing restarts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [torch.optim.Adam, descend.Adam])
def test_restarts_go_back_to_the_best_with_a_new_optimizer_at_half_the_rate(make):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = make(model.parameters(), lr=0.1)
    annealing = AnnealingRestarts(model, optimizer, patience=2, restarts=1)
    trained(model, optimizer, 3)
    assert annealing.step(1.0) is False
    best = {name: value.clone() for name, value in model.state_dict().items()}
    done = []
    for metric in (1.1, 1.2):
        trained(model, optimizer)
        done.append(annealing.step(metric))
    assert done == [False, True]
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert not any(optimizer.state[p] for p in model.parameters() if p in optimizer.state)

    fresh = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    fresh.load_state_dict(best)
    anew = make(fresh.parameters(), lr=0.05)
    trained(model, optimizer, 4)
    trained(fresh, anew, 4)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), fresh.parameters(), strict=True))

    assert [annealing.step(metric) for metric in (1.3, 1.4)] == [False, False]
    assert annealing.finished
    assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())
    assert annealing.step(0.1) is False


def test_a_schedule_goes_on_through_a_restart_at_half_its_rate():
    model, optimizer = nn.Linear(3, 2), None
    optimizer = descend.Adam(model.parameters(), lr=0.1 * cosine(50))
    annealing = AnnealingRestarts(model, optimizer, patience=1)
    annealing.step(1.0)
    trained(model, optimizer, 10)
    assert annealing.step(2.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * cosine(50)(10))
    assert optimizer.applied_steps == 10


def test_resumed_restarts_know_the_best_weights():
    model, optimizer = made(torch.optim.Adam)
    annealing = AnnealingRestarts(model, optimizer, patience=2)
    annealing.step(1.0)
    best = model.weight.detach().clone()
    trained(model, optimizer, 3)
    annealing.step(2.0)
    file = io.BytesIO()
    torch.save([x.state_dict() for x in (model, optimizer, annealing)], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    model, optimizer = made(torch.optim.Adam)
    annealing = AnnealingRestarts(model, optimizer, patience=2)
    for thing, state in zip((model, optimizer, annealing), saved, strict=True):
        thing.load_state_dict(state)
    assert annealing.step(3.0)
    assert torch.equal(model.weight, best)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25)


def test_without_a_number_there_is_no_best():
    model, optimizer = made()
    annealing = AnnealingRestarts(model, optimizer, patience=1, restarts=1)
    assert annealing.step(float("nan"))
    assert annealing.scale == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, o: ReduceOnPlateau(o, factor=1.0), "factor must be a number between 0 and 1; got 1.0"),
        (lambda m, o: ReduceOnPlateau(o, patience=-1), "patience must be a whole number from 0 up; got -1"),
        (lambda m, o: ReduceOnPlateau(o, mode="down"), "mode is 'down'; choose 'min' or 'max'"),
        (lambda m, o: ReduceOnPlateau(o, threshold=-0.1), "threshold must be a finite number from 0 up; got -0.1"),
        (lambda m, o: ReduceOnPlateau(o, floor=1.0), "floor must be a number from 0 up and below 1; got 1.0"),
        (lambda m, o: AnnealingRestarts(m, o, patience=0), "patience must be a whole number from 1 up; got 0"),
        (lambda m, o: ReduceOnPlateau(o, cooldown=float("nan")), "cooldown must be a whole number from 0 up; got nan"),
        (lambda m, o: AnnealingRestarts(m, o, restarts=1.5), "restarts must be a whole number from 0 up; got 1.5"),
        (lambda m, o: AnnealingRestarts(m, o, restarts=-1), "restarts must be a whole number from 0 up; got -1"),
        (lambda m, o: AnnealingRestarts(m, o).load_state_dict({"best": 1}), "the state lacks done, finished, scale"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(*made())


@pytest.mark.parametrize("make", [ReduceOnPlateau, lambda o: AnnealingRestarts(torch.nn.Linear(1, 1), o)])
def test_an_optimizer_is_asked_for(make):
    with pytest.raises(TypeError, match="optimizer is Linear; give one of torch's kind"):
        make(torch.nn.Linear(1, 1))


def test_a_run_that_was_infinite_at_first_gets_better():
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), factor=0.5, patience=1
    )
    ours, annealing = (
        ReduceOnPlateau(optimizer, factor=0.5, patience=1),
        AnnealingRestarts(model, optimizer, patience=3),
    )
    for metric in (math.inf, 5.0, 4.0, 3.0, math.inf, math.inf, 2.0):
        fell = ours.step(metric)
        theirs.step(metric)
        assert ours.scale == theirs.optimizer.param_groups[0]["lr"]
        assert fell == (ours.scale == 0.5 and metric == math.inf)
        assert not annealing.step(metric)
    assert ours.scale == 0.5
    highest = ReduceOnPlateau(optimizer, mode="max", patience=0)
    assert not any(highest.step(metric) for metric in (-math.inf, 1.0, 2.0))


def test_a_schedule_that_somebody_put_in_force_is_the_one_that_is_scaled():
    optimizer = descend.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    plateau = ReduceOnPlateau(optimizer, factor=0.5, patience=0)
    fall(plateau)
    assert optimizer.param_groups[0]["lr"] == 0.25
    optimizer.set_schedule("lr", 0.01 * linear(100))
    fall(plateau)
    assert optimizer.param_groups[0]["lr"] == 0.005
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.4 * linear(10)})
    fall(plateau)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0025, 0.2]
    for group in optimizer.param_groups:
        group["params"][0].grad = torch.ones(1)
    for _ in range(5):
        optimizer.step()
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("rate", [0.5, 0.5 * linear(100)])
def test_two_callbacks_each_count(rate):
    optimizer = descend.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    first, second = (ReduceOnPlateau(optimizer, factor=0.5, patience=0) for _ in range(2))
    fall(first)
    fall(second)
    fall(first)
    assert optimizer.param_groups[0]["lr"] == 0.5 / 8


def fall(plateau):
    plateau.step(1.0)
    assert plateau.step(2.0) or plateau.step(2.0)
    plateau._best.metric = None


@pytest.mark.parametrize("metric", [None, "0.5", torch.ones(2), [1.0, 2.0]])
def test_a_metric_is_one_number(metric):
    plateau = ReduceOnPlateau(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))
    before = plateau.state_dict()
    with pytest.raises(TypeError, match=r"metric is .*; give a number, or a tensor that holds one"):
        plateau.step(metric)
    assert plateau.state_dict() == before
    plateau.step(torch.tensor([0.5]))
    assert plateau.state_dict()["best"] == 0.5


@pytest.mark.parametrize("make", [torch.optim.SGD, descend.SGD])
def test_a_fall_holds_beside_a_scheduler_of_torch_s_kind(make):
    def run(optimizer, scheduler, plateau, metrics):
        rates = []
        for metric in metrics:
            optimizer.step()
            scheduler.step()
            plateau.step(metric)
            rates.append(optimizer.param_groups[0]["lr"])
        return rates

    def fresh():
        parameter = nn.Parameter(torch.zeros(1))
        parameter.grad = torch.ones(1)
        optimizer = make([parameter], lr=0.1)
        return optimizer, to_torch(linear(10, 1, 0.5), optimizer), ReduceOnPlateau(optimizer, factor=0.1, patience=0)

    whole = fresh()
    rates = run(*whole, (3, 2, 1, 2, 2, 0.5, 0.4, 0.3))
    schedule = linear(10, 1, 0.5)
    falls = (1, 1, 1, 0.1, 0.01, 0.01, 0.01, 0.01)
    assert rates == pytest.approx([0.1 * schedule(s) * fall for s, fall in enumerate(falls, 1)])
    first, again = fresh(), fresh()
    run(*first, (3, 2, 1, 2, 2))
    for one, other in zip(first, again, strict=True):
        other.load_state_dict(one.state_dict())
    assert run(*again, (0.5, 0.4, 0.3)) == pytest.approx(rates[5:])


def test_an_optimizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="optimizer has none of the model's parameters"):
        AnnealingRestarts(nn.Linear(1, 1), torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1))
