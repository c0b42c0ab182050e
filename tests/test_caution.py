"""Warnings point at the line of the user's program that led to them."""

import inspect

import pytest
import torch

import descend
from descend import fusing
from descend.schedules import cosine


def here():
    return inspect.currentframe().f_back.f_lineno


def assert_points(caught, line):
    (warning,) = caught
    assert (warning.filename, warning.lineno) == (__file__, line)


def parameter():
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    return p


def test_a_schedule_that_is_written_over():
    optimizer = descend.SGD([parameter()], lr=cosine(10))
    optimizer.param_groups[0]["lr"] = 0.5
    line = here() + 2
    with pytest.warns(UserWarning, match="while a schedule drives it") as caught:
        optimizer.step()
    assert_points(caught, line)


def test_a_step_inside_of_torch_s_scheduler_and_hooks():
    optimizer = descend.SGD([parameter()], lr=cosine(10))
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: None)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5)
    optimizer.param_groups[0]["lr"] = 0.25
    line = here() + 2
    with pytest.warns(UserWarning, match="while a schedule drives it") as caught:
        optimizer.step()
    assert_points(caught, line)


def test_a_state_without_counts():
    optimizer = descend.SGD([parameter()], lr=cosine(10))
    state = torch.optim.SGD([parameter()]).state_dict()
    line = here() + 2
    with pytest.warns(UserWarning, match="the schedules start at 0") as caught:
        optimizer.load_state_dict(state)
    assert_points(caught, line)


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(fusing, "_warned", set())
    optimizer = descend.SGD([parameter()])
    line = here() + 2
    with pytest.warns(UserWarning, match="no fused kernels") as caught:
        optimizer.step()
    assert_points(caught, line)


class User(torch.nn.Module):
    """What steps while torch stands above it and below it."""

    def forward(self, optimizer):
        self.line = here() + 1
        optimizer.step()


def test_the_innermost_of_the_user_s_frames_is_meant():
    optimizer, user = descend.SGD([parameter()], lr=cosine(10)), User()
    optimizer.param_groups[0]["lr"] = 0.5
    with pytest.warns(UserWarning, match="while a schedule drives it") as caught:
        user(optimizer)
    assert_points(caught, user.line)
