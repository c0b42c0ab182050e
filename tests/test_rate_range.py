"""The range test finds what can be computed, counts what was applied, and leaves no trace."""

import copy
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import descend
from descend import cli, commands
from descend.experiments.errors import RunError, UsageError
from descend.rate_range import RangeTest, Sweep, range_test, rising
from descend.schedules import cosine, linear
from descend.tasks import TaskError


class Net(nn.Module):
    """Everything that training moves: weights, batch normalization's buffers, dropout's draws."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.3),
            nn.Linear(8, 3),
        )
        self.norm.eval()
        self.register_buffer("rebound", torch.zeros(2), persistent=False)

    def forward(self, inputs):
        self.rebound = self.rebound + 1
        return self.last(self.drop(torch.relu(self.norm(self.first(inputs)))))


def loss(model, batch):
    inputs, targets = batch
    return nn.functional.cross_entropy(model(inputs), targets)


def data(count=60):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 4, generator=generator)
    return torch.utils.data.TensorDataset(inputs, inputs[:, :3].argmax(1))


def loader():
    own = torch.Generator().manual_seed(5)
    return torch.utils.data.DataLoader(data(), 8, shuffle=True, generator=own)


def everything(model, optimizer, batches, scaler=None):
    """All that a range test could disturb, as plain values."""
    gradients = [None if one.grad is None else one.grad.tolist() for one in model.parameters()]
    return copy.deepcopy(
        [
            {name: value.tolist() for name, value in model.state_dict().items()},
            {name: value.tolist() for name, value in model.named_buffers()},
            [module.training for module in model.modules()],
            gradients,
            str(optimizer.state_dict()),
            torch.get_rng_state().tolist(),
            str(np.random.get_state()),
            str(random.getstate()),
            batches.generator.get_state().tolist(),
            None if scaler is None else scaler.state_dict(),
        ]
    )


MAKERS = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.1),
    "tensor rate": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(0.1)),
    "our SGD": lambda groups: descend.SGD(groups, lr=0.1, momentum=0.9),
    "our AdamW, scheduled": lambda groups: descend.AdamW(groups, lr=0.1 * cosine(50)),
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_everything_is_afterwards_as_it_was(make, begun):
    torch.manual_seed(1)
    model, batches = Net(), loader()
    optimizer = make([{"params": model.first.parameters()}, {"params": model.last.parameters()}])
    if begun:
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
    twin = copy.deepcopy(model.state_dict())
    rebound, gradient = model.rebound, model.first.weight.grad
    before = everything(model, optimizer, batches)
    found = range_test(model, optimizer, loss, batches, steps=20)
    assert everything(model, optimizer, batches) == before
    assert model.rebound is rebound
    assert model.first.weight.grad is gradient
    assert all(torch.equal(value, twin[name]) for name, value in model.state_dict().items())
    assert len({sweep.losses for sweep in found.sweeps}) == 3
    again = range_test(model, optimizer, loss, batches, steps=20)
    assert again == found


def test_training_goes_on_as_if_nothing_had_been():
    def trained(with_test):
        torch.manual_seed(1)
        model, batches = Net(), loader()
        optimizer = descend.AdamW(model.parameters(), lr=0.01 * cosine(100))
        losses = []
        for epoch in range(3):
            if with_test and epoch == 1:
                range_test(model, optimizer, loss, batches, steps=15)
            for batch in batches:
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                optimizer.step()
                losses.append(value.item())
        return losses

    assert trained(True) == trained(False)


@pytest.mark.parametrize("make", [torch.optim.AdamW, descend.AdamW])
def test_a_rate_in_a_tensor_stays_the_user_s(make):
    model, rate = Net(), torch.tensor(0.1)
    optimizer = make(model.parameters(), lr=rate)
    range_test(model, optimizer, loss, loader(), steps=11, seeds=[0])
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate == torch.tensor(0.1) == optimizer.defaults["lr"]


def test_a_number_in_place_of_a_schedule_stays_in_force():
    model = Net()
    optimizer = descend.SGD(model.parameters(), lr=0.1 * cosine(100))
    optimizer.param_groups[0]["lr"] = 0.05
    range_test(model, optimizer, loss, loader(), steps=11, seeds=[0])
    assert optimizer.param_groups[0]["lr"] == 0.05
    loss(model, next(iter(loader()))).backward()
    with pytest.warns(UserWarning, match="was set to 0.05 while a schedule drives it"):
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


class Counting(Net):
    """Has state beside buffers, and a buffer that the first call makes."""

    calls = 0

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]

    def forward(self, inputs):
        self.calls += 1
        if "seen" not in self._buffers:
            self.register_buffer("seen", inputs.mean(), persistent=False)
        return super().forward(inputs)


def test_extra_state_and_buffers_that_come_late():
    model = Counting()
    before = copy.deepcopy(model.state_dict())
    unsaved = set(model._non_persistent_buffers_set)
    range_test(model, torch.optim.SGD(model.parameters(), lr=0.1), loss, loader(), steps=11)
    assert (model.calls, model.state_dict().keys()) == (0, before.keys())
    assert "seen" not in model._buffers
    assert model._non_persistent_buffers_set == unsaved


@pytest.mark.parametrize("when", [(0, 2), (-1, 0)])  # in mid-epoch, and before the first
def test_workers_that_a_loader_keeps_are_left(when):
    data = TensorDataset(torch.arange(24.0).view(24, 1).expand(24, 4), torch.zeros(24, dtype=torch.long))

    def test_range(model, batches):
        workers = batches._iterator
        range_test(model, torch.optim.SGD(model.parameters(), lr=0.1), loss, batches, steps=10, seeds=[0])
        assert batches._iterator is workers

    def seen(with_test):
        torch.manual_seed(3)
        batches = DataLoader(data, batch_size=4, shuffle=True, num_workers=1, persistent_workers=True)
        model, orders = Net(), []
        if with_test and when[0] < 0:
            test_range(model, batches)
        for epoch in range(2):
            for place, batch in enumerate(batches):
                if with_test and (epoch, place) == when:
                    test_range(model, batches)
                orders.append(batch[0][:, 0].tolist())
        return orders

    assert seen(True) == seen(False)


def test_ratios_of_rates_that_stand_at_0():
    model = Net()
    groups = [{"params": model.first.parameters(), "lr": 1.0}, {"params": model.last.parameters(), "lr": 0.1}]
    optimizer, seen = torch.optim.SGD(groups), []
    warming = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: s / 10)
    assert optimizer.param_groups[0]["lr"] == 0.0
    optimizer.register_step_pre_hook(lambda o, *_: seen.append([group["lr"] for group in o.param_groups]))
    range_test(model, optimizer, loss, loader(), low=1e-4, high=1e-2, steps=10, seeds=[0])
    assert seen[-1] == pytest.approx([1e-2, 1e-3])
    assert warming.get_last_lr() == [0.0, 0.0]
    rates = [rate * linear(10, 0, 1) for rate in (1, 2)]
    ours = descend.SGD([{"params": [p], "lr": rate} for p, rate in zip(model.parameters(), rates, strict=False)])
    with pytest.raises(ValueError, match="every group's lr is 0, so their ratios are not known"):
        range_test(model, ours, loss, loader())


def test_what_the_seeds_say_is_said():
    model = nn.Linear(4, 3)
    optimizer, batches = torch.optim.SGD(model.parameters(), lr=0.1), list(loader())
    same = range_test(model, optimizer, loss, batches, low=1e-3, steps=60)
    assert "every seed gave the same run" in str(same)
    assert "every seed" not in str(range_test(model, optimizer, loss, batches, low=1e-3, steps=60, seeds=[0]))
    lost = range_test(model, optimizer, lambda m, b: loss(m, b) * math.nan, batches)
    assert str(lost) == "the loss was no finite number from the start: look at the model and its data"
    rates = rising(1e-4, 10, 200, "exponential")
    flat = Sweep(1, tuple(rates), (2.0,) * 200, "exponential")
    assert str(RangeTest((falling(rates), flat))).endswith("n = 1; it did not fall under 1 of 2 seeds)")
    with pytest.raises(ValueError, match="optimizer has none of the model's parameters"):
        range_test(nn.Linear(4, 3), optimizer, loss, batches)


def test_what_is_no_optimizer_or_no_loss():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="optimizer is str; give one of torch's kind"):
        range_test(model, "sgd", loss, loader())
    with pytest.raises(TypeError, match=r"loss\(model, batch\) returned 1.0; let it return one number in a tensor"):
        range_test(model, optimizer, lambda m, b: 1.0, loader())
    with pytest.raises(TypeError, match=r"returned a tensor of shape \(8,\); let it return"):
        range_test(model, optimizer, lambda m, b: m(b[0]).sum(1), loader())


def test_an_optimizer_that_searches_along_lines_is_refused():
    model = Net()
    with pytest.raises(TypeError, match="optimizer is LBFGS"):
        range_test(model, torch.optim.LBFGS(model.parameters()), loss, loader())


def test_a_loss_that_changes_modes_leaves_them_as_they_were():
    model = Net()

    def switching(model, batch):
        model.train(not model.training)
        return loss(model, batch)

    modes = [module.training for module in model.modules()]
    range_test(model, torch.optim.SGD(model.parameters(), lr=0.1), switching, loader(), steps=11, seeds=[0])
    assert [module.training for module in model.modules()] == modes
    assert modes[2] is False  # batch normalization's own


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_middle_leaves_no_trace(error):
    model, batches = Net(), loader()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = everything(model, optimizer, batches)
    calls = []

    def failing(model, batch):
        calls.append(None)
        if len(calls) == 7:
            raise error
        return loss(model, batch)

    with pytest.raises(error):
        range_test(model, optimizer, failing, batches)
    assert everything(model, optimizer, batches) == before


def test_the_bounds_of_a_parabola():
    """Gradient descent on p^2 / 2 shrinks p by 1 - rate: the loss falls until the rate passes 2."""
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    holder = nn.ParameterList([p])
    optimizer = torch.optim.SGD([p], lr=1.0)
    found = range_test(
        holder, optimizer, lambda model, _: (model[0] ** 2).sum() / 2, [0], low=0.02, high=4.0, steps=400
    )
    expected, value = [], 1.0
    for rate in rising(0.02, 4.0, 400, "exponential"):
        value *= 1 - rate
        expected.append(value**2 / 2)
    sweep = found.sweeps[0]
    assert sweep.losses == pytest.approx(expected[: len(sweep.losses)], rel=1e-9)
    assert sweep.rates[-1] > 2
    assert found.interval.low < 0.1
    assert found.interval.high < 2.2


def test_groups_keep_the_ratios_between_their_rates():
    model, seen = Net(), []
    groups = [{"params": model.first.parameters(), "lr": 0.5}, {"params": model.last.parameters(), "lr": 0.05}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    optimizer.register_step_pre_hook(lambda o, *_: seen.append([group["lr"] for group in o.param_groups]))
    range_test(model, optimizer, loss, loader(), low=1e-4, high=1e-2, steps=10, seeds=[0])
    assert [first for first, _ in seen] == pytest.approx(rising(1e-4, 1e-2, 10, "exponential"))
    assert all(second == pytest.approx(first / 10) for first, second in seen)


def large(model, batch):
    return 100 * loss(model, batch)


@pytest.mark.parametrize("make", [torch.optim.SGD, descend.SGD])
def test_steps_that_a_scaler_skips_are_not_counted(make):
    model, batches = Net(), loader()
    optimizer = make(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10**6)  # overflows at first
    before = everything(model, optimizer, batches, scaler)
    scales = []

    def noting(model, batch):
        scales.append(scaler.get_scale())
        return large(model, batch)

    found = range_test(model, optimizer, noting, batches, low=1e-4, high=1e-2, steps=30, seeds=[0], scaler=scaler)
    assert scales[-1] < scales[0]
    assert len(scales) > 31
    assert everything(model, optimizer, batches, scaler) == before
    assert len(found.sweeps[0].rates) == 30
    assert found.sweeps[0].rates == pytest.approx(rising(1e-4, 1e-2, 30, "exponential"))


def test_steps_that_a_fused_step_of_torch_skips_are_not_counted():
    model, batches = Net(), loader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10**6)
    counts = []
    optimizer.register_step_post_hook(lambda o, *_: counts.append(int(o.state[model.first.weight]["step"])))
    found = range_test(model, optimizer, large, batches, low=1e-4, high=1e-2, steps=30, seeds=[0], scaler=scaler)
    assert len(found.sweeps[0].rates) == counts[-1] == 30 < len(counts)


def test_both_forms_rise_as_they_are_called():
    assert rising(0, 3, 11, "linear") == pytest.approx([0.3 * step for step in range(11)])
    assert rising(1e-3, 1, 10, "exponential")[3] == pytest.approx(1e-2)


def test_a_run_that_diverges_ends_early():
    model = Net()
    found = range_test(model, torch.optim.SGD(model.parameters(), lr=1.0), loss, loader(), high=1e9, steps=200)
    for sweep in found.sweeps:
        assert len(sweep.rates) == len(sweep.losses) < 200
        assert all(map(math.isfinite, sweep.losses))


def falling(rates, seed=0):
    losses = [2.0 - 1.0 / (1 + (0.1 / rate) ** 2) + max(0.0, rate - 1.0) for rate in rates]
    return Sweep(seed, tuple(rates), tuple(losses), "exponential")


def test_the_interval_is_where_the_loss_falls():
    found = falling(rising(1e-4, 10, 200, "exponential")).interval()
    assert 0.02 < found.low < 0.06
    assert 0.05 < found.steepest < 0.2
    assert 0.7 < found.high < 1.3


def test_seeds_that_disagree_show():
    rates = rising(1e-4, 10, 200, "exponential")
    flat = Sweep(1, tuple(rates), (2.0,) * 200, "exponential")
    assert flat.interval() is None
    assert RangeTest((falling(rates), flat)).interval is not None
    assert RangeTest((falling(rates), flat, flat)).interval is None
    assert "fell under 1 of 3 seeds" in str(RangeTest((falling(rates), flat, flat)))
    assert "n = 1" in str(RangeTest((falling(rates), flat)))


@pytest.mark.parametrize("form", ["linear", "exponential"])
def test_a_picture(form):
    rates = rising(1e-3, 3, 50, form)
    drawn = RangeTest((falling(rates), falling(rates, 1))).plot().to_dict()
    assert len(drawn["layer"]) == 2
    assert max(map(len, drawn["datasets"].values())) == 100
    flat = Sweep(1, tuple(rates), (2.0,) * 50, form)
    assert "layer" not in RangeTest((flat,)).plot().to_dict()
    lost = Sweep(2, (), (), form)
    assert len(RangeTest((falling(rates), falling(rates, 1), lost)).plot().to_dict()["layer"]) == 2
    assert "layer" not in RangeTest((lost,)).plot().to_dict()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"form": "cubic"}, ValueError, "form is 'cubic'; choose exponential or linear"),
        ({"steps": 9}, ValueError, "steps is 9; give a whole number, 10 or more"),
        ({"low": 0.0}, ValueError, r"low is 0.0 and high is 10.0; give 0 < low < high"),
        ({"low": 3.0, "high": 1.0}, ValueError, "give 0 < low < high"),
        ({"high": math.inf}, ValueError, "high is inf"),
        ({"seeds": []}, TypeError, r"seeds is \[\]; give one whole number or more, such as \(0, 1, 2\)"),
        ({"seeds": 3}, TypeError, "seeds is 3; give one whole number or more"),
        ({"seeds": [-1]}, ValueError, "a seed must be a whole number from 0 up; got -1"),
        ({"seeds": [0.5]}, ValueError, "a seed must be a whole number from 0 up; got 0.5"),
        ({"batches": iter([])}, TypeError, "batches can be iterated only once; give a DataLoader"),
        ({"batches": []}, ValueError, "batches has none"),
    ],
)
def test_arguments_that_make_no_sense(changed, error, message):
    model = Net()
    asked = {"batches": loader(), **changed}
    with pytest.raises(error, match=message):
        range_test(model, torch.optim.SGD(model.parameters(), lr=0.1), loss, **asked)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_finds_the_known_rate_of_digits(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(["range-test", "--task", "digits", "--quick", "--out", "found.svg"])
    printed = capsys.readouterr().out
    assert caught.value.code == 0
    assert printed.startswith("digits, sgd, a screening: the loss falls from low to high: low 0.0")
    assert printed.endswith("(medians and extremes, n = 3)\npicture: found.svg\n")
    assert (tmp_path / "found.svg").read_text().startswith("<svg")
    assert [path.name for path in tmp_path.iterdir()] == ["found.svg"]
    interval = commands.range_test("digits", quick=True).interval
    assert interval.low < 0.1 < interval.high  # the rate at the centre of SGD's grid


def test_a_picture_without_room_is_an_error_in_a_line(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "found.svg").write_text("the one before")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(SystemExit) as caught:
        cli.main(["range-test", "--task", "digits", "--steps", "10", "--seeds", "1", "--out", "found.svg"])
    assert caught.value.code == 1
    expected = "descend: found.svg cannot be written (No space left on device); --out names another file\n"
    assert capsys.readouterr().err == expected
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"found.svg": "the one before"}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"optimizer": "sdg"}, UsageError, "did you mean 'sgd'"),
        ({"task": "digit"}, TaskError, "did you mean 'digits'"),
        ({"seeds": 0}, UsageError, "seeds is 0; give a whole number, 1 or more"),
        ({"form": "steep"}, UsageError, "choose exponential or linear"),
        ({"out": "picture.txt"}, UsageError, r"out is 'picture.txt'; give a file that ends in .svg"),
        ({"out": "nowhere/picture.svg"}, RunError, "cannot be written"),
    ],
)
def test_the_command_says_what_it_cannot_do(changed, error, message):
    with pytest.raises(error, match=message):
        commands.range_test(**changed)
