"""The loss as a function of the weights: weighed, deterministic, and without a trace."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from descend.generalization import Hessian, Objective, supervised, unit_logits
from objectives import Attending, Case, Tied, Wasteful, assert_untouched, dropping, normalized, perceptron, traces


def objective(case, **options):
    return Objective(case.model, supervised(cross_entropy), case.batches, **options)


def test_a_short_batch_counts_for_what_it_holds():
    case = Case.of(perceptron)
    inputs, targets = (torch.cat(parts) for parts in zip(*case.batches, strict=True))
    loss = cross_entropy(case.model(inputs), targets)
    gradients = torch.autograd.grad(loss, list(case.model.parameters()))
    found = objective(case)
    value, gradient = found.value_and_gradient()
    assert value == pytest.approx(loss.item(), rel=1e-14)
    assert found.value() == pytest.approx(loss.item(), rel=1e-14)
    torch.testing.assert_close(gradient, torch.cat([one.flatten() for one in gradients]), rtol=1e-12, atol=1e-15)


def test_other_weights_are_looked_at_and_taken_out_again():
    case = Case.of(perceptron)
    found = objective(case)
    before = traces(case.model)
    elsewhere = found.weights() + 0.1
    there = found.value(elsewhere), found.gradient(elsewhere)
    assert_untouched(before, traces(case.model))
    torch.nn.utils.vector_to_parameters(elsewhere, case.model.parameters())
    assert found.value() == there[0]
    torch.testing.assert_close(found.gradient(), there[1], rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [normalized, dropping, Attending])
def test_nothing_is_left_behind(make, training, mode):
    case = Case.of(make)
    case.model.train(training)
    case.model[0].eval() if isinstance(case.model, nn.Sequential) else None
    cross_entropy(case.model(case.batches[0][0]), case.batches[0][1]).backward()
    found = objective(case, mode=mode, seed=1, outputs=unit_logits())
    states = random.getstate(), np.random.get_state()[1].copy()
    before = traces(case.model)
    found.value()
    found.gradient(found.weights() * 1.1)
    Hessian(found) @ torch.ones(found.size, dtype=torch.float64)
    assert_untouched(before, traces(case.model))
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()


def test_an_error_leaves_nothing_behind_either():
    case = Case.of(normalized)
    before = traces(case.model)

    def failing(model, batch):
        model(batch[0])
        raise KeyboardInterrupt

    found = Objective(case.model, failing, case.batches, mode="train")
    with pytest.raises(KeyboardInterrupt):
        found.value(found.weights() + 1)
    assert_untouched(before, traces(case.model))


def test_a_graph_of_the_users_stays_valid():
    case = Case.of(normalized)
    case.model.train()
    loss = cross_entropy(case.model(case.batches[0][0]), case.batches[0][1])
    found = objective(case, mode="train")
    found.value(found.weights() + 1)
    loss.backward()


def test_batch_statistics_are_those_of_each_batch():
    case = Case.of(normalized)
    found = objective(case, mode="train").value()
    case.model.train()
    by_hand = sum(len(y) * cross_entropy(case.model(x), y).item() for x, y in case.batches) / 11
    assert found == pytest.approx(by_hand, rel=1e-14)
    assert objective(case, mode="eval").value() != pytest.approx(by_hand, rel=1e-3)


def test_statistics_are_named():
    case = Case.of(normalized)
    assert objective(case).statistics == "fixed"
    assert objective(case, recompute=case.batches).statistics == "recomputed"
    assert objective(case, mode="train").statistics == "batch"
    assert objective(Case.of(perceptron)).statistics == "none"
    with pytest.raises(ValueError, match="each batch has statistics of its own"):
        objective(case, mode="train", recompute=case.batches)


def test_a_loss_that_is_not_a_number_repeats_as_such():
    case = Case.of(perceptron)
    with torch.no_grad():
        case.model[0].weight.fill_(float("nan"))
    found = objective(case)
    with found.held():
        assert np.isnan(found.value())
        assert np.isnan(found.value())


def test_a_frozen_layer_in_a_model_that_trains_stays_frozen():
    case = Case.of(normalized)
    case.model[1].eval()
    assert objective(case, mode="train").value() == objective(case, mode="eval").value()
    case.model.eval()  # shows no such intent
    assert objective(case, mode="train").value() != objective(case, mode="eval").value()


def test_masks_of_dropout_are_fixed_for_each_batch():
    case = Case.of(dropping)
    with pytest.raises(ValueError, match=r"draws random numbers.*seed="):
        objective(case, mode="train").value()
    found = objective(case, mode="train", seed=3)
    assert found.value() == found.value() == objective(case, mode="train", seed=3).value()
    assert found.value() != objective(case, mode="train", seed=4).value()
    twice = [case.batches[0], case.batches[0]]
    with torch.no_grad():
        single = Objective(case.model, supervised(cross_entropy), twice[:1], mode="train", seed=3).value()
    assert Objective(case.model, supervised(cross_entropy), twice, mode="train", seed=3).value() != single
    assert objective(case).value() == objective(case, seed=5).value()  # nothing is drawn in evaluation


def test_a_loader_that_shuffles_gives_the_same_order_in_every_pass():
    case = Case.of(normalized)
    data = TensorDataset(torch.randn(20, 4).double(), torch.randint(3, (20,)))
    for loader in (
        DataLoader(data, 6, shuffle=True),
        DataLoader(data, 6, shuffle=True, generator=torch.Generator().manual_seed(0)),
    ):
        found = Objective(case.model, supervised(cross_entropy), loader, mode="train")
        generator = loader.generator
        place = None if generator is None else generator.get_state()
        if generator is None:
            assert found.value() == found.value()
            with found.held():
                assert found.value() == found.value()
        else:
            found.value()
            assert torch.equal(generator.get_state(), place)


def test_data_that_change_between_passes_are_refused():
    class Drawn:
        def __init__(self, batches):
            self.batches, self.source = batches, torch.Generator().manual_seed(0)

        def __iter__(self):
            count = self.batches if isinstance(self.batches, int) else self.batches.pop()
            for _ in range(count):
                yield torch.randn(4, 4, generator=self.source).double(), torch.zeros(4, dtype=torch.long)

    for batches, words in ((1, "the loss of batch 0 was .* the same in every pass"), ([2, 1], "the loss of batch 0")):
        found = Objective(Case.of(perceptron).model, supervised(cross_entropy), Drawn(batches))
        with found.held():
            found.value()
            with pytest.raises(ValueError, match=words):
                found.value()


def test_a_number_of_batches_that_changes_is_refused():
    case = Case.of(perceptron)
    found = objective(case)
    with found.held():
        found.value()
        case.batches.pop()
        with pytest.raises(ValueError, match="batches gave 1 in this pass and 2 before"):
            found.value()


def test_unused_frozen_and_tied_parameters():
    case = Case.of(Wasteful)
    found = objective(case)
    assert list(found.parameters) == ["used.weight", "used.bias", "unused.weight", "unused.bias"]
    parts = found.split(found.gradient())
    assert parts["used.weight"].abs().min() > 0
    assert not parts["unused.weight"].any()
    tied = objective(Case.of(Tied))
    assert list(tied.parameters) == ["first.weight", "first.bias"]
    assert list(objective(Case.of(Tied), parameters=["second.weight"]).parameters) == ["first.weight"]
    assert tied.size == 20


def test_vectors_and_tensors_of_parameters():
    case = Case.of(perceptron)
    found = objective(case)
    vector = torch.arange(found.size, dtype=torch.float64)
    assert torch.equal(found.flat(found.split(vector)), vector)
    with pytest.raises(ValueError, match="the vector has the shape"):
        found.split(vector[1:])


def test_weight_decay_is_part_of_the_loss():
    case = Case.of(perceptron)
    plain, decayed = objective(case), objective(case, weight_decay=0.1)
    weights = plain.weights()
    assert decayed.value() == pytest.approx(plain.value() + 0.05 * weights.square().sum().item(), rel=1e-14)
    torch.testing.assert_close(decayed.gradient(), plain.gradient() + 0.1 * weights)
    moved = weights * 2
    assert decayed.value(moved) == pytest.approx(plain.value(moved) + 0.05 * moved.square().sum().item(), rel=1e-14)
    torch.testing.assert_close(decayed.gradient(moved), plain.gradient(moved) + 0.1 * moved)
    vector = torch.randn(plain.size, dtype=torch.float64)
    torch.testing.assert_close(Hessian(decayed) @ vector, Hessian(plain) @ vector + 0.1 * vector)
    assert decayed.conditions.weight_decay == 0.1


def test_unit_logits_take_their_scale_out():
    case = Case.of(perceptron)
    found = objective(case, outputs=unit_logits(0.1))
    before = found.value()
    with torch.no_grad():
        case.model[2].weight.mul_(7)
        case.model[2].bias.mul_(7)
    assert found.value() == pytest.approx(before, rel=1e-12)
    assert objective(case).value() != pytest.approx(before, rel=1e-2)
    with pytest.raises(ValueError, match="temperature is 0"):
        unit_logits(0)


def test_what_was_measured_is_said():
    case = Case.of(normalized)
    found = objective(case, mode="train", seed=5).conditions
    assert (found.mode, found.examples, found.batches, found.parameters, found.seed) == ("train", 11, 2, 53, 5)


def test_batches_that_are_mappings():
    class Keyed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, inputs, labels):
            return (self.layer(inputs) - labels).square().mean()

    batches = [{"inputs": torch.ones(size, 2), "labels": torch.zeros(size, 1)} for size in (3, 1)]
    found = Objective(Keyed(), lambda model, batch: model(**batch), batches)
    assert found.conditions.examples == 4
    assert found.gradient().shape == (3,)
    assert Objective(Keyed(), lambda model, batch: model(**batch), batches, count=lambda _: 2).conditions.examples == 4


def test_a_compiled_model_runs_as_it_is_written():
    case = Case.of(perceptron)
    plain = objective(case)
    compiled = Objective(torch.compile(case.model, backend="eager"), supervised(cross_entropy), case.batches)
    vector = torch.ones(plain.size, dtype=torch.float64)
    torch.testing.assert_close(Hessian(compiled) @ vector, Hessian(plain) @ vector)


def test_gradients_are_needed_whatever_the_caller_has_switched_off():
    found = objective(Case.of(perceptron))
    expected = found.gradient()
    with torch.no_grad():
        assert torch.equal(found.gradient(), expected)
        assert not torch.is_grad_enabled()


LAZY = nn.LazyLinear(2)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "no"}, TypeError, "model is str"),
        ({"model": LAZY}, ValueError, "without a size yet"),
        ({"model": nn.ReLU()}, ValueError, "no parameter that requires gradients"),
        ({"loss": nn.CrossEntropyLoss()}, TypeError, "supervised"),
        ({"loss": None}, TypeError, "loss is NoneType"),
        ({"batches": iter([])}, TypeError, "only once"),
        ({"batches": torch.ones(3)}, TypeError, "a list of batches"),
        ({"batches": 3}, TypeError, "batches is int"),
        ({"mode": "training"}, ValueError, 'give "eval" or "train"'),
        ({"seed": 1.5}, ValueError, "seed is 1.5"),
        ({"weight_decay": -1}, ValueError, "weight_decay is -1"),
        ({"weight_decay": float("nan")}, ValueError, "weight_decay is nan"),
        ({"parameters": "0.weight"}, TypeError, "give a list"),
        ({"parameters": ["9.weight"]}, ValueError, "'9.weight', which the model has not"),
        ({"parameters": [torch.ones(2)]}, ValueError, "no parameter of the model"),
        ({"parameters": []}, ValueError, "no parameter that requires gradients"),
    ],
)
def test_wrong_arguments(change, error, words):
    case = Case.of(perceptron)
    given = {"model": case.model, "loss": supervised(cross_entropy), "batches": case.batches, **change}
    with pytest.raises(error, match=words):
        Objective(**given)


@pytest.mark.parametrize(
    ("loss", "batches", "error", "words"),
    [
        (lambda model, batch: model(batch[0]), None, ValueError, "a tensor of shape .* a scalar"),
        (lambda model, batch: 1.0, None, ValueError, "loss returned float"),
        (cross_entropy, None, TypeError, "must be Tensor, not Sequential"),
        (supervised(cross_entropy), [], ValueError, "no example"),
        (supervised(cross_entropy), [torch.ones(3, 4)], TypeError, "no pair of inputs and targets"),
        (supervised(cross_entropy), ["text"], ValueError, "give count="),
    ],
)
def test_losses_and_batches_that_do_not_fit(loss, batches, error, words):
    case = Case.of(perceptron)
    with pytest.raises(error, match=words) as caught:
        Objective(case.model, loss, case.batches if batches is None else batches).value()
    if loss is cross_entropy:
        assert "supervised(it)" in caught.value.__notes__[0]


def test_complex_and_frozen_parameters_are_refused():
    model = nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(ValueError, match="complex64"):
        Objective(model, supervised(cross_entropy), [])
    case = Case.of(Wasteful)
    with pytest.raises(ValueError, match=r"'frozen.weight' is frozen"):
        objective(case, parameters=["frozen.weight"])
