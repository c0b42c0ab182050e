"""Whatever happens to parameters, state, gradients and groups between steps: kernels do as the eager backend does.

Each scenario is done to two optimizers, of which one steps by kernels, and both must go on alike. Memory that the
optimizer has let go of is watched: nothing may write there.
"""

import copy

import pytest
import torch
from torch import nn

import descend
import scenarios_of_groups
import scenarios_of_memory
from descend.backends import addresses
from fused_optimizers import give_gradients, needs_kernels, random
from worlds import FIRST, SCENARIOS, SHAPES, STEPS, Scenario, World

pytestmark = needs_kernels

REGISTERED = scenarios_of_groups, scenarios_of_memory  # importing them has entered their scenarios


@pytest.fixture(params=["native", "python"])
def reader(request, monkeypatch):
    """Addresses read by native code, and by Python."""
    if request.param == "python":
        monkeypatch.setattr(addresses, "_native", lambda: None)
    elif addresses._native() is None:
        pytest.skip("the native code cannot be had here")


def live(world, chosen):
    """Take steps, with the scenario between them."""
    for step in range(STEPS):
        give_gradients(world.params, step)
        if step == FIRST and world.backend == "auto":
            assert world.optimizer._fused.tables
            assert not world.optimizer._fused.reasons
        renew = getattr(world, "renew", None)
        if renew is not None:
            renew(world, step)
        if step == FIRST or (chosen.every and step > FIRST):
            chosen.does(world, step)
        world.optimizer.step()
        world.check_watched()
        yield world.stored()


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("name", SCENARIOS)
def test_kernels_go_on_as_the_eager_backend_does(name):
    chosen = SCENARIOS[name]
    ours, theirs = (World(backend, **dict(chosen.options)) for backend in ("auto", "eager"))
    for step, (found, expected) in enumerate(zip(live(ours, chosen), live(theirs, chosen), strict=True)):
        assert found.keys() == expected.keys(), step
        for where, x in found.items():
            torch.testing.assert_close(
                x, expected[where], rtol=1e-11, atol=1e-13, msg=lambda m, at=f"step {step}, {where}": f"{at}: {m}"
            )
    assert len(ours.optimizer._fused.reasons) == chosen.eager
    assert ours.optimizer._fused.tables


@pytest.mark.usefixtures("reader")
def test_differentiable_steps_are_eager_and_kernels_come_back():
    ours, theirs = World("auto"), World("eager")
    for step in range(STEPS):
        for world in (ours, theirs):
            give_gradients(world.params, step)
            for group in world.groups:
                group["differentiable"] = step == FIRST
            for p in world.params:
                p.requires_grad_(step != FIRST)  # an in-place step that is differentiated takes no leaves
            world.optimizer.step()
            for p in world.params if step == FIRST else []:
                p.detach_()
        assert len(ours.optimizer._fused.reasons) == (len(SHAPES) if step == FIRST else 0)
        for where, x in ours.stored().items():
            torch.testing.assert_close(x, theirs.stored()[where], rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("reader")
def test_copies_of_an_optimizer_go_on_independently():
    first, expected = World("auto"), World("eager")
    chosen = Scenario(lambda world, step: None)
    for _ in zip(live(first, chosen), live(expected, chosen), strict=True):
        pass
    second = copy.deepcopy(first)
    for world in (first, expected):
        give_gradients(world.params, 20)
    give_gradients(second.params, 20, scale=-2.0)
    second.watch(*second.params)
    first.optimizer.step()
    second.check_watched()
    first.watch(*first.params)
    second.optimizer.step()
    first.check_watched()
    expected.optimizer.step()
    for where, x in first.stored().items():
        torch.testing.assert_close(x, expected.stored()[where], rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("convert", ["double", "half", "bfloat16"])
def test_a_model_may_change_its_type_in_mid_training(convert):
    runs = []
    for backend in ("auto", "eager"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
        optimizer = descend.AdamW(model.parameters(), lr=0.01, backend=backend)
        for step in range(5):
            if step == 2:
                old = [p.data for p in model.parameters()]
                before = [x.clone() for x in old]
                getattr(model, convert)()
            dtype = next(model.parameters()).dtype
            optimizer.zero_grad()
            model(random((4, 6), step, dtype)).square().sum().backward()
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(old, before, strict=True))
        assert bool(optimizer._fused.tables) == (backend == "auto")
        runs.append([p.detach() for p in model.parameters()])
    tolerance = {"double": 1e-5, "half": 4e-3, "bfloat16": 3e-2}[convert]
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("damage", [3.0, None, torch.zeros(2, 2)], ids=["number", "None", "shape"])
def test_damaged_state_is_refused_before_anything_changes(damage):
    world = World("auto")
    for step in range(FIRST):
        give_gradients(world.params, step)
        world.optimizer.step()
    entry = world.state[world.params[4]]
    good, entry["exp_avg"] = entry["exp_avg"], damage
    world.watch(*world.params, good)
    with pytest.raises(RuntimeError, match="exp_avg"):
        world.optimizer.step()
    world.check_watched()
    entry["exp_avg"] = good
    world.optimizer.step()
    assert {int(held["step"]) for held in world.state.values()} == {FIRST + 1}
