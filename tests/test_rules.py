"""Every rule against its source: torch's own class in float64, or the published update in straight-line code."""

import inspect
import math

import pytest
import torch

import descend
from descend import rules, schedules
from optimizers import BY_NAME, ROWS, SHAPES, gradients, parameters, relative_difference, straight_line, train

STEPS = range(200)
EXPECTED = (
    *("SGD", "SGDW", "SGDWPaper", "ASGD", "Adagrad", "Adadelta", "RMSprop", "Adam", "AdamW", "AdamWPaper", "Adamax"),
    *("NAdam", "RAdam", "AMSGrad", "Rprop", "PowerSign", "AddSign", "Lion", "Signum", "LAMB", "LARS", "LARSPaper"),
    "YellowFin",
)
OF_MATRICES = ("Muon",)  # the table's parameters have all shapes; these have tests of their own
all_rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def test_the_table_holds_every_optimizer():
    assert sorted(BY_NAME) == sorted(EXPECTED)
    assert sorted(descend.optim.classes) == sorted([*EXPECTED, *OF_MATRICES])
    assert sorted(rules.catalog()) == sorted(name.lower() for name in descend.optim.classes)


@all_rows
def test_equals_its_source_in_every_combination_of_options(row, float64):
    for options in row.combinations():
        params = parameters()
        ours = train(row.ours(params, **options), params, STEPS)
        if row.twin:
            params = parameters()
            theirs, tolerance = train(row.twin(params, **options), params, STEPS), 1e-12
        else:
            theirs, tolerance = straight_line(row, parameters(), STEPS, **options), 1e-10
        assert relative_difference(ours, theirs) <= tolerance, options


@all_rows
def test_equals_torch_in_float64_under_a_float32_default(row):
    if row.twin is None:
        pytest.skip("torch has no class of this name")
    tolerance = 1e-6 if row.keeps_float32_scalars else 1e-12
    mine, theirs = parameters(dtype=torch.float64), parameters(dtype=torch.float64)
    train(row.ours(mine), mine, STEPS)
    train(row.twin(theirs), theirs, STEPS)
    assert relative_difference(mine, theirs) <= tolerance


@all_rows
def test_signature_keys_and_defaults_are_torch_s(row):
    ours = inspect.signature(row.ours).parameters
    assert {"weight_decay", "maximize", "foreach", "fused", "capturable", "differentiable"} <= set(ours)
    group = row.ours(parameters()).param_groups[0]
    for name, default in row.ours.rule.hyper_parameters.items():
        assert group[name] == default == ours[name].default, name
    if row.twin is None:
        return
    theirs = inspect.signature(row.twin).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, argument in theirs.items():
        assert (ours[name].kind, ours[name].default) == (argument.kind, argument.default), name
    twins_group = row.twin(parameters()).param_groups[0]
    assert {name: group[name] for name in twins_group if name != "params"} == {
        name: value for name, value in twins_group.items() if name != "params"
    }


@all_rows
def test_state_keys_shapes_and_types_are_torch_s(row):
    if row.twin is None:
        pytest.skip("torch has no class of this name")
    for options in row.combinations():
        mine, theirs = parameters(), parameters()
        our_optimizer, their_optimizer = row.ours(mine, **options), row.twin(theirs, **options)
        train(our_optimizer, mine, range(2))
        train(their_optimizer, theirs, range(2))
        for p, q in zip(mine, theirs, strict=True):
            a, b = our_optimizer.state[p], their_optimizer.state[q]
            assert sorted(a) == sorted(b)
            assert {k: (v.shape, v.dtype) for k, v in a.items()} == {k: (v.shape, v.dtype) for k, v in b.items()}


@all_rows
def test_docstring_names_its_source(row):
    assert row.ours.__doc__.startswith(f"{row.name}. ")
    assert any(character.isdigit() for character in row.ours.__doc__.splitlines()[0]), "a year, at least"


def test_weight_decay_is_zero_unless_torch_decays():
    for row in ROWS:
        expected = 1e-2 if row.name == "AdamW" else 0
        assert inspect.signature(row.ours).parameters["weight_decay"].default == expected, row.name


def _box(rule, sequence, steps, **hyper_parameters):
    """Online optimization of linear losses on [-1, 1] with rates alpha / sqrt(t)."""
    x = {"x": torch.zeros((), dtype=torch.float64)}
    state = rule.init(x, **hyper_parameters)
    for t in range(1, steps + 1):
        slope = {"x": torch.tensor(sequence(t), dtype=torch.float64)}
        x, state = rule.update(x, slope, state, lr=0.5 / t**0.5, eps=0.0, **hyper_parameters)
        x["x"].clamp_(-1, 1)
    return x["x"].item()


def test_amsgrad_converges_where_adam_does_not():
    """Theorem 1 of Reddi et al.: losses C x when t mod 3 = 1, else -x; the optimum is -1."""
    c = 4.0
    options = {"betas": (0.0, 1 / (1 + c * c))}

    def slope(t):
        return c if t % 3 == 1 else -1.0

    assert _box(rules.adam, slope, 1500, **options) > 0.9
    assert _box(rules.amsgrad, slope, 1500, **options) < -0.9


def test_decoupled_decay_equals_l2_for_plain_sgd_only(float64):
    """Propositions 1 and 2 of Loshchilov & Hutter."""
    runs = {}
    for name, options in {
        "l2": {"weight_decay": 0.1},
        "decoupled": {"weight_decay": 0.1},
        "published": {"weight_decay": 0.1 * 0.05, "momentum": 0.0},
    }.items():
        cls = {"l2": descend.SGD, "decoupled": descend.SGDW, "published": descend.SGDWPaper}[name]
        params = parameters()
        runs[name] = train(cls(params, lr=0.05, **options), params, STEPS)
    assert relative_difference(runs["l2"], runs["decoupled"]) < 1e-12
    assert relative_difference(runs["l2"], runs["published"]) < 1e-12
    adam, adamw = parameters(), parameters()
    train(descend.Adam(adam, lr=0.05, weight_decay=0.1), adam, STEPS)
    train(descend.AdamW(adamw, lr=0.05, weight_decay=0.1), adamw, STEPS)
    assert relative_difference(adam, adamw) > 1e-3


def test_published_adamw_is_torch_s_with_the_decay_divided_by_the_rate(float64):
    published, ours = parameters(), parameters()
    train(descend.AdamWPaper(published, lr=0.01, weight_decay=0.001), published, STEPS)
    train(descend.AdamW(ours, lr=0.01, weight_decay=0.1), ours, STEPS)
    assert relative_difference(published, ours) < 1e-12


def test_published_decay_follows_the_multiplier_and_not_the_rate(float64):
    """With no gradient, AdamWPaper shrinks the weights by 1 - eta * weight_decay whatever the rate."""
    eta = descend.schedules.linear(4)
    p = torch.ones(3, requires_grad=True)
    optimizer = descend.AdamWPaper([p], lr=123.0, weight_decay=0.1, eta=eta)
    for _ in range(4):
        p.grad = torch.zeros(3)
        optimizer.step()
    expected = (1 - 0.1) * (1 - 0.075) * (1 - 0.05) * (1 - 0.025)
    assert p[0].item() == pytest.approx(expected, rel=1e-15)


def test_the_first_factors_of_powersign_and_addsign(float64):
    """m averages this step's gradient first, so the signs agree at the first step; the sign of 0 is 0."""
    e = 2.718281828459045
    for cls, agree, disagree, at_zero in ((descend.PowerSign, e, 1 / e, 0.0), (descend.AddSign, 2.0, 0.0, 0.0)):
        p = torch.zeros(2, requires_grad=True)
        optimizer = cls([p], lr=1.0)
        p.grad = torch.tensor([1.0, 0.0])
        optimizer.step()
        assert p.tolist() == pytest.approx([-agree, at_zero])
        before = p[0].item()
        p.grad = torch.tensor([-0.01, 0.0])  # m stays positive, the gradient turns
        optimizer.step()
        assert p[0].item() - before == pytest.approx(disagree * 0.01)


@pytest.mark.parametrize(
    ("schedule", "published"),
    [
        (schedules.linear(8), lambda s: max(0.0, (8 - s) / 8)),
        (schedules.cyclical(8), lambda s: 0.5 * (1 + math.cos(math.pi * s / 8))),
        (schedules.cyclical(8, periods=2), lambda s: 0.5 * (1 + math.cos(4 * math.pi * s / 8))),
        (schedules.restart(8, periods=2), lambda s: 0.5 * (1 + math.cos(math.pi * (2 * s % 8) / 8))),
        (schedules.constant(0.5), lambda s: 0.5),
    ],
    ids=["linear", "cyclical", "cyclical twice", "restart twice", "constant"],
)
@pytest.mark.parametrize("name", ["PowerSign", "AddSign"])
def test_internal_decays_of_powersign_and_addsign(name, schedule, published, float64):
    """f(t) of Bello et al. over a run of 8 steps, as the published code has it."""
    params, expected, states = parameters(), [p.detach() for p in parameters()], [{} for _ in SHAPES]
    train(getattr(descend, name)(params, f=schedule), params, range(8))
    for step in range(8):
        expected = [
            BY_NAME[name].reference(p, g, s, step + 1, f=published(step))
            for p, g, s in zip(expected, gradients(step, expected), states, strict=True)
        ]
    assert relative_difference(params, expected) <= 1e-12


def test_adaptive_methods_fail_on_the_constructed_problem():
    """Wilson et al. 2017, section 3: adaptive methods end at sign(X^T y) / 4 and call everything positive."""
    positive, negative = 14, 6
    y = torch.tensor([1.0] * positive + [-1.0] * negative, dtype=torch.float64)
    rows, used = [], 3
    for label in y:
        private = 1 if label > 0 else 5
        rows.append((label, range(used, used + private)))
        used += private
    x = torch.zeros(len(y), used, dtype=torch.float64)
    for row, (label, private) in zip(x, rows, strict=True):
        row[0], row[1], row[2] = label, 1, 1
        row[list(private)] = 1
    w = {"w": torch.zeros(used, dtype=torch.float64)}
    state = rules.adagrad.init(w, eps=1e-12)
    for _ in range(2000):
        gradient = {"w": 2 * x.T @ (x @ w["w"] - y)}
        w, state = rules.adagrad.update(w, gradient, state, lr=0.1, eps=1e-12)
    assert torch.allclose(w["w"], torch.sign(x.T @ y) / 4, atol=1e-6)
    unseen = torch.tensor([[1.0, 1, 1], [-1.0, 1, 1]], dtype=torch.float64)  # only the shared features are known
    assert (unseen @ w["w"][:3] > 0).all()
    minimum_norm = torch.linalg.pinv(x) @ y
    assert (unseen @ minimum_norm[:3]).sign().tolist() == [1, -1]
