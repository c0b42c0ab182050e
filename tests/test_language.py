"""The language: nodes, ranks, tracing, and errors that teach."""

import copy
import dis
import pickle
import re
import types

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import descend
from descend import Slot, active, ema, fresh, maximum, norm, rule, sign, sqrt, tracing, where
from descend.expr import Expr, FormulaError, Rank, apply, g, leaf, p, t, walk
from descend.rule import Rule

lr = leaf("hyper", ("lr", None))


def test_equal_expressions_are_one_object():
    assert p - 2 * g is p - 2.0 * g
    assert p - 2 * g is not p - 3 * g
    assert sqrt(p * p + 1) is sqrt(p * p + 1)
    assert p + 0.0 is not p + -0.0, "zero keeps its sign"
    assert (p > 0) is (p > 0.0)


def test_nodes_survive_copies_and_pickles_as_themselves():
    node = where(sign(g) > 0, ema(p, g, 0.9), -(p**2))
    assert copy.deepcopy(node) is node
    assert copy.copy(node) is node
    assert pickle.loads(pickle.dumps(node)) is node


def test_forgotten_nodes_do_not_confuse_new_ones():
    for i in range(2000):
        a, b = p * (i + 0.25), p * (i + 0.75)
        assert a.args[1].value == i + 0.25
        assert b.args[1].value == i + 0.75


@pytest.mark.parametrize(
    ("node", "rank"),
    [
        (leaf("constant", 1.0), Rank.CONSTANT),
        (1 - lr**t, Rank.BUCKET),
        (leaf("slot", ("mu", "scalar")) * t, Rank.TENSOR),
        (p.numel * 2, Rank.TENSOR),
        (norm(g) / t, Rank.TENSOR),
        (g / norm(g), Rank.ELEMENT),
        (apply("global_norm", g, site=0), Rank.OPTIMIZER),
        (apply("global_norm", g, site=0) * lr, Rank.BUCKET),
        (g * apply("global_norm", g, site=0), Rank.ELEMENT),
        (leaf("slot", ("h", "optimizer")) * 2, Rank.OPTIMIZER),
    ],
)
def test_ranks(node, rank):
    assert node.rank is rank


@given(
    st.lists(st.sampled_from(["add", "sub", "mul", "div", "minimum", "maximum"]), min_size=1, max_size=30), st.randoms()
)
def test_walk_gives_arguments_first_and_each_node_once(operations, random):
    nodes: list[Expr] = [p, g, t, lr]
    for op in operations:
        nodes.append(apply(op, random.choice(nodes), random.choice(nodes)))
    order = list(walk([nodes[-1]]))
    assert len(set(order)) == len(order)
    place = {node: i for i, node in enumerate(order)}
    assert all(place[a] < place[node] for node in order for a in node.args)
    assert order[-1] is nodes[-1]


def small(p, g, t, m=Slot("m"), *, lr=0.1, betas=(0.9, 0.99), flag=False, momentum=0.0):
    beta1, _ = betas
    m_new = ema(m, g, beta1)
    if flag:
        m_new = m_new + 1
    if active(momentum):
        m_new = momentum * m_new
    return dict(p=p - lr * m_new, m=m_new)


def test_the_signature_is_the_declaration():
    made = rule(small)
    assert made.name == "small"
    assert made.inputs == ["p", "g", "t"]
    assert made.slots == {"m": Slot("m")}
    assert made.hyper_parameters == {"lr": 0.1, "betas": (0.9, 0.99), "flag": False, "momentum": 0.0}
    assert made.counts_steps


def test_values_never_change_a_formula_and_choices_do():
    made = rule(small)
    default = made.formula()
    assert made.formula(lr=3.0, betas=(0.1, 0.2)) is default
    assert made.formula(lr=0) is default, "whether lr is 0 is not asked"
    assert made.formula(flag=True) is not default
    assert made.formula(momentum=0.5) is made.formula(momentum=0.7) is not default
    assert made.formula(momentum=0.0, scheduled=["momentum"]) is made.formula(momentum=0.5), "a schedule is active"
    assert made.formula(maximize=True).outputs["p"] is not default.outputs["p"]


def test_names_of_the_author_are_kept_without_a_source_file():
    namespace = {"Slot": Slot, "ema": ema}
    lines = ["m = ema(m, g, 0.9)", "step = lr * m", "p = p - step", "return dict(p=p, m=m)"]
    exec("def born(p, g, m=Slot('m'), *, lr=0.1):\n " + "\n ".join(lines), namespace)
    bindings = [name for name, node in rule(namespace["born"]).formula().bindings if node.args]
    assert bindings == ["m", "step", "p"]


def test_tracing_leaves_profilers_and_debuggers_alone():
    import sys

    seen = []
    sys.setprofile(lambda frame, event, arg: seen.append(event))
    try:
        rule(small)
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(None)
    assert seen


def test_a_slot_that_is_not_assigned_does_not_exist():
    made = rule(lambda_like := _optional_slot)
    assert lambda_like is _optional_slot
    assert list(made.formula().slots) == []
    assert list(made.formula(momentum=0.9).slots) == ["m"]


def _optional_slot(p, g, m=Slot("m"), *, lr=0.1, momentum=0.0):
    if active(momentum):
        m = momentum * m + g
        g = m
    return dict(p=p - lr * g, m=m)


def test_ndim_is_an_int_while_tracing_and_numel_a_scalar():
    @rule
    def matrices_only(p, g, *, lr=0.1):
        return dict(p=p - (lr if p.ndim >= 2 else 0.5 * lr) * g / p.numel)

    assert matrices_only.formula(ndim=2) is matrices_only.formula(ndim=3)
    assert matrices_only.formula(ndim=1) is not matrices_only.formula(ndim=2)


def test_source_has_the_values_given_as_defaults():
    made = descend.rules.lion
    made.formula(lr=0.7, weight_decay=0.3)  # traced first with other numbers, which must not show
    source = made.source(lr=0.5, weight_decay=0.1)
    assert "lr=0.5" in source
    assert "weight_decay=0.1" in source
    assert "lr=0.0001" in made.source()


def test_notebooks_and_print_show_the_default_variant():
    made = descend.rules.lion
    assert made._repr_latex_() == f"$\\displaystyle {made.latex()}$"
    assert str(made) == made.text()
    assert "θ" in str(made)


def test_fresh_settles_to_one_side():
    formula = descend.rules.sgd.formula(momentum=0.9)
    assert formula.asks_fresh == {"buf"}
    assert formula.settle(frozenset({"buf"})).outputs["buf"] is g
    assert "fresh" not in str(formula.settle(frozenset()).outputs["buf"])


def test_rules_pickle_by_name_and_copy_as_themselves():
    assert pickle.loads(pickle.dumps(descend.rules.adamw)) is descend.rules.adamw
    assert copy.deepcopy(descend.rules.adamw) is descend.rules.adamw


def test_one_rule_can_be_written_with_another():
    @rule
    def centralized_adamw(p, g, t, m=Slot("exp_avg"), v=Slot("exp_avg_sq"), *, lr=1e-3):
        return {
            k: x
            for k, x in descend.rules.adamw(
                p,
                g - descend.mean(g),
                t,
                m,
                v,
                None,
                lr=lr,
                betas=(0.9, 0.999),
                eps=1e-8,
                weight_decay=0,
                amsgrad=False,
            ).items()
            if k != "v_max"
        }

    assert list(centralized_adamw.formula().slots) == ["m", "v"]


def _truth(p, g, *, lr=0.1):
    if g > 0:
        return dict(p=p - lr * g)
    return dict(p=p)


def _python_max(p, g, *, lr=0.1):
    return dict(p=p - max(lr * g, 0))


def _math(p, g, *, lr=0.1):
    import math

    return dict(p=p - lr * math.sqrt(g))


def _numpy(p, g, *, lr=0.1):
    import numpy as np

    return dict(p=p - lr * np.sqrt(g))


def _method(p, g, *, lr=0.1):
    return dict(p=p - lr * g.sqrt())


def _python_sum(p, g, *, lr=0.1):
    return dict(p=p - lr * __builtins__["sum"](g))


def _unknown_output(p, g, m=Slot("m"), *, lr=0.1):
    return dict(p=p - lr * g, n=m)


def _no_p(p, g, m=Slot("m"), *, lr=0.1):
    return dict(m=g)


def _reduced_scalar(p, g, t, *, lr=0.1):
    return dict(p=p - lr * norm(t) * g)


def _reduced_twice(p, g, *, lr=0.1):
    return dict(p=p - lr * norm(norm(g)) * g)


def _read_not_written(p, g, m=Slot("m"), *, lr=0.1):
    return dict(p=p - lr * (g + m))


def _no_default(p, g, *, lr):
    return dict(p=p - lr * g)


def _slot_behind_star(p, g, *, m=Slot("m")):
    return dict(p=p - g, m=g)


def _no_slot(p, g, m, *, lr=0.1):
    return dict(p=p - lr * g, m=m)


def _condition_as_number(p, g, *, lr=0.1):
    return dict(p=p - lr * (g > 0))


def _number_as_condition(p, g, *, lr=0.1):
    return dict(p=p - lr * where(g, 1, 0))


def _elements_in_a_scalar(p, g, m=Slot("m", shape="scalar"), *, lr=0.1):
    return dict(p=p - lr * m, m=g)


def _tuple_as_number(p, g, *, betas=(0.9, 0.99)):
    return dict(p=p - betas * g)


def _reserved(p, g, *, maximize=1.0):
    return dict(p=p - maximize * g)


def _fresh_of_new(p, g, m=Slot("m"), *, lr=0.1):
    m = m + g
    return dict(p=p - lr * where(fresh(m), g, m), m=m)


def _init_unknown(p, g, m=Slot("m", init="rate"), *, lr=0.1):
    return dict(p=p - lr * g, m=m + g)


def _indexed(p, g, *, lr=0.1):
    return dict(p=p - lr * g[0])


def _floor(p, g, *, lr=0.1):
    return dict(p=p - g // lr)


def _returns_none(p, g, *, lr=0.1):
    p - lr * g


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        (_truth, "where(condition, a, b)"),
        (_python_max, "maximum(a, b)"),
        (_math, "functions of descend"),
        (_method, "write sqrt(x)"),
        (_python_sum, "descend.sum"),
        (_unknown_output, "declare n=Slot('n')"),
        (_no_p, "return dict(p=...)"),
        (_reduced_scalar, "reduces the elements of a tensor"),
        (_reduced_twice, "one value per tensor"),
        (_read_not_written, "never assigns it"),
        (_no_default, "has no default"),
        (_slot_behind_star, "move it before"),
        (_no_slot, "m=Slot('m')"),
        (_condition_as_number, "where(condition, 1, 0)"),
        (_number_as_condition, "the first argument of where is a condition"),
        (_elements_in_a_scalar, "reduce it"),
        (_tuple_as_number, "unpack it first"),
        (_reserved, "choose another name"),
        (_fresh_of_new, "before anything is assigned"),
        (_init_unknown, "no numeric hyper-parameter"),
        (_indexed, "no index"),
        (_floor, "unsupported operand"),
        (_returns_none, "return a dict"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_errors_name_the_rule_the_line_and_the_remedy(function, remedy):
    with pytest.raises(FormulaError, match=re.escape(remedy)) as error:
        rule(function)
    message = str(error.value)
    assert f"rule {function.__name__!r}" in message
    assert "test_language.py, line" in message


def test_the_line_quoted_is_the_line_at_fault():
    with pytest.raises(FormulaError, match=r"line \d+\):\n    if g > 0:\n"):
        rule(_truth)


def test_numpy_functions_refuse_formulas():
    with pytest.raises(TypeError):
        rule(_numpy)


def test_unknown_hyper_parameters_suggest_the_nearest():
    with pytest.raises(TypeError, match="did you mean 'weight_decay'"):
        descend.rules.adamw.formula(weight_decy=0.1)


def test_slots_are_checked_when_they_are_declared():
    with pytest.raises(ValueError, match="shape"):
        Slot("m", shape="vector")
    with pytest.raises(ValueError, match="key"):
        Slot("step")
    with pytest.raises(ValueError, match="starts from"):
        Slot("m", init=None)
    with pytest.raises(ValueError, match="float32"):
        Slot("m", dtype="float99")


def test_rule_wants_a_function():
    with pytest.raises(TypeError, match="above a def"):
        rule(3)
    assert isinstance(rule(small), Rule)


def test_two_hyper_parameters_in_one_maximum():
    made = rule(_two)
    assert made.formula().outputs["p"].rank is Rank.ELEMENT


def _two(p, g, *, a=0.1, b=0.2):
    return dict(p=p - maximum(a, b) * g)


def test_functions_of_torch_are_answered_with_the_vocabulary():
    def torch_s(p, g, *, lr=0.1):
        return dict(p=p - lr * torch.sign(g))

    with pytest.raises(FormulaError, match=r"not Expr.*; use descend\.sign and the other functions of the vocabulary"):
        Rule(torch_s).formula()

    def modulo(p, g, *, lr=0.1):
        return dict(p=p % g)

    with pytest.raises(FormulaError) as error:
        Rule(modulo).formula()
    assert "torch" not in str(error.value)


def test_the_types_of_a_slot_are_named_as_they_are_written():
    with pytest.raises(ValueError, match=r"has dtype torch\.float32; choose one of 'float64', 'float32', 'bfloat16'"):
        Slot("x", dtype=torch.float32)


def test_the_place_of_a_call_is_the_same_at_its_instruction_and_behind_its_caches():
    """Where `f_lasti` stands during a call depends on how the interpreter makes it: torch.compile changes that."""
    code = test_the_place_of_a_call_is_the_same_at_its_instruction_and_behind_its_caches.__code__
    begins = [instruction.offset for instruction in dis.get_instructions(code)]
    ends = [*begins[1:], len(code.co_code)]
    assert any(end - begin > 2 for begin, end in zip(begins, ends, strict=True))  # some instructions have caches
    for begin, end in zip(begins, ends, strict=True):
        for lasti in range(begin, end, 2):
            assert tracing._instruction(types.SimpleNamespace(f_code=code, f_lasti=lasti)) == begin
