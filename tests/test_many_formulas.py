"""One kernel of many formulas against `Rule.update`, which is the reference; and torch, which interprets the same."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from descend import rules, vocabulary
from descend.backends import compiler, many
from descend.backends.bytecode import REGISTERS, bytecode, obstacle
from descend.backends.many import Rows
from descend.expr import FormulaError, constant
from descend.rule import Rule, Slot, rule
from descend.vocabulary import clip, ema, exp, fresh, keep, log, norm, normal, orthogonalize, sign, sqrt, where
from error_bounds import FORMATS, Extended, Member, compare, evaluate
from fused_optimizers import TOLERANCE, assert_same_bits, random
from kernel_fuzzer import Program

needs_compiler = pytest.mark.skipif(compiler.unavailable() is not None, reason="no kernels here")
backends = pytest.mark.usefixtures("backend")
WIDTHS = [1, 63, 256, 257, 1000]
SHIPPED = [made for made in rules.catalog().values() if obstacle(made.formula()) is None]
NUDGE = 2**-21


@pytest.fixture(params=["torch", pytest.param("kernel", marks=needs_compiler)])
def backend(request, monkeypatch):
    """What interprets the instructions."""
    if request.param == "torch":
        monkeypatch.setattr(many, "_native", lambda: None)
    return request.param


def numbers(shape, seed):
    return random(shape, seed, torch.float32)


class Reference:
    """Rows stepped one by one by `Rule.update` in float64, each time from what is stored.

    Two more begin at parameters and slots that differ in their last bits: where they part by more than the tolerance
    there is a switch, such as a sign, and nothing can be said.
    """

    def __init__(self, rows, of_rules, hyper_parameters, seeds):
        self.rows, self.rules, self.values, self.seeds = rows, of_rules, hyper_parameters, seeds
        self.left_out = self.compared = 0

    def check_step(self, step):
        """Let the rows take a step, and compare every element with its bound."""
        before = [
            (self.rows.params[i].clone(), {k: x.clone() for k, x in self.rows.state(i).items()})
            for i in range(len(self.rows))
        ]
        gradients = self.rows.grads.clone()
        finite = self.rows.step()
        for i, (param, state) in enumerate(before):
            exact, *nudged = [self.update(i, step, param, gradients[i], state, nudge) for nudge in (0, 1, -1)]
            found = {"p": self.rows.params[i], **self.rows.state(i)}
            for name, x in found.items():
                self.compare(x, exact[name], [other[name] for other in nudged], f"{self.rules[i].name}, {name}")
            assert bool(finite[i]) == bool(found["p"].isfinite().all())

    def update(self, i, step, param, gradient, state, nudge):
        made = self.rules[i]
        slots = made.formula(**self.values[i]).slots
        held = {slots[name].key: x.double() * (1 + nudge * NUDGE) for name, x in state.items()}
        if step == 1:
            held = {key: x for key, x in held.items() if key in made.init({"x": param}, **self.values[i])["x"]}
        if made.counts_steps:
            held["step"] = torch.tensor(float(step - 1))
        given = {"x": param.double() * (1 - nudge * NUDGE)}, {"x": gradient.double()}, {"x": held}
        params, new = made.update(*given, seed=self.seeds[i], **self.values[i])
        return {"p": params["x"], **{name: new["x"][slot.key] for name, slot in slots.items()}}

    def compare(self, found, exact, nudged, what):
        scale = exact.abs().nan_to_num(posinf=0).max()
        bound = TOLERANCE[torch.float32][1] * (scale + exact.abs()) + 1e-37
        differs = [(x - exact).abs() > bound for x in nudged]
        unclear = torch.stack(differs).any(0) | (exact.abs() > 1e37)
        off = ((found.double() - exact).abs() > bound) & ~unclear
        assert not off.any(), f"{what}: {found[off][0]} in place of {exact[off][0]}"
        assert torch.equal(found.isnan() & ~unclear, exact.isnan() & ~unclear), what
        self.left_out += int(unclear.sum())
        self.compared += unclear.numel()


def follow(of_rules, width, *, steps=5, values=None, seeds=None, gradients=numbers):
    """Rows that take steps, each compared with the reference."""
    values = values or [{}] * len(of_rules)
    seeds = seeds or list(range(len(of_rules)))
    formulas = [made.formula(**given) for made, given in zip(of_rules, values, strict=True)]
    rows = Rows(formulas, values, numbers((len(of_rules), width), 1), steps=steps, seeds=seeds)
    reference = Reference(rows, of_rules, values, seeds)
    for step in range(1, steps + 1):
        rows.grads.copy_(gradients((len(of_rules), width), 10 + step))
        reference.check_step(step)
    assert reference.left_out <= 0.02 * reference.compared + 2
    return rows


# shipped rules


@backends
@pytest.mark.parametrize("width", WIDTHS)
def test_every_shipped_elementwise_rule_steps_like_its_update(width):
    follow(SHIPPED, width)


VARIANTS = {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "amsgrad": True, "centered": True}


@backends
@pytest.mark.parametrize("option", VARIANTS)
def test_variants_and_first_values_step_like_their_updates(option):
    having = [made for made in SHIPPED if option in made.hyper_parameters]
    values = [{option: VARIANTS[option], "lr": 0.03} for _ in having]
    for given in values if option == "nesterov" else []:
        given["momentum"] = 0.9
    assert having
    follow(having, 300, values=values)


def test_most_shipped_rules_are_elementwise():
    assert len(SHIPPED) >= 15


# formulas at random


class Elementwise(Program):
    """Draws rules that neither reduce nor keep one number per tensor."""

    def __init__(self, random):
        super().__init__(random)
        self.scalars = [x for x in self.scalars if x.text != "p.numel"]

    def _reduction(self, depth):
        return self.leaf(elements=False)


NAMES = {name: getattr(vocabulary, name) for name in dir(vocabulary)} | {"constant": constant, "Slot": Slot}


def elementwise(seed):
    """The rule of a seed."""
    while True:
        names = dict(NAMES)
        exec(compile(Elementwise(Random(seed)).draw(), f"<rule {seed}>", "exec"), names)
        made = Rule(names["fuzzed"])
        if obstacle(made.formula()) is None:
            return made
        seed += 100_003


@pytest.mark.parametrize("seeds", [range(40), pytest.param(range(1000, 1600), marks=pytest.mark.long)], ids=len)
def test_random_formulas_are_within_the_error_bounds_of_the_truth(backend, seeds):
    formulas = [elementwise(seed).formula() for seed in seeds]
    rows = Rows(formulas, [{}] * len(seeds), numbers((len(seeds), 300), 1), steps=2)
    arithmetic = replace(FORMATS["float32"], sqrt_ulps=1 if backend == "torch" else 0.5)
    compared = excluded = 0
    for step in (1, 2):
        rows.grads.copy_(numbers(rows.grads.shape, 10 + step))
        rows.grads[::3, ::7] = 0.0
        members = [member_of(rows, i, formula, step, arithmetic) for i, formula in enumerate(formulas)]
        rows.step()
        for i, member in enumerate(members):
            [truth] = evaluate([member])
            for name, x in {"p": rows.params[i], **rows.state(i)}.items():
                result = compare(extended(x), truth[name], FORMATS["float32"], arithmetic)
                assert not result.wrong.size, f"rule {seeds[i]}, step {step}: {name} at {result.wrong[0]}"
                compared, excluded = compared + result.compared, excluded + result.excluded
    assert excluded <= 0.1 * compared


def extended(x):
    return x.double().numpy().astype(Extended)


def member_of(rows, row, formula, step, arithmetic):
    """What a row is before a step, for the oracle."""
    slots = {name: extended(x) for name, x in rows.state(row).items() if step > 1 or name not in formula.asks_fresh}
    values = formula.rule.hyper_parameters
    return Member(formula, extended(rows.params[row]), extended(rows.grads[row]), slots, values, step, arithmetic)


# random numbers


@rule
def noisy(p, g, t, m=Slot("m"), *, lr=0.1, std=0.01, q=0.7):
    """Two draws and a third."""
    m = ema(m, keep(g, q), 0.9)
    return dict(p=p - lr * (m + normal(std) + keep(normal(0.5), 0.5)), m=m)


@backends
@pytest.mark.parametrize("width", WIDTHS)
def test_random_numbers_are_those_of_the_update(width):
    rows = follow([noisy] * 3, width, steps=3, seeds=[-1, 7, 2**40 + 1])
    assert width == 1 or not torch.equal(rows.state(0)["m"] == 0, rows.state(1)["m"] == 0)


@backends
def test_a_row_s_random_numbers_depend_on_its_seed_alone():
    def stepped(seeds):
        rows = Rows(
            [noisy.formula()] * len(seeds), [{}] * len(seeds), torch.zeros(len(seeds), 200), steps=2, seeds=seeds
        )
        rows.step()
        rows.step()
        return rows.params

    assert_same_bits([stepped([5, 6, 5])[2]], [stepped([5])[0]])


# what moves where


@rule
def swapping(p, g, m=Slot("m", init=2.0), n=Slot("n", init="p"), *, lr=0.5):
    """Everything takes the value that another had."""
    return dict(p=m, m=n, n=p - lr * g)


@rule
def exchanging(p, g, m=Slot("m", init=2.0), *, lr=0.5):
    """Two values change places."""
    return dict(p=m, m=p)


@rule
def sharing(p, g, m=Slot("m"), n=Slot("n"), *, lr=0.5):
    """One value in three places, and p as it was in none of them."""
    m = p - lr * g
    return dict(p=m, m=m, n=m * 0 + p)


@rule
def numbers_only(p, g, m=Slot("m"), *, lr=0.5):
    """A scalar and a constant for every element."""
    return dict(p=p * 0 + lr * g, m=p * 0 + 3)


@rule
def first_time(p, g, m=Slot("m"), *, lr=0.5):
    """As torch's SGD: the buffer begins as the first gradient."""
    m = where(fresh(m), g, 0.5 * m + g)
    return dict(p=p - lr * m, m=m)


@rule
def chosen(p, g, t, m=Slot("m"), *, lr=0.5):
    """Conditions of elements and of the host, one used twice."""
    positive = g > 0
    m = where(t < 2, g, m + where(positive, g, -g))
    return dict(p=p - lr * where(positive, m, 2 * m), m=m)


@backends
@pytest.mark.parametrize(
    "made", [swapping, exchanging, sharing, numbers_only, first_time, chosen], ids=lambda x: x.name
)
def test_values_are_assigned_simultaneously(made):
    follow([made, swapping, made], 300, steps=3)


@backends
def test_hyper_parameters_may_change_from_step_to_step():
    rates = np.array([0.5, 0.25, 0.125])
    rows = Rows([first_time.formula()] * 2, [{"lr": rates}, {"lr": 1.0}], torch.zeros(2, 5), steps=3)
    for _ in range(3):
        rows.grads.fill_(1.0)
        rows.step()
    assert rows.params[:, 0].tolist() == [-(0.5 + 0.25 * 1.5 + 0.125 * 1.75), -(1 + 1.5 + 1.75)]


@backends
def test_rows_that_are_not_active_stay_and_count_no_step():
    adam = rules.catalog()["adam"]
    rows = Rows([adam.formula()] * 2, [{}] * 2, numbers((2, 70), 1), steps=3)
    alone = Rows([adam.formula()], [{}], rows.params[1:].clone(), steps=2)
    for step in range(3):
        rows.grads.copy_(numbers((2, 70), step))
        if step != 1:
            alone.grads.copy_(rows.grads[1:])
            alone.step()
        before = rows.params[1].clone()
        rows.step(torch.tensor([True, step != 1]))
        assert torch.equal(rows.params[1], before) == (step == 1)
    assert_same_bits([rows.params[1], *rows.state(1).values()], [alone.params[0], *alone.state(0).values()])


@backends
def test_selected_rows_go_on_as_if_alone():
    made = [rules.catalog()[name] for name in ("adam", "sgd", "lion", "rmsprop")]
    formulas = [x.formula() for x in made]
    rows = Rows(formulas, [{}] * 4, numbers((4, 70), 1), steps=4, seeds=[1, 2, 3, 4])
    alone = [Rows([f], [{}], rows.params[i : i + 1].clone(), steps=4, seeds=[i + 1]) for i, f in enumerate(formulas)]
    left = [0, 1, 2, 3]
    for step in range(4):
        if step == 2:
            left = [3, 0]
            rows.select(left)
        gradients = numbers((4, 70), step)
        rows.grads.copy_(gradients[left])
        rows.step()
        for i in left:
            alone[i].grads.copy_(gradients[i : i + 1])
            alone[i].step()
    assert len(rows) == 2
    for place, i in enumerate(left):
        ours, theirs = (rows, place), (alone[i], 0)
        assert_same_bits(*[[x.params[k], *x.state(k).values()] for x, k in (ours, theirs)])


@backends
def test_diverged_rows_are_told():
    rows = Rows([first_time.formula()] * 4, [{"lr": 1e30}, {}, {"lr": float("nan")}, {}], torch.zeros(4, 70), steps=2)
    rows.grads.fill_(1e10)
    rows.grads[3, 69] = float("inf")
    assert rows.step().tolist() == [False, True, False, False]
    assert rows.params[0, 0] == -float("inf")
    assert rows.params[2].isnan().all()
    assert rows.params[3].isinf().sum() == 1
    assert rows.step(torch.tensor([False, True, False, False])).tolist() == [True] * 4


@rule
def unusual(p, g, *, lr=0.5):
    """Functions at the edges of their domains."""
    return dict(p=sqrt(g) + log(g) + exp(g) + sign(g) + clip(g, -1, 1) + g**2.5 + p)


@backends
def test_infinities_and_nan_pass_as_in_torch():
    given = torch.tensor([0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), float("nan"), 1e-40, 3e38])
    rows = Rows([unusual.formula()], [{}], torch.zeros(1, 9), steps=1)
    rows.grads[0] = given
    rows.step()
    expected, _ = unusual.update({"x": torch.zeros(9)}, {"x": given}, unusual.init({"x": torch.zeros(9)}))
    torch.testing.assert_close(rows.params[0], expected["x"], equal_nan=True, rtol=1e-5, atol=1e-6)


@needs_compiler
def test_the_kernel_and_torch_step_alike(monkeypatch):
    def stepped():
        rows = Rows([x.formula() for x in SHIPPED], [{}] * len(SHIPPED), numbers((len(SHIPPED), 333), 1), steps=3)
        for step in range(3):
            rows.grads.copy_(numbers(rows.grads.shape, step))
            rows.step()
        return rows.params

    native = stepped()
    monkeypatch.setattr(many, "_native", lambda: None)
    torch.testing.assert_close(native, stepped(), rtol=2e-6, atol=2e-6)


def test_without_a_compiler_torch_steps(monkeypatch):
    monkeypatch.setattr(compiler, "unavailable", lambda: "there is none")
    many._native.cache_clear()
    try:
        follow([first_time], 70)
    finally:
        many._native.cache_clear()


# instructions


def test_registers_are_taken_again():
    @rule
    def long(p, g, *, lr=0.1):
        x = g
        for _ in range(200):
            x = sign(x) + exp(x)
        return dict(p=p - lr * x)

    assert bytecode(long.formula()).temporaries <= 3


def test_instructions_are_made_once():
    formula = first_time.formula().settle(frozenset())
    assert bytecode(formula) is bytecode(formula)


def test_what_draws_reads_no_register_for_its_step():
    assert all(node.op != "t" for node in bytecode(noisy.formula()).scalars)


# errors


@rule
def reducing(p, g, *, lr=0.1):
    return dict(p=p - lr * g / norm(g))


@rule
def counting(p, g, *, lr=0.1):
    return dict(p=p - lr * g / p.numel)


@rule
def one_number(p, g, s=Slot("s", shape="scalar"), *, lr=0.1):
    s = s + 1
    return dict(p=p - lr * g / s, s=s)


@rule
def low(p, g, m=Slot("m", dtype="bfloat16"), *, lr=0.1):
    m = m + g
    return dict(p=p - lr * m, m=m)


@rule
def whole(p, g, *, lr=0.1):
    return dict(p=p - lr * orthogonalize(g, 3.4, -4.7, 2.0, 1e-7, 5))


@rule
def too_long(p, g, *, lr=0.1):
    values = [g * (k + 2) for k in range(REGISTERS + 1)]
    return dict(p=p - lr * sum(values[::-1], values[0]) * values[0])


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (reducing, "reduces"),
        (counting, r"p\.numel"),
        (one_number, "s once per parameter"),
        (low, "m in bfloat16"),
        (whole, "orthogonalize"),
        (too_long, "registers"),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_a_formula_that_does_not_fit_is_named_with_the_reason(made, why):
    with pytest.raises(FormulaError, match=rf"rule '{made.name}' .*{why}"):
        Rows([made.formula()], [{}], torch.zeros(1, 3), steps=1)


def test_fresh_is_settled_before_translation():
    with pytest.raises(FormulaError, match=r"first_time.*settle"):
        bytecode(first_time.formula())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (dict(params=torch.zeros(2, 3, dtype=torch.float64)), "float32"),
        (dict(params=torch.zeros(3)), "matrix"),
        (dict(params=torch.zeros(3, 3)), "params has 3 rows, and formulas 2"),
        (dict(hyper_parameters=[{}]), "hyper_parameters 1"),
        (dict(seeds=[1]), "seeds 1"),
        (dict(steps=0), "steps is 0"),
        (dict(hyper_parameters=[{}, {"lr": np.ones(2)}]), r"lr has shape \(2,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes, why):
    given = dict(formulas=[first_time.formula()] * 2, hyper_parameters=[{}] * 2, params=torch.zeros(2, 3), steps=1)
    with pytest.raises(ValueError, match=why):
        Rows(**{**given, **changes})


def test_a_hyper_parameter_that_the_rule_lacks_is_named():
    with pytest.raises(TypeError, match="no hyper-parameter 'rate'"):
        Rows([first_time.formula()], [{"rate": 1}], torch.zeros(1, 3), steps=1)


def test_more_steps_than_announced_are_refused():
    rows = Rows([first_time.formula()], [{}], torch.zeros(1, 3), steps=1)
    rows.step()
    before = rows.params.clone()
    with pytest.raises(ValueError, match="steps is 1"):
        rows.step()
    assert torch.equal(rows.params, before)
