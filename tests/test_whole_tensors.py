"""Rules that look at whole tensors or the whole model: the same bits for any number of threads and groups."""

import pytest
import torch

import descend
from fused_optimizers import needs_kernels

SHAPES = [(300, 500), (70_001,), (3,), (64, 3, 7, 7)]  # more than one thread's work, and ends of chunks and tiles


def run(make, threads, groups, dtype):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator = torch.Generator().manual_seed(0)
        params = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in SHAPES]
        optimizer = make([{"params": params}] if groups == 1 else [{"params": [p]} for p in params])
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            optimizer.step()
        return [p.detach() for p in params]
    finally:
        torch.set_num_threads(before)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LAMB", {"weight_decay": 0.1}),
        ("LAMB", {"clip_norm": 1.0, "trust_clip": True}),
        ("LARS", {"weight_decay": 0.1, "momentum": 0.9}),
        ("LARSPaper", {"weight_decay": 0.1, "momentum": 0.9}),
        ("YellowFin", {}),
        ("AdamW", {"clip_agc": 0.01, "clip_norm": 1.0}),  # an opaque call, by reductions of torch's own
    ],
    ids=str,
)
def test_the_same_bits_for_any_threads_and_groups(name, options, dtype):
    def make(params):
        return getattr(descend, name)(params, lr=0.01, backend="cpp", **options)

    first, *others = [run(make, threads, groups, dtype) for threads, groups in [(1, 1), (2, 1), (3, 1), (1, 4), (2, 4)]]
    for other in others:
        assert all(map(torch.equal, first, other))
