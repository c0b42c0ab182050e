"""The code in the docs runs, and what they show is what the library says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import descend
from descend.backends import compiler

ROOT = Path(__file__).parents[1]


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(name, language):
    return [block for tongue, block in FENCED.findall((ROOT / name).read_text()) if tongue == language]


def python_alone(text):
    """A page's Python blocks in their places, every other line empty, so that errors name the page's lines."""
    lines = [""] * text.count("\n")
    for found in FENCED.finditer(text):
        if found[1] == "python":
            first = text.count("\n", 0, found.start(2))
            lines[first : first + found[2].count("\n")] = found[2].splitlines()
    return "\n".join(lines) + "\n"


PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md") if "```python" in path.read_text())


def test_the_readme_s_python_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks("README.md", "python"):
        exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    (explained,) = blocks("README.md", "text")
    if compiler.unavailable() is None:
        assert explained in printed
    assert "group 0: adamw" in printed
    assert "1e-05\n" in printed


@pytest.mark.parametrize("page", PAGES)
def test_a_page_s_python_runs_in_order(page, tmp_path):
    """In a process of its own, as its readers run it, in which every warning is an error."""
    script = tmp_path / page.replace(".md", ".py")
    script.write_text(python_alone((ROOT / "docs" / page).read_text()))
    quiet = ["-W", "error", "-W", "ignore:no fused kernels"]
    done = subprocess.run(
        [sys.executable, *quiet, script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_pages_have_python_and_errors_name_their_lines():
    assert {"coming-from.md", "guarantees.md"} <= set(PAGES)
    assert python_alone("text\n```python\na = 1\n```\n```text\nb\n```\nc\n") == "\n\na = 1\n\n\n\n\n\n"


def test_the_schedule_free_rule_of_a_page_is_the_method():
    """Against the recurrence of its paper: y is stepped, x is the average that is evaluated, z the base iterate."""
    (block,) = (block for block in blocks("docs/coming-from.md", "python") if "def schedule_free" in block)
    namespace = {}
    exec(block.partition("opt = ")[0], namespace)
    (beta1, beta2), decay, rate = (0.9, 0.999), 0.1, 0.01 * descend.schedules.warmup(5)
    y = torch.linspace(-1, 1, 9, dtype=torch.float64).requires_grad_()
    optimizer = descend.Optimizer([y], namespace["schedule_free"], lr=rate, weight_decay=decay)
    x = z = y.detach().clone()
    v, total = torch.zeros_like(z), 0.0
    for s in range(30):
        y.grad = torch.cos(y.detach() + s)
        v = beta2 * v + (1 - beta2) * y.grad**2
        z = z - rate(s) * (y.grad / ((v / (1 - beta2 ** (s + 1))).sqrt() + 1e-8) + decay * y.detach())
        total += rate(s) ** 2
        x = x + rate(s) ** 2 / total * (z - x)
        optimizer.step()
        torch.testing.assert_close(y.detach(), (1 - beta1) * z + beta1 * x, rtol=0, atol=1e-7)
    torch.testing.assert_close(y.detach().lerp(optimizer.state[y]["z"], 1 - 1 / beta1), x, rtol=0, atol=1e-7)


def test_the_readme_shows_adamw_as_it_is():
    namespace = {}
    exec(blocks("README.md", "python")[0], namespace)
    for amsgrad in (False, True):
        shown, shipped = namespace["adamw"], descend.rules.adamw
        assert shown.formula(amsgrad=amsgrad).is_same_as(shipped.formula(amsgrad=amsgrad))
    assert blocks("README.md", "math") == [descend.rules.adamw.latex() + "\n"]


def test_the_readme_shows_the_kernel_as_it_is():
    (heart,) = blocks("README.md", "cpp")
    assert heart in descend.rules.adamw.source("cpp")


def test_the_readme_names_every_class():
    text = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in text for name in descend.optim.classes)


def test_the_readme_s_error_is_the_error():
    shown = next(block for block in blocks("README.md", "") if "FormulaError" in block)
    namespace = {"rule": descend.rule}
    source = (
        "def clipped(p, g, *, lr=0.1):\n    if g > 1:\n        return dict(p=p - lr)\n    return dict(p=p - lr * g)"
    )
    exec(source, namespace)
    with pytest.raises(descend.FormulaError) as error:
        descend.Rule(namespace["clipped"]).formula()
    assert " ".join(str(error.value).split(":")[-1].split()) in " ".join(shown.split())


def test_contributing_adds_an_optimizer_in_ten_lines(tmp_path, monkeypatch):
    """The block is put into a file of descend.rules, as the text says, and everything follows."""
    (block,) = blocks("CONTRIBUTING.md", "python")
    body = block.split("@rule\n")[1]
    assert len(body.strip().splitlines()) <= 10
    shutil.copytree(ROOT / "src" / "descend", tmp_path / "descend")
    (tmp_path / "descend" / "rules" / "tiger_family.py").write_text(block)
    check = """
import torch, descend
assert descend.__file__.startswith(PLACE)
p = torch.ones(3, requires_grad=True)
opt = descend.Tiger([p], lr=0.5, weight_decay=0.0)
p.grad = torch.tensor([1.0, -1.0, 0.0])
opt.step()
assert p.tolist() == [0.5, 1.5, 1.0], p
assert "sign" in descend.rules.tiger.latex()
assert descend.optim.by_name("tiger") is descend.Tiger
from descend import cli
cli.main(["show", "tiger"])
"""
    check = f"PLACE = {str(tmp_path)!r}\n{check}"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, env=environment, check=False)
    assert "Tiger. The sign" in done.stdout, done.stderr


def test_contributing_names_the_vocabulary():
    from descend.expr import OPERATIONS

    text = (ROOT / "CONTRIBUTING.md").read_text()
    spelled = {"add", "sub", "mul", "div", "pow", "neg", "lt", "le", "gt", "ge", "eq", "ne"}
    assert all(re.search(rf"\b{name}\b", text) for name in set(OPERATIONS) - spelled)
