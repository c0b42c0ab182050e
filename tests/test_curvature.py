"""Products with the Hessian and the Gauss-Newton matrix, against exact ones of small networks in float64."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from descend.generalization import GaussNewton, Hessian, Objective, Preconditioned, supervised
from objectives import (
    SHAPES,
    Attending,
    Case,
    Recurrent,
    Tied,
    Wasteful,
    assert_untouched,
    convolutional,
    dropping,
    exact_hessian,
    normalized,
    perceptron,
    traces,
)


def objective(case, **options):
    return Objective(case.model, supervised(options.pop("criterion", cross_entropy)), case.batches, **options)


def matrix(curvature):
    return curvature @ torch.eye(curvature.size, dtype=torch.float64)


def by_differences(found, step=1e-5):
    """The Hessian from gradients on both sides, which torch.func is no oracle for where batches have statistics."""
    weights, units = found.weights(), torch.eye(found.size, dtype=torch.float64)
    columns = [(found.gradient(weights + step * u) - found.gradient(weights - step * u)) / (2 * step) for u in units]
    return torch.stack(columns)


@pytest.mark.parametrize("make", SHAPES)
def test_the_hessian_of_every_kind_of_model(make):
    case = Case.of(make)
    case.model.eval()
    before = traces(case.model)
    found = matrix(Hessian(objective(case)))
    assert_untouched(before, traces(case.model))
    torch.testing.assert_close(found, case.exact(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("make", "seed"), [(normalized, None), (dropping, 3)])
def test_the_hessian_in_training_mode(make, seed):
    case = Case.of(make)
    found = objective(case, mode="train", seed=seed)
    hessian = matrix(Hessian(found))
    torch.testing.assert_close(hessian, hessian.T, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(hessian, by_differences(found), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(hessian, matrix(Hessian(objective(case))), atol=1e-3)


def gauss_newton_by_hand(case, of_loss):
    """Sum of J' H J over the examples, the Jacobian by torch.func, H in closed form."""
    names = [name for name, value in case.model.named_parameters() if value.requires_grad]
    values = {name: dict(case.model.named_parameters())[name].detach() for name in names}
    total, examples = 0, 0
    for inputs, targets in case.batches:
        jacobians = torch.func.jacrev(lambda v, x=inputs: torch.func.functional_call(case.model, v, (x,)))(values)
        flat = torch.cat([jacobians[name].flatten(2) for name in names], 2)
        total = total + torch.einsum("nap,nab,nbq->pq", flat, of_loss(case.model(inputs).detach(), targets), flat)
        examples += len(inputs)
    return total / examples


def of_cross_entropy(outputs, targets):
    p = outputs.softmax(1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


@pytest.mark.parametrize("make", [perceptron, convolutional, normalized, Tied, Wasteful])
def test_the_gauss_newton_matrix(make):
    case = Case.of(make)
    case.model.eval()
    before = traces(case.model)
    found = matrix(GaussNewton(objective(case)))
    assert_untouched(before, traces(case.model))
    torch.testing.assert_close(found, gauss_newton_by_hand(case, of_cross_entropy), rtol=1e-9, atol=1e-12)


def test_gauss_newton_is_the_hessian_where_the_model_is_linear():
    case = Case.of(perceptron)
    case.model = nn.Linear(4, 3).double()
    torch.testing.assert_close(matrix(GaussNewton(objective(case))), matrix(Hessian(objective(case))))


def test_gauss_newton_of_attention_and_recurrence():
    for make in (Attending, Recurrent):
        case = Case.of(make)
        found = matrix(GaussNewton(objective(case)))
        assert torch.linalg.eigvalsh(found)[0] > -1e-12
        assert torch.linalg.matrix_rank(found) <= 22  # two free outputs for each of the 11 examples
        assert found.diagonal().sum() > 0


def test_a_model_that_returns_several_tensors():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, inputs):
            return {"first": self.first(inputs), "rest": (self.second(inputs), "no tensor")}

    def loss(model, inputs):
        out = model(inputs)
        return out["first"].square().mean() + out["rest"][0].square().mean()

    model = Two().double()
    found = Objective(model, loss, [torch.randn(5, 2, dtype=torch.float64)])
    torch.testing.assert_close(matrix(GaussNewton(found)), matrix(Hessian(found)))


def test_what_gauss_newton_cannot_do():
    case = Case.of(perceptron)
    twice = Objective(case.model, lambda model, b: cross_entropy(model(b[0]) + model(b[0]), b[1]), case.batches)
    with pytest.raises(ValueError, match="calls the model 2 times"):
        GaussNewton(twice) @ torch.ones(twice.size)
    around = Objective(case.model, lambda model, b: cross_entropy(model[2](model[0](b[0])), b[1]), case.batches)
    with pytest.raises(ValueError, match="calls the model 0 times"):
        GaussNewton(around) @ torch.ones(around.size)


def test_a_block_costs_one_visit_and_a_single_batch_one_in_all():
    case = Case.of(perceptron)
    calls = []

    def loss(model, batch):
        calls.append(len(batch[0]))
        return cross_entropy(model(batch[0]), batch[1])

    for kind in (Hessian, GaussNewton):
        found = kind(Objective(case.model, loss, case.batches))
        block = torch.randn(found.size, 6, dtype=torch.float64)
        calls.clear()
        product = found @ block
        assert calls == [7, 4]
        torch.testing.assert_close(product[:, 2], found @ block[:, 2], rtol=1e-12, atol=1e-14)
        single = kind(Objective(case.model, loss, case.batches[:1]))
        calls.clear()
        with single.held():
            first = single @ block
            torch.testing.assert_close(single @ block, first, rtol=0, atol=0)
        assert calls == [7]
        with torch.no_grad():
            case.model[0].weight += 0.1
        assert not torch.allclose(single @ block, first)  # nothing is kept outside


def test_linear_losses_have_no_curvature():
    model = nn.Linear(2, 1)
    found = Objective(model, lambda model, batch: model(batch).mean(), [torch.ones(3, 2)])
    for kind in (Hessian, GaussNewton):
        assert not matrix(kind(found)).any()
    unused = Objective(model, lambda model, batch: batch.mean(), [torch.ones(3, 2)])
    for kind in (Hessian,):
        assert not matrix(kind(unused)).any()
    assert not unused.gradient().any()


def test_attention_says_that_it_ran_in_its_plain_form():
    found = objective(Case.of(Attending))
    curvature = Hessian(found)
    curvature @ torch.ones(found.size)
    assert [note for note in curvature.conditions.notes if "attention" in note]
    assert not objective(Case.of(Recurrent)).conditions.notes


@pytest.mark.parametrize("make", [Attending, Recurrent, convolutional, normalized])
def test_float32_is_near_float64(make):
    exact = Case.of(make)
    case = Case.of(make, torch.float32)
    for narrow, wide in zip(case.model.parameters(), exact.model.parameters(), strict=True):
        narrow.data.copy_(wide.data)
    case.batches = [(inputs.float(), targets) for inputs, targets in exact.batches]
    expected = matrix(Hessian(objective(exact)))
    torch.testing.assert_close(matrix(Hessian(objective(case))), expected, rtol=1e-3, atol=1e-5)


def test_bfloat16_says_what_it_rounds_to():
    case = Case.of(perceptron, torch.bfloat16)
    curvature = Hessian(objective(case))
    assert [note for note in curvature.conditions.notes if "rounded to bfloat16" in note]
    wide = Case(case.model.double(), [(x.double(), y) for x, y in case.batches])
    exact = exact_hessian(wide.model, wide.batches)
    narrow = Case(wide.model.bfloat16(), case.batches)
    found = matrix(Hessian(objective(narrow)))
    assert (found - exact).norm() < 0.05 * exact.norm()


def test_the_preconditioned_hessian_has_the_eigenvalues_of_its_quotient():
    found = Hessian(objective(Case.of(perceptron)))
    scale = torch.rand(found.size, dtype=torch.float64) + 0.1
    seen = matrix(Preconditioned(found, scale))
    torch.testing.assert_close(seen, seen.T)
    quotient = torch.linalg.eigvals(matrix(found) / scale[:, None]).real.sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(seen), quotient, rtol=1e-8, atol=1e-10)
    vector = torch.ones(found.size, dtype=torch.float64)
    torch.testing.assert_close(Preconditioned(found, scale) @ vector, seen @ vector)


def test_products_of_a_criterion_that_is_no_cross_entropy():
    case = Case.of(perceptron)
    case.batches = [(x, torch.randn(len(x), 3, dtype=torch.float64)) for x, _ in case.batches]
    expected = exact_hessian(case.model, case.batches, mse_loss)
    torch.testing.assert_close(matrix(Hessian(objective(case, criterion=mse_loss))), expected)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (39, 1, 1)])
def test_wrong_vectors(shape):
    found = Hessian(objective(Case.of(perceptron)))
    with pytest.raises(ValueError, match="vectors have the shape"):
        found @ torch.ones(shape)


@pytest.mark.parametrize("scale", [torch.ones(3), torch.zeros(43), torch.full((43,), float("nan"))])
def test_wrong_scales(scale):
    found = Hessian(objective(Case.of(perceptron)))
    with pytest.raises(ValueError, match="scale has"):
        Preconditioned(found, scale)
