"""Snapshots are taken at the ends of cycles, in whatever loop, and at no other time."""

import math
import random

import pytest
import torch
from torch import nn

import descend
from descend.applied_steps import AppliedSteps
from descend.schedules import constant, cosine, restart, snapshot, warm_restarts, warmup
from descend.snapshots import SnapshotError, Snapshots
from snapshot_training import Net, copied, made, same, train_step


def sgd(model, lr=None):
    return descend.SGD(model.parameters(), lr=0.1 * snapshot(12, 3) if lr is None else lr, momentum=0.9)


def steps_of(snapshots):
    return [one.step for one in snapshots.store]


def trained(snapshots, model, optimizer, steps, scaler=None):
    for step in range(steps):
        train_step(model, optimizer, step, scaler)
        snapshots.step()
    return steps_of(snapshots)


@pytest.mark.parametrize(
    ("lr", "ends"),
    [
        (snapshot(12, 3), [4, 8, 12]),
        (snapshot(10, 3), [4, 8, 10]),
        (warm_restarts(2, mult=2), [2, 6, 14]),
        (restart(10, 4), [3, 5, 8, 10]),
        (warmup(3) >> snapshot(8, 2), [7, 11]),
        (cosine(9), [9]),
    ],
)
def test_at_the_end_of_every_cycle(tmp_path, lr, ends):
    model = made()
    optimizer = sgd(model, 0.1 * lr)
    snapshots = Snapshots(tmp_path, model, optimizer)
    assert trained(snapshots, model, optimizer, 16) == ends
    assert [one.cycle for one in snapshots.store] == list(range(1, len(ends) + 1))


def test_after_the_last_update_of_a_cycle_before_the_rate_rises(tmp_path):
    model = made()
    optimizer, rates = sgd(model), []
    optimizer.register_step_pre_hook(lambda one, *_: rates.append(one.param_groups[0]["lr"]))
    snapshots = Snapshots(tmp_path, model, optimizer)
    for step in range(1, 13):
        before = copied(model)
        train_step(model, optimizer, step)
        taken = snapshots.step()
        assert (taken is not None) == (step in (4, 8, 12))
        if taken:
            assert same(snapshots.store.load(step), copied(model))
            assert not same(snapshots.store.load(step), before)
            assert rates[-1] == pytest.approx(0.1 * (math.cos(math.pi * 3 / 4) + 1) / 2)
            assert 0 < rates[-1] < 0.02
    assert rates[4] == rates[8] == 0.1


def test_groups_and_betas_each_have_their_cycles(tmp_path):
    model = made()
    groups = [
        {"params": model.first.parameters(), "lr": 0.01 * snapshot(12, 2)},
        {"params": model.last.parameters(), "betas": (0.9 * warm_restarts(4, floor=0.5), 0.999)},
    ]
    optimizer = descend.AdamW(groups, lr=0.01)
    assert trained(Snapshots(tmp_path, model, optimizer), model, optimizer, 13) == [4, 6, 8, 12]


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_optimizers_of_torch_with_a_schedule(tmp_path, make):
    model, lr = made(), snapshot(9, 3)
    optimizer = make(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr)
    snapshots = Snapshots(tmp_path, model, optimizer, schedule=lr, also={"rates": scheduler})
    for step in range(9):
        train_step(model, optimizer, step)
        scheduler.step()
        snapshots.step()
    assert steps_of(snapshots) == [3, 6, 9]
    assert snapshots.resume() == 9


def test_a_given_schedule_goes_before_the_optimizer_s(tmp_path):
    model = made()
    optimizer = sgd(model)
    assert trained(Snapshots(tmp_path, model, optimizer, schedule=cosine(5)), model, optimizer, 8) == [5]


@pytest.mark.parametrize("make", [descend.SGD, torch.optim.SGD])
def test_gradients_that_are_accumulated_take_one(tmp_path, make):
    model, written = made(), []
    optimizer = make(model.parameters(), lr=0.1)
    snapshots = Snapshots(tmp_path, model, optimizer, schedule=snapshot(4, 2))
    for micro in range(12):
        nn.functional.mse_loss(model(torch.ones(2, 4)), torch.zeros(2, 3)).backward()
        if micro % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
        if (taken := snapshots.step()) is not None:
            written.append((micro, taken.step))
    assert written == [(5, 2), (11, 4)]


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: descend.SGD(parameters, lr=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, fused=True),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
    ],
)
def test_steps_that_a_scaler_skips_end_no_cycle(tmp_path, make):
    model = made()
    optimizer = make(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=10**6)
    snapshots, applied = Snapshots(tmp_path, model, optimizer, schedule=snapshot(4, 2)), 0
    for step, spoiled in enumerate([True, False, True, False, True, True, False, False, True]):
        before = copied(model)
        train_step(model, optimizer, step, scaler, spoiled)
        assert torch.equal(before["last.weight"], model.last.weight) == spoiled
        applied += not spoiled
        assert (snapshots.step() is not None) == (not spoiled and applied in (2, 4))
    assert scaler.get_scale() == 256.0 / 2**5
    assert steps_of(snapshots) == [2, 4]


def test_counting_can_end():
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    applied = AppliedSteps(optimizer)
    train_step(model, optimizer, 0)
    applied.close()
    train_step(model, optimizer, 1)
    assert applied.count == 1


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrapped_models_keep_their_names(tmp_path, wrap):
    model = made()
    wrapped = wrap(model)
    optimizer = sgd(model)
    snapshots = Snapshots(tmp_path, wrapped, optimizer)
    assert trained(snapshots, wrapped, optimizer, 5) == [4]
    fresh = Net()
    fresh.load_state_dict(snapshots.store.load(4))
    assert snapshots.ensemble().predict([torch.ones(2, 4)]).shape == (2, 3)
    snapshots.store.restore(wrapped, 4)
    assert same(copied(model), copied(fresh))
    assert Snapshots(tmp_path, wrapped, optimizer).resume() == 4


def test_the_metric_sees_the_model_as_it_is_used(tmp_path):
    model, seen = made(), []

    def metric(given):
        assert given is model
        assert not torch.is_grad_enabled()
        assert not any(module.training for module in given.modules())
        seen.append(torch.tensor(float(len(seen)) % 2))
        return seen[-1]

    model.norm.eval()
    modes = [module.training for module in model.modules()]
    optimizer = sgd(model, 0.1 * snapshot(8, 4))
    snapshots = Snapshots(tmp_path, model, optimizer, metric=metric, keep=2, best="max")
    assert trained(snapshots, model, optimizer, 8) == [4, 8]
    assert [module.training for module in model.modules()] == modes
    assert [one.metric for one in snapshots.store] == [1.0, 1.0]
    assert [one.cycle for one in snapshots.store] == [2, 4]


def test_training_is_the_same_with_snapshots_and_without(tmp_path):
    def run(with_snapshots):
        model = made()
        optimizer = sgd(model)
        snapshots = Snapshots(tmp_path, model, optimizer, metric=lambda m: m(torch.ones(2, 4)).sum(), keep=2)
        for step in range(12):
            train_step(model, optimizer, step)
            if with_snapshots:
                snapshots.step()
        return copied(model), torch.get_rng_state().tolist(), random.getstate()

    first, second = run(True), run(False)
    assert same(first[0], second[0])
    assert first[1:] == second[1:]


def test_a_snapshot_that_cannot_be_written_leaves_training_to_go_on(tmp_path):
    model = made()
    optimizer = sgd(model)
    snapshots = Snapshots(tmp_path, model, optimizer, max_bytes=10)
    for step in range(8):
        train_step(model, optimizer, step)
        if step in (3, 7):
            with pytest.raises(SnapshotError, match=r"max_bytes is 10, but one snapshot takes [0-9,]+; allow more"):
                snapshots.step()
        assert snapshots.step() is None
    assert steps_of(snapshots) == []


class Extra(Net):
    def get_extra_state(self):
        return {"calls": 1}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Extra, "'_extra_state' of Extra is a dict, which a snapshot cannot hold; plain tensors can be kept"),
        (lambda: Net().to(torch.complex128), r"'first.weight' of Net is of type complex128, which"),
        (lambda: nn.ParameterList([torch.eye(2).to_sparse(), torch.ones(2)]), "'0' of ParameterList is sparse, which"),
    ],
)
def test_what_no_snapshot_can_hold_is_said_at_once(tmp_path, recwarn, model, message):
    held = model()
    with pytest.raises(SnapshotError, match=message):
        Snapshots(tmp_path / "new", held, sgd(held))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"keep": 0}, ValueError, "keep is 0; give a whole number, 1 or more, or None for no limit"),
        ({"keep": True}, ValueError, "keep is True; give a whole number"),
        ({"keep": 2.0}, ValueError, "keep is 2.0; give a whole number"),
        ({"max_bytes": -1}, ValueError, "max_bytes is -1; give a whole number, 1 or more"),
        ({"best": "max"}, ValueError, "best is 'max'; give metric, a function of the model"),
        ({"best": "max", "metric": len}, ValueError, "nothing limits the snapshots; give keep or max_bytes too"),
        ({"best": "most", "metric": len, "keep": 1}, ValueError, "best is 'most'; give 'max' or 'min', or None"),
        ({"metric": 0.5}, ValueError, "metric is 0.5; give a function of the model that returns a number"),
        ({"schedule": 0.1}, ValueError, r"schedule is 0.1; give one of descend.schedules, such as snapshot\("),
        ({"schedule": warmup(5)}, ValueError, "no schedule has cycles; build the optimizer with lr=0.1 \\* descend"),
        ({"lr": 0.1}, ValueError, "no schedule has cycles"),
        ({"lr": 0.1 * constant()}, ValueError, "no schedule has cycles"),
        ({"also": [1]}, ValueError, "also is a list; give a dict of what to save, by names"),
        ({"also": {"epoch": 3}}, ValueError, "also: epoch is a int; give a torch.Generator, or what has state_dict"),
        ({"optimizer": "sgd"}, TypeError, "optimizer is str; give one of torch's kind"),
        ({"optimizer": sgd(Net())}, ValueError, "optimizer has none of the model's parameters; build it from model"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, options, error, message):
    model = made()
    optimizer = options.pop("optimizer", None) or sgd(model, options.pop("lr", None))
    with pytest.raises(error, match=message):
        Snapshots(tmp_path / "new", model, optimizer, **options)
    assert not (tmp_path / "new").exists()


def test_other_optimizers_need_a_schedule(tmp_path):
    model = made()
    with pytest.raises(ValueError, match="SGD does not say where cycles end; give schedule, such as"):
        Snapshots(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_more_than_there_are(tmp_path):
    model = made()
    optimizer = sgd(model)
    snapshots = Snapshots(tmp_path, model, optimizer)
    with pytest.raises(ValueError, match="holds no snapshot; train to the end of a cycle first"):
        snapshots.ensemble()
    trained(snapshots, model, optimizer, 12)
    for count in (7, 0, -1, True, 1.0):
        with pytest.raises(ValueError, match=rf"last: {count} snapshots of 3 in .*; give 1 to 3"):
            snapshots.ensemble(count)
    assert len(snapshots.ensemble(2)) == 2


def test_a_folder_that_is_a_file_or_of_another_model(tmp_path):
    model = made()
    optimizer = sgd(model)
    (tmp_path / "file").write_text("")
    with pytest.raises(SnapshotError, match="file is a file; give a folder"):
        Snapshots(tmp_path / "file", model, optimizer)
    trained(Snapshots(tmp_path / "new", model, optimizer), model, optimizer, 4)
    other = nn.Linear(2, 2)
    with pytest.raises(SnapshotError, match=r"\(Net\) is of another architecture than Linear: it has no 'weight'"):
        Snapshots(tmp_path / "new", other, sgd(other))
