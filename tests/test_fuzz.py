"""Random formulas on every backend, each element within the running error bound of the truth; and the oracle itself."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import mpmath
import numpy as np
import pytest
import torch

from descend import vocabulary
from descend.backends import compiler, eager
from descend.expr import OPERATIONS, Expr, Rank, apply, constant, leaf, rebuild
from descend.search.source import rule_of
from descend.search.words import Kind
from error_bounds import FORMATS, Carried, Extended, Member, compare, evaluate, exactly, operate, total
from fuzz_trials import Trial, run, trials
from kernel_fuzzer import cases, read
from language_words import LANGUAGE, NOT_DRAWN, Range

CORPUS = sorted((Path(__file__).parent / "fuzz_corpus").glob("*.txt"))
FAST, LONG = range(40), range(1000, 1500)
SINGLE, DOUBLE = FORMATS["float32"], FORMATS["float64"]

needs_compiler = pytest.mark.skipif(compiler.unavailable() is not None, reason="no kernels here")
backends = pytest.mark.parametrize("backend", ["eager", pytest.param("cpp", marks=needs_compiler)])


def chunks(seeds, size):
    return [pytest.param(seeds[i : i + size], id=f"{seeds[i]}") for i in range(0, len(seeds), size)]


def check(report):
    assert not report.wrong, (
        "\n".join(report.wrong) + "\nstore the text of a case in tests/fuzz_corpus when it is found"
    )
    assert report.compared > 0
    assert report.share_excluded <= 0.10, "the generator draws too much of what cannot be compared"


@backends
def test_past_failures(backend):
    check(run(trials([read(path.read_text()) for path in CORPUS], backend)))


@backends
@pytest.mark.parametrize("seeds", chunks(FAST, 20))
def test_random_formulas(seeds, backend):
    check(run(trials(cases(seeds), backend, low=False)))


@pytest.mark.long
@backends
def test_many_random_formulas(backend):
    check(run(trials(cases(LONG), backend)))


# the generator


def test_the_generator_draws_the_whole_vocabulary_and_every_setting():
    drawn = list(cases(range(60)))
    nodes = [set(one.rule().formula().nodes) for one in drawn]
    ops = {node.op for formula in nodes for node in formula}
    assert ops == {*(set(OPERATIONS) - NOT_DRAWN), "constant", "hyper", "slot", "t", "numel", "p", "g", "fresh"}
    slots = [slot for one in drawn for slot in one.rule().slots.values()]
    assert {slot.shape for slot in slots} == {"like", "scalar"}
    assert {slot.dtype for slot in slots} == {None, "float32", "float64", "bfloat16"}
    assert {slot.init for slot in slots} == {0, 0.5, "lr", "p"}
    settings = [one.settings for one in drawn]
    assert {s.special for s in settings} == {"", "zeros", "infinities"}
    assert {s.low for s in settings} == {"", "bfloat16", "float16"}
    assert {s.start for s in settings} == {0, 9, 1000}
    assert any(s.absent for s in settings)
    assert any(s.transposed and len(shape) == 2 for s in settings for shape in s.shapes)
    assert any(s.second < len(s.shapes) for s in settings)
    assert {math.prod(shape) for s in settings for shape in s.shapes} >= {0, 1, 63, 64, 65}


def test_every_operation_has_a_word():
    assert LANGUAGE.keys() >= set(OPERATIONS) - NOT_DRAWN, "add a row to tests/language_words.py"
    arguments = "p > g", "lr", "p"
    for name, word in LANGUAGE.items():
        text = word.written([arguments[kind] for kind in word.takes])
        new = f"where({text}, p, g)" if word.gives is Kind.CONDITION else text
        formula = rule_of(f"def one(p, g, t, *, lr=0.5, eps=0.1):\n    return dict(p=p - {new})\n", "one").formula()
        assert name not in OPERATIONS or any(node.op == name for node in formula.nodes)


OF_NUMBERS = [name for name, word in LANGUAGE.items() if Kind.CONDITION not in (word.gives, *word.takes)]


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_a_word_s_range_holds_its_values(name):
    word, random = LANGUAGE[name], Random(name)
    for _ in range(10):
        given = [asked.clamp(Range(*sorted((random.uniform(-4, 4), random.uniform(-4, 4))))) for asked in word.asked]
        text = word.written([f"(0 * p + x[{number}])" for number in range(len(given))])
        source = f"def one(p, g, t, *, x={(0.5,) * len(given)}, eps=1e-3):\n    return dict(p={text})\n"
        params, state = {"x": torch.zeros(100, dtype=torch.float64)}, {"x": {"step": torch.zeros(())}}
        values = tuple(random.uniform(one.low, one.high) for one in given)
        new, _ = rule_of(source, "one").update(params, params, state, x=values)
        expected = word.range(*given)
        assert expected.low - 1e-9 <= float(new["x"].min()) <= float(new["x"].max()) <= expected.high + 1e-9


def test_a_case_is_the_same_every_time_and_read_back_from_its_text():
    assert list(cases(range(20))) == list(cases(range(20)))
    for one in cases(range(20)):
        back = read("# found where it mattered\n" + one.text)
        assert back == one
        assert back.rule().formula().outputs == one.rule().formula().outputs


# the oracle catches mistakes: formulas that are changed behind its back


def _of(op, change):
    return lambda node, args: change(*args) if node.op == op else rebuild(node, args)


def _constant_off(node, args):
    is_odd = node.op == "constant" and node.value not in (0.0, 1.0, 2.0)
    return constant(node.value * (1 + 3 * 2.0**-23)) if is_odd else rebuild(node, args)


def _beta_off(node, args):
    return node + 1e-6 if node.op == "hyper" and node.value == ("betas", 0) else rebuild(node, args)


def _divisor_of_mean(node, args):
    return apply("sum", *args) / (leaf("numel") + 1) if node.op == "mean" else rebuild(node, args)


def _local(node, args):
    is_global = node.op.startswith("global_")
    return apply(node.op.removeprefix("global_"), *args) if is_global else rebuild(node, args)


def _clip_without_nan(node, args):
    x = args[0] if args else None
    held = (
        vocabulary.where(x < args[1], args[1], vocabulary.where(x < args[2], x, args[2])) if node.op == "clip" else None
    )
    return rebuild(node, args) if held is None else held


def _slot_unread(node, args):
    return leaf("g") if node.op == "slot" and node.value[1] == "like" else rebuild(node, args)


def _swapped_sides(node, args):
    is_choice = node.op == "where" and args[0].op != "fresh"
    return apply("where", args[0], args[2], args[1]) if is_choice else rebuild(node, args)


def _ties_included(node, args):
    is_of_elements = node.op == "lt" and node.rank is Rank.ELEMENT  # two numbers are hardly ever equal
    return args[0] <= args[1] if is_of_elements else rebuild(node, args)


def _fewer_bits(op):
    def change(node, args):
        worse = rebuild(node, args)
        return worse * (1 + 2.0**-20) if node.op == op and node.rank is Rank.ELEMENT else worse

    return change


@dataclass(frozen=True)
class Mutation:
    """A mistake in a formula, the share of formulas in which it must be found, and what it needs.

    Attributes:
        change: makes the mistake at a node.
        share: of the formulas in which it must be found.
        special: the unusual numbers that it needs.
        formulas: how many it is tried on.
    """

    change: Callable[[Expr, tuple[Expr, ...]], Expr]
    share: float
    special: str = ""
    formulas: int = 12


MUTATIONS = {
    "sub for add": Mutation(_of("add", lambda a, b: a - b), 0.7),
    "add for sub": Mutation(_of("sub", lambda a, b: a + b), 0.7),
    "a quotient upside down": Mutation(_of("div", lambda a, b: b / a), 0.6),
    "a constant 3 units in the last place off": Mutation(_constant_off, 0.2),
    "a beta off by a millionth": Mutation(_beta_off, 0.5),
    "a mean over one element too many": Mutation(_divisor_of_mean, 0.4),
    "a reduction over the tensor instead of all": Mutation(_local, 0.3),
    "the sides of a choice exchanged": Mutation(_swapped_sides, 0.5),
    "maximum for minimum": Mutation(_of("minimum", vocabulary.maximum), 0.5),
    "a minimum that drops NaN": Mutation(_of("minimum", lambda a, b: vocabulary.where(a > b, b, a)), 0.1, "infinities"),
    "a clip that drops NaN": Mutation(_clip_without_nan, 0.2, "infinities", formulas=30),
    "clip without its lower bound": Mutation(_of("clip", lambda x, low, high: vocabulary.minimum(x, high)), 0.2),
    "less or equal for less": Mutation(_ties_included, 0.08, "zeros", formulas=30),
    "the sign of zero is 1": Mutation(_of("sign", lambda x: vocabulary.where(x < 0, -1, 1)), 0.1, "zeros"),
    "the magnitude forgotten": Mutation(_of("abs", lambda x: x), 0.4),
    "t counted from 0": Mutation(lambda node, args: node - 1 if node.op == "t" else rebuild(node, args), 0.5),
    "a slot that is not read": Mutation(_slot_unread, 0.3),
    **{f"{op} to 20 bits": Mutation(_fewer_bits(op), 0.15) for op in ("tanh", "exp", "log", "pow", "sqrt")},
}


@pytest.fixture(scope="module")
def small_cases():
    return [one for one in cases(range(2000, 2300)) if all(math.prod(shape) < 300 for shape in one.settings.shapes)]


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_oracle_catches(name, small_cases):
    mutation, caught = MUTATIONS[name], []
    for one in small_cases:
        rule, true = one.rule(), one.rule().formula()
        wrong = true.rewritten(mutation.change)
        if wrong.is_same_as(true):
            continue
        rule.formula = lambda wrong=wrong, **_: wrong
        trial = Trial(replace(one, settings=replace(one.settings, special=mutation.special)), "float32", "eager", rule)
        trial.formula = true
        caught.append(bool(trial.run().wrong))
        if len(caught) == mutation.formulas:
            break
    assert len(caught) >= 5
    assert sum(caught) >= max(1, mutation.share * len(caught)), f"caught in {sum(caught)} of {len(caught)} formulas"


def test_the_oracle_catches_a_scalar_slot_that_is_read_before_it_is_rounded(monkeypatch):
    one = read(
        '# {"seed": 1, "shapes": [[9]]}\n'
        "def fuzzed(p, g, t, s=Slot('s', shape='scalar'), *, lr=0.1, betas=(0.9, 0.99)):\n"
        "    s_new = ema(s, t / 3, lr)\n"
        "    return dict(p=p - s_new * g, s=s_new)\n"
    )
    assert not Trial(one, "float64", "eager").run().wrong
    monkeypatch.setattr(eager._Work, "_round_to_storage", lambda self, root: None)
    assert Trial(one, "float64", "eager").run().wrong


# the truth and its bounds


def carried(value, bound=0.0):
    value = np.asarray(value, Extended)
    return Carried(value, np.full(value.shape, bound, Extended), np.zeros(value.shape, bool))


def samples(seed=0, count=2000):
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "pow", "sqrt", "exp", "log", "tanh"])
def test_the_truth_is_more_exact_than_what_is_compared(op):
    numbers = [np.abs(samples(seed, 50)).astype(np.float64) + 1e-3 for seed in (1, 2)][: OPERATIONS[op].arity]
    result = operate(op, [exactly(x) for x in numbers], DOUBLE)
    words = {"add": mpmath.fadd, "sub": mpmath.fsub, "mul": mpmath.fmul, "div": mpmath.fdiv, "pow": mpmath.power}
    with mpmath.workdps(40):
        for at in range(50):
            exact = words.get(op, getattr(mpmath, op, None))(*(mpmath.mpf(float(x[at])) for x in numbers))
            high = float(result.value[at])
            value = mpmath.mpf(high) + mpmath.mpf(float(result.value[at] - Extended(high)))
            assert abs(value - exact) <= abs(exact) * mpmath.mpf(2) ** -58


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "sqrt"])
def test_a_rounding_costs_half_a_unit_and_no_more(op):
    numbers = [np.abs(samples(seed)) for seed in (1, 2)][: OPERATIONS[op].arity]
    result = operate(op, [exactly(x) for x in numbers], SINGLE)
    function = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "sqrt": np.sqrt}[op]
    error = np.abs(function(*numbers).astype(Extended) - result.value)
    assert (error <= result.bound).all()
    assert (result.bound <= np.abs(result.value) * 2.0**-24 * 1.0001 + 2.0**-149).all()


def test_contracted_and_not_both_lie_within_the_bound_and_neither_far_inside():
    a, b, c = (samples(seed) for seed in (1, 2, 3))
    result = operate("sub", [operate("mul", [exactly(a), exactly(b)], SINGLE), exactly(c)], SINGLE)
    apart = a * b - c
    contracted = (a.astype(Extended) * b - c).astype(np.float32)
    for got in (apart, contracted):
        error = np.abs(got.astype(Extended) - result.value)
        assert (error <= result.bound).all()
        assert (error / np.maximum(result.bound, 1e-30)).max() > 0.5
    assert (apart != contracted).any()


@pytest.mark.parametrize("op", ["mul", "div", "pow", "minimum", "maximum"])
def test_errors_of_two_arguments_are_carried_through(op):
    random = np.random.default_rng(0)
    a, b = (np.abs(samples(seed)).astype(Extended) + 0.1 for seed in (1, 2))
    result = operate(op, [carried(a, 1e-3), carried(b, 2e-3)], DOUBLE)
    function = {"mul": np.multiply, "div": np.divide, "pow": np.power, "minimum": np.minimum, "maximum": np.maximum}[op]
    largest = np.zeros(a.shape)
    for _ in range(50):
        signs = random.choice([-1, 1, 0.3], size=(2, *a.shape))
        got = function(a + 1e-3 * signs[0], b + 2e-3 * signs[1])
        assert (np.abs(got - result.value) <= result.bound).all()
        largest = np.maximum(largest, np.abs(got - result.value) / result.bound)
    assert np.median(largest) > 0.5


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("sign", [(1e-4, 1e-3)]),
        ("sqrt", [(1e-4, 1e-3)]),
        ("log", [(1e-4, 1e-3)]),
        ("pow", [(1e-4, 1e-3), (0.5, 0)]),
        ("pow", [(-2, 0), (3, 1e-3)]),
        ("div", [(1, 0), (1e-4, 1e-3)]),
        ("exp", [(89, 0)]),
        ("mul", [(1e30, 0), (1e30, 0)]),
        ("mul", [(np.inf, 0), (1e-4, 1e-3)]),
        ("lt", [(1, 1e-3), (1.0005, 0)]),
        ("eq", [(1, 1e-3), (1, 0)]),
    ],
)
def test_switches_poles_and_overflow_are_unknown(op, args):
    with np.errstate(all="ignore"):
        assert operate(op, [carried(*arg) for arg in args], SINGLE).unknown


@pytest.mark.parametrize(
    ("op", "args", "value"),
    [
        ("div", [1, 0], np.inf),
        ("div", [1, -0.0], -np.inf),
        ("div", [0, 0], np.nan),
        ("log", [0], -np.inf),
        ("log", [-1], np.nan),
        ("sqrt", [-1], np.nan),
        ("sub", [np.inf, np.inf], np.nan),
        ("mul", [np.inf, 0], np.nan),
        ("exp", [-np.inf], 0),
        ("pow", [0, -1], np.inf),
        ("pow", [np.nan, 0], 1),
        ("pow", [-8, 0.3], np.nan),
        ("minimum", [1, np.nan], np.nan),
        ("maximum", [np.nan, 1], np.nan),
        ("clip", [np.nan, 0, 1], np.nan),
        ("sign", [np.nan], 0),
        ("mul", [0.5, 6], 3),
        ("sqrt", [4], 2),
    ],
)
def test_what_is_exactly_known_stays_so(op, args, value):
    with np.errstate(all="ignore"):
        result = operate(op, [exactly(x) for x in args], SINGLE)
    assert not result.unknown
    np.testing.assert_equal(float(result.value), value)
    assert op in ("exp", "pow", "sign") or result.bound == 0


def test_a_choice_is_unknown_only_where_its_sides_differ():
    unsure = operate("lt", [carried([1.0, 1.0, 1.0]), carried([1.0, 1.0, 2.0], 1e-3)], SINGLE)
    result = operate("where", [unsure, exactly([3.0, 3.0, 3.0]), exactly([3.0, 4.0, 4.0])], SINGLE)
    assert result.unknown.tolist() == [False, True, False]


def test_reductions_are_the_exact_ones_of_many_orders():
    x = samples(count=5000).astype(np.float64)
    exact = math.fsum(x)
    result = total("sum", [exactly(x[:1000]), exactly(x[1000:])], x.size)
    for order in (x, x[::-1], np.sort(x)):
        assert abs(float(np.cumsum(order)[-1]) - exact) <= result.bound
    assert abs(float(result.value) - exact) < 1e-14
    assert float(total("mean", [exactly(x)], x.size).value) == pytest.approx(exact / x.size, rel=1e-13)
    assert float(total("norm", [exactly(x)], x.size).value) == pytest.approx(math.sqrt(math.fsum(x * x)), rel=1e-15)
    assert result.bound < 1e-8


def test_a_whole_step_is_that_of_straight_line_code():
    text = '# {"seed": 3, "shapes": [[65]]}\n' + (
        "def fuzzed(p, g, t, m=Slot('m'), s=Slot('s', init=0.5, shape='scalar'), f=Slot('f'), *, lr=0.1):\n"
        "    s_new = s * 0.3 + t\n"
        "    f_new = where(fresh(f), g, f + g)\n"
        "    m_new = ema(m, g * g, 0.9) + global_norm(g) * mean(p)\n"
        "    return dict(p=p - lr * f_new / (sqrt(abs(m_new)) + s_new), m=m_new, s=s_new, f=f_new)\n"
    )
    formula = read(text).rule().formula()
    p, g, h, m = (samples(seed, 65).astype(np.float64) for seed in range(4))
    common = dict(hyper_parameters={"lr": 0.1}, t=3, arithmetic=DOUBLE, scalar_storage={"s": SINGLE})
    step = [
        Member(formula, p.astype(Extended), g.astype(Extended), {"m": m, "s": np.float64(0.5), "f": h}, **common),
        Member(formula, h.astype(Extended), g.astype(Extended), {"m": m, "s": np.float64(0.5)}, **common),
    ]
    outputs = evaluate(step)
    s = float(np.float32(0.5 * 0.3 + 3))
    norm = math.sqrt(2 * math.fsum(g * g))
    for param, before, result in ((p, h, outputs[0]), (h, 0, outputs[1])):
        f = before + g
        new = 0.9 * m + 0.1 * g * g + norm * math.fsum(param) / 65
        assert float(result["s"].value) == s
        np.testing.assert_allclose(result["f"].value.astype(float), f, rtol=1e-15)
        np.testing.assert_allclose(result["m"].value.astype(float), new, rtol=1e-11)
        step_size = 0.1 * f / (np.sqrt(np.abs(new)) + s)
        np.testing.assert_allclose(result["p"].value.astype(float), param - step_size, rtol=1e-11, atol=1e-15)
        assert all((x.bound <= 1e-10).all() for x in result.values())


def test_a_comparison_counts_what_is_wrong_and_what_is_left_out():
    truth = Carried(
        *(np.asarray(x) for x in ([Extended(1)] * 4 + [Extended(np.nan)], [1e-9] * 5, [False] * 3 + [True, False]))
    )
    got = np.asarray([1, 1 + 2e-9, np.nan, 7, np.inf], Extended)
    result = compare(got, truth, DOUBLE, DOUBLE)
    assert (result.compared, result.excluded, result.wrong.tolist()) == (5, 1, [1, 2, 4])
    loose = replace(truth, bound=np.asarray([1e-5] * 5))
    assert compare(got, loose, DOUBLE, DOUBLE).excluded == 4  # NaN has no bound to exceed a millionth of it
    assert compare(got, loose, SINGLE, SINGLE).excluded == 1


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_formats_round_as_torch_does(name):
    x = samples(count=4000).astype(np.float64) * np.exp2(np.random.default_rng(0).integers(-30, 15, 4000))
    through = torch.from_numpy(x).to(getattr(torch, name)).double().numpy()
    assert (FORMATS[name].round(x.astype(Extended)).astype(float) == through).all()
    assert FORMATS[name].holds(through.astype(Extended)).all()
