"""The two spaces: what they hold, how members are written, and that text and expressions say the same."""

import math
import pickle
from itertools import islice
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import descend
from descend import rules
from descend.expr import leaf
from descend.expr import p as parameter
from descend.search.known import SENTENCES, program_of
from descend.search.nos import BINARY, DECAYS, OPERANDS, UNARY, Nos, needed_groups
from descend.search.programs import ADAMW, LION, Programs, parse
from descend.search.screening import Screening
from descend.search.source import rule_of
from descend.search.space import SearchError

SPACES = {
    "nos": Nos(1),
    "nos with decays": Nos(2, decays=True),
    "nos of three": Nos(3),
    "nos with constraints": Nos(2, constraints=("distinct", "reuse", "no-addition")),
    "programs": Programs(),
    "programs of one": Programs(memory=("m",)),
}


def of_sentences(depth=1):
    return Nos(depth)


def stepped(rule, steps=4, seed=0, **hyper_parameters):
    """A parameter after some steps of a rule, in float64."""
    generator = torch.Generator().manual_seed(7)
    param = torch.randn(40, generator=generator, dtype=torch.float64)
    optimizer = descend.Optimizer([param.requires_grad_()], rule, backend="eager", seed=seed, **hyper_parameters)
    for _ in range(steps):
        param.grad = 0.1 * torch.randn(40, generator=generator, dtype=torch.float64)
        optimizer.step()
    return param.detach().clone()


def test_the_language_is_that_of_the_paper():
    assert (len(OPERANDS), len(DECAYS), len(UNARY), len(BINARY)) == (17, 4, 12, 6)
    assert Nos(1).count == 249_696
    assert Nos(1, decays=True).count == 21**2 * 12**2 * 6
    assert Nos(2).count == 249_696 * 18**2 * 12**2 * 6
    assert Nos(3).length == 15
    assert sum(1 for _ in Nos(1)) == Nos(1).count


@pytest.mark.parametrize("name", SPACES)
def test_members_are_rules_and_their_text_is_their_expression(name):
    space, random = SPACES[name], Random(3)
    member = space.random(random)
    for number in range(60):
        member = space.mutate(member, random) if number % 4 else space.random(random)
        update, slots = space.update(member)
        formula = space.rule(member).formula()
        expected = {"p": parameter - leaf("hyper", ("lr", None)) * update, **slots}
        assert formula.outputs.keys() == expected.keys()
        assert all(formula.outputs[key] is root for key, root in expected.items()), space.source(member)
        assert space.decode(space.encode(member)) == member


@pytest.mark.parametrize("name", SPACES)
def test_a_member_is_a_file_that_reads_back(name, tmp_path):
    space, random = SPACES[name], Random(11)
    for _ in range(15):
        member = space.random(random)
        made = {}
        exec(space.source(member, "found", 'Found. A "rule".'), made)
        assert made["found"].formula().is_same_as(space.rule(member).formula())
        assert made["found"].summary == 'Found. A "rule".'


@pytest.mark.parametrize("name", SPACES)
def test_a_mutation_changes_one_thing(name):
    space, random = SPACES[name], Random(5)
    member = space.random(random)
    for _ in range(200):
        other = space.mutate(member, random)
        assert other != member
        if isinstance(space, Nos):
            assert sum(a != b for a, b in zip(member, other, strict=True)) == 1
            assert other in space
        else:
            assert not space.fault(other)
            lengths = len(other) - len(member)
            shared = [statement for statement in other if statement in member]
            assert abs(lengths) <= 1
            assert len(shared) >= min(len(member), len(other)) - 1
        member = other


def test_a_member_crosses_processes():
    for space in SPACES.values():
        member = space.random(Random(1))
        rule = space.rule(member)
        again_space, again_member, again = pickle.loads(pickle.dumps((space, member, rule)))
        assert again_member == member
        assert again.formula().is_same_as(rule.formula())
        assert again_space.rule(member).formula().is_same_as(rule.formula())


@pytest.mark.parametrize("name", SPACES)
def test_every_member_renders(name):
    space, random = SPACES[name], Random(2)
    for _ in range(10):
        rule = space.rule(space.random(random))
        assert rule.latex()
        assert rule.mathml().startswith("<math")
        assert rule.text()
        assert rule.source("cpp")
        assert rule.cost().operations > 0


def test_members_run_on_every_backend_and_checkpoint(tmp_path):
    random = Random(8)
    for space in (Nos(2, decays=True), Programs()):
        screening = Screening(space)
        members = (space.random(random) for _ in range(10_000))
        for member in islice((m for m in members if screening.examine(m).descends), 6):
            rule = space.rule(member)
            runs = {}
            for backend in ("eager", "auto"):
                torch.manual_seed(0)
                param = torch.nn.Parameter(torch.randn(70))
                optimizer = descend.Optimizer([param], rule, lr=1e-3, backend=backend, seed=3)
                for step in range(4):
                    if step == 2:  # a resumed run draws the same numbers
                        saved = optimizer.state_dict()
                        optimizer = descend.Optimizer([param], rule, lr=1e-3, backend=backend, seed=3)
                        optimizer.load_state_dict(saved)
                    param.grad = torch.randn(70)
                    optimizer.step()
                runs[backend] = param.detach().clone()
            torch.testing.assert_close(runs["auto"], runs["eager"], rtol=2e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", SENTENCES)
def test_the_known_rules_are_sentences(name):
    text = SENTENCES[name]
    space = Nos(1 + text.count("|"))
    rule = space.rule(space.decode(text))
    numbers = {
        "momentum": {"momentum": 0.9, "dampening": 0.9},
        "sgd": {},
        "signsgd": {"beta": 0.0},
        "rmsprop": {},
    }.get(name, {})
    shipped = rules.catalog()[{"momentum": "sgd", "signsgd": "signum"}.get(name, name)]
    if name == "momentum":  # a sentence's average is bias-corrected, and torch's buffer begins with g
        check_momentum(rule)
        return
    torch.testing.assert_close(stepped(rule, lr=0.01), stepped(shipped, lr=0.01, **numbers), rtol=1e-9, atol=1e-12)


def check_momentum(rule):
    generator = torch.Generator().manual_seed(0)
    param = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    optimizer = descend.Optimizer([param], rule, lr=0.1, backend="eager")
    average, expected = torch.zeros(9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    for t in range(1, 6):
        param.grad = torch.randn(9, generator=generator, dtype=torch.float64)
        average = 0.9 * average + 0.1 * param.grad
        expected = expected - 0.1 * average / (1 - 0.9**t)
        optimizer.step()
    torch.testing.assert_close(param.detach(), expected)


@pytest.mark.parametrize(
    ("name", "hyper_parameters"),
    [
        ("adam", {}),
        ("adamw", {}),
        ("rmsprop", {}),
        ("rmsprop", {"centered": True, "momentum": 0.9}),
        ("signum", {}),
        ("signum", {"beta": 0.0}),
        ("powersign", {}),
        ("addsign", {}),
        ("lion", {}),
        ("lion", {"weight_decay": 0.1}),
        ("adamax", {}),
        ("adadelta", {}),
        ("amsgrad", {}),
    ],
)
def test_the_known_rules_are_programs(name, hyper_parameters):
    shipped = rules.catalog()[name]
    program, memory = program_of(shipped, **hyper_parameters)
    space = Programs(memory=memory, longest=80)
    assert space.fault(program) == ""
    rule = space.rule(program)
    torch.testing.assert_close(
        stepped(rule, lr=0.01), stepped(shipped, lr=0.01, **hyper_parameters), rtol=1e-9, atol=1e-12
    )


def test_momentum_is_a_program():
    space = Programs()
    rule = space.rule(parse("m = mul(m, 0.9); m = add(m, g); update = mul(m, 1.0)"))
    torch.testing.assert_close(stepped(rule, lr=0.01), stepped(rules.sgd, lr=0.01, momentum=0.9))


def test_adamw_and_lion_begin_a_search():
    space = Programs()
    assert space.start == parse(ADAMW)
    torch.testing.assert_close(
        stepped(space.rule(space.start), lr=0.01), stepped(rules.adamw, lr=0.01), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(stepped(space.rule(parse(LION)), lr=0.01), stepped(rules.lion, lr=0.01))


def test_what_is_no_program_is_refused():
    with pytest.raises(SearchError, match="muon is no program"):
        program_of(rules.muon)
    with pytest.raises(SearchError, match="no program"):
        program_of(rules.adagrad, initial_accumulator_value=0.1)


def test_statements_that_do_not_reach_the_update_are_left_out():
    space = Programs()
    program = parse("x1 = exp(g); v = interp(g, v, 0.9); m = interp(g, m, 0.9); update = sign(m); x2 = tanh(update)")
    assert list(map(str, space.pruned(program))) == ["m = interp(g, m, 0.9)", "update = sign(m)"]
    assert set(space.rule(program).formula().slots) == {"m"}


def test_memory_that_reaches_the_update_through_other_memory_is_kept():
    space = Programs()
    program = parse("update = mul(m, 1.0); m = add(v, 0.0); v = add(g, 0.0)")
    assert set(space.rule(program).formula().slots) == {"m", "v"}
    delayed = stepped(space.rule(program), steps=2, lr=1.0)
    assert torch.equal(delayed, stepped(space.rule(program), steps=1, lr=1.0))  # the gradient arrives two steps later
    assert not torch.equal(stepped(space.rule(program), steps=3, lr=1.0), delayed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("update = sign(q)", "q has no value there"),
        ("m = interp(g, m, 0.9)", "does not assign update"),
        ("update = mul(p, 0.1)", "does not depend on g"),
        ("update = cosh(g)", "cosh is none of"),
        ("update = add(g)", "add takes 2 arguments"),
        ("g = add(g, 1.0); update = sign(g)", "g cannot be assigned"),
        ("sign = add(g, 1.0); update = sign(g)", "sign cannot be assigned"),
        ("lr = square(g); update = mul(lr, g)", "lr cannot be assigned"),
        ("if = square(g); update = sign(g)", "if cannot be assigned"),
        ("dict = square(g); update = sign(g)", "dict cannot be assigned"),
        ("update = mul(g, 1e11)", "not within"),
        ("update g", "is no statement"),
        ("update = mul(g, 1.0.0)", "neither a name nor a number"),
        ("", "0 statements"),
    ],
)
def test_programs_that_are_wrong_say_why(text, message):
    with pytest.raises(SearchError, match=message):
        Programs().decode(text)


@pytest.mark.parametrize(
    ("space", "text", "message"),
    [
        (Nos(1), "g g x x", "has not 1 x 5 words"),
        (Nos(2), "g g x x +", "has not 2 x 5 words"),
        (Nos(1), "g x1 x x +", "'x1' is unknown there"),
        (Nos(1), "ld g x x *", "'ld' is unknown there"),
        (Nos(1, constraints=("no-addition",)), "g m x x +", "is no sentence"),
        (Nos(2, constraints=("reuse",)), "g m x x * | g m x x *", "is no sentence"),
    ],
)
def test_sentences_that_are_wrong_say_why(space, text, message):
    with pytest.raises(SearchError, match=message):
        space.decode(text)


def test_spaces_check_their_arguments():
    with pytest.raises(SearchError, match="1, 2 or 3 groups"):
        Nos(4)
    with pytest.raises(SearchError, match="choose of distinct"):
        Nos(1, constraints=("odd",))
    with pytest.raises(SearchError, match="memory 'lr' cannot be assigned"):
        Programs(memory=("m", "lr"))
    with pytest.raises(SearchError, match="start is no program"):
        Programs(start=parse("update = mul(p, 2.0)"))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_constraints_hold_for_what_is_drawn_and_mutated(seed):
    space, random = Nos(3, constraints=("distinct", "reuse", "no-addition")), Random(seed)
    member = space.random(random)
    for _ in range(5):
        member = space.mutate(member, random)
        groups = [member[k : k + 5] for k in (0, 5, 10)]
        assert all(group[0] != group[1] for group in groups)
        assert all(17 + k - 1 in group[:2] for k, group in enumerate(groups) if k)
        assert groups[-1][4] != list(BINARY).index("+")


def test_a_group_that_nothing_reads_is_left_out():
    space = Nos(2)
    member = space.decode("g^3 gamma x x + | g m x x +")
    assert needed_groups(member, 17) == {1}
    assert set(space.update(member)[1]) == {"m"}
    assert "gamma" not in space.source(member)


# ---- what implementations of this language have been seen to get wrong


def steps_of(text, gradients, *, lr=1.0, start=0.0, depth=1, **hyper_parameters):
    """The weights after each step of a sentence."""
    space = Nos(depth, decays=bool(hyper_parameters))
    param = torch.full((len(gradients[0]),), start, dtype=torch.float64, requires_grad=True)
    optimizer = descend.Optimizer([param], space.rule(space.decode(text)), lr=lr, backend="eager", **hyper_parameters)
    for gradient in gradients:
        param.grad = torch.as_tensor(gradient, dtype=torch.float64)
        optimizer.step()
        yield param.detach().clone()


def test_drop_does_not_rescale():
    (after,) = steps_of("g g drop(0.3) x left", [torch.ones(20_000)])
    assert set(after.tolist()) == {0.0, -1.0}
    dropped = (after == 0).double().mean().item()
    assert abs(dropped - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 20_000)


def test_noise_is_given_as_a_standard_deviation():
    (after,) = steps_of("eps g x x left", [torch.zeros(20_000)])
    assert abs(after.std().item() - 0.01) < 0.0005
    assert abs(after.mean().item()) < 5 * 0.01 / math.sqrt(20_000)


def test_annealed_noise_has_variance_one_over_t_to_the_0_55():
    space = Nos(1, decays=True)
    before = torch.zeros(40_000, dtype=torch.float64)
    rule = space.rule(space.decode("eps_t g x x left"))
    param = before.clone().requires_grad_()
    optimizer = descend.Optimizer([param], rule, lr=1.0, backend="eager")
    for t in range(1, 6):
        param.grad = torch.zeros(40_000, dtype=torch.float64)
        optimizer.step()
        variance = (param.detach() - before).var().item()
        assert abs(variance / t**-0.55 - 1) < 0.04
        before = param.detach().clone()


def test_an_average_advances_once_per_step():
    both = list(steps_of("m m x x *", [[1.0], [2.0]]))
    averages = [0.1 / (1 - 0.9), (0.09 + 0.2) / (1 - 0.81)]
    assert both[0].item() == pytest.approx(-(averages[0] ** 2))
    assert (both[1] - both[0]).item() == pytest.approx(-(averages[1] ** 2))
    two_groups = list(steps_of("m m x x * | x1 m x x +", [[1.0], [2.0]], depth=2))
    assert (two_groups[1] - two_groups[0]).item() == pytest.approx(-(averages[1] ** 2) - averages[1])


def test_weights_are_scaled_by_1e_4_to_1e_1():
    for name, factor in {"1e-4w": 1e-4, "1e-3w": 1e-3, "1e-2w": 1e-2, "1e-1w": 1e-1}.items():
        (after,) = steps_of(f"{name} g x x left", [[0.0]], start=3.0)
        assert after.item() == pytest.approx(3.0 - 3.0 * factor)


def test_adam_and_rmsprop_are_updates_of_rate_one():
    gradients = [torch.randn(5, dtype=torch.float64) for _ in range(3)]
    for text, kind in {"ADAM g x x left": torch.optim.Adam, "RMSProp g x x left": torch.optim.RMSprop}.items():
        param = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        optimizer = kind([param], lr=1.0)
        for gradient, after in zip(gradients, steps_of(text, gradients), strict=True):
            param.grad = gradient.clone()
            optimizer.step()
            torch.testing.assert_close(after, param.detach())


def test_the_sign_of_zero_is_zero():
    (after,) = steps_of("sign(g) sign(m) x x * | x1 g exp x *", [[0.0, 2.0, -2.0]], depth=2)
    assert after.tolist() == pytest.approx([0.0, -2 * math.e, 2 * math.e])
    (after,) = steps_of(SENTENCES["addsign"], [[0.0, 2.0, -2.0]], depth=2)
    assert after.tolist() == pytest.approx([0.0, -4.0, 4.0])
    (after,) = steps_of("g g sign x left", [[0.0, -0.0, 3.0]])
    assert after.tolist() == [0.0, 0.0, -1.0]


def test_a_negative_base_with_a_broken_exponent_is_not_a_number():
    (after,) = steps_of("g m x sqrt ^", [[-0.5]])
    assert math.isnan(after.item())


def test_division_has_a_delta_and_log_and_root_take_magnitudes():
    (after,) = steps_of("g g x x /", [[0.0, 1.0]])
    assert after.tolist() == pytest.approx([0.0, -1 / (1 + 1e-8)])
    (after,) = steps_of("g g log x left", [[-2.0]])
    assert after.item() == pytest.approx(-math.log(2))
    (after,) = steps_of("g g sqrt x left", [[-4.0]])
    assert after.item() == pytest.approx(-2)


def test_decays_follow_their_schedules():
    steps = 40
    space = Nos(1, decays=True)
    driven = space.schedules(steps)
    for s in (0, 3, 10, 39):
        assert driven["linear"](s) == pytest.approx(1 - s / steps)
        assert driven["cyclical"](s) == pytest.approx(0.5 * (1 + math.cos(math.pi * s / steps)))
        assert driven["restart"](s) == pytest.approx(0.5 * (1 + math.cos(math.pi * ((20 * s) % steps) / steps)))
    rule = space.rule(space.decode("ld g x x *"))
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = descend.Optimizer([param], rule, lr=1.0, backend="eager", linear=driven["linear"])
    for s in range(3):
        before = param.item()
        param.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        assert before - param.item() == pytest.approx(1 - s / steps)
    assert Nos(1).schedules(10) == {}


def test_a_text_that_is_no_rule_says_so():
    with pytest.raises(TypeError, match="truth value"):
        rule_of("def odd(p, g, *, lr=0.1):\n    return dict(p=p if g > 0 else g)\n", "odd")
