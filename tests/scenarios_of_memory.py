"""What may happen to the memory of parameters and state between steps, and to the optimizer as a whole."""

import copy
import pickle
from collections import defaultdict

import torch

from fused_optimizers import random
from worlds import FIRST, scenario

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
