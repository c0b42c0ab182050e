"""Growing batches: the noise that is kept, the paper's numbers of updates, order and resuming, ghost normalization."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import descend
from descend.batching import BatchGrowth, GrowingBatchSampler, ghost, scaled_rate
from descend.schedules import constant, cosine, multistep, parse, step

PAPER = multistep(60, 120, 160, factor=0.2)  # of 200 epochs of CIFAR-10, 50,000 examples


def test_the_noise_of_sgd_is_kept():
    rate = scaled_rate(0.1, 128, 640, momentum=0.9, new_momentum=0.98)
    assert rate / (640 * (1 - 0.98)) == pytest.approx(0.1 / (128 * (1 - 0.9)))
    assert scaled_rate(0.1, 128, 640) == pytest.approx(0.5)


def test_a_falling_rate_becomes_a_growing_batch():
    growth = BatchGrowth(PAPER, 128, 50_000)
    assert [growth.batch_size(epoch) for epoch in (0, 59, 60, 120, 160, 199)] == [128, 128, 640, 3200, 5000, 5000]
    assert growth.rate(130) == pytest.approx(1.0)
    assert growth.rate(170) == pytest.approx(0.2**3 * 5000 / 128)
    for epoch in range(200):
        assert growth.rate(epoch) / growth.batch_size(epoch) == pytest.approx(PAPER(epoch) / 128, rel=1e-12)


@pytest.mark.parametrize(("start", "updates"), [(128, 29_400), (640, 6_400), (3200, 2_300)])
def test_updates_are_those_of_the_paper(start, updates):
    """As many batches as the paper's runs must have taken (it says ~29,000, ~6,500 and < 2,500), odd rests added."""
    growth = BatchGrowth(PAPER, start, 50_000, largest=5120)
    without_rests = sum(50_000 / growth.batch_size(epoch) for epoch in range(200))
    assert without_rests == pytest.approx(updates, rel=0.01)
    assert without_rests <= growth.updates(200) < without_rests + 200
    assert BatchGrowth(constant(), 128, 50_000).updates(200) == 200 * 391


def test_the_rate_as_a_schedule_over_steps():
    growth = BatchGrowth(step(2, factor=0.1), 10, 1000, largest=50)
    rates = growth.rates(5)
    assert rates.length == growth.updates(5) == 260
    expected = [growth.rate(epoch) for epoch, length in enumerate((100, 100, 20, 20, 20)) for _ in range(length)]
    assert rates.values(260) == expected
    assert rates(260) == rates(10_000) == growth.rate(4)
    assert pickle.loads(pickle.dumps(rates)) == rates
    assert parse(str(rates)) == rates
    assert str(growth.rates(2)) == "linear(200, end=1.0)"
    optimizer = descend.SGD([nn.Parameter(torch.zeros(1))], lr=0.1 * rates)
    assert optimizer.param_groups[0]["lr"] == 0.1


def sizes(epoch):
    return (7, 14, 40)[epoch]


def batches(sampler, epoch, start=0):
    sampler.set_epoch(epoch, start)
    return list(sampler)


def test_every_example_comes_once_in_an_epoch_and_in_another_order_in_the_next():
    sampler = GrowingBatchSampler(100, sizes, seed=3)
    orders = []
    for epoch, count in enumerate((15, 8, 3)):
        found = batches(sampler, epoch)
        assert len(found) == len(sampler) == count
        assert {len(batch) for batch in found[:-1]} == {sizes(epoch)}
        orders.append([index for batch in found for index in batch])
        assert sorted(orders[-1]) == list(range(100))
    assert orders[0] != orders[1] != orders[2]
    assert batches(GrowingBatchSampler(100, sizes, seed=3), 1) == batches(sampler, 1)
    assert batches(GrowingBatchSampler(100, sizes, seed=4), 1) != batches(sampler, 1)
    assert batches(GrowingBatchSampler(100, sizes, shuffle=False), 2)[0] == list(range(40))
    assert [len(batch) for batch in batches(GrowingBatchSampler(100, sizes, drop_last=True), 2)] == [40, 40]


def test_a_run_resumed_within_an_epoch_sees_the_batches_that_were_left():
    data = TensorDataset(torch.arange(100))
    whole = GrowingBatchSampler(100, sizes, seed=1)
    loader = DataLoader(data, batch_sampler=whole)
    whole.set_epoch(1)
    seen = [batch[0].tolist() for batch in loader]
    resumed = GrowingBatchSampler(100, sizes, seed=1)
    resumed.set_epoch(1, start=5)
    assert len(DataLoader(data, batch_sampler=resumed)) == 3
    assert [batch[0].tolist() for batch in DataLoader(data, batch_sampler=resumed)] == seen[5:]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_share_each_batch(world, drop_last):
    alone = GrowingBatchSampler(100, sizes, seed=1, drop_last=drop_last)
    shares = [
        GrowingBatchSampler(100, sizes, seed=1, drop_last=drop_last, num_replicas=world, rank=r) for r in range(world)
    ]
    for epoch in range(3):
        parts = [batches(share, epoch) for share in shares]
        for together, *each in zip(batches(alone, epoch), *parts, strict=True):
            assert max(map(len, each)) - min(map(len, each)) <= 1
            joined = [index for part in each for index in part]
            assert set(together) <= set(joined)
            assert len(joined) == max(len(together), world)


def test_a_last_batch_smaller_than_the_processes_is_filled_up():
    shares = [GrowingBatchSampler(10, lambda epoch: 9, shuffle=False, num_replicas=3, rank=r) for r in range(3)]
    assert [batches(share, 0) for share in shares] == [[[0, 3, 6], [9]], [[1, 4, 7], [0]], [[2, 5, 8], [1]]]


def test_a_batch_larger_than_the_data():
    assert batches(GrowingBatchSampler(5, lambda epoch: 9, shuffle=False), 0) == [[0, 1, 2, 3, 4]]
    assert batches(GrowingBatchSampler(5, lambda epoch: 9, drop_last=True), 0) == []


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_processes_are_those_of_torch_distributed(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    asked = GrowingBatchSampler(100, sizes, num_replicas=3, rank=1)
    assert batches(GrowingBatchSampler(100, sizes), 1) == batches(asked, 1)
    alone = batches(GrowingBatchSampler(100, sizes, num_replicas=1, rank=0), 1)
    assert [len(batch) for batch in alone][:2] == [14, 14]


# ---- ghost batch normalization ---------------------------------------------------------------------------------------


def test_groups_are_normalised_by_themselves_and_in_turn():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    plain = copy.deepcopy(model)
    assert ghost(model, 8) is model
    inputs = torch.randn(24, 2, 4, 4) + torch.arange(24).view(24, 1, 1, 1)
    expected = torch.cat([plain(part) for part in inputs.split(8)])
    torch.testing.assert_close(model(inputs), expected)
    assert model.state_dict().keys() == plain.state_dict().keys()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name])
    torch.testing.assert_close(model.eval()(inputs), plain.eval()(inputs))


def test_a_batch_of_about_a_group_is_one_and_others_are_nearly_equal():
    layer = nn.BatchNorm1d(2)
    ghost(layer, 8)
    seen = []
    layer.register_buffer("nothing", None)
    before = layer.num_batches_tracked.item()
    for count in (8, 11, 13, 20, 64):
        layer(torch.randn(count, 2))
        seen.append(layer.num_batches_tracked.item() - before)
        before = layer.num_batches_tracked.item()
    assert seen == [1, 1, 2, 2, 8]
    smallest = ghost(nn.BatchNorm1d(2), 2)
    for count in (3, 7):
        assert smallest(torch.randn(count, 2)).isfinite().all()


def test_a_ghost_model_can_be_copied_and_pickled():
    model = ghost(nn.Sequential(nn.BatchNorm1d(2)), 4)
    inputs = torch.randn(12, 2)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin(inputs)
        assert twin[0].num_batches_tracked.item() == 3
    assert model[0].num_batches_tracked.item() == 0


# ---- what makes no sense ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scaled_rate(0.1, 0, 3), "batch_size must be a whole number from 1 up; got 0"),
        (lambda: scaled_rate(0.1, 1, 3, momentum=1.0), "momentum must be a number from 0 up and below 1; got 1.0"),
        (lambda: BatchGrowth(constant(), 0, 100), "start must be a whole number from 1 up; got 0"),
        (
            lambda: BatchGrowth(constant(), 20, 100, largest=10),
            "start is 20 and largest 10, of 100 examples; give start",
        ),
        (lambda: BatchGrowth(cosine(3), 10, 100).batch_size(3), r"the schedule cosine\(3\) is 0 in epoch 3; give one"),
        (lambda: BatchGrowth(constant(), 10, 100).rates(0), "epochs must be a whole number from 1 up; got 0"),
        (lambda: BatchGrowth(constant(), 12.5, 100), "start must be a whole number from 1 up; got 12.5"),
        (lambda: GrowingBatchSampler(9, sizes, num_replicas=0), "num_replicas must be a whole number from 1 up; got 0"),
        (lambda: GrowingBatchSampler(9, sizes).set_epoch(1.5), "epoch must be a whole number from 0 up; got 1.5"),
        (lambda: GrowingBatchSampler(0, sizes), "examples must be a whole number from 1 up; got 0"),
        (lambda: GrowingBatchSampler(9, sizes, num_replicas=2, rank=2), "rank is 2 of 2; give 0 to num_replicas"),
        (
            lambda: GrowingBatchSampler(9, sizes).set_epoch(0, start=3),
            "start is 3, and epoch 0 has 2 batches",
        ),
        (lambda: len(GrowingBatchSampler(9, lambda epoch: 0)), r"batch_size\(0\) is 0; give a whole number, 1 or more"),
        (lambda: ghost(nn.Linear(2, 2), 8), "the model has no batch normalization"),
        (lambda: ghost(nn.BatchNorm1d(2), 1), "group is 1; give a whole number, 2 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_size_or_a_number_is_no_plan():
    with pytest.raises(TypeError, match="batch_size is 128; give a function of the epoch"):
        GrowingBatchSampler(100, 128)
    with pytest.raises(TypeError, match=r"schedule is 0.1; give one of descend.schedules"):
        BatchGrowth(0.1, 10, 100)
