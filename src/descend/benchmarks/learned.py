"""What a step of a learned optimizer takes beside one of Adam: time and memory, by the number of weights.

    python -m descend.benchmarks.learned [--quick]

It is no part of `descend bench`: a learned optimizer is hundreds of times dearer than a rule, and has no target but its
bound of memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn

from descend.benchmarks.timing import interleaved, threads
from descend.learned import CoordinatewiseLSTM, LearnedOptimizer, Network, PerParameterMLP

SIZES: Final = ((100, 1000), (1000, 1000), (3162, 3162))
"""Shapes of one matrix: 0.1, 1 and 10 million weights."""
_NETWORKS: Final[dict[str, Callable[[], Network]]] = {
    "LSTM, 2 layers of 20": CoordinatewiseLSTM,
    "perceptron, 2 layers of 32": PerParameterMLP,
    "perceptron, 2 layers of 4": lambda: PerParameterMLP(hidden=4),
}


def stepper(name: str, shape: tuple[int, int]) -> tuple[Callable[[], Any], torch.optim.Optimizer]:
    """Return a step on one matrix with a gradient, by Adam or a network, and its optimizer."""
    torch.manual_seed(0)
    param = nn.Parameter(0.1 * torch.randn(shape))
    param.grad = torch.randn(shape)
    optimizer: torch.optim.Optimizer
    optimizer = torch.optim.Adam([param]) if name == "Adam" else LearnedOptimizer([param], _NETWORKS[name]())
    return optimizer.step, optimizer


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return what the state takes after a step."""
    tensors = [entry for state in optimizer.state.values() for entry in state.values()]
    return sum(one.numel() * one.element_size() for one in tensors)


def rise(name: str, shape: tuple[int, int]) -> int:
    """Return by how many bytes the peak memory of a process rises in its second step: what a step takes for a while."""
    step, _ = stepper(name, shape)
    step()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = _memory("VmRSS")
    step()
    return max(0, _memory("VmHWM") - before)


def _memory(of: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(of))


def main(quick: bool) -> None:
    """Print the table as Markdown."""
    print(f"torch {torch.__version__}, one thread, float32; medians of interleaved steps\n")
    print("| optimizer | weights | ms | ns per weight | times Adam | state, bytes per weight | beside it, MB |")
    print("|---|---|---|---|---|---|---|")
    for shape in SIZES[:1] if quick else SIZES:
        count, names = shape[0] * shape[1], ["Adam", *_NETWORKS]
        steps = {name: stepper(name, shape) for name in names}
        with threads(1):
            times = interleaved({name: step for name, (step, _) in steps.items()}, 3 if count > 5e6 else 7)
        for name in names:
            median = times[name].median
            beside = json.loads(_child(name, shape)) / 1e6
            print(
                f"| {name} | {count:,} | {1e3 * median:.3g} | {1e9 * median / count:.3g} | "
                f"{median / times['Adam'].median:.3g} | {state_bytes(steps[name][1]) / count:.4g} | {beside:.3g} |"
            )


def _child(name: str, shape: tuple[int, int]) -> str:
    code = (
        "import json, torch; torch.set_num_threads(1); from descend.benchmarks import learned; "
        f"print(json.dumps(learned.rise({name!r}, {shape!r})))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
