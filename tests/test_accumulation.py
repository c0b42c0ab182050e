"""Accumulated gradients are those of the whole batch, and the noise scale is the one that the data have."""

import copy
from typing import NamedTuple

import pytest
import torch
from torch import nn

from descend.accumulation import NoiseScale, accumulate


def loss(model, batch):
    inputs, targets = batch
    return nn.functional.mse_loss(model(inputs), targets)


def made(count=50):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    return model, (torch.randn(count, 4).double(), torch.randn(count, 2).double())


def gradients(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("largest", [1, 7, 16, 49, 50, 1000])
@pytest.mark.parametrize("measured", [False, True])
def test_the_gradient_is_that_of_the_whole_batch(largest, measured):
    model, batch = made()
    whole = copy.deepcopy(model)
    expected = loss(whole, batch)
    expected.backward()
    noise = NoiseScale() if measured else None
    assert accumulate(loss, model, batch, largest, noise=noise) == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-12, atol=1e-15)
    assert noise is None or noise.count == (1 if largest < 50 else 0)


@pytest.mark.parametrize("measured", [False, True])
def test_it_adds_to_the_gradient_that_is_there(measured):
    model, batch = made()
    noise = NoiseScale() if measured else None
    accumulate(loss, model, batch, 20, noise=noise)
    once = gradients(model).clone()
    accumulate(loss, model, batch, 20, noise=noise)
    torch.testing.assert_close(gradients(model), 2 * once)


def test_parameters_that_are_frozen_or_unused_stay_without_gradient():
    model, batch = made()
    model[0].weight.requires_grad_(False)
    model.unused = nn.Parameter(torch.zeros(3).double())
    accumulate(loss, model[:3], batch, 10, noise=NoiseScale())
    assert model[0].weight.grad is None
    accumulate(lambda m, b: loss(m[:3], b), model, batch, 10, noise=NoiseScale())
    assert model.unused.grad is None


class Pointer(nn.Module):
    """Its gradient on an example is the example."""

    def __init__(self, count):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(count).double())


@pytest.mark.parametrize(("examples", "largest"), [(64, 8), pytest.param(50, 7, marks=pytest.mark.long)])
def test_the_noise_scale_of_known_data(examples, largest):
    """Gradients of mean m and deviation d in each of k coordinates: tr(S) / |G|^2 = k d^2 / |m|^2."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.linspace(0.5, 1.5, 10).double()
    model, noise = Pointer(10), NoiseScale(decay=0.999)
    for _ in range(4000):
        model.zero_grad()
        data = mean + 3 * torch.randn(examples, 10, generator=generator).double()
        accumulate(lambda m, batch: (batch @ m.p).mean(), model, data, largest, noise=noise)
    assert noise.scale == pytest.approx(10 * 9 / mean.square().sum().item(), rel=0.05)


def test_without_noise_the_scale_is_zero():
    model, noise = Pointer(3), NoiseScale()
    accumulate(lambda m, batch: (batch @ m.p).mean(), model, torch.ones(8, 3).double(), 2, noise=noise)
    assert noise.scale == pytest.approx(0, abs=1e-12)


def test_what_is_measured_is_saved():
    noise, again = NoiseScale(), NoiseScale()
    assert noise.scale is None
    noise.add([5.0, 7.0], [4, 4], 4.0)
    again.load_state_dict(noise.state_dict())
    assert again.scale == noise.scale == pytest.approx(16 / 2)
    with pytest.raises(ValueError, match="the state lacks square, variance"):
        again.load_state_dict({"count": 1})


def test_under_a_scaler_the_gradient_is_scaled_and_the_noise_scale_is_not():
    model, batch = made()
    scaler, plain, scaled = torch.amp.GradScaler("cpu", init_scale=1024.0), NoiseScale(), NoiseScale()
    value = accumulate(loss, model, batch, 20, noise=plain)
    expected = gradients(model).clone()
    model.zero_grad()
    assert accumulate(loss, model, batch, 20, noise=scaled, scaler=scaler) == value
    torch.testing.assert_close(gradients(model), 1024 * expected)
    assert scaled.scale == pytest.approx(plain.scale, rel=1e-9)
    accumulate(lambda m, b: loss(m, b) * 1e308, model, batch, 20, noise=scaled, scaler=scaler)  # overflows
    assert scaled.count == 1


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_processes_exchange_gradients_once_per_batch():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model, batch = made()
        accumulate(loss, model, batch, 20)
        expected = gradients(model).clone()
        model.zero_grad()
        wrapped, exchanged = nn.parallel.DistributedDataParallel(model), []

        def exchange(_, bucket):
            exchanged.append(bucket.buffer().numel())
            done = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        wrapped.register_comm_hook(None, exchange)
        accumulate(loss, wrapped, batch, 20)
        torch.testing.assert_close(gradients(model), expected)
        assert sum(exchanged) == expected.numel()
        with pytest.raises(ValueError, match="noise cannot be measured on a model that exchanges gradients"):
            accumulate(loss, wrapped, batch, 20, noise=NoiseScale())
    finally:
        torch.distributed.destroy_process_group()


class Pair(NamedTuple):
    inputs: torch.Tensor
    targets: torch.Tensor


def test_lists_with_something_for_each_example_are_cut_too():
    model, (inputs, targets) = made()
    seen = []

    def noting(model, batch):
        seen.append((batch["names"], batch["pair"]))
        return loss(model, (batch["x"], batch["y"]))

    names = [str(place) for place in range(50)]
    accumulate(noting, model, {"x": inputs, "y": targets, "names": names, "pair": ("a", "b")}, 20)
    assert [name for part, _ in seen for name in part] == names
    assert [pair for _, pair in seen] == [("a", "b")] * 3


def test_sparse_gradients_are_measured():
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model, noise = nn.Embedding(5, 3, sparse=sparse), NoiseScale()
        batch = torch.tensor([0, 1, 1, 3, 3, 3, 4, 0])
        accumulate(lambda m, b: (m(b) ** 3).mean(), model, batch, 3, noise=noise)
        found.append((noise.scale, model.weight.grad.to_dense()))
    assert found[1][0] == pytest.approx(found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1])


@pytest.mark.parametrize("measured", [False, True])
def test_after_an_error_the_gradient_is_that_of_the_parts_before(measured):
    model, batch = made()
    accumulate(loss, model, batch, 20)
    before = gradients(model).clone()
    calls = []

    def failing(model, batch):
        calls.append(None)
        if len(calls) == 2:
            raise ArithmeticError
        return loss(model, batch)

    noise = NoiseScale() if measured else None
    with pytest.raises(ArithmeticError):
        accumulate(failing, model, batch, 20, noise=noise)
    model.zero_grad()
    (loss(model, tuple(part[:16] for part in batch)) * 16 / 50).backward()
    expected = before + gradients(model)
    model.zero_grad()
    calls.clear()
    accumulate(loss, model, batch, 20)
    with pytest.raises(ArithmeticError):
        accumulate(failing, model, batch, 20, noise=noise)
    torch.testing.assert_close(gradients(model), expected)
    assert noise is None or noise.count == 0


def test_what_is_no_noise_scale_is_refused_before_anything_is_written():
    model, batch = made()
    with pytest.raises(TypeError, match="noise is 3; give a NoiseScale, or None"):
        accumulate(loss, model, batch, 10, noise=3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_is_one_number():
    model, batch = made()
    with pytest.raises(TypeError, match=r"returned a tensor of shape \(10, 2\); let it return one number in a tensor"):
        accumulate(lambda m, b: m(b[0]), model, batch, 10)


def test_batches_of_any_build():
    model, (inputs, targets) = made()
    for batch, of in (
        ({"x": inputs, "y": [targets], "name": "kept"}, lambda m, b: loss(m, (b["x"], b["y"][0]))),
        ([inputs, targets], loss),
        (Pair(inputs, targets), lambda m, b: loss(m, (b.inputs, b.targets))),
        (
            {"x": inputs, "y": targets, "by": torch.tensor(2.0)},
            lambda m, b: b["by"] * loss(m, (b["x"], b["y"])),
        ),
    ):
        model.zero_grad()
        accumulate(of, model, batch, 10)
        assert gradients(model).norm() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, b: accumulate(loss, m, b, 0), "largest must be a whole number from 1 up; got 0"),
        (lambda m, b: accumulate(loss, m, (b[0], b[1][:3]), 4), r"its tensors have \[3, 50\] examples"),
        (lambda m, b: accumulate(loss, m, "words", 4), r"its tensors have \[\] examples"),
        (lambda m, b: accumulate(loss, m, (b[0][:0], b[1][:0]), 4), r"its tensors have \[0\] examples"),
        (lambda m, b: NoiseScale(decay=1.0), r"decay must be a number from 0 up and below 1; got 1.0"),
        (lambda m, b: NoiseScale().add([1.0], [1], 1.0), "parts are 1 and sizes 1; give two or more"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*made())
