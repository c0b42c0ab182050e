"""Time of a step beside torch.optim's own: interleaved in one run, medians, as ratios.

    python benchmarks/steps.py [--rounds N] [--threads 1 2] [--full]

Each row is our time over torch's loop, foreach and fused implementations (a dash where torch has none).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import descend

RESNET18 = [(64, 3, 7, 7), (64,), (64,)]
for width, into in ((64, 64), (128, 64), (256, 128), (512, 256)):
    for block in range(2):
        RESNET18 += [
            (width, into if block == 0 else width, 3, 3),
            (width,),
            (width,),
            (width, width, 3, 3),
            (width,),
            (width,),
        ]
    if into != width:
        RESNET18 += [(width, into, 1, 1), (width,), (width,)]
RESNET18 += [(1000, 512), (1000,)]

CASES: dict[str, list[tuple[int, ...]]] = {
    "4 M in one tensor": [(4_000_000,)],
    "ResNet-18's 62 tensors": RESNET18,
    "2,000 tensors of 64": [(64,)] * 2000,
}
FULL = {"32 M in one tensor": [(32_000_000,)]}
NAMES = ("AdamW", "SGD", "RMSprop", "NAdam")
FLAGS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def stepper(
    make: Callable[..., torch.optim.Optimizer], shapes: list[tuple[int, ...]], **flags: bool
) -> Callable[[], object] | None:
    params: list[Tensor] = [torch.randn(shape, requires_grad=True) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p)
    try:
        return make(params, lr=1e-3, **flags).step
    except (TypeError, RuntimeError):
        return None


def medians(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--full", action="store_true", help="also one tensor of 32 M")
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, medians of {options.rounds} rounds"
    )
    print(f"{'threads':>7}  {'case':24} {'rule':8} {'ours, ms':>9} {'/ loop':>7} {'/ foreach':>9} {'/ fused':>8}")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for case, shapes in {**CASES, **(FULL if options.full else {})}.items():
            for name in NAMES:
                twin = getattr(torch.optim, name)
                steps = {"ours": stepper(getattr(descend, name), shapes)}
                steps |= {key: stepper(twin, shapes, **flags) for key, flags in FLAGS.items()}
                found = medians({key: step for key, step in steps.items() if step is not None}, options.rounds)
                ratios = [f"{found['ours'] / found[key]:.2f}" if key in found else "-" for key in FLAGS]
                print(
                    f"{threads:>7}  {case:24} {name:8} {found['ours'] * 1e3:>9.2f} "
                    f"{ratios[0]:>7} {ratios[1]:>9} {ratios[2]:>8}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
