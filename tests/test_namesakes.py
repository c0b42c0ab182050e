"""Rules of one name in other libraries: with the arguments that the docstrings name, ours takes their steps."""

import pytest
import torch

import descend
from descend.schedules import function

pytestmark = pytest.mark.long
STEPS = 30


def path(make, **arguments):
    """Where a small problem's matrix, vector and frozen zero matrix go, in float64."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 4), (4,), (3, 3)]
    params = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    with torch.no_grad():
        params[2].zero_()
    targets = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    optimizer, steps = make(params, **arguments), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        noise = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        sum(((p - y - 0.1 * n) ** 2).sum() for p, y, n in zip(params, targets, noise, strict=True)).backward()
        optimizer.step()
        steps.append(torch.cat([p.detach().flatten() for p in params]))
    return torch.stack(steps)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("trust_clip", [False, True])
def test_timm(weight_decay, trust_clip):
    lamb, lars = pytest.importorskip("timm.optim.lamb"), pytest.importorskip("timm.optim.lars")
    alike = {"lr": 0.05, "weight_decay": weight_decay, "trust_clip": trust_clip}
    theirs = path(lamb.Lamb, **alike, max_grad_norm=None)
    torch.testing.assert_close(path(descend.LAMB, **alike, always_adapt=False), theirs, rtol=1e-12, atol=1e-12)
    clipped = path(descend.LAMB, **alike, always_adapt=False, clip_norm=1.0)
    torch.testing.assert_close(clipped, path(lamb.Lamb, **alike), rtol=1e-5, atol=1e-5)  # torch's 1e-6 in the clip
    theirs = path(lars.Lars, **alike, momentum=0.9, trust_coeff=0.02)
    convention = {"trust_coefficient": 0.02, "trust_eps": 1e-8, "skip_vectors": False, "always_adapt": False}
    torch.testing.assert_close(path(descend.LARS, **alike, **convention), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("package", "name"), [("timm.utils.agc", "adaptive_clip_grad"), ("pytorch_optimizer", "agc")])
def test_adaptive_gradient_clipping(package, name):
    function = getattr(pytest.importorskip(package), name)

    class Theirs(torch.optim.SGD):
        def step(self):
            params = self.param_groups[0]["params"]
            if package == "timm.utils.agc":
                function(params, clip_factor=0.03)
            else:
                for p in params:
                    p.grad = function(p.detach(), p.grad, agc_clip_val=0.03)
            super().step()

    theirs = path(Theirs, lr=0.05, momentum=0.9)
    ours = path(descend.SGD, lr=0.05, momentum=0.9, clip_agc=0.03)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert (ours - path(descend.SGD, lr=0.05, momentum=0.9)).abs().max() > 0.1


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_pytorch_optimizer(weight_decay):
    library = pytest.importorskip("pytorch_optimizer")
    alike = {"lr": 0.05, "weight_decay": weight_decay}
    convention = {"bias_correction": False, "norm_limit": 10.0, "trust_eps": 1e-6, "decoupled_weight_decay": True}
    ours = path(descend.LAMB, **alike, **convention)
    torch.testing.assert_close(ours, path(library.Lamb, **alike, adam_debias=True), rtol=1e-12, atol=1e-12)
    debiased = function(lambda s: 1 / (1 - 0.9 ** (s + 1)))
    alike["weight_decay"] = convention["weight_decay"] = 0.0  # which follows the rate here, and not there
    ours = path(descend.LAMB, **{**convention, "lr": 0.05 * debiased})
    torch.testing.assert_close(ours, path(library.Lamb, **alike), rtol=1e-12, atol=1e-12)
    alike["weight_decay"] = weight_decay
    for momentum, nesterov in ((0.9, False), (0.9, True), (0.0, False)):
        alike |= {"momentum": momentum, "nesterov": nesterov, "trust_coefficient": 0.02}
        torch.testing.assert_close(path(descend.LARS, **alike), path(library.LARS, **alike), rtol=1e-12, atol=1e-12)
