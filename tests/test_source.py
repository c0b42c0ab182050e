"""The source of a formula reads back to the identical formula."""

import math
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings

from descend import Slot, expr, render, vocabulary
from descend.rule import Rule
from descend.rules import catalog
from random_rules import made_of, programs, variants


def read_back(formula):
    namespace = {}
    exec(compile(render.source(formula), "<source>", "exec"), namespace)
    (rule,) = (value for value in namespace.values() if isinstance(value, Rule))
    return rule


@pytest.mark.parametrize("name", catalog())
def test_source_of_every_variant_reads_back_to_the_identical_formula(name):
    for options in variants(catalog()[name]):
        formula = catalog()[name].formula(**options)
        rule = read_back(formula)
        assert formula.is_same_as(rule.formula()), options
        assert rule.counts_steps == formula.rule.counts_steps
        assert rule.formula().slots == formula.slots
        assert rule.title == catalog()[name].title


@settings(max_examples=100)
@given(programs())
def test_source_of_any_formula_reads_back_to_the_identical_formula(program):
    formula = made_of(program)
    assert formula.is_same_as(read_back(formula).formula()), render.source(formula)


ADAMW = '''\
from descend import Slot, ema, rule, sqrt


@rule
def adamw(p, g, t, m=Slot("exp_avg"), v=Slot("exp_avg_sq"),
          *, lr=0.001, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
    """..."""
    beta1, beta2 = betas
    m = ema(m, g, beta1)
    v = ema(v, g * g, beta2)
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    p = p * (1 - lr * weight_decay)
    return dict(p=p - lr * m_hat / (sqrt(v_hat) + eps), m=m, v=v)
'''


def test_adamw_in_python():
    source = render.source(catalog()["adamw"].formula())
    assert re.sub('""".*?"""', '"""..."""', source, flags=re.DOTALL) == ADAMW


def source_of(function):
    formula = Rule(function).formula()
    source = render.source(formula)
    assert formula.is_same_as(read_back(formula).formula()), source
    return source


def test_source_keeps_values_apart_that_change_their_names_at_once():
    def swap(p, g, m=Slot("m"), n=Slot("n"), *, lr=0.1):
        m, n = n + g, m - g
        g, p = p, g
        return dict(p=p - lr * g, m=m, n=n)

    source_of(swap)

    def kept_elsewhere(p, g, *, lr=0.1):
        a = x = g * 2
        kept = [a]
        a = a + p
        z = a * 3
        w = z + g
        x = z
        z = z + w
        return dict(p=p - lr * kept[0] * x * z * a)

    source_of(kept_elsewhere)


def test_source_of_names_that_hide_the_vocabulary():
    def norm(p, g, *, lr=0.1, clip=1.0, sum=2.0):
        sqrt = vocabulary.sqrt(clip)
        return dict(
            p=p - lr * vocabulary.clip(g * vocabulary.norm(g) / vocabulary.sum(g), -clip, sqrt) * vocabulary.sqrt(sum)
        )

    source = source_of(norm)
    assert "from descend import clip as clip_, norm as norm_, rule, sqrt as sqrt_, sum as sum_" in source


def test_source_of_a_function_without_a_name():
    assert "def update_rule(p, g, *, lr=0.1):" in source_of(lambda p, g, *, lr=0.1: dict(p=p - lr * g))


def test_source_calls_reductions_over_all_parameters_in_the_same_order():
    def clipped(p, g, m=Slot("m"), *, lr=0.1):
        vocabulary.global_sum(p)
        second, first = vocabulary.global_norm(g), vocabulary.global_norm(m)
        m = vocabulary.ema(first * m, second * g, 0.9)
        lengths = [vocabulary.global_norm(p), vocabulary.global_norm(p * p)]
        m = lengths[1] * m + lengths[0] * g
        return dict(p=p - lr * m / vocabulary.global_mean(abs(m)), m=m)

    assert source_of(clipped).count("global_") == 9


def test_source_names_what_a_helper_function_repeats():
    def repeated(p, g, *, lr=0.1):
        for _ in range(60):
            g = (lambda x: (x + p) * (x - p) / (x + 1) + (x * x + lr) * (x - lr))(g)
        del g
        values = [p]
        for _ in range(60):
            values = [(lambda x: (x + 1) * (x - 1) / (x + 2) + (x * x + lr) * (x - lr))(values[0])]
        return dict(p=values[0])

    assert len(source_of(repeated).splitlines()) < 75
    assert len(render.latex(Rule(repeated).formula())) < 20_000


def test_source_writes_values_that_have_no_plain_literal():
    def odd(p, g, s=Slot('a "b"', init=-math.inf), *, lr=math.inf, one=(1e-300,), decay=0.0):
        r"""Says \"no\" to"""
        (only,) = one
        return dict(p=vocabulary.clip(p - lr * g, -math.inf, decay * only), s=vocabulary.maximum(s, abs(p) * -0.0))

    source = source_of(odd)
    assert "import math\n\nfrom descend import" in source
    assert "one=(1e-300,)" in source
    assert "only, = one" in source


def test_source_gives_the_default_where_the_value_is_a_schedule_or_a_tensor():
    def plain(p, g, *, lr=0.25):
        return dict(p=p - lr * g)

    assert "lr=0.25)" in render.source(Rule(plain).formula(lr=object()))
    assert "lr=0.5)" in render.source(Rule(plain).formula(lr=0.5))


def test_numbers_meet_as_nodes():
    one = expr.constant(1)

    def folded(p, g, t, *, lr=0.1):
        chosen = vocabulary.where(one < lr, one + 2, -((one * 3) ** 2))
        return dict(p=p - (chosen + abs(-one) + (-one) ** t - lr ** -(one + 1)) * g)

    source_of(folded)


def test_source_passes_the_linter(tmp_path):
    for name, shipped in catalog().items():
        (tmp_path / f"{name}.py").write_text(render.source(shipped.formula()), encoding="utf-8")
    rules = ["--select", "E,F,W,I,UP,B,C4,RUF", "--ignore", "E501,B008,C408,RUF001,RUF002", "--line-length", "120"]
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", *rules, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_another_language_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="cannot be written in 'fortran'; choose one of python"):
        catalog()["sgd"].source("fortran")
