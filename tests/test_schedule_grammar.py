"""Schedules read from text: what is understood, and what is refused with its place."""

from functools import reduce
from operator import rshift

import pytest

from descend.schedules import (
    clamp,
    constant,
    cosine,
    exponential,
    linear,
    multistep,
    parse,
    triangular,
    warm_restarts,
    warmup,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("warmup(200) >> warm_restarts(500, mult=2)", warmup(200) >> warm_restarts(500, mult=2)),
        ("1e-3*(warmup(2)>>cosine(10,floor=-.5))", 1e-3 * (warmup(2) >> cosine(10, floor=-0.5))),
        (" warmup(3) >> 0.1 * cosine(4) * constant() ", warmup(3) >> 0.1 * cosine(4) * constant()),
        ("warm_restarts(epochs(1.5, steps_per_epoch=10))", warm_restarts(15)),
        ("triangular(5, down=None)", triangular(5)),
        ("clamp(0.5 * exponential(10), low=0.01)", clamp(0.5 * exponential(10), low=0.01)),
        ("0.25", constant(0.25)),
        ("-1", constant(-1)),
    ],
)
def test_what_is_understood(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("cosine(10", r"cannot be read \(at character 7\); write one such as"),
        ("cosin(10)", "'cosin' is no schedule; did you mean 'cosine'"),
        ("__import__('os').system('true')", "is no part of a schedule"),
        ("open('file')", "'open' is no schedule; there are"),
        ("cosine('10')", "''10'' is no part of a schedule"),
        ("cosine(10) + 1", r"'cosine\(10\) \+ 1' is no part of a schedule"),
        ("cosine(10).length", "is no part of a schedule"),
        ("[cosine(10)]", "is no part of a schedule"),
        ("lambda s: s", "is no part of a schedule"),
        ("cosine(n:=3)", "is no part of a schedule"),
        ("cosine(*(1, 2))", "is no part of a schedule"),
        ("cosine(**{})", "is no part of a schedule"),
        ("cosine", "is no part of a schedule"),
        ("2 * 3", "write the product of two numbers as one"),
        ("warmup(3) >> 2", r"for a number write constant\(number\)"),
        ("constant() >> warmup(3)", "nothing can follow"),
        ("cosine()", "'cosine\\(\\)' cannot be: .*missing 1 required positional argument: 'n'"),
        ("cosine(10, flor=1)", "unexpected keyword argument 'flor'"),
        ("cosine(0)", "cosine: n must be a whole number from 1 up; got 0"),
        ("cosine(True)", "cosine: n must be a whole number"),
        ("True", "is none; write one"),
        ("epochs(3, 4)", "is none; write one"),
        ("1e999 * cosine(3)", "must be a finite number"),
        ("(" * 500 + "cosine(3)" + ")" * 500, "cannot be read"),
        ("cosine(3) * " * 2000 + "cosine(3)", "characters is too long"),
        ("cosine(3) * " * 1500 + "cosine(3)", "nested too deeply; join or multiply fewer"),
        (f"cosine({'9' * 400})", "cosine: n must be a whole number from 1 up; got a number beyond 1.8e"),
        (f"1{'0' * 400} * cosine(3)", "must be a finite number"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_text_must_be_text():
    with pytest.raises(TypeError, match=r"text must be a string; got 0.1"):
        parse(0.1)


def test_many_parts_read_back():
    long = reduce(rshift, (linear(391, start=1 / k, end=1 / k) for k in range(3, 203)))
    assert parse(str(long)) == long
    steps = multistep(*range(7, 3507, 7), factor=0.99)
    assert parse(str(steps)) == steps
