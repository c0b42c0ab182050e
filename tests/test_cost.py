"""What a step costs: counted by hand, and held against the state that a step makes."""

import pytest
import torch

from descend import Slot, exp, fresh, global_norm, mean, norm, render, rule, sqrt, tanh, where
from descend.render import Cost
from descend.rules import catalog
from random_rules import variants


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # reads, written, state, operations, transcendental, scalars
        ("sgd", {}, Cost((8,), 4, 0, 2, 0, 0)),
        ("sgd", {"momentum": 0.9}, Cost((12,), 8, 4, 5, 0, 0)),
        ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, Cost((12,), 8, 4, 9, 0, 0)),
        ("adamw", {}, Cost((16,), 12, 8, 15, 0, 1)),
        ("adamw", {"amsgrad": True}, Cost((20,), 16, 12, 16, 0, 1)),
        ("nadam", {}, Cost((16,), 12, 8, 16, 0, 2)),
        ("rprop", {}, Cost((16,), 12, 8, 13, 0, 1)),
        ("powersign", {}, Cost((12,), 8, 4, 11, 1, 0)),
    ],
)
def test_shipped_rules(name, options, expected):
    assert catalog()[name].cost(**options) == expected


@pytest.mark.parametrize("name", catalog())
def test_state_is_what_a_step_leaves_behind(name):
    shipped = catalog()[name]
    params = {"w": torch.ones(3, 4)}
    for options in variants(shipped):
        maximize = options.pop("maximize")
        _, state = shipped.update(params, params, shipped.init(params, **options), **options)
        shared = {slot.key for slot in shipped.slots.values() if slot.is_shared}
        held = [value for key, value in state.get("w", {}).items() if key not in shared]
        cost = shipped.cost(maximize=maximize, **options)
        assert cost.bytes_state * 12 == sum(v.numel() * v.element_size() for v in held if v.ndim)
        assert cost.scalars == sum(1 for v in held if not v.ndim)
        assert cost.bytes_written == cost.bytes_state + 4


def test_storage_types_count_as_they_are():
    @rule
    def mixed(p, g, m=Slot("m"), total=Slot("total", dtype="float64"), *, lr=0.1):
        m, total = m + g, total + g
        return dict(p=p - lr * m * total, m=m, total=total)

    cost = mixed.cost()
    assert (cost.bytes_read, cost.bytes_written, cost.bytes_state) == (20, 16, 12)
    halved = render.cost(mixed.formula(), dtype="bfloat16")
    assert (halved.bytes_read, halved.bytes_written, halved.bytes_state) == (14, 12, 10)
    with pytest.raises(ValueError, match="size of dtype 'int4' is not known; choose one of float64"):
        render.cost(mixed.formula(), dtype="int4")


def test_what_is_not_needed_is_not_read():
    @rule
    def overwrites(p, g, previous=Slot("previous"), kept=Slot("kept"), *, lr=0.1):
        kept = where(fresh(kept), g, kept)
        return dict(p=p * (1 - lr), previous=p, kept=kept)

    cost = overwrites.cost()
    assert cost.reads == (4,), "g and the previous weights are not read, and kept stays as it is"
    assert (cost.bytes_written, cost.bytes_state) == (8, 8)


def test_each_reduction_that_waits_for_another_is_a_pass():
    @rule
    def trusted(p, g, m=Slot("m"), s=Slot("s", shape="scalar"), *, lr=0.1):
        g = g / global_norm(g)
        m = m + g
        return dict(p=p - lr * norm(p) / norm(m) * m, m=m, s=mean(abs(p)))

    cost = trusted.cost()
    assert cost.reads == (8, 8, 12), "g and p; then m and g; then p, m and g"
    assert (cost.passes, cost.bytes_read, cost.scalars) == (3, 28, 1)
    assert "28 bytes in 3 passes (8 + 8 + 12)" in str(cost)


def test_what_only_a_finished_reduction_needs_is_not_read_again():
    @rule
    def scaled(p, g, last=Slot("last"), *, lr=0.1):
        return dict(p=p - lr * g / norm(last), last=g)

    assert scaled.cost().reads == (4, 8)


def test_a_reduction_that_nothing_waits_for_is_no_pass():
    @rule
    def observed(p, g, s=Slot("s", shape="scalar"), *, lr=0.1):
        return dict(p=p - lr * s * g, s=norm(g))

    assert observed.cost().reads == (8,)


def test_operations_count_once_and_only_per_element():
    @rule
    def counted(p, g, t, *, lr=0.1, beta=0.9):
        square = g * g  # 1, used twice
        rate = lr * exp(-t) * sqrt(1 - beta**t)  # once per step, not per element
        whole, broken = square**3, square**0.5  # 2, one of them transcendental
        return dict(p=p - rate * (tanh(whole) + broken) * norm(g))  # tanh, +, *, *, -, and 2 for the norm

    cost = counted.cost()
    assert (cost.operations, cost.transcendental) == (10, 2)
    assert str(cost) == (
        "per parameter reads 12 bytes in 2 passes (4 + 8), writes 4, 10 operations (2 transcendental); "
        "state 0 bytes, 1 number per tensor"
    )
