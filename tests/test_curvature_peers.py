"""Our products beside those of other packages, where `make test-long` has installed them."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from descend.generalization import GaussNewton, Hessian, Objective, spectral_density, supervised, top_eigenvalues, trace
from objectives import Case, convolutional, normalized, perceptron

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore"),  # of theirs
]


@pytest.fixture(params=[perceptron, convolutional, normalized])
def case(request):
    found = Case.of(request.param)
    found.model.eval()
    return found


def objective(case):
    return Objective(case.model, supervised(cross_entropy), case.batches)


@pytest.mark.parametrize("name", ["HessianLinearOperator", "GGNLinearOperator"])
def test_curvlinops_multiplies_alike(case, name):
    curvlinops = pytest.importorskip("curvlinops")
    parameters = list(case.model.parameters())
    theirs = getattr(curvlinops, name)(case.model, nn.CrossEntropyLoss(), parameters, case.batches)
    ours = (Hessian if name.startswith("Hessian") else GaussNewton)(objective(case))
    vectors = torch.randn(ours.size, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(ours @ vectors, torch.as_tensor(theirs @ vectors), rtol=1e-9, atol=1e-11)


def test_spectra_of_curvlinops_matrices(case):
    curvlinops = pytest.importorskip("curvlinops")
    theirs = curvlinops.HessianLinearOperator(
        case.model, nn.CrossEntropyLoss(), list(case.model.parameters()), case.batches
    )
    matrix = torch.as_tensor(theirs @ torch.eye(theirs.shape[1], dtype=torch.float64))
    exact = torch.linalg.eigvalsh(matrix)
    ours = Hessian(objective(case))
    assert top_eigenvalues(ours, 2, rtol=1e-8).values == pytest.approx(exact.flip(0)[:2].tolist(), rel=1e-6)
    assert trace(ours, "exact").value == pytest.approx(exact.sum().item(), rel=1e-6)
    means, errors = spectral_density(ours, draws=30).moments(6)
    for power, (mean, error) in enumerate(zip(means, errors, strict=True), 1):
        assert abs(mean - (exact**power).mean().item()) < 4.5 * error


def test_pyhessian_multiplies_alike(case):
    pytest.importorskip("pyhessian")
    import sys

    made = sys.modules["pyhessian.hessian"].hessian(case.model, cross_entropy, dataloader=case.batches, cuda=False)
    ours = Hessian(objective(case))
    vector = torch.randn(ours.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = [
        part.view(p.shape) for part, p in zip(vector.split([p.numel() for p in made.params]), made.params, strict=True)
    ]
    _, product = made.dataloader_hv_product(parts)
    torch.testing.assert_close(ours @ vector, torch.cat([one.flatten() for one in product]), rtol=1e-9, atol=1e-11)


def test_eigenthings_finds_the_same_eigenvalues_of_equal_batches(case):
    """It weighs batches of unequal size alike, so it is given one."""
    peer = pytest.importorskip("hessian_eigenthings")
    case.batches = case.batches[:1]
    theirs = peer.lanczos(peer.HessianOperator(case.model, case.batches, supervised(cross_entropy)), k=3, max_iter=30)
    ours = top_eigenvalues(Hessian(objective(case)), 3, which="magnitude", rtol=1e-8)
    found = sorted(map(abs, theirs.eigenvalues.tolist()), reverse=True)
    assert [abs(value) for value in ours.values] == pytest.approx(found[:3], rel=1e-5)
