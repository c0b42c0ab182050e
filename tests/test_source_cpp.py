"""The kernels as a reader sees them: `source("cpp")`, `descend show --source`, and snapshots of what is generated.

make snapshots      writes tests/snapshots anew; read the difference before it is committed
"""

from pathlib import Path

import pytest

import descend
from descend import Slot, cli, global_norm, norm, rule, rules, where
from descend.backends import compiler
from descend.backends.cpp import Storage, kernel, translation_unit
from descend.backends.plan import plan
from descend.options import extended

SNAPSHOTS = Path(__file__).parent / "snapshots"
NOTABLE = "notable_variants"


@rule
def normalized(p, g, m=Slot("momentum_buffer"), *, lr=0.02, momentum=0.9):
    """Momentum whose step per tensor is as long as the tensor itself, times lr."""
    m = momentum * m + g
    length = norm(m)
    return dict(p=p - lr * norm(p) * where(length > 0, m / length, 0), m=m)


@rule
def clipped(p, g, *, lr=0.1):
    """Descent by a gradient that is scaled down over all tensors."""
    length = global_norm(g)
    return dict(p=p - lr * g / where(length > 1, length, 1))


def with_options(formula, *names, dtype="float32", stochastic=False):
    """The kernel of a formula in an optimizer with options."""
    formula = extended(formula, names).settle(frozenset())
    types = tuple((name, dtype) for name in ("p", "g", *formula.slots))
    return kernel(plan(formula), Storage(types, stochastic), formula.rule.name)


def notable():
    """Kernels beside the defaults, one for each thing that may stand in one."""
    sgd = rules.sgd.formula(momentum=0.9)
    return {
        "the largest of a slot's values": rules.adam.source("cpp", amsgrad=True),
        "Nesterov's momentum, and an active decay": rules.sgd.source(
            "cpp", momentum=0.9, nesterov=True, weight_decay=0.01
        ),
        "a norm of each tensor": normalized.source("cpp"),
        "a norm of all tensors": clipped.source("cpp"),
        "a gradient scale, clipping by value and by norm": with_options(
            sgd, "gradient_scale", "clip_value", "clip_coefficient"
        ),
        "an average of the weights": with_options(sgd, "ema_decay"),
        "bfloat16, rounded stochastically": with_options(sgd, dtype="bfloat16", stochastic=True),
        "float64": with_options(rules.powersign.formula(), dtype="float64"),
    }


def generated():
    """What the snapshots hold, by the names of their files."""
    titled = (f"// ---- {title}\n\n{source}" for title, source in notable().items())
    return {**{name: shipped.source("cpp") for name, shipped in rules.catalog().items()}, NOTABLE: "\n".join(titled)}


@pytest.mark.parametrize("name", [*rules.catalog(), NOTABLE])
def test_the_generated_code_is_the_snapshot(name):
    place = SNAPSHOTS / f"{name}.cpp"
    assert place.exists(), "a new rule: `make snapshots` writes its kernel; read it, then commit it"
    assert generated()[name] == place.read_text(), "the kernel changed; `make snapshots`, then read the difference"


def test_no_snapshot_is_left_over():
    assert {place.stem for place in SNAPSHOTS.iterdir()} == {*generated()}


def test_the_author_s_names_stand_in_the_kernel():
    source = rules.adamw.source("cpp")
    for name in ("m_hat", "v_hat", "beta1", "beta2", "lr", "eps"):
        assert f"const real {name} = " in source
    assert "prelude.hpp" in source.partition("namespace")[0]
    assert "driver.hpp" in source.partition("namespace")[0]
    assert "random_tile" not in source  # the kernel alone, not what it is compiled with


@pytest.mark.skipif(compiler.unavailable() is not None, reason="needs a compiler")
def test_what_is_shown_compiles_behind_prelude_and_driver():
    library = compiler.load(translation_unit([rules.adamw.source("cpp")], "adamw"))
    assert library.adamw


def test_a_rule_that_gives_first_values_says_which_steps_its_kernel_takes():
    assert "every step but the first: buf has no value then" in rules.sgd.source("cpp", momentum=0.9)
    assert "every step but the first" not in rules.sgd.source("cpp")


def test_the_hyper_parameters_choose_the_variant():
    assert "buf" not in rules.sgd.source("cpp")
    assert rules.sgd.source("cpp", momentum=0.9) != rules.sgd.source("cpp", momentum=0.9, nesterov=True)


def test_a_function_without_a_name():
    assert "update_rule_kernel" in descend.Rule(lambda p, g, *, lr=0.1: dict(p=p - lr * g)).source("cpp")


def shown(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["show", *words])
    printed = capsys.readouterr()
    return caught.value.code, printed.out, printed.err


def test_show_prints_the_source_alone(capsys):
    assert shown(capsys, "adamw", "--source", "cpp") == (0, rules.adamw.source("cpp").rstrip() + "\n", "")
    nesterov = rules.sgd.source("cpp", momentum=0.9, nesterov=True)
    words = ["sgd", "momentum=0.9", "nesterov=true", "--source", "cpp"]
    assert shown(capsys, *words) == (0, nesterov.rstrip() + "\n", "")
    python = rules.lion.source("python", lr=0.5)
    assert shown(capsys, "Lion", "lr=0.5", "--source", "python") == (0, python.rstrip() + "\n", "")
    code, out, err = shown(capsys, "adamw", "--source", "fortran")
    assert (code, out) == (2, "")
    assert err == "descend: a formula cannot be written in 'fortran'; choose one of python, cpp\n"


def write():
    """Write the snapshots anew."""
    SNAPSHOTS.mkdir(exist_ok=True)
    for place in SNAPSHOTS.iterdir():
        place.unlink()
    for name, source in generated().items():
        (SNAPSHOTS / f"{name}.cpp").write_text(source)


if __name__ == "__main__":
    write()
