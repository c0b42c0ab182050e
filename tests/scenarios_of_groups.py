"""What may happen to groups, gradients, numbers and flags between steps."""

import torch
from torch import nn

from fused_optimizers import random
from worlds import FIRST, STEPS, scenario


class Plain(torch.Tensor):
    """A subclass of tensors that adds nothing."""


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
