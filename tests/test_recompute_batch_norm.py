"""Normalization's statistics against those of the whole data, and what torch's update_bn gets wrong."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import swa_utils

from descend.averaging import recompute_batch_norm
from descend.averaging.batch_norm import _Moments


def net(momentum=0.1):
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(3, momentum=momentum), nn.Dropout(0.5), nn.Linear(3, 4), nn.BatchNorm1d(4))


def data(count=50, dtype=torch.float32):
    return (torch.randn(count, 3, generator=torch.Generator().manual_seed(1), dtype=dtype) * 3 + 2).cumsum(0) / 10


def same(first, second):
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_are_those_of_all_the_data_however_it_is_cut(momentum):
    inputs = data()
    model, theirs = net(momentum), net(momentum)
    assert recompute_batch_norm(model, inputs.split(16)) == 4  # 16, 16, 16, 2
    swa_utils.update_bn(inputs.split(16), theirs)
    torch.testing.assert_close(model[0].running_mean, inputs.mean(0))
    torch.testing.assert_close(model[0].running_var, inputs.var(0))
    assert not torch.allclose(theirs[0].running_mean, inputs.mean(0), rtol=0.02)
    assert not torch.allclose(theirs[0].running_var, inputs.var(0), rtol=0.02)
    assert model[0].num_batches_tracked == theirs[0].num_batches_tracked == 4
    assert (model[0].momentum, model[3].momentum) == (momentum, 0.1)


def test_images_in_double_precision():
    model, images = nn.BatchNorm2d(3).double(), torch.randn(7, 3, 4, 5, dtype=torch.float64)
    recompute_batch_norm(model, [(part, None) for part in images.split(3)])
    each = images.transpose(0, 1).flatten(1)
    torch.testing.assert_close(model.running_mean, each.mean(1), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(model.running_var, each.var(1), rtol=1e-13, atol=0)


def test_a_later_layer_has_what_reaches_it_without_dropout():
    model, inputs = net(), data(48)
    recompute_batch_norm(model, [inputs])
    reached = model[2](nn.functional.batch_norm(inputs, None, None, training=True))
    torch.testing.assert_close(model[3].running_mean, reached.mean(0).detach())
    torch.testing.assert_close(model[3].running_var, reached.var(0).detach())
    theirs = net()
    swa_utils.update_bn([inputs], theirs)
    assert not torch.allclose(theirs[3].running_var, reached.var(0), rtol=0.05)


def test_modes_gradients_and_random_numbers_are_left_alone():
    model = net().train()
    model[1].eval()
    modes, drawn = [module.training for module in model.modules()], torch.get_rng_state()
    seen = []
    model[2].register_forward_hook(lambda module, args, out: seen.append((out.requires_grad, module.training)))
    recompute_batch_norm(model, [data()])
    assert seen == [(False, False)]
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not model[0]._forward_pre_hooks
    theirs = net().train()
    theirs[1].eval()
    swa_utils.update_bn([data()], theirs)
    assert theirs[1].training


class Failing:
    def __iter__(self):
        yield data()
        raise KeyboardInterrupt


def test_an_exception_or_no_batch_leaves_what_was_there():
    model, theirs = net(), net()
    for one in (model, theirs):
        recompute_batch_norm(one, [data()])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        recompute_batch_norm(model, Failing())
    with pytest.raises(ValueError, match="batches is empty"):
        recompute_batch_norm(model, [])
    with pytest.raises(TypeError, match="forward="):
        recompute_batch_norm(model, [data(), (3, 4)])
    assert same(model.state_dict(), before)
    assert model[0].momentum == 0.1
    with pytest.raises(KeyboardInterrupt):
        swa_utils.update_bn(Failing(), theirs)
    assert theirs[0].momentum is None
    swa_utils.update_bn([], theirs)
    assert theirs[0].running_mean.eq(0).all()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.unused = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        self.unused.running_mean.fill_(5)

    def forward(self, first, second):
        self.norm(first)
        return self.norm(input=second)


def test_a_layer_used_twice_and_one_that_is_not_reached():
    model, inputs = Twice(), data(30)
    batches = [{"first": inputs[:4], "second": inputs[4:20]}, {"first": inputs[20:23], "second": inputs[23:]}]
    recompute_batch_norm(model, batches)
    torch.testing.assert_close(model.norm.running_var, inputs.var(0))
    assert model.norm.num_batches_tracked == 4
    assert model.unused.running_mean.eq(5).all()
    again = Twice()
    recompute_batch_norm(again, batches, forward=lambda model, batch: model(*batch.values()))
    assert same(again.state_dict(), model.state_dict())


def test_frozen_layers_keep_their_statistics_and_a_model_without_layers_reads_nothing():
    model = net().train()
    model[0].eval()
    recompute_batch_norm(model, [data()])
    assert model[0].running_mean.eq(0).all()
    assert model[3].running_mean.ne(0).all()
    recompute_batch_norm(model.eval(), [data()])
    assert model[0].running_mean.ne(0).all()
    batches = iter([data()])
    assert recompute_batch_norm(nn.Sequential(nn.Linear(3, 3), nn.InstanceNorm1d(3)), batches) == 0
    assert len(list(batches)) == 1
    with pytest.raises(ValueError, match="lazy"):
        recompute_batch_norm(nn.LazyBatchNorm1d(), batches)


def test_instance_normalization_has_the_means_over_instances():
    layer, inputs = nn.InstanceNorm1d(3, track_running_stats=True), torch.randn(5, 3, 8)
    recompute_batch_norm(layer, [inputs[:4], inputs[4]])  # the last one without a dimension for the batch
    torch.testing.assert_close(layer.running_mean, inputs.mean((0, 2)))
    torch.testing.assert_close(layer.running_var, inputs.var(2).mean(0))


def test_a_model_compiled_before_is_observed():
    model = nn.Sequential(nn.BatchNorm1d(3))
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(data())  # in the modes of the pass below, so that nothing is compiled anew
    recompute_batch_norm(compiled, [data()])
    assert model[0].num_batches_tracked == 1
    torch.testing.assert_close(model[0].running_var, data().var(0))


def test_synchronized_layers_have_the_moments_of_all_processes(monkeypatch):
    inputs, layers = data(20), [nn.SyncBatchNorm(3) for _ in range(2)]
    each = [_Moments(layer) for layer in layers]
    for one, part in zip(each, (inputs[:13], inputs[13:]), strict=True):
        one(one.layer, (part,), {})
    packed = [torch.stack([torch.full((3,), one.count).double(), one.mean, one.spread]) for one in each]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group: 2)
    monkeypatch.setattr(
        torch.distributed, "all_gather", lambda out, own, group: [a.copy_(b) for a, b in zip(out, packed, strict=True)]
    )
    for one in each:
        one.write()
        torch.testing.assert_close(one.layer.running_mean, inputs.mean(0))
        torch.testing.assert_close(one.layer.running_var, inputs.var(0))
