"""What an optimizer says of itself: every backend and every reason, before the first step and after it."""

import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import descend
from descend import Slot, eligibility, explanation, global_norm, render, rule, rules
from descend.backends import compiler, openmp
from descend.backends.plan import plan
from descend.schedules import cosine

needs_compiler = pytest.mark.skipif(compiler.unavailable() is not None, reason="kernels need a compiler")


def parameters(*shapes, dtype=torch.float32):
    made = [torch.ones(shape, dtype=dtype, requires_grad=True) for shape in shapes or [(3, 2), (5,)]]
    for p in made:
        p.grad = torch.ones_like(p)
    return made


def line(said, beginning):
    """The one line that begins so, without its indentation."""
    (found,) = [text.strip() for text in said.splitlines() if text.strip().startswith(beginning)]
    return found


@needs_compiler
def test_a_kernel_before_and_after_the_first_step():
    optimizer = descend.AdamW(parameters(), lr=0.1 * cosine(20), clip_value=2.0)
    said = optimizer.explain()
    assert line(said, "kernel") == (
        "kernel, expected: float32, 28 bytes moved per parameter and step (2 tensors, 11 parameters)"
    )
    assert line(said, "state") == "state 0 bytes"
    optimizer.step()
    said = optimizer.explain()
    assert said.splitlines()[0] == "options: clip_value=2.0"
    assert line(said, "group") == "group 0: adamw on 2 tensors, 11 parameters"
    assert line(said, "in force").startswith("in force: lr=0.0993844")
    assert " by 0.1 * cosine(20), betas=(0.9, 0.999), eps=1e-08" in line(said, "in force")
    assert "weight_decay=0.01" in line(said, "in force")
    assert line(said, "kernel") == "kernel: float32, 28 bytes moved per parameter and step (2 tensors, 11 parameters)"
    assert line(said, "state") == "state 96 bytes"  # two slots of 11 numbers, two counts
    assert line(said, "cost").startswith("cost in float32: per parameter reads 16 bytes, writes 12")


@needs_compiler
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "bfloat16, 14 bytes"),
        ({"state_dtype": torch.float32}, "p g bfloat16; m v float32, 22 bytes"),
        ({"ema_decay": 0.9}, "bfloat16, 18 bytes"),
        ({"clip_norm": 1.0}, "bfloat16, 16 bytes"),  # the gradient is read once more
    ],
)
def test_types_and_options_show_in_the_bytes_that_are_moved(options, words):
    optimizer = descend.AdamW(parameters(dtype=torch.bfloat16), **options)
    assert words in line(optimizer.explain(), "kernel, expected")
    optimizer.step()
    assert words in line(optimizer.explain(), "kernel:")


@pytest.mark.parametrize("name", rules.catalog())
def test_what_a_plan_moves_is_what_the_formula_costs(name):
    formula = rules.catalog()[name].formula()
    planned, cost = plan(formula.settle(frozenset())), render.cost(formula)
    assert planned.traffic(dict.fromkeys(planned.streams, 4)) == cost.bytes_read + cost.bytes_written


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"backend": "eager"}, "backend='eager' asks for it"),
        ({"foreach": True}, "foreach=True asks for torch's multi-tensor functions"),
        ({"fused": False}, "fused=False forbids the kernel"),
        ({"differentiable": True}, "differentiable=True lets gradients flow through the step"),
    ],
)
@needs_compiler
def test_flags_that_forbid_the_kernel(flags, reason):
    params = [p.detach().clone() for p in parameters()] if "differentiable" in flags else parameters()
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = descend.SGD(params, **flags)
    assert line(optimizer.explain(), "eager") == f"eager, expected: {reason} (2 tensors, 11 parameters)"
    optimizer.step()
    assert line(optimizer.explain(), "eager") == f"eager: {reason} (2 tensors, 11 parameters)"
    assert "kernel:" not in optimizer.explain()


class OfTheirOwn(torch.Tensor):
    """A tensor type that kernels know nothing of."""


def transposed_gradient():
    (p,) = parameters((2, 3))
    p.grad = torch.ones(3, 2).t()
    return p


def of_their_own():
    return torch.ones(3).as_subclass(OfTheirOwn).requires_grad_()


def under_inference():
    with torch.inference_mode():
        return torch.ones(3)


@needs_compiler
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.ones(3, 4)[:, ::2].requires_grad_(), "its elements do not lie in memory without gaps"),
        (lambda: torch.ones(3, dtype=torch.complex64).requires_grad_(), "it is of torch.complex64, and the kernels"),
        (lambda: torch.ones(3, device="meta").requires_grad_(), "it is on meta, and the kernels run on the CPU"),
        (of_their_own, "it is a OfTheirOwn and no plain tensor"),
        (under_inference, "it is an inference tensor and no plain tensor"),
        (transposed_gradient, "its gradient lies in memory in another order or as another type of tensor"),
    ],
)
def test_tensors_that_no_kernel_can_step(make, reason):
    optimizer = descend.SGD([make(), *parameters((7,))], lr=0.1)
    said = optimizer.explain()
    assert line(said, "eager, expected").startswith(f"eager, expected: {reason}")
    assert "(1 tensor, 7 parameters)" in line(said, "kernel, expected")


@needs_compiler
def test_a_group_that_is_split():
    odd, whole = torch.ones(3, 4)[:, ::2].requires_grad_(), parameters((7,), (2,))
    odd.grad = torch.ones_like(odd)
    whole[1].grad = None
    optimizer = descend.SGD([odd, *whole], lr=0.1, momentum=0.9)
    optimizer.step()
    said = optimizer.explain()
    assert line(said, "eager:") == "eager: its elements do not lie in memory without gaps (1 tensor, 6 parameters)"
    assert line(said, "kernel:").endswith("(1 tensor, 7 parameters)")
    assert line(said, "kernel, expected:").endswith("(1 tensor, 2 parameters)")


@needs_compiler
def test_memory_that_overlaps_and_reductions_that_are_split_are_found_at_the_step():
    (p,) = parameters((6,))
    q = p.detach()[2:].requires_grad_()
    q.grad = torch.ones_like(q)
    optimizer = descend.SGD([p, q], lr=0.1)
    optimizer.step()
    assert line(optimizer.explain(), "eager:").startswith("eager: its memory overlaps with another tensor's")

    @rule
    def scaled(p, g, *, lr=0.1):
        return dict(p=p - lr * g / (1 + global_norm(g)))

    optimizer = descend.Optimizer([*parameters(), *parameters((2,), dtype=torch.float64)], scaled)
    optimizer.step()
    assert line(optimizer.explain(), "eager:").startswith("eager: its rule reduces over all tensors, and some of them")


@needs_compiler
def test_a_slot_that_exists_once_per_optimizer_takes_a_kernel_of_its_own():
    @rule
    def counted(p, g, n=Slot("count", shape="optimizer"), *, lr=0.1):
        return dict(p=p - lr * g, n=n + 1)

    assert line(descend.Optimizer(parameters(), counted).explain(), "kernel").startswith("kernel, expected")
    optimizer = descend.Optimizer([*parameters(), *parameters((2,), dtype=torch.float64)], counted)
    optimizer.step()
    assert line(optimizer.explain(), "eager:").startswith("eager: its rule keeps a slot that exists once per optimizer")


def test_without_a_compiler_it_says_so_and_what_to_do(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    optimizer = descend.AdamW(parameters())
    assert line(optimizer.explain(), "eager, expected").startswith(
        "eager, expected: CXX names the compiler no-such-compiler, which was not found; set CXX to another, or unset it"
    )


@needs_compiler
def test_in_a_forked_process(monkeypatch):
    monkeypatch.setattr(eligibility, "_forked", True)
    said = descend.AdamW(parameters()).explain()
    assert line(said, "eager").startswith("eager, expected: this process was forked, without the threads of its parent")


@needs_compiler
def test_a_compiler_that_fails(monkeypatch):
    def failing(source):
        raise compiler.CompilationError("the compiler crashed")

    @rule
    def never_compiled(p, g, *, lr=0.1):
        return dict(p=p - lr * g / 3)

    monkeypatch.setattr(compiler, "load", failing)
    optimizer = descend.Optimizer(parameters(), never_compiled)
    with pytest.warns(UserWarning, match="the compiler crashed"):
        optimizer.step()
    assert line(optimizer.explain(), "eager").startswith("eager: the compiler failed")


@needs_compiler
def test_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    optimizer, eager = descend.SGD(parameters()), descend.SGD(parameters(), backend="eager")
    monkeypatch.setattr(openmp, "find", lambda: openmp.Runtime(0, 0, 0))
    assert line(optimizer.explain(), "threads") == "threads: 4"
    monkeypatch.setattr(openmp, "find", lambda: "2 OpenMP runtimes are loaded")
    assert line(optimizer.explain(), "threads") == "threads: 1 (of 4: the process has no single OpenMP runtime)"
    assert line(eager.explain(), "threads") == "threads: 4"


@needs_compiler
def test_what_demands_a_kernel_shows():
    said = descend.SGD(parameters(), backend="cpp", clip_value=1.0).explain()
    assert said.splitlines()[0] == "options: backend='cpp', clip_value=1.0"
    assert line(descend.SGD(parameters(), fused=True).explain(), "in force").endswith("nesterov=False, fused=True")


def test_groups_of_several_rules_and_flags():
    first, second = parameters()
    optimizer = descend.Optimizer(
        [{"params": [first]}, {"params": [second], "rule": rules.sgd, "maximize": True}], rules.adamw, lr=0.5
    )
    said = optimizer.explain()
    assert line(said, "group 0") == "group 0: adamw on 1 tensor, 6 parameters"
    assert line(said, "group 1") == "group 1: sgd on 1 tensor, 5 parameters"
    assert said.count("lr=0.5") == 2
    assert said.rstrip().count("maximize=True") == 1
    del optimizer.param_groups[0]
    assert "adamw" not in optimizer.explain()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"clip_norm": 1.0, "ema_decay": 0.9}])
def test_the_cost_is_what_the_kernel_moves(dtype, options):
    said = descend.AdamW(parameters(dtype=dtype), **options).explain()
    moved = int(re.search(r"(\d+) bytes moved", line(said, "kernel"))[1])
    read, written = map(int, re.search(r"reads (\d+) bytes.*, writes (\d+)", line(said, "cost")).groups())
    assert moved == read + written


def test_an_option_without_effect_is_told():
    without = "stochastic_rounding=True, of which stochastic_rounding has no effect, as nothing is stored in bfloat16"
    said = descend.AdamW(parameters(), stochastic_rounding=True).explain()
    assert line(said, "options") == f"options: {without}"
    for stored in ({"dtype": torch.bfloat16}, {"state_dtype": torch.bfloat16}):
        params = parameters(dtype=stored.pop("dtype", torch.float32))
        assert "no effect" not in descend.AdamW(params, stochastic_rounding=True, **stored).explain()


@needs_compiler
def test_the_average_is_called_by_its_key():
    said = descend.SGD(parameters(dtype=torch.bfloat16), ema_decay=0.9, state_dtype=torch.float32).explain()
    assert "p g bfloat16; ema float32" in line(said, "kernel")


@needs_compiler
def test_named_parameters_are_listed_by_what_steps_them():
    odd, first, second = torch.ones(3, 4)[:, ::2].requires_grad_(), *parameters()
    second.requires_grad_(False)
    groups = [
        {"params": [("blocks.0.weight", first), ("odd", odd)], "lr": 0.5},
        {"params": [("blocks.0.bias", second)], "weight_decay": 0.0},
    ]
    said = descend.AdamW(groups, lr=0.1).explain().splitlines()
    at = [i for i, text in enumerate(said) if text.startswith("group")]
    assert said[at[0] + 1].startswith("  in force: lr=0.5, ")
    assert "weight_decay=0.01" in said[at[0] + 1]
    assert said[at[0] + 2].startswith("  kernel, expected: ")
    assert said[at[0] + 3] == "    blocks.0.weight"
    assert said[at[0] + 4].startswith("  eager, expected: its elements do not lie")
    assert said[at[0] + 5] == "    odd"
    assert said[at[1] + 1].startswith("  in force: lr=0.1, ")
    assert "weight_decay=0.0," in said[at[1] + 1]
    assert said[at[1] + 3] == "    blocks.0.bias (frozen)"


def test_many_names_are_short_and_complete():
    names = [f"blocks.{i}.mlp.{j}.{what}" for i in range(12) for j in (0, 2) for what in ("weight", "bias")]
    names = ["embed.weight", *names, "head.weight"]
    optimizer = descend.SGD([(name, torch.ones(1, requires_grad=True)) for name in names], backend="eager")
    listed = line(optimizer.explain(), "embed.weight")
    assert listed == "embed.weight, blocks.{0-11}.mlp.{0,2}.weight, blocks.{0-11}.mlp.{0,2}.bias, head.weight"
    words = [(f"layer_with_a_long_name_{chr(97 + i)}.weight", torch.ones(1, requires_grad=True)) for i in range(26)]
    said = descend.SGD(words, backend="eager").explain()
    assert all(name in said for name, _ in words)
    assert max(map(len, said.splitlines())) <= 120


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "0", "1", "2", "3", "7", "07", "10"]), min_size=1, max_size=4).map(tuple),
        unique=True,
    )
)
def test_every_name_can_be_read_from_the_short_ones(rows):
    names = [".".join(row) for row in rows]
    assert sorted(name for short in explanation.compacted(names) for name in expanded(short)) == sorted(names)


def expanded(short):
    """The names that a short one stands for."""

    def numbers(part):
        if not part.startswith("{"):
            return [part]
        ends = [run.split("-") for run in part.strip("{}").split(",")]
        return [str(n) for run in ends for n in range(int(run[0]), int(run[-1]) + 1)]

    return map(".".join, itertools.product(*map(numbers, short.split("."))))


@pytest.mark.parametrize("name", descend.optim.classes)
def test_what_no_rule_reads_is_told(name):
    make = getattr(descend, name)
    with pytest.warns(UserWarning, match="did you mean 'weight_decay'"):
        optimizer = make([{"params": parameters((3, 2)), "weight_deacy": 0.5}])
    assert line(optimizer.explain(), "not read by").endswith(": weight_deacy=0.5")
    assert "not read" not in make(parameters((3, 2))).explain()


def test_a_key_of_the_state_is_read():
    @rule
    def counted(p, g, n=Slot("count", shape="optimizer"), *, lr=0.1):
        return dict(p=p - lr * g, n=n + 1)

    assert "not read" not in descend.Optimizer(parameters(), counted).explain()
