"""`normal` and `keep`: their distribution, the same numbers in every backend, and what may not be written."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.special import ndtri

import descend
from descend import FormulaError, Slot, expr, keep, mean, normal
from descend.backends.draws import Draw, bit_sites, normal_quantile

SHAPES = [(), (1,), (63,), (64,), (65,), (3, 43), (0,)]
BOUNDS = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2e-2}


@descend.rule
def noisy(p, g, t, m=Slot("m"), *, lr=0.1, std=0.5, q=0.7):
    """Noisy momentum."""
    m = 0.9 * m + keep(g, q)
    return dict(p=p - lr * (m + normal(std)), m=m)


@descend.rule
def replaced(p, t, *, std=2.0):
    """Noise alone."""
    return dict(p=normal(std) + 0 * p)


@descend.rule
def dropped(p, t, *, q=0.7):
    """The elements that are kept."""
    return dict(p=keep(p, q))


def trained(backend="eager", dtype=torch.float32, shapes=SHAPES, steps=3, rule=noisy, **options):
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]
    params = [torch.nn.Parameter(p) for p in params]
    optimizer = descend.Optimizer(params, rule, backend=backend, **options)
    step(optimizer, params, range(steps))
    return optimizer, params


def step(optimizer, params, steps):
    for number in steps:
        for p in params:
            p.grad = torch.sin(3 * p.detach().double() + number).to(p.dtype)
        optimizer.step()


def values(params):
    return [p.detach().clone() for p in params]


def drawn(rule, count=100_000, start=1.0, steps=0, seed=0, first_shapes=(), **numbers):
    """What a rule makes of tensors of one number, as a flat array of the last of them."""
    params = {str(i): torch.full(shape, start) for i, shape in enumerate((*first_shapes, (count,)))}
    state = rule.init(params)
    for entry in state.values():
        entry["step"] += steps
    new, _ = rule.update(params, params, state, seed=seed, **numbers)
    return new[str(len(params) - 1)].double().numpy()


# the distribution


def test_the_quantile_is_that_of_the_normal_distribution():
    places = np.concatenate([np.arange(0, 2**23, 97), np.arange(2000), 2**23 - 1 - np.arange(2000)])
    u = (places + 0.5) / 2**23
    exact = ndtri(u)
    for dtype, bound in ((torch.float64, 1.5e-7), (torch.float32, 1e-6)):
        found = normal_quantile(torch.tensor(u, dtype=dtype)).double().numpy()
        assert (torch.tensor(u, dtype=dtype).double().numpy() == u).all()
        assert (np.abs(found - exact) <= bound * np.abs(exact)).all()


@pytest.mark.parametrize("std", [0.1, 2.0])
def test_normal_has_the_mean_and_the_standard_deviation(std):
    x = drawn(replaced, std=std) / std
    count = len(x)
    assert abs(x.mean()) <= 5 / math.sqrt(count)
    assert abs(x.var() - 1) <= 5 * math.sqrt(2 / count)
    assert abs((x**4).mean() - 3) <= 5 * math.sqrt(96 / count)
    below = np.sort(x)
    assert np.abs(below - ndtri((np.arange(count) + 0.5) / count))[count // 10 : -count // 10].max() <= 0.03


@pytest.mark.parametrize("q", [0.0, 0.1, 0.7, 1.0])
def test_keep_keeps_the_share_and_scales_nothing(q):
    x = drawn(dropped, start=3.0, q=q)
    assert set(np.unique(x)) <= {0.0, 3.0}
    assert abs((x == 3).mean() - q) <= 5 * math.sqrt(q * (1 - q) / len(x))


def test_a_scalar_is_kept_element_by_element():
    @descend.rule
    def ones(p, t, *, q=0.5):
        return dict(p=keep(1, q) + 0 * p)

    assert 0.45 < drawn(ones, 10_000).mean() < 0.55


def test_elements_may_have_probabilities_of_their_own():
    @descend.rule
    def own(p, t, *, x=1.0):
        return dict(p=keep(x, p))

    assert 0.2 < drawn(own, 10_000, start=0.25).mean() < 0.3


def assert_independent(x, y):
    assert abs(np.corrcoef(x, y)[0, 1]) <= 5 / math.sqrt(len(x))


def test_calls_steps_parameters_and_seeds_draw_independently():
    @descend.rule
    def two(p, t, *, std=1.0):
        a, b = normal(std), normal(std)
        return dict(p=p * a + (1 - p) * b)

    calls = drawn(two, start=1.0), drawn(two, start=0.0)
    assert_independent(*calls)
    base = drawn(replaced)
    for other in (drawn(replaced, steps=1), drawn(replaced, seed=1), drawn(replaced, first_shapes=[(3,)])):
        assert_independent(base, other)
    assert_independent(base[1:], base[:-1])
    assert_independent(base[64:], base[:-64])


def test_sites_are_apart_from_each_other_and_from_those_of_rounding():
    sites = [site for number in range(300) for site in bit_sites(number)]
    assert len(set(sites)) == len(sites)
    assert min(sites) >= 256
    formula = noisy.formula()
    assert [node.value for node in formula.draws] == [0, 1]
    assert len(formula.outputs) < 256


# the same numbers everywhere


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_kernel_draws_what_torch_draws(dtype):
    _, eager = trained("eager", dtype)
    optimizer, fused = trained("cpp", dtype)
    for a, b in zip(eager, fused, strict=True):
        torch.testing.assert_close(a, b, rtol=BOUNDS[dtype], atol=BOUNDS[dtype])
    assert "eager" not in str(optimizer.explain())


def test_large_tensors_and_reductions_draw_the_same_in_the_kernel_in_pieces_and_on_threads():
    @descend.rule
    def measured(p, g, t, *, lr=0.1, q=0.3):
        noise = keep(g, q)
        return dict(p=p - lr * noise * (1 + abs(mean(noise))))

    for rule in (noisy, measured):
        results = [values(trained(b, shapes=[(2**18 + 77,), (5,)], steps=1, rule=rule)[1]) for b in ("eager", "cpp")]
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1 if before > 1 else 2)
            results.append(values(trained("cpp", shapes=[(2**18 + 77,), (5,)], steps=1, rule=rule)[1]))
        finally:
            torch.set_num_threads(before)
        for a, b, c in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
            assert torch.equal(b, c)


@pytest.mark.parametrize("backend", ["eager", "cpp"])
def test_elements_are_numbered_in_the_order_of_memory(backend):
    def stepped(p):
        p = torch.nn.Parameter(p)
        optimizer = descend.Optimizer([p], noisy, backend=backend)
        p.grad = torch.zeros_like(p)
        optimizer.step()
        return p.detach()

    rows = stepped(torch.zeros(7, 9))
    columns = stepped(torch.zeros(7, 9).t())
    assert torch.equal(rows, columns.t())


def test_gaps_in_memory_and_complex_numbers_step_eagerly_and_alike():
    whole = torch.zeros(6, 10)
    sliced = noisy.update({"w": whole[:, :5]}, {"w": whole[:, :5]}, noisy.init({"w": whole[:, :5]}))[0]["w"]
    dense = noisy.update({"w": whole[:, :5].clone()}, {"w": whole[:, :5]}, noisy.init({"w": whole[:, :5]}))[0]["w"]
    assert torch.equal(sliced, dense)
    number = torch.nn.Parameter(torch.zeros(5, dtype=torch.complex64))
    optimizer = descend.Optimizer([number], noisy)
    number.grad = torch.zeros_like(number)
    optimizer.step()
    pure = noisy.update({"w": torch.zeros(5, dtype=torch.complex64)}, {"w": number.grad}, noisy.init({"w": number}))
    assert torch.equal(number.detach(), pure[0]["w"])
    assert number.real.ne(number.imag).any()


def test_the_pure_function_draws_what_the_optimizer_with_the_seed_draws():
    _, params = trained(seed=2**63 + 9, backend="eager")
    start = {str(i): p for i, p in enumerate(values(trained(steps=0)[1]))}
    state = noisy.init(start)
    for number in range(3):
        grads = {name: torch.sin(3 * p.double() + number).float() for name, p in start.items()}
        start, state = noisy.update(start, grads, state, seed=2**63 + 9)
    assert all(torch.equal(p, start[str(i)]) for i, p in enumerate(params))


@pytest.mark.parametrize("backend", ["eager", "cpp"])
def test_a_parameter_without_a_gradient_keeps_its_place(backend):
    frozen = torch.nn.Parameter(torch.zeros(4))
    params = [frozen, torch.nn.Parameter(torch.zeros(70))]
    params[1].grad = torch.ones(70)
    descend.Optimizer(params, noisy, backend=backend).step()
    named = {"a": torch.zeros(4), "b": torch.zeros(70)}
    new, _ = noisy.update(named, {"b": torch.ones(70)}, noisy.init(named))
    torch.testing.assert_close(params[1].detach(), new["b"], rtol=1e-6, atol=1e-6)


def test_a_compiled_step_draws_the_same():
    def stepped(compiled):
        params = [torch.nn.Parameter(torch.linspace(0, 1, n)) for n in (3, 5, 70)]
        optimizer = descend.Optimizer(params, noisy, backend="eager", seed=7)
        take = torch.compile(optimizer.step, fullgraph=True, backend="aot_eager") if compiled else optimizer.step
        for number in range(3):
            for p in (params[0], params[2]):  # that between them is not stepped, and keeps its place
                p.grad = torch.sin(3 * p.detach() + number)
            take()
        return params

    for a, b in zip(stepped(False), stepped(True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_under_vmap_every_step_draws_its_own():
    params = {"w": torch.zeros(3, 5, 4)}
    one = noisy.init({"w": params["w"][0]})["w"]
    state = {"w": {"m": torch.zeros(3, 5, 4), "step": torch.tensor([0.0, 1.0, 7.0])}}
    new, _ = torch.func.vmap(lambda p, s: noisy.update(p, p, s, seed=3))(params, state)
    for i in range(3):
        p = {"w": params["w"][i]}
        alone, _ = noisy.update(p, p, {"w": {"m": one["m"], "step": state["w"]["step"][i]}}, seed=3)
        assert torch.equal(new["w"][i], alone["w"])


@pytest.mark.parametrize("backend", ["eager", "cpp"])
def test_a_run_goes_on_bit_for_bit_after_a_checkpoint(backend):
    optimizer, params = trained(backend, steps=2, seed=5)
    kept, saved = values(params), copy.deepcopy(optimizer.state_dict())
    step(optimizer, params, range(2, 4))
    again = [torch.nn.Parameter(p) for p in kept]
    resumed = descend.Optimizer(again, noisy, backend=backend, seed=5)
    resumed.load_state_dict(saved)
    step(resumed, again, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(params, again, strict=True))


@pytest.mark.parametrize("backend", ["eager", "cpp"])
def test_seeds_differ(backend):
    one, other = (values(trained(backend, shapes=[(64,)], seed=seed)[1])[0] for seed in (0, 2**32))
    assert not torch.equal(one, other)


def test_steps_beyond_the_integers_of_float32_are_told_apart_in_the_kernel():
    results = []
    for steps in (2**24, 2**24 + 1):
        p = torch.nn.Parameter(torch.zeros(64))
        p.grad = torch.zeros(64)
        optimizer = descend.Optimizer([p], replaced, backend="cpp")
        optimizer.state[p]["step"] = torch.tensor(float(steps), dtype=torch.float64)
        optimizer.step()
        results.append(p.detach())
    assert not torch.equal(*results)


def test_rounding_draws_other_numbers_and_changes_none():
    bits = Draw(0, 1, 0, 0).uniform(torch.zeros(64), torch.float32)
    assert torch.equal(bits, Draw(0, torch.tensor(1.0), 0, 0).uniform(torch.zeros(64), torch.float32))
    plain = values(trained("cpp", torch.bfloat16)[1])
    rounded = values(trained("cpp", torch.bfloat16, stochastic_rounding=True)[1])
    for a, b in zip(plain, rounded, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)


def test_a_sparse_gradient_is_stepped_as_a_dense_one():
    @descend.rule
    def scaled(p, g, t, *, lr=0.1):
        return dict(p=p - lr * g * normal(1))

    results = []
    for sparse in (False, True):
        p = torch.nn.Parameter(torch.zeros(4, 3))
        gradient = torch.tensor([[0.0] * 3, [1.0] * 3, [0.0] * 3, [2.0] * 3])
        p.grad = gradient.to_sparse(1) if sparse else gradient
        descend.Optimizer([p], scaled, backend="eager").step()
        results.append(p.detach())
    assert torch.equal(*results)


def test_gradients_pass_through_what_is_kept():
    p, g = torch.zeros(64, dtype=torch.float64), torch.ones(64, dtype=torch.float64, requires_grad=True)
    std = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    state = noisy.init({"w": p})
    new, _ = noisy.update({"w": p}, {"w": g}, state, std=std)
    by_g, by_std = torch.autograd.grad(new["w"].sum(), [g, std])
    assert set(by_g.tolist()) == {0.0, -0.1}
    without = noisy.update({"w": p}, {"w": g}, state, std=0.0)[0]["w"]
    torch.testing.assert_close(by_std, ((new["w"] - without).sum() / 0.5).detach())
    assert torch.equal(without.detach() == -0.1, by_g == -0.1)


# what is written


@descend.rule
def written(p, g, t, m=Slot("m"), *, lr=0.1, std=0.5, q=0.7):
    """Several draws, one of which nothing reads."""
    a = normal(1)
    unused = normal(3)  # noqa: F841
    m = 0.9 * m + keep(g, q)

    def squared(x):
        return x * x

    both = normal(std + 1) * normal(std + 1)
    return dict(p=p - lr * (m + a + both + squared(g + normal(1)) + mean(keep(1, 0.5))) * descend.global_norm(m), m=m)


@pytest.mark.parametrize("rule", [noisy, written, replaced, dropped])
def test_the_source_reads_back_to_the_identical_formula(rule):
    names = {}
    exec(compile(rule.source(), "<source>", "exec"), names)
    again = names[rule.name].formula()
    assert again.is_same_as(rule.formula())
    assert [node.value for node in again.draws] == [node.value for node in rule.formula().draws]


def test_mathematics_says_variance_and_hides_the_step():
    assert noisy.text().splitlines() == ["m ← 0.9 m + keep(g, q)", "θ ← θ − lr · (m + normal(0, std²))"]
    assert "\\operatorname{keep}(g_t, q)" in noisy.latex()
    assert "\\mathcal{N}(0, \\mathrm{std}^2)" in noisy.latex()
    assert "<mi>𝒩</mi>" in noisy.mathml()


def test_mathematics_does_not_take_two_draws_for_one_nor_one_for_two():
    text = written.text()
    assert "normal(0, (std + 1)²) normal(0, (std + 1)²)" in text
    assert "x₁ ← g + normal(0, 1)" in text
    assert "x₁²" in text
    assert "a ← normal(0, 1)" in text


def test_the_kernel_hands_each_call_its_sites():
    source = written.source("cpp")
    numbers = [node.value for node in written.formula().draws]
    assert numbers == [0, 2, 3, 4, 5, 6]
    for site in (site for number in numbers for site in bit_sites(number)):
        assert f"random_tile(call.seed, {site}, drawn_at," in source
    assert f"call.seed, {bit_sites(1)[0]}," not in source


def test_costs_count_draws_and_formulas_stay_elementwise():
    cheap = descend.rules.sgd.cost()
    cost = noisy.cost()
    assert cost.operations > cheap.operations + 50
    assert cost.transcendental == 1
    assert noisy.formula().is_elementwise


# what may not be written


def test_a_rule_that_draws_names_t():
    with pytest.raises(FormulaError, match=r"declare t in the signature.*function of the step"):

        @descend.rule
        def forgot(p, g, *, q=0.5):
            return dict(p=p - keep(g, q))

    with pytest.raises(FormulaError, match="declare t in the signature"):

        @descend.rule
        def built(p, g, *, q=0.5):
            return dict(p=p - expr.apply("keep", g, q, expr.t, site=0))


def test_draws_are_written_inside_a_rule():
    for call in (lambda: normal(1), lambda: keep(expr.g, 0.5)):
        with pytest.raises(FormulaError, match="only inside a rule"):
            call()


def test_expressions_are_built_with_a_site_and_the_step():
    node = expr.apply("keep", 1, 0.5, expr.t, site=3)
    assert node.rank is expr.Rank.ELEMENT
    assert node is expr.apply("keep", 1, 0.5, expr.t, site=3)
    assert node is not expr.apply("keep", 1, 0.5, expr.t, site=4)
    with pytest.raises(FormulaError, match="takes a site"):
        expr.apply("keep", expr.g, 0.5, expr.t)
    with pytest.raises(FormulaError, match="the last argument of normal is the step"):
        expr.apply("normal", 1, expr.g, site=0)
    with pytest.raises(FormulaError, match="numbers, not a condition"):
        expr.apply("keep", expr.g > 0, 0.5, expr.t, site=0)
    with pytest.raises(FormulaError, match="two random operations have site 0"):

        @descend.rule
        def twice(p, g, t, *, q=0.5):
            return dict(p=p - expr.apply("keep", g, q, expr.t, site=0) - expr.apply("normal", 1, expr.t, site=0))


def test_the_words_are_listed():
    assert {"keep", "normal"} <= {*descend.__all__}
    assert "keep" in expr.words()
    assert "normal" in expr.words()
