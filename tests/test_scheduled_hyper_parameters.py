"""Every hyper-parameter of every rule takes a schedule, with the numbers of one that is set by hand, in one kernel."""

import pytest
import torch

from descend import optim, rules
from descend.backends import compiler
from descend.schedules import linear

FALLING = linear(50, 1.0, 0.9)
STEPS = 5


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def cases():
    for name, rule in rules.catalog().items():
        for key, value in rule.hyper_parameters.items():
            if is_number(value):
                yield name, key, None, value
            elif isinstance(value, tuple):
                yield from ((name, key, place, number) for place, number in enumerate(value) if is_number(number))


CASES = list(cases())


def placed(rule, key, place, number):
    if place is None:
        return number
    whole = list(rule.hyper_parameters[key])
    whole[place] = number
    return tuple(whole)


def gradients():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 8, generator=generator) for _ in range(STEPS)]


def start():
    return torch.nn.Parameter(torch.linspace(-1, 1, 40).reshape(5, 8))


def test_no_rule_is_without_a_case():
    assert {name for name, *_ in CASES} == set(rules.catalog())
    assert len(CASES) > 60


@pytest.mark.parametrize(("name", "key", "place", "default"), CASES, ids=lambda value: str(value))
def test_a_schedule_is_as_good_as_numbers_and_compiles_nothing_more(name, key, place, default, monkeypatch):
    rule, value = rules.catalog()[name], default or 0.05  # what is 0 may be left out of the formula
    compiled = []
    load = compiler.load
    monkeypatch.setattr(compiler, "load", lambda source: compiled.append(source) or load(source))
    scheduled, by_hand = start(), start()
    ours = optim.by_name(name)([scheduled], **{key: placed(rule, key, place, value * FALLING)})
    hand = optim.by_name(name)([by_hand], **{key: placed(rule, key, place, value)})
    for s, gradient in enumerate(gradients()):
        hand.set_schedule(key, placed(rule, key, place, value * FALLING(s)))
        number = ours.param_groups[0][key]
        assert (number if place is None else number[place]) == value * FALLING(s)
        scheduled.grad, by_hand.grad = gradient.clone(), gradient.clone()
        ours.step()
        hand.step()
        assert torch.equal(scheduled, by_hand)
        if s == 0:
            compiled.clear()  # by the first step, or by another test
    assert not compiled
