"""Batches that do not all weigh the same: the loop scales the rate of each step, whatever the optimizer."""

import functools
import itertools
import math

import pytest
import torch
from torch import nn

import descend
from descend import tasks
from descend.experiments.loop import train
from descend.experiments.search_space import schedule
from descend.tasks import TaskError, rate_share
from descend.tasks.char_lm import CharLSTM
from task_data import text

STEPS, SEED = 12, 3


class Noting:
    """The character task with a small model in float64, which notes the losses of its batches."""

    def __init__(self, task, cells=8):
        self._task, self._cells, self.losses = task, cells, []

    def __getattr__(self, name):
        return getattr(self._task, name)

    def model(self, seed):
        with tasks.seeded(seed):
            return CharLSTM(self._task.model(seed).output.out_features, cells=self._cells).double()

    def loss(self, model, batch):
        loss = self._task.loss(model, batch)
        self.losses.append(loss.item())
        return loss


@pytest.fixture
def made(tmp_path):
    (tmp_path / "some.txt").write_text(text(9000))
    return lambda **settings: Noting(tasks.load("char-lm", data=tmp_path / "some.txt", **settings))


def by_hand(task, make, rate):
    """The losses of a loop that writes rate * length / 64 into the groups."""
    model = task.model(SEED)
    optimizer = make(model.parameters())
    losses = []
    for step, (characters, following) in enumerate(itertools.islice(task.batches(SEED), STEPS)):
        for group in optimizer.param_groups:
            group["lr"] = rate(step) * characters.shape[1] / 64
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(characters).flatten(0, 1), following.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


PEAK = {"SGD": 2.0, "Adam": 0.05, "AdamW": 0.05}


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("name", list(PEAK))
def test_each_step_has_its_rate_times_its_length(made, name, scheduled):
    task, peak = made(variable_length=True), PEAK[name]
    rate = peak * schedule(STEPS) if scheduled else peak
    expected = by_hand(task, getattr(torch.optim, name), rate if scheduled else lambda step: peak)
    model = task.model(SEED)
    train(task, model, getattr(descend, name)(model.parameters(), lr=rate), seed=SEED, steps=STEPS)
    assert_alike(task.losses, expected)


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("name", list(PEAK))
def test_an_optimizer_and_a_scheduler_of_torch_are_scaled_as_well(made, name, scheduled):
    task, peak, make = made(variable_length=True), PEAK[name], getattr(torch.optim, name)
    shape = schedule(STEPS) if scheduled else lambda step: 1.0
    expected = by_hand(task, make, lambda step: peak * shape(step))
    model = task.model(SEED)
    optimizer = make(model.parameters(), lr=peak)
    task.loss = stepping_after_the_first(task, torch.optim.lr_scheduler.LambdaLR(optimizer, shape))
    train(task, model, optimizer, seed=SEED, steps=STEPS)
    assert_alike(task.losses, expected)


def assert_alike(losses, expected):
    assert max(abs(a - b) for a, b in zip(losses[:STEPS], expected, strict=True)) < 1e-9
    assert len({round(loss, 6) for loss in expected}) == STEPS


def stepping_after_the_first(task, scheduler):
    """The task's loss, which begins every step but the first by a scheduler's."""
    loss, calls = task.loss, itertools.count()

    @functools.wraps(loss)
    def stepped(model, batch):
        if model.training and next(calls):
            scheduler.step()
        return loss(model, batch)

    return stepped


def test_a_rate_that_is_not_scaled_is_another_run(made):
    varying, told = made(variable_length=True), made(variable_length=True)
    told.rate_share = lambda batch: 1.0
    for task in (varying, told):
        model = task.model(SEED)
        train(task, model, descend.SGD(model.parameters(), lr=2.0), seed=SEED, steps=STEPS)
    assert varying.losses[0] == told.losses[0]
    assert varying.losses[-1] != told.losses[-1]


def test_without_the_setting_a_run_is_that_of_a_task_without_shares(made):
    """Bit for bit, in float32, where the optimizer is never asked for another rate."""
    curves = []
    for hidden in (False, True):
        task = made()
        if hidden:
            task.rate_share = None
        model = task.model(SEED).float()
        optimizer = descend.AdamW(model.parameters(), lr=0.01 * schedule(STEPS))
        train(task, model, optimizer, seed=SEED, steps=STEPS)
        curves.append((task.losses, [p.detach().clone() for p in model.parameters()]))
    assert curves[0][0] == curves[1][0]
    assert all(map(torch.equal, curves[0][1], curves[1][1]))


def test_a_range_test_scales_its_rates_too(made, monkeypatch):
    from descend.experiments import task_range

    asked = []
    task = made(variable_length=True)
    monkeypatch.setattr(task_range.tasks, "load", lambda name, **settings: task)
    task.rate_share = lambda batch: asked.append(batch[0].shape[1]) or 0.5
    halved = task_range.run("char-lm", "sgd", form="exponential", low=0.1, high=1.0, steps=10, seeds=1, settings={})
    task.rate_share = lambda batch: 1.0
    plain = task_range.run("char-lm", "sgd", form="exponential", low=0.05, high=0.5, steps=10, seeds=1, settings={})
    assert asked == [batch[0].shape[1] for batch in itertools.islice(task.batches(0), 10)]
    assert halved.sweeps[0].losses == pytest.approx(plain.sweeps[0].losses, rel=1e-12)
    assert halved.sweeps[0].rates[0] == 0.1


class Answering:
    name = "mine"

    def __init__(self, share):
        self.share = share

    def rate_share(self, batch):
        return self.share


def test_a_task_that_says_nothing_leaves_the_rates():
    assert rate_share(object(), None) == 1
    assert rate_share(Answering(2), None) == 2


@pytest.mark.parametrize("wrong", [0, -0.5, math.nan, math.inf, None, True, "half"])
def test_what_is_no_share_is_refused_by_the_tasks_name(wrong):
    with pytest.raises(TaskError, match=r"task mine: rate_share\(\) gave .*; let it return a finite number above 0"):
        rate_share(Answering(wrong), None)
