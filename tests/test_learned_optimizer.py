"""A network as a `torch.optim.Optimizer`: what it does, what it keeps, what it refuses."""

import copy
import io
import math

import pytest
import torch
from torch import nn

from descend import schedules
from descend.learned import CoordinatewiseLSTM, LearnedOptimizer, PerParameterMLP

KINDS = {"lstm": CoordinatewiseLSTM, "mlp": PerParameterMLP}


@pytest.fixture(params=KINDS)
def network(request):
    return KINDS[request.param]()


def model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 5)).to(dtype)


def train(net, optimizer, steps, seed=0):
    source = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        inputs = torch.randn(8, 1, 4, 4, generator=source).to(next(net.parameters()))
        optimizer.zero_grad()
        net(inputs).square().mean().backward()
        optimizer.step()


def weights(net):
    return torch.cat([one.detach().flatten().double() for one in net.parameters()])


def test_it_is_the_pure_pair(network):
    net, twin = model(), model()
    optimizer = LearnedOptimizer(net.parameters(), network, chunk_bytes=5000)
    params = {name: one.detach() for name, one in twin.named_parameters()}
    state = network.init(params)
    source = torch.Generator().manual_seed(0)
    for _ in range(3):
        train(net, optimizer, 1, seed=int(torch.randint(100, (), generator=source)))
        grads = {name: one.grad.clone() for name, one in net.named_parameters()}
        with torch.no_grad():
            params, state = network.update(params, grads, state)
    for name, one in net.named_parameters():
        torch.testing.assert_close(one.detach(), params[name], rtol=1e-5, atol=1e-7)


def test_rates_multiply_and_follow_schedules(network):
    ends = {}
    for rate in (1.0, 0.5, 0.0):
        net = model()
        before = weights(net)
        train(net, LearnedOptimizer(net.parameters(), network, rate), 1)
        ends[rate] = weights(net) - before
    torch.testing.assert_close(ends[0.5], ends[1.0] / 2, rtol=1e-3, atol=1e-7)
    assert not ends[0.0].any()
    assert ends[1.0].any()

    net = model()
    optimizer = LearnedOptimizer(net.parameters(), network, 2.0 * schedules.linear(4))
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        train(net, optimizer, 1)
    assert rates == [2.0, 1.5, 1.0, 0.5, 0.0]
    assert optimizer.applied_steps == 5


def test_groups_that_are_added_later_follow_the_schedule(network):
    net = model()
    optimizer = LearnedOptimizer(net[0].parameters(), network, schedules.linear(4))
    train(net, optimizer, 1)
    optimizer.add_param_group({"params": list(net[3].parameters())})
    assert [group["lr"] for group in optimizer.param_groups] == [0.75, 0.75]
    train(net, optimizer, 1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    optimizer.set_schedule("lr", 3.0, group=1)
    train(net, optimizer, 1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 3.0]
    with pytest.raises(TypeError, match="it has lr"):
        optimizer.set_schedule("betas", 1.0)
    with pytest.raises(ValueError, match="lr is -1"):
        optimizer.set_schedule("lr", -1.0)


def test_wide_parameters_keep_their_digits(network):
    net = model(torch.float64)
    with torch.no_grad():
        net[3].bias.fill_(1 + 1e-12)
    optimizer = LearnedOptimizer(net.parameters(), network, 0.0)
    train(net, optimizer, 1)
    assert bool((net[3].bias == 1 + 1e-12).all())
    assert all(one.dtype == torch.float64 for name, one in optimizer.state[net[3].bias].items() if name != "step")


def test_torchs_schedulers_drive_it(network):
    net = model()
    optimizer = LearnedOptimizer(net.parameters(), network)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    for _ in range(2):
        train(net, optimizer, 1)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def test_saved_and_loaded_it_goes_on(network):
    whole, first = model(), model()
    train(whole, straight := LearnedOptimizer(whole.parameters(), network, schedules.linear(20)), 4)
    train(whole, straight, 4, seed=1)
    train(first, before := LearnedOptimizer(first.parameters(), network, schedules.linear(20)), 4)
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": before.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = model()
    second.load_state_dict(saved["model"])
    after = LearnedOptimizer(second.parameters(), network, schedules.linear(20))
    after.load_state_dict(saved["optimizer"])
    assert after.param_groups[0]["lr"] == before.param_groups[0]["lr"] == 0.8
    train(second, after, 4, seed=1)
    assert torch.equal(weights(second), weights(whole))


def test_a_copy_goes_on_by_itself(network):
    net = model()
    optimizer = LearnedOptimizer(net.parameters(), network, schedules.linear(10))
    train(net, optimizer, 2)
    both = copy.deepcopy((net, optimizer))
    train(net, optimizer, 2, seed=1)
    before = weights(both[0])
    train(*both, 2, seed=1)
    assert torch.equal(weights(both[0]), weights(net))
    assert not torch.equal(before, weights(net))


def test_narrow_parameters_keep_a_wide_state(network):
    net = model(torch.bfloat16)
    optimizer = LearnedOptimizer(net.parameters(), network)
    train(net, optimizer, 2)
    assert all(one.dtype == torch.bfloat16 for one in net.parameters())
    held = [entry for state in optimizer.state.values() for entry in state.values()]
    assert all(entry.dtype == torch.float32 for entry in held)
    again = LearnedOptimizer(net.parameters(), network)
    again.load_state_dict(optimizer.state_dict())
    for param in net.parameters():
        for name, entry in again.state[param].items():
            assert entry.dtype == torch.float32
            assert torch.equal(entry, optimizer.state[param][name])


def test_groups_have_networks_of_their_own():
    net, lstm, mlp = model(), CoordinatewiseLSTM(), PerParameterMLP()
    convolution, _, _, linear = net
    optimizer = LearnedOptimizer(
        [{"params": convolution.parameters(), "network": mlp, "lr": 0.5}, {"params": linear.parameters()}], lstm
    )
    assert [group["network"] for group in optimizer.param_groups] == [mlp.digest(), lstm.digest()]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1.0]
    train(net, optimizer, 1)
    assert set(optimizer.state[linear.weight]) == {"hidden", "cell"}
    assert "momentum" in optimizer.state[convolution.weight]


def test_pieces_bound_what_a_step_takes(network):
    ends = []
    for chunk in (1, 2000, 2**30):
        net = model(torch.float64)
        train(net, LearnedOptimizer(net.parameters(), copy.deepcopy(network).double(), chunk_bytes=chunk), 2)
        ends.append(weights(net))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ends[0], ends[2], rtol=1e-12, atol=1e-14)


def test_maximize_and_closure(network):
    net, twin = model(), model()
    up, down = LearnedOptimizer(net.parameters(), network, maximize=True), LearnedOptimizer(twin.parameters(), network)
    inputs = torch.randn(8, 1, 4, 4)

    def closure():
        up.zero_grad()
        loss = -net(inputs).square().mean()
        loss.backward()
        return loss

    loss = up.step(closure)
    twin(inputs).square().mean().backward()
    down.step()
    assert float(loss.detach()) < 0
    torch.testing.assert_close(weights(net), weights(twin))


def test_what_lies_strided_in_memory_is_stepped(network):
    straight, strided = torch.randn(6, 4), torch.randn(4, 6).T
    strided.copy_(straight)
    ends = []
    for one in (straight, strided):
        param = nn.Parameter(one)
        optimizer = LearnedOptimizer([param], network)
        param.grad = torch.linspace(-1, 1, 24).view(6, 4)
        optimizer.step()
        ends.append(param.detach().clone())
    assert torch.equal(*ends)


def test_parameters_without_gradient_stay(network):
    net = model()
    optimizer = LearnedOptimizer(net.parameters(), network)
    net[0].weight.sum().backward()
    before = weights(net[3])
    optimizer.step()
    assert torch.equal(weights(net[3]), before)
    assert len(optimizer.state) == 1


def test_what_it_refuses_changes_nothing(network):
    net = model()
    optimizer = LearnedOptimizer(net.parameters(), network)
    train(net, optimizer, 1)
    before, held = weights(net), copy.deepcopy(optimizer.state_dict())
    last = list(net.parameters())[-1]
    last.grad = torch.zeros(5).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    last.grad = torch.zeros(5)
    for name in optimizer.state[last]:
        if name != "step":
            optimizer.state[last][name] = torch.zeros(2)
    with pytest.raises(RuntimeError, match="delete the entry"):
        optimizer.step()
    optimizer.load_state_dict(held)
    optimizer.param_groups[0]["lr"] = math.nan
    with pytest.raises(ValueError, match="lr is nan"):
        optimizer.step()
    assert torch.equal(weights(net), before)
    assert optimizer.applied_steps == 1


def test_another_network_does_not_take_the_state(network):
    net = model()
    optimizer = LearnedOptimizer(net.parameters(), network)
    train(net, optimizer, 1)
    other = LearnedOptimizer(net.parameters(), CoordinatewiseLSTM(seed=5))
    with pytest.raises(ValueError, match="is now to be by"):
        other.load_state_dict(optimizer.state_dict())
    assert not other.state


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda net: LearnedOptimizer(net.parameters(), None), TypeError, "network is None"),
        (lambda net: LearnedOptimizer([], CoordinatewiseLSTM()), ValueError, "empty"),
        (lambda net: LearnedOptimizer(net.parameters(), CoordinatewiseLSTM(), -1.0), ValueError, "lr is -1.0"),
        (lambda net: LearnedOptimizer(net.parameters(), CoordinatewiseLSTM(), "fast"), ValueError, "lr is 'fast'"),
        (
            lambda net: LearnedOptimizer(net.parameters(), CoordinatewiseLSTM(), chunk_bytes=0),
            ValueError,
            "chunk_bytes is 0",
        ),
        (
            lambda net: LearnedOptimizer([torch.zeros(2, dtype=torch.complex64)], CoordinatewiseLSTM()),
            TypeError,
            "real numbers",
        ),
    ],
)
def test_wrong_arguments_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make(model())
