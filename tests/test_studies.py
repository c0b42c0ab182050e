"""The studies whose numbers stand in the docs, on data that take no time."""

import json
import math

import pytest
import torch

from descend.experiments import large_batches, measured_gaps, small_fits
from descend.experiments.fits_of_anything import kernel_errors, random_labels
from descend.experiments.measured_gaps import Measured, ranked
from descend.experiments.memorizing import Fit, Variant, network, variants
from descend.experiments.memorizing_findings import findings
from descend.tasks import TensorTask


class Blobs(TensorTask):
    """Images of noise around a mean of each of ten classes."""

    name, target = "blobs", 0.9

    def __init__(self, shape=(1, 28, 28)):
        self.shape = shape

    def tensors(self):
        source = torch.Generator().manual_seed(0)
        means = torch.randn(10, *self.shape, generator=source)
        classes = torch.arange(60) % 10
        images = means[classes] + 0.5 * torch.randn(60, *self.shape, generator=source)
        return {"train": (images, classes), "validation": (images, classes), "test": (images[:20], classes[:20])}

    def network(self):
        size = self.shape[0] * self.shape[1] * self.shape[2]
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(size, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)
        )


@pytest.mark.parametrize(
    ("variant", "shape"),
    [
        (Variant("mnist", share=1.0), (1, 28, 28)),
        (Variant("mnist", normalized=True, share=0.5), (1, 28, 28)),
        (Variant("cifar10", dropout=0.1), (3, 32, 32)),
        (Variant("mnist", "gaussian"), (1, 28, 28)),
    ],
)
def test_a_network_that_memorises_is_measured(variant, shape):
    found = Fit(variant, 0, 30, 60).run(Blobs(shape))
    assert found["train_accuracy"] > 0.9
    assert found["epochs_to_fit"] is None or found["epochs_to_fit"] <= found["epochs"]
    assert (found["wrong_share"] > 0) == (variant.share > 0)
    assert ("curves" in found) == (variant.corruption == "labels")
    if "curves" in found:
        assert all(curve["means"][0] == pytest.approx(found["train_accuracy"]) for curve in found["curves"].values())
        is_plain = not (variant.normalized or variant.dropout)
        assert all((layer["importance"] is not None) == is_plain for layer in found["layers"])
    json.dumps(found)


def test_variants_differ_and_have_names_of_their_own():
    every = [Fit(one, seed, 10) for data in ("mnist", "cifar10") for one in variants(data) for seed in (0, 1)]
    assert len({one.name for one in every}) == len(every) == 60
    assert sum(isinstance(one, torch.nn.Dropout) for one in network(Variant("mnist", dropout=0.3), 0)) == 2


def test_networks_of_a_population_are_measured_and_ranked(monkeypatch):
    monkeypatch.setattr(measured_gaps, "EXAMPLES", {"mnist": 30})
    monkeypatch.setattr(measured_gaps, "MOST_EPOCHS", 40)
    task = Blobs()
    networks = [
        Measured("mnist", depth, width, batch, 0).run(task) for depth in (1, 2) for width in (4, 8) for batch in (8, 30)
    ]
    assert networks[0]["gap"] == pytest.approx(networks[0]["train_accuracy"] - networks[0]["test_accuracy"])
    found = ranked(networks, "loss_gap")
    assert set(found) == set(networks[0]["measures"])
    assert set(found["parameters"]["axes"]) == {"depth", "width", "batch"}
    assert found["parameters"]["axes"]["batch"]["tau"] == 0
    json.dumps(found)


def test_large_batches_are_compared_with_small_ones(monkeypatch):
    monkeypatch.setattr(large_batches, "MOST_EPOCHS", 5)
    monkeypatch.setattr(large_batches, "SMALL", 10)
    found = large_batches.study(0, Blobs(), examples=40, most_epochs=2)
    assert found["same epochs"]["large"]["epochs"] == 2
    assert found["same loss"]["small"]["epochs"] <= 5
    sharpness = found["same epochs"]["small"]["sharpness"]
    assert sharpness["full 0.001, second search"] >= sharpness["full 0.001"] > 0
    json.dumps(found)


def test_what_fits_without_learning():
    task = Blobs()
    assert kernel_errors(task, "gaussian", 0.02, (60,))["60"]["residual"] < 1e-6
    found = random_labels(task, 60)
    assert found["weights"] == 2 * 60 + 784
    assert found["fitted"] == 1


def test_epochs_see_every_example_once(monkeypatch):
    seen = []

    def loss(model, batch):
        seen.extend(batch[1].tolist())
        return model(batch[0]).sum()

    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    run = small_fits.epochs(model, loss, optimizer, torch.ones(7, 2), torch.arange(7), 3, seed=0)
    assert next(run) == 1
    assert sorted(seen) == list(range(7))
    assert next(run) == 2
    assert seen[:7] != seen[7:]


def fitted(seed, share=0.0, area=0.5, **own):
    curve = {"area": area, "amounts": [0.0, 0.5, 1.0], "means": [1.0, area, 0.1]}
    layer = {"layer": "2", "selectivity": [0.1, 0.2, math.nan, 0.3], "importance": [3.0, 2.0, 9.0, 1.0]}
    usual = {"data": "mnist", "corruption": "labels", "normalized": False, "dropout": 0.0, "train_accuracy": 1.0}
    return {
        **usual,
        "seed": seed,
        "share": share,
        "epochs_to_fit": 10 + seed if share else 5,
        "test_accuracy": 1 - share,
        "curves": dict.fromkeys(("zero", "mean", "noise"), curve),
        "layers": [{**layer, "information": [0.0, 1.0, 2.0, 3.0]}],
        **own,
    }


def test_findings_are_differences_seed_by_seed():
    networks = [
        fitted(seed, share, 0.8 + 0.01 * seed - 0.3 * share, **own)
        for seed in range(3)
        for share, own in [
            *((share, {}) for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
            *((share, {"normalized": True}) for share in (0.0, 0.5, 1.0)),
            *((1.0, {"dropout": rate}) for rate in (0.1, 0.3)),
            (0.0, {"corruption": "gaussian"}),
        ]
    ]
    found = findings(networks, "mnist")
    difference = found["area, true minus random labels"]["zero"]
    assert difference["mean"] == pytest.approx(0.3)
    assert difference["interval"] == pytest.approx((0.3, 0.3))
    assert found["epochs to fit by share"][1.0]["mean"] == 11
    assert found["epochs to fit by corruption"]["gaussian"]["n"] == 3
    assert found["epochs to fit by corruption"]["random pixels"]["n"] == 0
    assert found["tau of selectivity and importance"][1.0]["2"]["mean"] == pytest.approx(-1)
    assert found["selectivity"]["plain, share 0.0"]["2"]["mean"] == pytest.approx(0.2)
    assert found["accuracy at a clamped share, dropout minus none, random labels"][0.3][0.5]["mean"] == 0
    json.dumps(found)
