"""What may import what: the house is read from the bottom up, and no file reaches above itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "descend"

# layer: what it may import from the package, beside itself
LAYERS = {
    "caution": set(),
    "language": set(),
    "expr": {"language"},
    "vocabulary": {"expr"},
    "formula": {"expr"},
    "tracing": {"expr", "formula"},
    "rule": {"expr", "formula", "tracing"},
    "rules": {"rule", "vocabulary"},
    "render": {"staging", "expr", "formula", "tracing", "rule"},
    "schedules": set(),
    "staging": {"expr"},
    "backends": {"caution", "expr", "formula", "staging", "tracing", "rule"},
    "hyper_parameters": {"caution", "tracing", "rule", "schedules"},
    "options": {"expr", "rule", "vocabulary"},
    "arguments": {"hyper_parameters", "options"},
    "scheduling": {"caution", "hyper_parameters", "schedules"},
    "state": {"backends", "rule"},
    "sparsity": {"expr", "rule"},
    "loading": {"backends", "caution", "matching", "options", "rule", "rules", "state"},
    "initialization": {"backends", "rule", "state"},
    "matching": {"caution"},
    "interrupts": set(),
    "buckets": {"arguments", "backends", "eligibility", "expr", "options", "rule", "sparsity", "state"},
    "eligibility": {"backends", "rule"},
    "fused": {"backends", "buckets", "eligibility", "expr", "rule"},
    "fusing": {"backends", "buckets", "caution", "eligibility", "expr", "fused", "options", "rule", "state"},
    "stepping": {"backends", "buckets", "fused", "fusing", "options", "rule", "state"},
    "optimizer": {
        "arguments",
        "buckets",
        "caution",
        "eligibility",
        "fused",
        "hyper_parameters",
        "initialization",
        "interrupts",
        "loading",
        "options",
        "rule",
        "scheduling",
        "state",
        "stepping",
    },
    "traced": {"arguments", "backends", "hyper_parameters", "options", "rule", "state", "tracing"},
    "description": {"experiments", "hyper_parameters", "rule", "rules", "tracing"},
    "explanation": {"arguments", "backends", "eligibility", "options", "render", "rule"},
    "optim": {"arguments", "optimizer", "rule", "rules"},
    "checkpoint": {"arguments", "backends", "caution", "hyper_parameters", "optim", "options", "rule"},
    "places": set(),
    "groups": {"places", "rule", "rules", "schedules"},
    "presets": {"optim", "optimizer", "schedules"},
    "sequences": {"schedules"},
    "rate_scaling": {"optimizer", "schedules"},
    "nt_asgd": {"optim", "optimizer", "options", "rate_scaling", "schedules", "sequences"},
    "stubs": {"optim", "options"},
    "tasks": {"restoring", "sequences"},
    "restoring": set(),
    "applied_steps": {"optimizer"},
    "rate_range": {"accumulation", "applied_steps", "optimizer", "restoring", "schedules", "tasks"},
    "model_states": set(),
    "averaging": {"model_states"},
    "ensembles": {"model_states", "restoring"},
    "snapshots": {"applied_steps", "ensembles", "model_states", "optimizer", "restoring", "schedules"},
    "generalization": {"averaging", "model_states", "restoring"},
    "plateau": {"optimizer", "restoring", "schedules"},
    "batching": {"schedules"},
    "accumulation": {"schedules"},
    "option_values": {"experiments"},
    "listing": {"experiments", "rules", "schedules", "tasks"},
    "experiments": {
        "averaging",
        "ensembles",
        "generalization",
        "groups",
        "model_states",
        "optim",
        "optimizer",
        "rate_range",
        "rate_scaling",
        "restoring",
        "rule",
        "rules",
        "schedules",
        "snapshots",
        "tasks",
    },
    "search": {"backends", "experiments", "expr", "formula", "restoring", "rule", "schedules", "tasks", "vocabulary"},
    "learned": {
        "arguments",
        "experiments",
        "hyper_parameters",
        "interrupts",
        "optim",
        "restoring",
        "rule",
        "rules",
        "schedules",
        "scheduling",
        "snapshots",
        "tasks",
    },
    "benchmarks": {
        "backends",
        "batching",
        "experiments",
        "generalization",
        "learned",
        "optim",
        "rule",
        "rules",
        "schedules",
        "search",
        "tasks",
    },
    "report": {"render"},
}
EVERYTHING = {"__init__", "__main__", "commands", "cli"}
TORCH_FREE = {
    "caution",
    "language",
    "sparsity",
    "staging",
    "expr",
    "vocabulary",
    "formula",
    "tracing",
    "rule",
    "rules",
    "render",
    "schedules",
}
# conveniences that import their layer when they are called
WHEN_CALLED = {
    ("rule", "init", "backends"),
    ("rule", "update", "backends"),
    ("rule", "latex", "render"),
    ("rule", "mathml", "render"),
    ("rule", "text", "render"),
    ("rule", "source", "render"),
    ("rule", "symbols", "render"),
    ("rule", "cost", "render"),
    ("render", "cpp", "backends"),
    ("optimizer", "explain", "explanation"),
    ("optimizer", "step", "traced"),
    ("schedules", "to_torch", "torch"),
}


def layer_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every import of the package or of torch in a file: (function or None, layer or "torch"), type checking apart."""
    found = []

    def visit(node, function):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "torch":
                found.append((function, "torch"))
            elif parts[0] == "descend":
                found.append((function, parts[1] if len(parts) > 1 else "__init__"))
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text()), None)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_layer_is_listed():
    assert {layer_of(path) for path in FILES} == {*LAYERS, *EVERYTHING}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    layer = layer_of(path)
    for function, imported in imports(path):
        if imported == "torch":
            assert layer not in TORCH_FREE or (layer, function, imported) in WHEN_CALLED, (
                f"{path.name} must do without torch"
            )
        elif layer in EVERYTHING:
            assert imported != "cli" or layer in ("__main__", "cli"), "nobody imports cli"
        else:
            allowed = imported in LAYERS[layer] | {layer} or (layer, function, imported) in WHEN_CALLED
            assert allowed, f"{path.name} imports {imported}" + (f" in {function}" if function else "")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_the_language_is_imported_without_torch():
    loaded = run("import sys, descend, descend.rules, descend.schedules, descend.render; print(*sys.modules)")
    assert "torch" not in loaded


def test_optimizers_are_imported_without_the_lab():
    loaded = run("import sys, descend; descend.AdamW; print(*sys.modules)")
    assert not {"optuna", "altair", "sklearn", "rich", "typer", "ray", "pandas"} & set(loaded)
