"""The mathematics of a formula: what is printed evaluates to the formula."""

import html
import random
import re
import textwrap
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import assume, given, settings

from descend import Slot, render
from descend.rule import rule
from descend.rules import catalog
from descend.vocabulary import maximum, sign
from mathematics import read_latex, read_mathml, read_text, value_of
from random_rules import made_of, programs, variants

SYMBOLS = {  # how each leaf is written in text, LaTeX and MathML
    "p": ("θ", r"\theta_{t-1}", "θ_t−1"),
    "g": ("g", "g_t", "g_t"),
    "t": ("t", "t", "t"),
    "lr": ("lr", r"\gamma", "γ"),
    "weight_decay": ("λ", r"\lambda", "λ"),
    "momentum": ("μ", r"\mu", "μ"),
    "dampening": ("τ", r"\tau", "τ"),
    "momentum_decay": ("ψ", r"\psi", "ψ"),
    "eps": ("ε", r"\varepsilon", "ε"),
    "trust_coefficient": ("η", r"\eta", "η"),
    "trust_eps": ("δ", r"\delta", "δ"),
    "norm_limit": ("κ", r"\kappa", "κ"),
    "alpha": ("α", r"\alpha", "α"),
    "beta": ("β", r"\beta", "β"),
    "rho": ("ρ", r"\rho", "ρ"),
    "lambd": ("λ", r"\lambda", "λ"),
    "f": ("f", "f", "f"),
    "t0": ("t₀", "t_0", "t_0"),
    "base": ("base", r"\mathrm{base}", "base"),
    "lr_decay": ("lr_decay", r"\mathrm{lr\_decay}", "lr_decay"),
    ("betas", 0): ("β₁", r"\beta_1", "β_1"),
    ("betas", 1): ("β₂", r"\beta_2", "β_2"),
    ("etas", 0): ("η⁻", r"\eta^-", "η^−"),
    ("etas", 1): ("η⁺", r"\eta^+", "η^+"),
    ("step_sizes", 0): ("smallest", r"\mathrm{smallest}", "smallest"),
    ("step_sizes", 1): ("largest", r"\mathrm{largest}", "largest"),
    "m": ("m", "m_{t-1}", "m_t−1"),
    "v": ("v", "v_{t-1}", "v_t−1"),
    "u": ("u", "u_{t-1}", "u_t−1"),
    "v_max": ("v_max", r"v_{t-1}^{\max}", "v_t−1^max"),
    "g_avg": ("g_avg", r"g_{t-1}^{\mathrm{avg}}", "g_t−1^avg"),
    "mu_product": ("μ_product", r"\mu_{t-1}^{\mathrm{product}}", "μ_t−1^product"),
    "mu": ("μ", r"\mu_{t-1}", "μ_t−1"),
    "buf": ("b", "b_{t-1}", "b_t−1"),
    "total": ("total", r"\mathrm{total}_{t-1}", "total_t−1"),
    "prev": ("prev", r"\mathrm{prev}_{t-1}", "prev_t−1"),
    "step_size": ("step_size", r"\mathrm{step\_size}_{t-1}", "step_size_t−1"),
    "ax": ("ax", r"\mathrm{ax}_{t-1}", "ax_t−1"),
    "n": ("n", "n_{t-1}", "n_t−1"),
    "low": ("low", r"\mathrm{low}_{t-1}", "low_t−1"),
    "high": ("high", r"\mathrm{high}_{t-1}", "high_t−1"),
    "window": ("window", r"\mathrm{window}_{t-1}", "window_t−1"),
    "squares": ("squares", r"\mathrm{squares}_{t-1}", "squares_t−1"),
    "norms": ("norms", r"\mathrm{norms}_{t-1}", "norms_t−1"),
    "distances": ("distances", r"\mathrm{distances}_{t-1}", "distances_t−1"),
    "rate": ("rate", r"\mathrm{rate}_{t-1}", "rate_t−1"),
    "mean": ("mean", r"\mathrm{mean}_{t-1}", "mean_t−1"),
    "ns_steps": ("n", "n", "n"),
    ("ns_coefficients", 0): ("c₁", "c_1", "c_1"),
    ("ns_coefficients", 1): ("c₂", "c_2", "c_2"),
    ("ns_coefficients", 2): ("c₃", "c_3", "c_3"),
    "first_lr": ("first_lr", r"\mathrm{first\_lr}", "first_lr"),
    "eta": ("η", r"\eta", "η"),
}
IN_ASGD = {  # where eta is a slot, and lambd has the letter of weight_decay
    "eta": ("η", r"\eta_{t-1}", "η_t−1"),
    "weight_decay": ("weight_decay", r"\mathrm{weight\_decay}", "weight_decay"),
}


def hold_mathematics_against(formula, symbols):
    """The printed equations give every output the formula's value, for arbitrary values of the leaves."""
    unknowns = random.Random(0)
    leaves = {name: unknowns.randrange(2**60) for name in symbols}
    printed = (render.text(formula), render.latex(formula), render.mathml(formula))
    for way, (read, text) in enumerate(zip((read_text, read_latex, read_mathml), printed, strict=True)):
        names = read(text, {symbols[name][way]: value for name, value in leaves.items()})
        for name, root in formula.outputs.items():
            new = symbols[name][way].replace("_{t-1}", "_t").replace("t−1", "t")
            assert names[new] == value_of(root, leaves, {}), (name, text)
    for opening, closing in [("{", "}"), ("\\left", "\\right"), ("\\begin{cases}", "\\end{cases}")]:
        assert printed[1].count(opening) == printed[1].count(closing)


@pytest.mark.parametrize("name", catalog())
def test_mathematics_of_every_variant_evaluates_to_the_formula(name):
    for options in variants(catalog()[name]):
        formula = catalog()[name].formula(**options)
        used = {leaf(node) for node in formula.nodes if not node.args and node.op != "constant"} | {*formula.outputs}
        symbols = {name: symbol for name, symbol in SYMBOLS.items() if name in used}
        hold_mathematics_against(formula, symbols | (IN_ASGD if name == "asgd" else {}))


def leaf(node):
    if node.op in ("slot", "hyper"):
        return node.value[0] if node.op == "slot" or node.value[1] is None else node.value
    return node.value if node.op == "fresh" else node.op


@pytest.mark.parametrize("name", catalog())
def test_the_key_has_the_symbols_that_are_printed(name):
    symbols = SYMBOLS | (IN_ASGD if name == "asgd" else {}) | {"lr": ("γ", r"\gamma", "γ")}
    for options in variants(catalog()[name]):
        formula = catalog()[name].formula(**options)
        read = {leaf(node) for node in formula.nodes if node.op == "hyper"}
        expected = {}
        for parameter, value in formula.hyper_parameters.items():
            elements = [(parameter, i) for i in range(len(value))] if isinstance(value, tuple) else [parameter]
            printed = [symbols[element][0] for element in elements if element in read]
            if printed and printed != [parameter]:
                expected[parameter] = ", ".join(printed)
        assert render.key(formula) == expected


def test_the_key_marks_elements_that_are_not_read():
    @rule
    def second_only(p, g, *, lr=0.1, betas=(0.9, 0.99), decay=1.0):
        _, beta2 = betas
        return dict(p=p - lr * beta2 * g)

    assert render.key(second_only.formula()) == {"lr": "γ", "betas": "–, β₂"}


RANDOM_SYMBOLS = {name: SYMBOLS[name] for name in ("p", "g", "t", "lr", ("betas", 0), ("betas", 1))} | {
    "m": ("m", "m_{t-1}", "m_t−1"),
    "n": ("n", "n_{t-1}", "n_t−1"),
    "s": ("s", "s_{t-1}", "s_t−1"),
    "o": ("o", "o_{t-1}", "o_t−1"),
    "sign": ("sign", r"\mathrm{sign}", "sign"),
    ("rates", 0): ("rates₀", r"\mathrm{rates}_0", "rates_0"),
    ("rates", 1): ("rates₁", r"\mathrm{rates}_1", "rates_1"),
}
ELEMENTS = {("betas", 0): "beta1", ("betas", 1): "beta2"}


def is_element(node):
    return node.op == "hyper" and node.value[1] is not None


@settings(max_examples=100)
@given(programs())
def test_mathematics_of_any_formula_evaluates_to_it(program):
    formula = made_of(program)
    assume(all(ELEMENTS.get(node.value) == name for name, node in formula.bindings if is_element(node)))
    hold_mathematics_against(formula, RANDOM_SYMBOLS)


def in_full(text):
    return textwrap.dedent(text).strip("\n")


def test_adamw_in_print():
    formula = catalog()["adamw"].formula()
    assert render.text(formula) == in_full("""
        m ← β₁ m + (1 − β₁) g
        v ← β₂ v + (1 − β₂) g²
        m̂ ← m / (1 − β₁ᵗ)
        v̂ ← v / (1 − β₂ᵗ)
        θ̃ ← θ (1 − lr · λ)
        θ ← θ̃ − lr · m̂ / (√v̂ + ε)
    """)
    assert render.latex(formula) == in_full(r"""
        \begin{aligned}
          m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
          v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
          \hat{m}_t &= \frac{m_t}{1 - \beta_1^t} \\
          \hat{v}_t &= \frac{v_t}{1 - \beta_2^t} \\
          \tilde{\theta}_t &= \theta_{t-1} (1 - \gamma \lambda) \\
          \theta_t &= \tilde{\theta}_t - \frac{\gamma \hat{m}_t}{\sqrt{\hat{v}_t} + \varepsilon}
        \end{aligned}
    """)


def test_cases_in_print():
    formula = catalog()["sgd"].formula(momentum=0.9, maximize=True)
    assert render.text(formula) == in_full("""
        g̃ ← −g
        b ← {g̃ if b is unset; otherwise μ b + (1 − τ) g̃}
        θ ← θ − lr · b
    """)
    assert render.latex(formula) == in_full(r"""
        \begin{aligned}
          \tilde{g}_t &= -g_t \\
          b_t &= \begin{cases} \tilde{g}_t & \text{if } b_{t-1}\text{ is unset} \\ \mu b_{t-1} + (1 - \tau) \tilde{g}_t & \text{otherwise} \end{cases} \\
          \theta_t &= \theta_{t-1} - \gamma b_t
        \end{aligned}
    """)  # noqa: E501


def test_mathml_is_one_element_with_the_text_as_its_alternative():
    formula = catalog()["rprop"].formula()
    math_element = ElementTree.fromstring(render.mathml(formula))
    assert math_element.tag == "{http://www.w3.org/1998/Math/MathML}math"
    assert math_element.get("alttext") == render.text(formula)
    assert len(math_element[0]) == len(render.text(formula).splitlines())


def test_functions_stand_apart_from_other_factors_in_mathml():
    @rule
    def signs(p, g, *, lr=0.1):
        return dict(p=p - lr * sign(g) * g - lr * g * maximum(p, 1))

    factors = re.findall("<mo( rspace=[^>]+)?>\N{INVISIBLE TIMES}", html.unescape(render.mathml(signs.formula())))
    assert [bool(apart) for apart in factors] == [True, True, False, True]


def test_names_the_field_does_not_know_stay_words_and_never_stand_for_two_things():
    @rule
    def named(p, g, t, a_b=Slot("a"), theta=Slot("b"), *, lr=0.1, gamma=2.0, x_tilde=1.0, x=1.0):
        a_b = a_b * x_tilde + g
        theta = theta + a_b
        x = x * gamma
        return dict(p=p - lr * x * theta, a_b=a_b, theta=theta)

    assert render.text(named.formula()) == in_full("""
        a_b ← a_b · x̃ + g
        theta ← theta + a_b
        x̃′ ← x γ
        θ ← θ − lr · x̃′ · theta
    """)


def test_a_line_that_only_leads_to_the_next_value_of_its_name_is_left_out():
    @rule
    def in_steps(p, g, *, lr=0.1):
        update = g / 2
        update = update + p
        update = update * update
        return dict(p=p - lr * update)

    assert render.text(in_steps.formula()) == in_full("""
        update ← g / 2 + θ
        update′ ← update²
        θ ← θ − lr · update′
    """)


def test_an_old_value_read_after_its_assignment_is_marked_in_text():
    @rule
    def difference(p, g, m=Slot("m"), *, lr=0.1):
        old = m
        m = m + g
        return dict(p=p - lr * (m - old), m=m)

    assert render.text(difference.formula()) == "m ← m + g\nθ ← θ − lr · (m − mₜ₋₁)"
    assert "    old = m\n    m = old + g\n" in render.source(difference.formula())
