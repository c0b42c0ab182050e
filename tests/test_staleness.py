"""Whatever happens to parameters, state, gradients and groups between steps: kernels do as the eager backend does.

Each scenario is done to two optimizers, of which one steps by kernels, and both must go on alike. Memory that the
optimizer has let go of is watched: nothing may write there.
"""

import copy
import pickle
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import descend
from descend.backends import addresses
from fused_optimizers import give_gradients, needs_kernels, random

pytestmark = needs_kernels

SHAPES = [(4, 3), (7,), (), (5, 5), (65,), (5, 5)]
FIRST, STEPS = 2, 6  # the step before which a scenario happens first, and how many there are


class Plain(torch.Tensor):
    """A subclass of tensors that adds nothing."""


class World:
    """An optimizer over two param groups, and the memory that must stay as it is."""

    def __init__(self, backend, dtype=torch.float64, make=descend.AdamW, **options):
        self.make, self.backend, self.options = make, backend, options
        self.params = [nn.Parameter(random(shape, i, dtype)) for i, shape in enumerate(SHAPES)]
        groups = [{"params": self.params[:3]}, {"params": self.params[3:], "lr": 0.02}]
        self.optimizer = make(groups, lr=0.1, backend=backend, **options)
        self.watched = []
        self.saved = None

    @property
    def state(self):
        return self.optimizer.state

    @property
    def groups(self):
        return self.optimizer.param_groups

    def watch(self, *tensors):
        """Expect that nobody writes to memory that these tensors hold now."""
        for x in tensors:
            x = x.detach()
            self.watched.append((x, x.clone()))

    def check_watched(self):
        for x, before in self.watched:
            assert torch.equal(x, before)

    def stored(self):
        return {
            f"{i} {key}": x.detach().double()
            for i, p in enumerate(self.params)
            for key, x in {"p": p, **self.state.get(p, {})}.items()
        }


@dataclass(frozen=True)
class Scenario:
    """What is done to a world before a step, after its gradients are there.

    Attributes:
        does: called with the world and the step.
        every: whether it is done before every step from the first on.
        eager: how many parameters step eagerly at the end; None for all of them.
    """

    does: Any
    every: bool = False
    eager: int | None = 0
    options: tuple = ()


SCENARIOS = {}


def scenario(every=False, eager=0, **options):
    def register(does):
        SCENARIOS[does.__name__] = Scenario(does, every, eager, tuple(options.items()))
        return does

    return register


# --- parameters -----------------------------------------------------------------------------------------------------


@scenario()
def data_in_other_memory(world, step):
    for p in world.params[::2]:
        world.watch(p.data)
        p.data = p.data.clone() * 1.5


@scenario(every=True)
def data_in_other_memory_at_every_step(world, step):
    for p in world.params:
        world.watch(p.data)
        p.data = p.data.clone()


@scenario()
def data_elsewhere_in_the_same_memory(world, step):
    block = torch.cat([world.params[4].data, random((65,), 77)])
    world.params[4].data = block[:65]
    world.optimizer.step()
    world.watch(block[:65])
    world.params[4].data = block[65:]


@scenario(eager=1)
def data_transposed_at_the_same_address(world, step):
    p = world.params[3]
    p.data = p.data.t()


@scenario(eager=2)
def data_with_gaps(world, step):
    for i in (1, 4):
        p = world.params[i]
        world.watch(p.data)
        p.data = torch.zeros(p.numel() * 2, dtype=p.dtype)[::2].copy_(p.data)


@scenario(eager=2)
def two_parameters_in_the_same_memory(world, step):
    world.watch(world.params[5].data)
    world.params[5].data = world.params[3].data


@scenario(eager=2)
def two_parameters_that_overlap(world, step):
    block = random((72,), 5)
    world.params[4].data, world.params[1].data = block[:65], block[62:69]


@scenario()
def swapped_tensors(world, step):
    torch.utils.swap_tensors(world.params[3], world.params[5])


@scenario()
def swapped_data(world, step):
    a, b = world.params[3], world.params[5]
    a.data, b.data = b.data, a.data


@scenario(eager=1)
def data_of_another_type(world, step):
    p = world.params[3]
    gradient = p.grad.float()
    world.watch(p.data)
    p.grad = None
    p.data = p.data.float()
    p.grad_dtype = None
    p.grad = gradient
    world.state[p]["exp_avg"] = world.state[p]["exp_avg"].t().contiguous().t()


# --- state ----------------------------------------------------------------------------------------------------------


@scenario()
def entry_replaced(world, step):
    for p, key in ((world.params[0], "exp_avg"), (world.params[4], "exp_avg_sq"), (world.params[4], "step")):
        world.watch(world.state[p][key])
        world.state[p][key] = world.state[p][key].clone() * 2


@scenario(every=True)
def entry_replaced_at_every_step(world, step):
    p = world.params[step]
    world.watch(world.state[p]["exp_avg"])
    world.state[p]["exp_avg"] = world.state[p]["exp_avg"].clone()


@scenario()
def entry_deleted(world, step):
    for p, key in ((world.params[0], "exp_avg"), (world.params[4], "exp_avg_sq"), (world.params[1], "step")):
        world.watch(world.state[p][key])
        del world.state[p][key]


@scenario()
def state_of_a_parameter_deleted(world, step):
    for p in world.params[1::3]:
        world.watch(*world.state[p].values())
        del world.state[p]


@scenario()
def state_of_a_parameter_replaced(world, step):
    for p in world.params[::3]:
        world.watch(*world.state[p].values())
        world.state[p] = {key: x.clone() * 3 for key, x in world.state[p].items()}


@scenario()
def state_cleared(world, step):
    world.watch(*(x for entry in world.state.values() for x in entry.values()))
    world.state.clear()


@scenario()
def state_replaced(world, step):
    world.watch(*(x for entry in world.state.values() for x in entry.values()))
    world.optimizer.state = defaultdict(dict)


@scenario()
def data_of_an_entry_replaced(world, step):
    for p, key in ((world.params[0], "exp_avg"), (world.params[4], "exp_avg_sq"), (world.params[2], "step")):
        entry = world.state[p][key]
        world.watch(entry.data)
        entry.data = entry.data.clone() * 2


@scenario(eager=2)
def entry_in_another_order_or_type_of_memory(world, step):
    a, b, c = (world.state[world.params[i]] for i in (0, 3, 4))
    world.watch(a["exp_avg"].data, c["exp_avg"].data)
    a["exp_avg"].data = a["exp_avg"].data.t().contiguous().t()
    b["exp_avg"] = b["exp_avg"].t()
    c["exp_avg"].data = c["exp_avg"].data.float().double()


@scenario()
def entry_in_the_memory_of_another(world, step):
    """Handled eagerly or not, the order of reading and writing is the same."""
    a, b = world.state[world.params[3]], world.state[world.params[5]]
    world.watch(b["exp_avg"])
    b["exp_avg"] = a["exp_avg"].clone()


@scenario()
def counts_written_in_place(world, step):
    world.state[world.params[0]]["step"].fill_(10)
    world.state[world.params[4]]["step"].add_(3)


@scenario()
def count_close_to_what_float32_holds(world, step):
    world.state[world.params[1]]["step"].fill_(2**24 - 2)


@scenario(every=True)
def entries_written_in_place(world, step):
    world.state[world.params[4]]["exp_avg"].mul_(0.5)
    world.params[0].data.add_(0.1)


@scenario(every=True)
def state_dict_loaded(world, step):
    if step == FIRST:
        world.saved = copy.deepcopy(world.optimizer.state_dict())
    if step in (FIRST, FIRST + 2):
        world.watch(*(x for entry in world.state.values() for x in entry.values()))
        world.optimizer.load_state_dict(world.saved)


# --- copies ---------------------------------------------------------------------------------------------------------


def moved(world, optimizer):
    """Go on with a copy of the optimizer; what the first one holds must stay as it is."""
    world.watch(*world.params, *(x for entry in world.state.values() for x in entry.values()))
    grads = [p.grad for p in world.params]
    world.optimizer = optimizer
    world.params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, g in zip(world.params, grads, strict=True):
        p.grad = None if g is None else g.clone()


@scenario()
def copied(world, step):
    moved(world, copy.deepcopy(world.optimizer))


@scenario()
def pickled(world, step):
    moved(world, pickle.loads(pickle.dumps(world.optimizer)))


# --- groups ---------------------------------------------------------------------------------------------------------


@scenario(every=True)
def group_added(world, step):
    if step > FIRST + 1:
        return
    p = nn.Parameter(random((3, step), 9))
    p.grad = random((3, step), 10)
    world.params.append(p)
    world.optimizer.add_param_group({"params": [p], "lr": 0.3})


@scenario()
def parameter_appended(world, step):
    p = nn.Parameter(random((3, 3), 9))
    p.grad = random((3, 3), 10)
    world.params.append(p)
    world.groups[0]["params"].append(p)


@scenario()
def parameter_replaced(world, step):
    old = world.groups[1]["params"][0]
    world.watch(old, *world.state.pop(old).values())
    p = nn.Parameter(random((2, 3), 9))
    p.grad = random((2, 3), 10)
    world.groups[1]["params"][0] = world.params[3] = p


@scenario()
def parameter_removed(world, step):
    p = world.groups[1]["params"].pop(1)
    world.watch(p, *world.state[p].values())


@scenario()
def group_removed(world, step):
    for p in world.groups.pop(0)["params"]:
        world.watch(p, *world.state[p].values())


@scenario()
def groups_in_another_order(world, step):
    world.groups.reverse()


@scenario()
def list_of_parameters_replaced(world, step):
    world.groups[0]["params"] = list(reversed(world.groups[0]["params"]))


# --- gradients ------------------------------------------------------------------------------------------------------


@scenario(every=True)
def gradients_absent_for_some_steps(world, step):
    for i, p in enumerate(world.params):
        if step != STEPS - 1 and (i + step) % 3 == 0:
            p.grad = None


@scenario(every=True)
def gradients_alternating_between_halves(world, step):
    for p in world.params[step % 2 :: 2]:
        p.grad = None


@scenario(every=True)
def no_gradient_at_all(world, step):
    if step in (FIRST, FIRST + 1):
        world.optimizer.zero_grad()


@scenario(every=True)
def gradients_renewed_in_another_order(world, step):
    grads = [p.grad.clone() for p in world.params]
    world.optimizer.zero_grad(set_to_none=True)
    order = [(i * 5 + step) % len(grads) for i in range(len(grads))]
    for i in order:
        world.params[i].grad = grads[i].clone()


@scenario(eager=2)
def gradients_in_another_order_or_with_gaps(world, step):
    p, q = world.params[0], world.params[4]

    def renew(world, step):
        p.grad = p.grad.t().contiguous().t()
        q.grad = torch.zeros(130, dtype=q.dtype)[::2].copy_(q.grad)

    renew(world, step)
    world.renew = renew


@scenario(eager=1)
def gradient_expanded_from_one_number(world, step):
    world.renew = lambda world, step: setattr(world.params[4], "grad", random((1,), step).expand(65))
    world.renew(world, step)


@scenario()
def gradient_of_another_type(world, step):
    def renew(world, step):
        p = world.params[4]
        gradient, p.grad = p.grad.float(), None
        p.grad_dtype = None
        p.grad = gradient

    renew(world, step)
    world.renew = renew


@scenario(eager=1)
def gradient_of_a_subclass(world, step):
    def renew(world, step):
        p = world.params[4]
        p.grad = p.grad.as_subclass(Plain)

    renew(world, step)
    world.renew = renew


@scenario(eager=1)
def gradient_in_the_memory_of_its_parameter(world, step):
    world.renew = lambda world, step: setattr(world.params[4], "grad", world.params[4].detach())
    world.renew(world, step)


@scenario()
def two_parameters_with_one_gradient(world, step):
    world.renew = lambda world, step: setattr(world.params[3], "grad", world.params[5].grad)
    world.renew(world, step)


@scenario(eager=2)
def gradient_in_the_memory_of_another_parameter(world, step):
    world.renew = lambda world, step: setattr(world.params[3], "grad", world.params[5].detach())
    world.renew(world, step)


# --- numbers and flags ----------------------------------------------------------------------------------------------


@scenario(every=True)
def numbers_changed(world, step):
    world.groups[0]["lr"] = 0.1 / step
    world.groups[1]["weight_decay"] = 0.05 * step
    world.groups[1]["betas"] = (0.8, 0.9 + 0.01 * step)


@scenario(every=True)
def list_of_betas_changed_in_place(world, step):
    if step == FIRST:
        world.groups[0]["betas"] = list(world.groups[0]["betas"])
    world.groups[0]["betas"][step % 2] = 0.5 + 0.05 * step


@scenario(every=True)
def rate_in_a_tensor_changed_in_place(world, step):
    if step == FIRST:
        world.groups[0]["lr"] = torch.tensor(0.1, dtype=torch.float64)
    world.groups[0]["lr"].mul_(0.5)


@scenario(every=True)
def decay_switched_off_and_on(world, step):
    world.groups[0]["weight_decay"] = 0.1 * (step % 2)


@scenario()
def maximize_switched_on(world, step):
    world.groups[1]["maximize"] = True


@scenario()
def amsgrad_switched_on(world, step):
    world.groups[0]["amsgrad"] = True


@scenario(amsgrad=True)
def amsgrad_switched_off(world, step):
    world.groups[0]["amsgrad"] = False


@scenario(eager=3)
def foreach_switched_on(world, step):
    world.groups[1]["foreach"] = True


@scenario(eager=3)
def fused_forbidden(world, step):
    world.groups[0]["fused"] = False


@scenario(every=True)
def foreach_switched_on_and_off(world, step):
    world.groups[1]["foreach"] = None if step % 2 else True


# --- tests ----------------------------------------------------------------------------------------------------------


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
            torch.testing.assert_close(x, expected[where], rtol=1e-11, atol=1e-13, msg=lambda m: f"step {step}, {where}: {m}")
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
